"""n-gram models: probabilities that are probabilities, by hand, as ARPA; and what is left out of the text."""

import gzip
import json
import math

import pytest

from spectron.config.noisy_student import LanguageModelConfig
from spectron.recognition import ngram
from spectron.types import UserError

TEXTS = ["A B A", "B A", "A A B C", "C A B", "A B"]


@pytest.mark.parametrize("order", [1, 2, 3, 4])
@pytest.mark.parametrize("context", [(), ("A",), ("A", "B"), ("<s>",), ("<s>", "A"), ("C", "C"), ("B", "A", "Z")])
def test_probabilities_sum_to_one_whatever_came_before(order, context):
    model = ngram.estimate(TEXTS, order)
    assert sum(math.exp(model.log_prob(word, context)) for word in model.words) == pytest.approx(1, abs=1e-9)


def test_a_large_text_has_discounts_of_its_own_and_sums_to_one():
    words = [
        "the",
        "of",
        "and",
        "to",
        "in",
        "a",
        "is",
        "that",
        "for",
        "it",
        "as",
        "was",
        "with",
        "be",
        "by",
        "on",
        "not",
        "he",
        "his",
        "but",
    ]
    texts = [" ".join(words[(i * j + i // 3) % (3 + i % 17)] for j in range(1, 3 + i % 9)) for i in range(300)]
    model = ngram.estimate(texts, 3)
    for context in (("the",), ("the", "of"), ("<s>", "and")):
        assert sum(math.exp(model.log_prob(word, context)) for word in model.words) == pytest.approx(1, abs=1e-9)


def test_a_bigram_by_hand():
    """Two texts of one word each: absolute discounting by the fallback of 0.5, continuation counts below."""
    model = ngram.estimate(["A", "B"], 2)
    # Unigrams in how many words came before: A 1, B 1, </s> 2; discounts 0.5 of counts of 1, 0.9 of 2.
    left = (0.5 + 0.5 + 0.9) / 4
    a = (1 - 0.5) / 4 + left / 4  # uniform over A, B, </s>, <unk>
    assert math.exp(model.log_prob("A")) == pytest.approx(a)
    assert math.exp(model.log_prob("A", ("<s>",))) == pytest.approx((1 - 0.5) / 2 + 0.5 * a)
    assert math.exp(model.log_prob("Z", ("A",))) == pytest.approx(0.5 * left / 4)
    assert model.score("A") == pytest.approx(model.log_prob("A", ("<s>",)) + model.log_prob("</s>", ("A",)))


def test_rare_words_are_unknown():
    model = ngram.estimate(TEXTS, 2, min_count=3)
    assert "C" not in model.words
    assert model.log_prob("C") == model.log_prob("never seen")


def test_arpa_lists_every_n_gram_in_log10():
    model = ngram.estimate(TEXTS, 2)
    lines = model.arpa().decode().splitlines()
    assert lines[0] == "\\data\\" and lines[-1] == "\\end\\"
    assert lines[1] == f"ngram 1={sum(len(gram) == 1 for gram in model.log_probs)}"
    (row,) = [line.split("\t") for line in lines if "\tA B" in line]
    assert float(row[0]) == pytest.approx(model.log_prob("B", ("A",)) / math.log(10), abs=1e-6)
    assert model.arpa() == ngram.estimate(TEXTS, 2).arpa()


def test_texts_leave_out_what_is_to_be_recognised(tmp_path):
    with gzip.open(tmp_path / "a.trans.txt.gz", "wt") as file:
        file.write("1-1-0 SECRET WORDS\n1-1-1 OPEN WORDS\n")
    (tmp_path / "b.txt").write_text("more words\n\n")
    (tmp_path / "held.jsonl").write_text(json.dumps({"id": "1-1-0", "text": "SECRET WORDS"}) + "\n")
    config = LanguageModelConfig(("a.trans.txt.gz", "b.txt"), ("held.jsonl",))
    assert list(ngram.read_texts(config, tmp_path)) == ["OPEN WORDS", "more words"]


@pytest.mark.parametrize("config", [LanguageModelConfig(("none.txt",)), LanguageModelConfig((), ("none.jsonl",))])
def test_a_missing_text_is_named(tmp_path, config):
    with pytest.raises(UserError, match="none"):
        list(ngram.read_texts(config, tmp_path))


def test_no_text_is_said_in_words():
    with pytest.raises(UserError, match="give texts"):
        ngram.estimate([])
