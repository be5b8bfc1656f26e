"""Greedy and beam search against all alignments of tiny recordings, with and without a language model."""

import importlib.util
import itertools
import math

import numpy as np
import pytest

from spectron.config import CharactersConfig
from spectron.data.vocabulary import make_vocabulary
from spectron.recognition import ctc_search, ngram
from spectron.types import UserError
from spectron.utils.ctc import collapse

CHARACTERS = make_vocabulary(CharactersConfig((" ", "A", "B")))
TEXTS = ["A BA A", "BA A", "A AB BA"]
needs_flashlight = pytest.mark.skipif(
    importlib.util.find_spec("flashlight") is None, reason="flashlight-text is not installed"
)


def emissions(seed, frames=5):
    """float32 [T, V]: random, eos, sos and unk next to impossible."""
    logits = np.random.default_rng(seed).normal(size=(frames, CHARACTERS.size)) * 1.5
    logits[:, 1:4] = -30
    return (logits - np.log(np.exp(logits).sum(1, keepdims=True))).astype(np.float32)


def labellings(log_probs):
    """Labels → ln of the summed probability of all their alignments."""
    sums = {}
    for path in itertools.product([0, 4, 5, 6], repeat=len(log_probs)):
        labels = tuple(collapse(np.array(path)))
        score = sum(log_probs[t, label] for t, label in enumerate(path))
        sums[labels] = np.logaddexp(sums.get(labels, -np.inf), score)
    return sums


def test_greedy_takes_out_repeats_and_blanks():
    path = [0, 5, 5, 0, 5, 4, 4, 6, 0]
    log_probs = np.log(np.full((len(path), CHARACTERS.size), 0.1 / 6, np.float32))
    log_probs[np.arange(len(path)), path] = np.log(0.9)
    found = ctc_search.greedy(log_probs, CHARACTERS)
    assert (found.text, found.tokens) == ("AA B", 4)
    assert found.score == pytest.approx(9 * np.log(0.9))
    assert ctc_search.greedy(log_probs[:0], CHARACTERS) == ("", 0.0, 0)


def write_lm(folder, texts=TEXTS):
    model = ngram.estimate(texts, 2)
    (folder / "lm.arpa").write_bytes(model.arpa())
    return model, str(folder / "lm.arpa")


@needs_flashlight
@pytest.mark.parametrize("seed", range(8))
def test_word_search_finds_the_best_of_all_texts(tmp_path, seed):
    """ln p(text | speech) + weight · ln p(text) + bonus · words, over all alignments of all texts of known words."""
    model, path = write_lm(tmp_path)
    log_probs, texts = emissions(100 + seed), {}
    for labels, score in labellings(log_probs).items():
        text = " ".join(CHARACTERS.decode(labels).split())
        texts[text] = np.logaddexp(texts.get(text, -np.inf), score)
    scores = {
        text: score + 0.7 * model.score(text) + 0.3 * len(text.split())
        for text, score in texts.items()
        if set(text.split()) <= {"A", "BA", "AB"}
    }
    best = max(scores, key=scores.get)
    found = ctc_search.WordSearch(ctc_search.Fusion(path, 0.7, 0.3, 500, 7, 1e9), CHARACTERS)(log_probs)
    assert found.text == best
    assert found.score == pytest.approx(scores[best], abs=1e-3)
    assert found.tokens == len(best)


@needs_flashlight
def test_fusion_changes_what_is_heard(tmp_path):
    """The recording says AB a little louder than BA; the model has read BA alone a hundred times."""
    _, path = write_lm(tmp_path, ["BA"] * 100 + ["AB"])
    ab, ba = [5, 0, 6], [6, 0, 5]
    log_probs = np.full((3, CHARACTERS.size), -9.0, np.float32)
    for t in range(3):
        log_probs[t, ab[t]], log_probs[t, ba[t]] = (-0.7, -0.8) if t == 0 else (-0.75, -0.75)
    log_probs[1, 0] = -0.01
    search = ctc_search.WordSearch(ctc_search.Fusion(path, 0.0), CHARACTERS)
    assert search(log_probs).text == "AB"
    assert search.with_weights(1.0, 0.0)(log_probs).text == "BA"
    assert search(log_probs).text == "AB"


@needs_flashlight
def test_nothing_heard_is_an_empty_text(tmp_path):
    _, path = write_lm(tmp_path)
    search = ctc_search.WordSearch(ctc_search.Fusion(path, 1.0), CHARACTERS)
    assert search(np.zeros((0, CHARACTERS.size), np.float32)) == ("", 0.0, 0)
    silence = np.full((4, CHARACTERS.size), -20.0, np.float32)
    silence[:, 0] = 0.0
    assert search(silence).text == ""


@pytest.mark.parametrize("content", [None, "no words here\n", "\\data\\\n\\1-grams:\n-1\n"])
def test_a_file_that_is_no_language_model_is_named(tmp_path, content):
    path = tmp_path / "lm.arpa"
    if content is not None:
        path.write_text(content)
    with pytest.raises(UserError, match=r"lm\.arpa"):
        ctc_search.arpa_words(path)


def test_words_of_an_arpa_file(tmp_path):
    _, path = write_lm(tmp_path)
    assert ctc_search.arpa_words(path) == ["A", "AB", "BA"]
    assert math.isfinite(ngram.estimate(TEXTS, 2).score("A AB"))
