"""Vocabularies: closed lists of words or characters, UTF-8 bytes, or a SentencePiece model, with one interface."""

from __future__ import annotations

import functools
import hashlib
import json
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from spectron.config import BytesConfig, CharactersConfig, Registry, SentencePieceConfig, VocabularyConfig, WordsConfig
from spectron.types import UserError

PAD, EOS, SOS, UNK = 0, 1, 2, 3
SPACE = "▁"  # SentencePiece's
IN_MEMORY = "sha256:"  # a path that begins so names a SentencePiece model by its content, see `remember`
FEW_TEXTS = 100  # ours: starting threads costs more than fewer texts take
SPECIALS = 4  # ours: pad (also the CTC blank), eos, sos, unk; ordinary tokens start here


class Vocabulary:
    """Ids of tokens: pad 0 (and CTC blank), eos 1, sos 2, unk 3, ordinary tokens from 4 to size - 1."""

    size: int
    pad_id, eos_id, sos_id, unk_id = PAD, EOS, SOS, UNK

    def encode(self, text: str) -> list[int]:
        """Ids of the text, without eos."""
        raise NotImplementedError

    def unknown(self, text: str) -> tuple[int, list[str]]:
        """(number of tokens, those that are unk, as they are written) of a text; spaces are not counted."""
        raise NotImplementedError

    def checksum(self) -> str:
        """SHA-256 of all that decides which ids a text has: vocabularies that differ in it are different ones."""
        return hashlib.sha256(json.dumps(self.table()).encode()).hexdigest()

    def counts(self, texts: Sequence[str]) -> np.ndarray:
        """int32 [N]: the number of ids of each text, without eos."""
        return np.asarray([len(self.encode(text)) for text in texts], np.int32)

    def rarity(self, word: str) -> tuple[float, ...]:
        """How unusual a spelling of a word is: numbers of unknown tokens and of tokens; less is more usual.

        Raises UserError if the vocabulary tells no spelling from another.
        """
        ids = self.encode(word)
        return ids.count(UNK), len(ids)

    def table(self) -> dict[str, Any]:
        """A table with which a program without this class can decode, for JSON. pieces: per id its text, or a raw byte.

        Join the UTF-8 bytes of the ids' pieces with `join` between them; with `strip`, cut one first `space`, and with
        `space` given, that character is a space.
        """
        raise NotImplementedError

    def _decode(self, ids: Sequence[int]) -> str:
        raise NotImplementedError

    def decode(self, ids: Iterable[int]) -> str:
        """The text up to the first eos; pad and sos are skipped."""
        kept = []
        for i in map(int, ids):
            if i == EOS:
                break
            if i not in (PAD, SOS):
                kept.append(i)
        return self._decode(kept)


class WordVocabulary(Vocabulary):
    """A closed list of words separated by spaces; any other word is unk."""

    listed = "words"  # the key of its config

    def __init__(self, words: Sequence[str]):
        if not words:
            raise UserError(
                f"data.vocabulary.{self.listed} is empty; list the {self.listed}, or set data.vocabulary.kind=bytes."
            )
        doubled = sorted({w for w in words if list(words).count(w) > 1})
        if doubled:
            raise UserError(f"data.vocabulary.{self.listed} names {doubled[0]!r} twice; list each once.")
        self._words = tuple(words)
        self._ids = {word: SPECIALS + i for i, word in enumerate(words)}
        self.size = SPECIALS + len(words)

    def encode(self, text: str) -> list[int]:
        """Ids of the text, without eos."""
        return [self._ids.get(word, UNK) for word in text.split()]

    def unknown(self, text: str) -> tuple[int, list[str]]:
        """See Vocabulary."""
        words = text.split()
        return len(words), [word for word in words if word not in self._ids]

    def table(self) -> dict[str, Any]:
        """See Vocabulary."""
        return _table(["<unk>", *self._words], join=" ")

    def _decode(self, ids: Sequence[int]) -> str:
        return " ".join(self._words[i - SPECIALS] if SPECIALS <= i < self.size else "<unk>" for i in ids)


class CharacterVocabulary(WordVocabulary):
    """A closed list of characters, the space among them; any other character is unk."""

    listed = "characters"

    def encode(self, text: str) -> list[int]:
        """Ids of the text, without eos."""
        return [self._ids.get(character, UNK) for character in text]

    def unknown(self, text: str) -> tuple[int, list[str]]:
        """See Vocabulary."""
        characters = "".join(text.split())
        return len(characters), [character for character in characters if character not in self._ids]

    def table(self) -> dict[str, Any]:
        """See Vocabulary."""
        return _table(["\ufffd", *self._words])

    def _decode(self, ids: Sequence[int]) -> str:
        return "".join(self._words[i - SPECIALS] if SPECIALS <= i < self.size else "\ufffd" for i in ids)


class ByteVocabulary(Vocabulary):
    """UTF-8 bytes."""

    size = SPECIALS + 256

    def encode(self, text: str) -> list[int]:
        """Ids of the text, without eos."""
        return [SPECIALS + byte for byte in text.encode("utf-8")]

    def rarity(self, word: str) -> tuple[float, ...]:
        """See Vocabulary."""
        raise UserError("Bytes spell every word alike; choose data.vocabulary.kind=sentencepiece, words or characters.")

    def unknown(self, text: str) -> tuple[int, list[str]]:
        """See Vocabulary."""
        return len(text.encode()), []

    def table(self) -> dict[str, Any]:
        """See Vocabulary."""
        return _table(["", *range(256)])

    def _decode(self, ids: Sequence[int]) -> str:
        return bytes(i - SPECIALS for i in ids if SPECIALS <= i < self.size).decode("utf-8", errors="replace")


class SentencePieceVocabulary(Vocabulary):
    """A SentencePiece model: its piece p is our id p + 4, its unknown piece is our unk. Read at first use if its size
    is given: a machine that trains on packed tokens, or compiles, has none."""

    def __init__(self, path: str, size: int = 0):
        self._path = path
        self.size = size or SPECIALS + self._model.GetPieceSize()

    @functools.cached_property
    def _model(self) -> Any:
        import sentencepiece

        content, model = read_pieces(self._path), sentencepiece.SentencePieceProcessor()
        try:
            model.LoadFromSerializedProto(content)
        except RuntimeError as error:
            raise UserError(f"data.vocabulary.path {self._path!r} is not a SentencePiece model.") from error
        size = SPECIALS + model.GetPieceSize()
        if getattr(self, "size", size) != size:
            raise UserError(f"data.vocabulary.size is {self.size}, but {self._path!r} makes it {size}; correct it.")
        return model

    def encode(self, text: str) -> list[int]:
        """Ids of the text, without eos."""
        unknown = self._model.unk_id()
        return [UNK if piece == unknown else SPECIALS + piece for piece in self._model.EncodeAsIds(text)]

    def checksum(self) -> str:
        """SHA-256 of the model's file."""
        return hashlib.sha256(read_pieces(self._path)).hexdigest()

    def counts(self, texts: Sequence[str]) -> np.ndarray:
        """See Vocabulary. Many texts are shared by one thread per core."""
        if len(texts) < FEW_TEXTS:
            return super().counts(texts)
        pieces = self._model.Encode(list(texts), out_type=int, num_threads=os.cpu_count() or 1)
        return np.asarray([len(each) for each in pieces], np.int32)

    def rarity(self, word: str) -> tuple[float, ...]:
        """Unknown pieces, pieces, and minus the sum of their scores: log-probabilities, or ranks in a BPE model."""
        model = self._model
        ids = model.EncodeAsIds(word)
        return ids.count(model.unk_id()), len(ids), -sum(map(model.GetScore, ids))

    def unknown(self, text: str) -> tuple[int, list[str]]:
        """See Vocabulary."""
        pieces = zip(self._model.EncodeAsPieces(text), self.encode(text), strict=True)
        written = [(piece, i) for piece, i in pieces if piece != SPACE]
        return len(written), [piece for piece, i in written if i == UNK]

    def table(self) -> dict[str, Any]:
        """See Vocabulary."""
        model, unknown = self._model, self._model.unk_id()

        def piece(i: int) -> str | int:
            if model.IsByte(i):
                return int(model.IdToPiece(i)[1:-1], 16)  # "<0x2E>"
            return "" if model.IsControl(i) else model.IdToPiece(i)

        pieces = [piece(i) for i in range(model.GetPieceSize())]
        pieces[unknown] = model.DecodeIds([unknown])
        begins = next((i for i, p in enumerate(pieces) if isinstance(p, str) and p[:1] == SPACE), None)
        strip = begins is not None and not model.DecodeIds([begins]).startswith(" ")
        return _table([pieces[unknown], *pieces], space=SPACE, strip=strip)

    def _decode(self, ids: Sequence[int]) -> str:
        return self._model.DecodeIds([i - SPECIALS if i != UNK else self._model.unk_id() for i in ids])


_remembered: dict[str, bytes] = {}


def remember(pieces: bytes) -> str:
    """Keep a SentencePiece model in memory; returns the path that names it in this process, whatever files change."""
    path = f"{IN_MEMORY}{hashlib.sha256(pieces).hexdigest()}"
    _remembered[path] = pieces
    return path


def read_pieces(path: str) -> bytes:
    """The content of a SentencePiece model's file, or of a path that `remember` gave. Raises UserError."""
    if path in _remembered:
        return _remembered[path]
    try:
        return Path(path).read_bytes()
    except FileNotFoundError as error:
        raise UserError(f"data.vocabulary.path {path!r} is no file; give the path of a SentencePiece model.") from error
    except OSError as error:
        raise UserError(f"data.vocabulary.path {path!r} cannot be read ({error.strerror}).") from error


def lacks_pieces(path: str) -> bool:
    """Whether there is no SentencePiece model of that path on this machine."""
    return path not in _remembered and not Path(path).exists()


def _table(pieces: list[str | int], join: str = "", space: str | None = None, strip: bool = False) -> dict[str, Any]:
    """pieces: of unk and of the ordinary tokens."""
    every = ["", "", "", *pieces]
    special = {"pad": PAD, "eos": EOS, "sos": SOS, "unk": UNK}
    return {"size": len(every), "special": special, "join": join, "space": space, "strip": strip, "pieces": every}


def make_pieces(texts: Iterable[str], size: int) -> bytes:
    """A SentencePiece model (unigram) of at most `size` pieces; the same texts give the same pieces.

    Raises UserError if the texts hold too few.
    """
    import io

    import sentencepiece

    model = io.BytesIO()
    try:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(texts),
            model_writer=model,
            vocab_size=size,
            hard_vocab_limit=False,
            character_coverage=1.0,
            bos_id=-1,
            eos_id=-1,
            num_threads=1,
            minloglevel=2,
        )
    except RuntimeError as error:
        raise UserError(f"No {size} pieces can be made of these texts ({error}); ask for fewer.") from error
    return model.getvalue()


VOCABULARIES: Registry[Any] = Registry("vocabulary")  # config class → function of the config
VOCABULARIES.register(WordsConfig)(lambda config: WordVocabulary(config.words))
VOCABULARIES.register(CharactersConfig)(lambda config: CharacterVocabulary(config.characters))
VOCABULARIES.register(BytesConfig)(lambda config: ByteVocabulary())
VOCABULARIES.register(SentencePieceConfig)(lambda config: SentencePieceVocabulary(config.path, config.size))


@functools.lru_cache(maxsize=16)  # equal configs share one vocabulary, which seqio compares
def make_vocabulary(config: VocabularyConfig) -> Vocabulary:
    """The vocabulary a config chooses. Raises UserError for an empty list or a missing model."""
    return VOCABULARIES[config](config)


def encode_target(vocabulary: Vocabulary, text: str, scored_words: int = -1) -> tuple[list[int], int]:
    """Ids of the text with eos, and the number of leading tokens that carry cross-entropy: all, or the first words'."""
    words = text.split()
    ids = vocabulary.encode(" ".join(words))
    if scored_words < 0 or scored_words >= len(words):
        return [*ids, EOS], len(ids) + 1
    return [*ids, EOS], len(vocabulary.encode(" ".join(words[:scored_words])))


def encode_ends(vocabulary: Vocabulary, text: str, word_ends: Sequence[int]) -> list[int]:
    """The sample at which each token of a text ends, without eos, from those at which its words end."""
    words, ends = text.split(), [0]
    for i, end in enumerate(word_ends):
        new = len(vocabulary.encode(" ".join(words[: i + 1]))) - (len(ends) - 1)
        # Ours: the tokens of one word take equal shares of its time.
        ends += np.linspace(ends[-1], end, new + 1).round().astype(int)[1:].tolist()
    return ends[1:]
