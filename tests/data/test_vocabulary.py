import json

import numpy as np
import pytest

from spectron.config import BytesConfig, CharactersConfig, SentencePieceConfig, WordsConfig
from spectron.data.vocabulary import encode_ends, encode_target, make_vocabulary
from spectron.types import UserError

WORDS = make_vocabulary(WordsConfig(("one", "two", "three")))
BYTES = make_vocabulary(BytesConfig())


def test_words_round_trip_and_unknown():
    assert WORDS.size == 7
    assert WORDS.encode("two one") == [5, 4]
    assert WORDS.decode([2, 5, 4, 1, 6, 0]) == "two one"
    assert WORDS.encode("two zebra") == [5, 3]
    assert WORDS.decode([5, 3]) == "two <unk>"


def test_bytes_round_trip_every_character():
    assert BYTES.size == 260
    assert BYTES.decode(BYTES.encode("Größe 語")) == "Größe 語"
    assert min(BYTES.encode("\0a")) >= 4  # never a special
    assert BYTES.decode([259, 102]) == "�b"  # a broken character is no crash


def test_target_scores_all_or_the_first_words():
    assert encode_target(WORDS, "one  two three") == ([4, 5, 6, 1], 4)
    assert encode_target(WORDS, "one two three", 2) == ([4, 5, 6, 1], 2)
    assert encode_target(WORDS, "one two three", 3) == ([4, 5, 6, 1], 4)
    ids, scored = encode_target(BYTES, "ab c", 1)
    assert BYTES.decode(ids[:scored]) == "ab"


def test_tokens_share_the_time_of_their_word():
    assert encode_ends(WORDS, "one  two", [10, 30]) == [10, 30]
    assert encode_ends(BYTES, "ab c", [10, 30]) == [5, 10, 20, 30]
    assert encode_ends(BYTES, "ab c", []) == []


def read_table(table, ids):
    """How a program without our classes decodes: see Vocabulary.table."""
    special, kept = table["special"], []
    for i in ids:
        if i == special["eos"]:
            break
        if i not in (special["pad"], special["sos"]):
            kept.append(table["pieces"][i])
    pieces = [bytes([piece]) if isinstance(piece, int) else piece.encode() for piece in kept]
    text = table["join"].encode().join(pieces).decode("utf-8", errors="replace")
    if table["strip"]:
        text = text.removeprefix(table["space"])
    return text.replace(table["space"], " ") if table["space"] else text


@pytest.mark.parametrize("kind", ["words", "characters", "bytes", "sentencepiece", "byte fallback"])
def test_a_table_decodes_as_the_vocabulary_does(kind, tmp_path):
    if kind in ("sentencepiece", "byte fallback"):
        sentencepiece = pytest.importorskip("sentencepiece")
        lines = ["the quick brown fox", "a lazy dog sleeps", "nine little ducks"] * 20
        more = {"byte_fallback": True, "vocab_size": 287} if kind == "byte fallback" else {"vocab_size": 30}
        sentencepiece.SentencePieceTrainer.Train(
            sentence_iterator=iter(lines), model_prefix=str(tmp_path / "m"), minloglevel=5, **more
        )
        config = SentencePieceConfig(path=str(tmp_path / "m.model"))
    else:
        config = {
            "words": WordsConfig(("one", "two")),
            "characters": CharactersConfig(tuple(" abc")),
            "bytes": BytesConfig(),
        }[kind]
    vocabulary = make_vocabulary(config)
    table = json.loads(json.dumps(vocabulary.table()))
    assert len(table["pieces"]) == table["size"] == vocabulary.size
    texts = ("one two", "ab c", "the lazy fox", "Größe 語", "", "the 語 fox", " a")
    written = [vocabulary.encode(text) for text in texts]
    written += [[2, *ids, 1, 5] for ids in written]
    rng = np.random.default_rng(0)
    if kind != "byte fallback":  # broken UTF-8 is told in as many signs as there are bytes there
        written += [rng.integers(0, vocabulary.size, 9).tolist() for _ in range(50)]
    for ids in written:
        assert read_table(table, ids) == vocabulary.decode(ids), ids


@pytest.mark.parametrize(
    ("config", "says"),
    [
        (WordsConfig(), "words is empty"),
        (WordsConfig(("a", "b", "a")), "'a' twice"),
        (SentencePieceConfig(path="/nowhere.model"), "no file"),
    ],
)
def test_mistakes_are_named(config, says):
    with pytest.raises(UserError, match=says):
        make_vocabulary(config)


def test_sentencepiece(tmp_path):
    sentencepiece = pytest.importorskip("sentencepiece")
    lines = ["the quick brown fox", "a lazy dog sleeps", "nine little ducks"] * 20
    sentencepiece.SentencePieceTrainer.Train(
        sentence_iterator=iter(lines), model_prefix=str(tmp_path / "m"), vocab_size=30, minloglevel=5
    )
    vocabulary = make_vocabulary(SentencePieceConfig(path=str(tmp_path / "m.model")))
    assert vocabulary.size == 34
    assert vocabulary.decode(vocabulary.encode("the lazy fox")) == "the lazy fox"
    assert vocabulary.unk_id in vocabulary.encode("the 語")
    assert min(vocabulary.encode("the lazy fox")) >= 4
    (tmp_path / "bad.model").write_text("no model")
    with pytest.raises(UserError, match="not a SentencePiece model"):
        make_vocabulary(SentencePieceConfig(path=str(tmp_path / "bad.model")))
