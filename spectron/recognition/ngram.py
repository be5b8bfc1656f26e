"""Word n-gram language models: interpolated modified Kneser-Ney (Chen & Goodman 1998), estimated here, kept as ARPA."""

from __future__ import annotations

import dataclasses
import gzip
import json
import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from pathlib import Path

from spectron.config.noisy_student import LanguageModelConfig
from spectron.types import UserError

BEGIN, END, UNKNOWN = "<s>", "</s>", "<unk>"
NEVER = -99.0  # what ARPA writes for the log10 probability of <s>
FALLBACK = (0.5, 1.0, 1.5)  # ours: discounts where a text is too small to estimate them

Gram = tuple[str, ...]


def read_texts(config: LanguageModelConfig, root: str | Path = "") -> Iterator[str]:
    """The texts a model is estimated from, without the utterances left out. Raises UserError for a missing file."""
    left_out: set[str] = set()
    try:
        for name in config.leave_out:
            lines = (Path(root) / name).read_text(encoding="utf-8").splitlines()
            left_out |= {str(json.loads(line)["id"]) for line in lines if line.strip()}
        for name in config.texts:
            path = Path(root) / name
            with (
                gzip.open(path, "rt", encoding="utf-8") if path.suffix == ".gz" else path.open(encoding="utf-8") as file
            ):
                for line in file:
                    text = line.strip()
                    if ".trans.txt" in path.name:
                        known, _, text = text.partition(" ")
                        if known in left_out:
                            continue
                    if text:
                        yield text
    except (OSError, ValueError, KeyError) as error:
        raise UserError(
            f"language_model: {name!r} below {str(root)!r} cannot be read ({error}); correct texts or leave_out."
        ) from error


@dataclasses.dataclass(frozen=True)
class NGram:
    """log_probs: n-gram → ln p(last | rest), interpolated; backoffs: context → ln of the mass left to shorter ones."""

    order: int
    log_probs: dict[Gram, float]
    backoffs: dict[Gram, float]

    @property
    def words(self) -> list[str]:
        """Everything that can follow: the words, <unk> and </s>."""
        return sorted(gram[0] for gram in self.log_probs if len(gram) == 1 and gram[0] != BEGIN)

    def log_prob(self, word: str, context: Gram = ()) -> float:
        """ln p(word | context); a word that was never seen is <unk>."""
        word = word if (word,) in self.log_probs else UNKNOWN
        context = context[len(context) - self.order + 1 :] if self.order > 1 and len(context) >= self.order else context
        found = self.log_probs.get((*context, word))
        if found is not None:
            return found
        return self.backoffs.get(context, 0.0) + self.log_prob(word, context[1:])

    def score(self, text: str) -> float:
        """ln p of a whole text, its end included."""
        words = [BEGIN, *text.split(), END]
        return sum(self.log_prob(words[i], tuple(words[max(0, i - self.order + 1) : i])) for i in range(1, len(words)))

    def arpa(self) -> bytes:
        """The model as an ARPA file, n-grams in sorted order."""
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
    """The n-gram model of some texts. Words seen less than min_count times are <unk>. Raises UserError for no text."""
    sentences = [text.split() for text in texts]
    seen = Counter(word for sentence in sentences for word in sentence)
    if not seen or order < 1:
        raise UserError("language_model: give texts that hold words, and an order of 1 or more.")
    known = {word for word, count in seen.items() if count >= min_count}
    counts = _counts(sentences, known, order)
    size = len(known) + 2  # </s> and <unk>
    log_probs: dict[Gram, float] = {(BEGIN,): NEVER * math.log(10)}
    backoffs: dict[Gram, float] = {}
    lower: dict[Gram, float] = {}
    for n in range(1, order + 1):
        probs, left = _interpolate(counts[n - 1], lower, 1.0 / size)
        if n == 1:
            for word in (*known, END, UNKNOWN):  # never seen: what the uniform distribution gives
                probs.setdefault((word,), left[()] / size)
        log_probs |= {gram: math.log(p) for gram, p in probs.items()}
        backoffs |= {context: math.log(mass) for context, mass in left.items() if context}
        lower = probs
    return NGram(order, log_probs, backoffs)


def _counts(sentences: list[list[str]], known: set[str], order: int) -> list[Counter[Gram]]:
    """Per order: counts, those of all but the highest in how many words came before (but where nothing can)."""
    raw: list[Counter[Gram]] = [Counter() for _ in range(order)]
    for sentence in sentences:
        words = [BEGIN, *(word if word in known else UNKNOWN for word in sentence), END]
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
    """What is taken from counts of 1, 2 and 3 or more."""
    of = Counter(counts.values())
    if not all(of[k] for k in (1, 2, 3, 4)):
        return tuple(min(d, 0.9 * min(counts.values())) for d in FALLBACK)  # type: ignore[return-value]
    y = of[1] / (of[1] + 2 * of[2])
    found = [k - (k + 1) * y * of[k + 1] / of[k] for k in (1, 2, 3)]
    return tuple(d if 0 < d < k else f for k, d, f in zip((1, 2, 3), found, FALLBACK, strict=True))  # type: ignore[return-value]


def _interpolate(
    counts: Counter[Gram], lower: dict[Gram, float], uniform: float
) -> tuple[dict[Gram, float], dict[Gram, float]]:
    """One order: interpolated probabilities, and per context the mass that goes to the order below."""
    discounts = _discounts(counts)
    totals: dict[Gram, int] = defaultdict(int)
    taken: dict[Gram, float] = defaultdict(float)
    for gram, count in counts.items():
        totals[gram[:-1]] += count
        taken[gram[:-1]] += discounts[min(count, 3) - 1]
    left = {context: taken[context] / total for context, total in totals.items()}
    probs = {}
    for gram, count in counts.items():
        context = gram[:-1]
        below = lower[gram[1:]] if len(gram) > 1 else uniform
        probs[gram] = (count - discounts[min(count, 3) - 1]) / totals[context] + left[context] * below
    return probs, left
