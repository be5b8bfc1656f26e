"""Vocabularies of every kind, and ids to decode with them, for tests of programs that decode by the table alone."""

import numpy as np

from spectron.config import BytesConfig, CharactersConfig, SentencePieceConfig, WordsConfig
from spectron.data.vocabulary import make_vocabulary

KINDS = ("words", "characters", "bytes", "sentencepiece", "byte fallback")
TEXTS = ("one two", "ab c", "the lazy fox", "Größe 語", "", "the 語 fox", " a")


def make(kind, folder):
    """A vocabulary; a SentencePiece model is trained into the folder."""
    if kind not in ("sentencepiece", "byte fallback"):
        return make_vocabulary(
            {
                "words": WordsConfig(("one", "two")),
                "characters": CharactersConfig(tuple(" abc")),
                "bytes": BytesConfig(),
            }[kind]
        )
    import sentencepiece

    lines = ["the quick brown fox", "a lazy dog sleeps", "nine little ducks"] * 20
    more = {"byte_fallback": True, "vocab_size": 287} if kind == "byte fallback" else {"vocab_size": 30}
    sentencepiece.SentencePieceTrainer.Train(
        sentence_iterator=iter(lines), model_prefix=str(folder / "m"), minloglevel=5, **more
    )
    return make_vocabulary(SentencePieceConfig(path=str(folder / "m.model")))


def rows(vocabulary, kind, size=40):
    """int32 [N, size] padded with 0: texts, texts with sos and words behind eos, and random ids."""
    written = [vocabulary.encode(text) for text in TEXTS]
    written += [[2, *ids, 1, 5] for ids in written]
    if kind != "byte fallback":  # broken UTF-8 is told in as many signs as there are bytes there
        rng = np.random.default_rng(0)
        written += [rng.integers(0, vocabulary.size, 9).tolist() for _ in range(50)]
    found = np.zeros((len(written), size), np.int32)
    for row, ids in zip(found, written, strict=True):
        row[: len(ids)] = ids
    return found
