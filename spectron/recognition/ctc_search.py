"""CTC beam search with shallow fusion of a word n-gram model, based on flashlight-text."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import math
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from spectron.data.vocabulary import PAD, SPECIALS, CharacterVocabulary, Vocabulary
from spectron.types import Hypothesis, UserError
from spectron.utils.ctc import collapse
from spectron.utils.text_files import read_lines

LN10 = math.log(10)  # KenLM's scores are log10 probabilities
IMPOSSIBLE = -1e4  # log-probability


@dataclasses.dataclass(frozen=True)
class Fusion:
    """Weights of shallow fusion: score = ln p(labels | speech) + lm_weight · ln p(words) + word_bonus · words."""

    lm: str = ""  # path of an ARPA file; "": greedy search without a language model
    lm_weight: float = 0.0
    word_bonus: float = 0.0
    beam: int = 50  # hypotheses kept per frame
    beam_tokens: int = 12  # labels tried per frame
    beam_threshold: float = 25.0  # nats below the best hypothesis at which others are dropped


def greedy(log_probs: Float[np.ndarray, "T V"], vocabulary: Vocabulary) -> Hypothesis:
    """Greedy CTC search: the best label of every frame, with repeats and blanks removed. The score is of this path."""
    labels = collapse(log_probs.argmax(axis=-1))
    return Hypothesis(" ".join(vocabulary.decode(labels).split()), float(log_probs.max(axis=-1).sum()), len(labels))


def _library() -> tuple[Any, Any, Any]:
    try:
        from flashlight.lib.text import decoder, dictionary
        from flashlight.lib.text.decoder import kenlm
    except ImportError as error:
        raise UserError(
            "Beam search needs the package 'flashlight-text'; pip install 'spectron-jax[eval]', or decode greedily."
        ) from error
    return decoder, dictionary, kenlm


def arpa_words(path: str | Path) -> list[str]:
    """The words of an ARPA file, in order. Raises UserError if it is not an ARPA file."""
    words = []
    inside = False
    try:
        for _, line in read_lines(path):
            if line.startswith("\\"):
                if inside:
                    break
                inside = line.strip() == "\\1-grams:"
            elif inside and line.strip():
                words.append(line.split("\t")[1].strip())
    except IndexError as error:
        raise UserError(f"Language model {str(path)!r} cannot be read ({error}); give an ARPA file.") from error
    if not words:
        raise UserError(f"Language model {str(path)!r} is not an ARPA file: it lists no words; give another.")
    return [word for word in words if not (word.startswith("<") and word.endswith(">"))]


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Suppress KenLM's progress messages on stderr."""
    before = os.dup(2)
    with open(os.devnull, "w") as nowhere:
        os.dup2(nowhere.fileno(), 2)
    try:
        yield
    finally:
        os.dup2(before, 2)
        os.close(before)


class WordSearch:
    """Beam search over the words of a language model. Not picklable: make one per process."""

    def __init__(self, fusion: Fusion, vocabulary: Vocabulary):
        decoder, dictionary, kenlm = _library()
        self._decoder = decoder
        self._vocabulary = vocabulary
        self._fusion = fusion
        self._words = arpa_words(fusion.lm)
        word_ids = dictionary.Dictionary()
        for word in self._words:
            word_ids.add_entry(word)
        word_ids.add_entry("<unk>")
        word_ids.set_default_index(word_ids.get_index("<unk>"))
        self._unknown = word_ids.get_index("<unk>")
        with _quiet():
            self._lm = kenlm.KenLM(str(fusion.lm), word_ids)
        # A character spelling ends with a space. SentencePiece spellings need none: pieces mark word boundaries.
        self._space = vocabulary.encode(" ")[0] if isinstance(vocabulary, CharacterVocabulary) else PAD
        word_end = [self._space] if self._space != PAD else []
        self._trie = decoder.Trie(vocabulary.size, self._space)
        start = self._lm.start(False)
        for number, word in enumerate(self._words):
            spelling = vocabulary.encode(word)
            if spelling and min(spelling) >= SPECIALS:
                self._trie.insert([*spelling, *word_end], number, self._lm.score(start, number)[1])
        self._trie.smear(decoder.SmearingMode.MAX)

    def with_weights(self, lm_weight: float, word_bonus: float) -> WordSearch:
        """A search with other weights that shares the language model."""
        other = object.__new__(WordSearch)
        other.__dict__ = dict(self.__dict__)
        other._fusion = dataclasses.replace(self._fusion, lm_weight=lm_weight, word_bonus=word_bonus)
        other.__dict__.pop("_search", None)
        return other

    @functools.cached_property
    def _search(self) -> Any:
        f = self._fusion
        options = self._decoder.LexiconDecoderOptions(
            beam_size=f.beam,
            beam_size_token=min(f.beam_tokens, self._vocabulary.size),
            beam_threshold=f.beam_threshold,
            lm_weight=f.lm_weight * LN10,
            word_score=f.word_bonus,
            unk_score=-math.inf,
            sil_score=0.0,
            log_add=True,
            criterion_type=self._decoder.CriterionType.CTC,
        )
        return self._decoder.LexiconDecoder(options, self._trie, self._lm, self._space, PAD, self._unknown, [], False)

    def __call__(self, log_probs: Float[np.ndarray, "T V"]) -> Hypothesis:
        """The best word sequence of one recording; its score sums all alignments and includes the language model."""
        if not len(log_probs):
            return Hypothesis("", 0.0, 0)
        frames = log_probs
        if self._space != PAD:  # append a frame that is certainly a space, which ends the last word
            ending = np.full((1, log_probs.shape[1]), IMPOSSIBLE, np.float32)
            ending[0, self._space] = 0.0
            frames = np.concatenate([log_probs, ending])
        frames = np.ascontiguousarray(frames, np.float32)
        num_frames, num_labels = frames.shape
        hypotheses = self._search.decode(frames.ctypes.data, num_frames, num_labels)
        if not hypotheses:
            return Hypothesis("", -math.inf, 0)
        best = hypotheses[0]
        text = " ".join(self._words[i] for i in best.words if 0 <= i < len(self._words))
        return Hypothesis(text, float(best.score), len(self._vocabulary.encode(text)))
