"""Word errors on texts as Whisper's English normaliser gives them."""

import pytest

from spectron.evaluation.metrics.wer import english_words, wer_figure, word_errors
from spectron.utils.plain_words import plain_words


@pytest.mark.parametrize(
    ("said", "written", "wanted"),
    [
        ("A B C", "A B C", (0, 3)),
        ("A B C", "A X C", (1, 3)),
        ("A B C", "A C", (1, 3)),
        ("A B C", "A B B C", (1, 3)),
        ("A B C", "", (3, 3)),
        ("", "", (0, 0)),
        ("", "A B", (2, 0)),
    ],
)
def test_errors_of_one_utterance(said, written, wanted):
    assert word_errors(said, written, str.split) == wanted


def test_the_rate_is_over_words_with_an_interval_over_utterances():
    figure = wer_figure("x", [0] * 50 + [1] * 50, [4] * 50 + [1] * 50)
    assert (figure.value, figure.n, figure.unit) == (0.2, 100, "%")
    assert 0.1 < figure.low < 0.2 < figure.high < 0.3


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("Hmm, I'm [noise] two hundred and five dollars (laughs)", "i am $205"),
        ("We won't, uh, go on the twenty-first!", "we will not go on the 21st"),
        ("Café  São Paulo", "cafe sao paulo"),
        ("um", ""),
        ("The colour", "the colour"),
    ],
)
def test_the_normaliser(text, words):
    assert english_words(text) == words.split()


@pytest.mark.parametrize("words", [english_words, plain_words])
@pytest.mark.parametrize(
    ("said", "written", "errors"),
    [
        ("कि", "का", 1),
        ("नमस्ते दुनिया!", "नमसते दुनिया", 1),
        ("กิน", "กัน", 1),
        ("が", "か", 1),
        ("தமிழ்", "தமழ", 1),
        ("мой", "мои", 1),
        ("ещё", "еще", 0),
        ("café", "cafe", 0),
        ("कैफ़े, café", "कैफ़े Cafe", 0),
        ("كَتَبَ", "كتب", 0),
        ("שָׁלוֹם", "שלום", 0),
        ("I ❤️ it", "i it", 0),
    ],
)
def test_marks_count_where_words_are_spelt_with_them(words, said, written, errors):
    assert word_errors(said, written, words)[0] == errors


def test_a_counted_row_of_digits_is_no_number_for_plain_words():
    assert word_errors("two five eight", "two five nine", plain_words) == (1, 3)
    assert word_errors("two five eight", "two five nine") == (1, 1), "Whisper's joins them"
