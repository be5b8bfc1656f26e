"""What `spectron score` measures, one class a metric: its judges, what it reads of an item, and its table."""

from __future__ import annotations

import abc
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from spectron.evaluation.judges.base import Facts, LanguageModel, SpeakerEncoder, SpeechQuality, check_rate, facts_of
from spectron.evaluation.metrics import perplexity, similarity, text_scores, wer
from spectron.evaluation.metrics.answers import answer_table
from spectron.evaluation.metrics.intervals import known, seed_average
from spectron.evaluation.results import Table
from spectron.evaluation.score.items import ScoredItem
from spectron.evaluation.suite import Record
from spectron.types import Recogniser, UserError


class Metric(abc.ABC):
    """One thing to measure.

    name: the metric's name in the command. roles: what it reads of an item. judges: their entries in the results.
    settings: what else changes the outcome.
    """

    name: str
    roles: Sequence[str]

    def __init__(self, judges: Sequence[Facts] = (), settings: Mapping[str, Any] | None = None):
        self.judges, self.settings = list(judges), dict(settings or {})

    @abc.abstractmethod
    def measure(self, items: Sequence[ScoredItem]) -> list[Record]:
        """Each item's values, which depend on that item alone."""

    def finish(self, records: Sequence[Record]) -> list[Record]:
        """The records for items.jsonl, where values depend on the other items too."""
        return list(records)

    @abc.abstractmethod
    def tables(self, row: str, records: Sequence[Record]) -> list[Table]:
        """The tables with one row of this name."""


class Voices(Metric):
    """Speaker similarity of prompt and continuation, and its course."""

    name, roles = "speaker-similarity", ("prompt", "continuation")

    def __init__(self, encoder: SpeakerEncoder):
        super().__init__([encoder.facts], {"window_seconds": similarity.WINDOW, "hop_seconds": similarity.HOP})
        self.encoder = encoder

    def measure(self, items: Sequence[ScoredItem]) -> list[Record]:
        """Embeddings of each prompt and continuation, and the course; one call of the encoder."""
        prompts = [item.hear("prompt") for item in items]
        spoken = [item.hear("continuation") for item in items]
        parts = [similarity.windows(samples) for samples in spoken]
        vectors = iter(self.encoder.embed([*prompts, *spoken, *(part for each in parts for part in each)]))
        of_prompts = [next(vectors) for _ in items]
        of_spoken = [next(vectors) for _ in items]
        return [
            {
                "prompt_embedding": prompt.tolist(),
                "embedding": whole.tolist(),
                "course": [similarity.cosine(prompt, next(vectors)) for _ in each],
            }
            for prompt, whole, each in zip(of_prompts, of_spoken, parts, strict=True)
        ]

    def finish(self, records: Sequence[Record]) -> list[Record]:
        """Similarities in place of the embeddings; course: (second at which a window starts, cosine)."""
        prompts = np.asarray([record["prompt_embedding"] for record in records], np.float32)
        spoken = np.asarray([record["embedding"] for record in records], np.float32)
        same = [similarity.cosine(p, s) for p, s in zip(prompts, spoken, strict=True)]
        others = similarity.to_others(prompts, spoken)
        return [
            {
                "similarity": same[i],
                "to_other_prompts": others[i],
                "drift": similarity.drift(record["course"]),
                "course": [(at * similarity.HOP, value) for at, value in enumerate(record["course"])],
            }
            for i, record in enumerate(records)
        ]

    def tables(self, row: str, records: Sequence[Record]) -> list[Table]:
        """Similarity, similarity to the other items' prompts, drift; and similarity by second."""
        same = [record["similarity"] for record in records]
        courses = [[[value for _, value in record["course"]]] for record in records]
        figures = similarity.similarity_figures([[value] for value in same], courses)
        others = seed_average(
            "To other prompts", known([[record["to_other_prompts"]] for record in records]), similarity.OTHERS
        )
        if others.n:
            figures["To other prompts"] = others
        note = _left_out(row, [math.isnan(x) for x in same], "no voice was found")
        return [Table("Speaker similarity", {row: figures}, note), *similarity.course_table({row: courses})]


class Quality(Metric):
    """DNSMOS of recordings, or PESQ or STOI of recordings against their references."""

    def __init__(self, name: str, judge: SpeechQuality, pairs: bool):
        super().__init__([judge.facts])
        self.name, self.judge = name, judge
        self.roles = ("audio", "reference") if pairs else ("audio",)

    def measure(self, items: Sequence[ScoredItem]) -> list[Record]:
        """The judge's values of each."""
        records: list[Record] = []
        for item in items:
            references = [item.hear("reference")] if "reference" in self.roles else []
            try:
                records += self.judge.rate([item.hear("audio")], references)
            except UserError as error:
                raise UserError(f"Item {item.id!r}: {error}") from error
        return records

    def tables(self, row: str, records: Sequence[Record]) -> list[Table]:
        """A column for each measure."""
        figures = {
            name: seed_average(name, known([[r[name]] for r in records]), f"{definition} Mean over recordings.")
            for name, definition in self.judge.measures.items()
        }
        first = [record[next(iter(self.judge.measures))] for record in records]
        note = _left_out(row, [math.isnan(x) for x in first], "too little to hear")
        return [Table("Sound", {row: figures}, note)]


class TextMetric(Metric):
    """A metric of what is said: a recogniser's text of the recording, or without one the item's own transcript."""

    def __init__(self, recogniser: Recogniser | None, needs: Sequence[str] = ()):
        check_rate(recogniser, "--recogniser")
        judged = "what was heard" if recogniser else "transcript"
        super().__init__([facts_of(recogniser)] if recogniser else [], {"judged": judged})
        self.recogniser = recogniser
        self.roles = (*needs, "audio" if recogniser else "transcript")

    def texts(self, items: Sequence[ScoredItem]) -> list[str]:
        """Each item's text: what the recogniser hears ("" for a recording without samples), or the given transcript."""
        if self.recogniser is None:
            return [item.texts["transcript"] for item in items]
        recordings = [item.hear("audio", may_be_empty=True) for item in items]
        present = [samples for samples in recordings if len(samples)]
        hypotheses = iter(self.recogniser.transcribe(present) if present else [])
        return [next(hypotheses).text if len(samples) else "" for samples in recordings]


class Words(TextMetric):
    """Word error rate of what was said against the item's text."""

    name = "wer"

    def __init__(self, recogniser: Recogniser | None):
        super().__init__(recogniser, ("text",))

    def measure(self, items: Sequence[ScoredItem]) -> list[Record]:
        """Errors and words of each."""
        records = []
        for item, said in zip(items, self.texts(items), strict=True):
            errors, words = wer.word_errors(item.texts["text"], said)
            records.append({"text": item.texts["text"], "said": said, "errors": errors, "words": words})
        return records

    def tables(self, row: str, records: Sequence[Record]) -> list[Table]:
        """The rate over all words."""
        errors, words = ([record[key] for record in records] for key in ("errors", "words"))
        return [Table("Words", {row: {"WER": wer.wer_figure("WER", errors, words)}})]


class Perplexity(TextMetric):
    """Log-perplexity of what was said under a causal language model, by all three definitions."""

    name = "perplexity"

    def __init__(self, lm: LanguageModel, recogniser: Recogniser | None, keep_case: bool = False):
        super().__init__(recogniser)
        self.lm, self.keep_case = lm, keep_case
        self.judges.append(lm.facts)
        self.settings["case"] = "kept" if keep_case else "lower"

    def measure(self, items: Sequence[ScoredItem]) -> list[Record]:
        """Σ −ln p, tokens and words of each."""
        texts = self.texts(items)
        surprises = perplexity.surprise(self.lm, texts, self.keep_case)
        return [{"said": text, **each._asdict()} for text, each in zip(texts, surprises, strict=True)]

    def tables(self, row: str, records: Sequence[Record]) -> list[Table]:
        """Per token, per word, and summed."""
        surprises = [perplexity.Surprise(r["nats"], r["tokens"], r["words"]) for r in records]
        note = _left_out(row, [not each.words for each in surprises], "nothing was said that could be scored")
        return [Table("Log-perplexity", {row: perplexity.perplexity_figures([[each] for each in surprises])}, note)]


class Questions(TextMetric):
    """Right answers by three scorers; answers of at most two characters apart."""

    name = "qa"

    def __init__(self, recogniser: Recogniser | None):
        super().__init__(recogniser, ("answers",))

    def measure(self, items: Sequence[ScoredItem]) -> list[Record]:
        """A verdict from each scorer."""
        records = []
        for item, said in zip(items, self.texts(items), strict=True):
            verdicts = {name: scorer(item.answers, said) for name, scorer in text_scores.SCORERS.items()}
            short = text_scores.is_short(item.answers)
            records.append({"answers": list(item.answers), "said": said, "short": short, **verdicts})
        return records

    def tables(self, row: str, records: Sequence[Record]) -> list[Table]:
        """All answers, then the short ones and the others, if there are both."""
        verdicts = [{scorer: [record[scorer]] for scorer in text_scores.SCORERS} for record in records]
        return [answer_table({row: (verdicts, [record["short"] for record in records])})]


def _left_out(row: str, lacking: Sequence[bool], why: str) -> str:
    return f"{row}: {sum(lacking)} of {len(lacking)} left out, {why}." if any(lacking) else ""
