"""Word n-gram language models: interpolated modified Kneser-Ney smoothing (Chen & Goodman 1998), ARPA files."""

from __future__ import annotations

import dataclasses
import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from pathlib import Path

from spectron.config.noisy_student import LanguageModelConfig
from spectron.types import UserError
from spectron.utils.text_files import read_lines, read_objects

BEGIN, END, UNKNOWN = "<s>", "</s>", "<unk>"
NEVER = -99.0  # log10 probability of <s> in ARPA files
FALLBACK = (0.5, 1.0, 1.5)  # ours: discounts if the text is too small to estimate them

Gram = tuple[str, ...]


def read_texts(config: LanguageModelConfig, root: str | Path = "") -> Iterator[str]:
    """The texts of a model, without the utterances of config.leave_out. Raises UserError."""
    left_out: set[str] = set()
    for name in config.leave_out:
        for _, place, row in read_objects(Path(root) / name):
            if "id" not in row:
                raise UserError(f"{place} has no id; correct language_model.leave_out.")
            left_out.add(str(row["id"]))
    for name in config.texts:
        path = Path(root) / name
        for _, line in read_lines(path):
            text = line.strip()
            if ".trans.txt" in path.name:
                utterance_id, text, *_ = *text.split(None, 1), "", ""
                if utterance_id in left_out:
                    continue
            if text:
                yield text


@dataclasses.dataclass(frozen=True)
class NGram:
    """An n-gram model with interpolated probabilities."""

    order: int
    log_probs: dict[Gram, float]  # n-gram → ln p(last word | the words before it)
    backoffs: dict[Gram, float]  # context → ln of the probability mass of the lower order

    @property
    def words(self) -> list[str]:
        """The vocabulary with <unk> and </s>, sorted."""
        return sorted(gram[0] for gram in self.log_probs if len(gram) == 1 and gram[0] != BEGIN)

    def log_prob(self, word: str, context: Gram = ()) -> float:
        """ln p(word | context); unknown words are <unk>."""
        word = word if (word,) in self.log_probs else UNKNOWN
        context = context[len(context) - self.order + 1 :] if self.order > 1 and len(context) >= self.order else context
        log_prob = self.log_probs.get((*context, word))
        if log_prob is not None:
            return log_prob
        return self.backoffs.get(context, 0.0) + self.log_prob(word, context[1:])

    def score(self, text: str) -> float:
        """ln p of a text, including its end </s>."""
        words = [BEGIN, *text.split(), END]
        return sum(self.log_prob(words[i], tuple(words[max(0, i - self.order + 1) : i])) for i in range(1, len(words)))

    def arpa(self) -> bytes:
        """The model as an ARPA file with sorted n-grams."""
        orders: list[list[Gram]] = [[] for _ in range(self.order)]
        for gram in self.log_probs:
            orders[len(gram) - 1].append(gram)
        lines = ["\\data\\", *(f"ngram {n}={len(grams)}" for n, grams in enumerate(orders, 1))]
        for n, grams in enumerate(orders, 1):
            lines += ["", f"\\{n}-grams:"]
            for gram in sorted(grams):
                line = f"{max(self.log_probs[gram] / math.log(10), NEVER):.6f}\t{' '.join(gram)}"
                if gram in self.backoffs:
                    line += f"\t{self.backoffs[gram] / math.log(10):.6f}"
                lines.append(line)
        return ("\n".join([*lines, "", "\\end\\", ""])).encode()


def estimate(texts: Iterable[str], order: int = 3, min_count: int = 1) -> NGram:
    """Estimate a model. Words that occur less than min_count times become <unk>. Raises UserError without any word."""
    sentences = [text.split() for text in texts]
    word_counts = Counter(word for sentence in sentences for word in sentence)
    if not word_counts or order < 1:
        raise UserError("language_model: give texts that contain words, and an order of 1 or more.")
    vocabulary = {word for word, count in word_counts.items() if count >= min_count}
    counts = _counts(sentences, vocabulary, order)
    size = len(vocabulary) + 2  # </s> and <unk>
    log_probs: dict[Gram, float] = {(BEGIN,): NEVER * math.log(10)}
    backoffs: dict[Gram, float] = {}
    lower: dict[Gram, float] = {}
    for n in range(1, order + 1):
        probs, left = _interpolate(counts[n - 1], lower, 1.0 / size)
        if n == 1:
            for word in (*vocabulary, END, UNKNOWN):  # without a count: the uniform distribution's share
                probs.setdefault((word,), left[()] / size)
        log_probs |= {gram: math.log(p) for gram, p in probs.items()}
        backoffs |= {context: math.log(mass) for context, mass in left.items() if context}
        lower = probs
    return NGram(order, log_probs, backoffs)


def _counts(sentences: list[list[str]], vocabulary: set[str], order: int) -> list[Counter[Gram]]:
    """Counts of each order: raw for the highest, else the number of distinct preceding words (Kneser-Ney).

    N-grams that begin with <s> have no preceding word and keep their raw counts.
    """
    raw: list[Counter[Gram]] = [Counter() for _ in range(order)]
    for sentence in sentences:
        words = [BEGIN, *(word if word in vocabulary else UNKNOWN for word in sentence), END]
        for n in range(1, order + 1):
            raw[n - 1].update(zip(*(words[i:] for i in range(n)), strict=False))
    del raw[0][(BEGIN,)]
    counts = [Counter[Gram]() for _ in range(order - 1)] + [raw[-1]]
    for n in range(1, order):
        counts[n - 1].update(gram[1:] for gram in raw[n])
        for gram, count in raw[n - 1].items():
            if gram[0] == BEGIN:
                counts[n - 1][gram] = count
    return counts


def _discounts(counts: Counter[Gram]) -> tuple[float, float, float]:
    """The discounts of counts 1, 2 and 3 or more."""
    counts_of_counts = Counter(counts.values())
    n1, n2, n3, n4 = (counts_of_counts[k] for k in (1, 2, 3, 4))
    if not (n1 and n2 and n3 and n4):
        lowest, middle, highest = (min(discount, 0.9 * min(counts.values())) for discount in FALLBACK)
        return lowest, middle, highest
    y = n1 / (n1 + 2 * n2)
    d1 = 1 - 2 * y * n2 / n1
    d2 = 2 - 3 * y * n3 / n2
    d3 = 3 - 4 * y * n4 / n3
    return (
        d1 if 0 < d1 < 1 else FALLBACK[0],
        d2 if 0 < d2 < 2 else FALLBACK[1],
        d3 if 0 < d3 < 3 else FALLBACK[2],
    )


def _interpolate(
    counts: Counter[Gram], lower: dict[Gram, float], uniform: float
) -> tuple[dict[Gram, float], dict[Gram, float]]:
    """Interpolated probabilities of one order, and the probability mass that each context gives to the lower order."""
    discounts = _discounts(counts)
    totals: dict[Gram, int] = defaultdict(int)
    discounted: dict[Gram, float] = defaultdict(float)
    for gram, count in counts.items():
        totals[gram[:-1]] += count
        discounted[gram[:-1]] += discounts[min(count, 3) - 1]
    left = {context: discounted[context] / total for context, total in totals.items()}
    probs = {}
    for gram, count in counts.items():
        context = gram[:-1]
        lower_prob = lower[gram[1:]] if len(gram) > 1 else uniform
        probs[gram] = (count - discounts[min(count, 3) - 1]) / totals[context] + left[context] * lower_prob
    return probs, left
