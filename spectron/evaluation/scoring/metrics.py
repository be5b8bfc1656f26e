"""What `spectron score` measures, one class a metric: its judges, what it asks of an item, and its table."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from spectron.evaluation.judges.outside import Facts, LanguageModel, SpeakerEncoder, SpeechQuality, check_rate, facts_of
from spectron.evaluation.scores import perplexity, similarity, text_scores
from spectron.evaluation.scores.intervals import average, proportion
from spectron.evaluation.scores.tables import Table
from spectron.evaluation.scores.word_errors import WER, errors
from spectron.evaluation.scoring.items import Item
from spectron.evaluation.scoring.score import Record
from spectron.types import Recogniser, UserError

PLAIN = "Both texts in lower case, without accents and punctuation."


class Voices:
    """Speaker similarity of prompt and continuation, and its course."""

    name, roles = "speaker-similarity", ("prompt", "continuation")

    def __init__(self, encoder: SpeakerEncoder):
        self.encoder = encoder
        self.judges: Sequence[Facts] = [encoder.facts]
        self.settings: Mapping[str, Any] = {"window_seconds": similarity.WINDOW, "hop_seconds": similarity.HOP}

    def measure(self, items: Sequence[Item]) -> list[Record]:
        """Embeddings of each prompt, of its continuation, and the course; one pass of the encoder."""
        prompts = [item.hear("prompt") for item in items]
        spoken = [item.hear("continuation") for item in items]
        parts = [similarity.windows(samples) for samples in spoken]
        embedded = self.encoder.embed([*prompts, *spoken, *(part for each in parts for part in each)])
        records, used = [], 2 * len(items)
        for i, each in enumerate(parts):
            course = similarity.course_of(embedded[i], list(embedded[used : used + len(each)]))
            used += len(each)
            both = {"prompt_embedding": embedded[i].tolist(), "embedding": embedded[len(items) + i].tolist()}
            records.append({**both, "course": course})
        return records

    def conclude(self, row: str, records: Sequence[Record]) -> tuple[list[Record], list[Table]]:
        """Similarity, similarity to the other items' prompts, drift; and similarity by second."""
        prompts = np.asarray([record["prompt_embedding"] for record in records], np.float32)
        spoken = np.asarray([record["embedding"] for record in records], np.float32)
        same = [similarity.cosine(p, s) for p, s in zip(prompts, spoken, strict=True)]
        others = similarity.to_others(prompts, spoken)
        courses = [[(start, value) for start, value in record["course"]] for record in records]
        told = [
            {"similarity": a, "to_other_prompts": b, "drift": similarity.drift(course), "course": course}
            for a, b, course in zip(same, others, courses, strict=True)
        ]
        figures = similarity.similarity_figures(same, others, courses)
        table = Table(
            "Speaker similarity", {row: figures}, _left_out(row, [math.isnan(x) for x in same], "no voice was found")
        )
        over_time = similarity.course_table(row, courses)
        return told, [table, over_time] if over_time.rows[row] else [table]


class Quality:
    """DNSMOS of recordings, or PESQ or STOI of recordings beside their references."""

    def __init__(self, name: str, judge: SpeechQuality, pairs: bool):
        self.name, self.judge = name, judge
        self.roles = ("audio", "reference") if pairs else ("audio",)
        self.judges: Sequence[Facts] = [judge.facts]
        self.settings: Mapping[str, Any] = {}

    def measure(self, items: Sequence[Item]) -> list[Record]:
        """The judge's values of each."""
        records = []
        for item in items:
            references = [item.hear("reference")] if "reference" in self.roles else []
            try:
                records += self.judge.rate([item.hear("audio")], references)
            except UserError as error:
                raise UserError(f"Item {item.id!r}: {error}") from error
        return records

    def conclude(self, row: str, records: Sequence[Record]) -> tuple[list[Record], list[Table]]:
        """A column for each measure."""
        figures = {}
        for name, definition in self.judge.measures.items():
            values = similarity.known([record[name] for record in records])
            figures[name] = average(name, values, f"{definition} Mean over recordings.", "")
        first = [record[next(iter(self.judge.measures))] for record in records]
        return list(records), [
            Table("Sound", {row: figures}, _left_out(row, [math.isnan(x) for x in first], "too little to hear"))
        ]


class _OfText:
    """What is said is a recogniser's word for the recording, or without one the item's own transcript."""

    name: str

    def __init__(self, recogniser: Recogniser | None, needs: Sequence[str] = ()):
        check_rate(recogniser, "--recogniser")
        self.recogniser = recogniser
        self.roles = (*needs, "audio" if recogniser else "transcript")
        self.judges: list[Facts] = [facts_of(recogniser)] if recogniser else []
        self.settings: dict[str, Any] = {"judged": "what was heard" if recogniser else "transcript"}

    def said(self, items: Sequence[Item]) -> list[str]:
        """The text of each item; nothing, of a recording without samples."""
        if self.recogniser is None:
            return [item.texts["transcript"] for item in items]
        recordings = [item.hear("audio", may_be_empty=True) for item in items]
        present = [samples for samples in recordings if len(samples)]
        heard = iter(self.recogniser.transcribe(present) if present else [])
        return [next(heard).text if len(samples) else "" for samples in recordings]


class Words(_OfText):
    """Word error rate of what was said against the item's text."""

    name = "wer"

    def __init__(self, recogniser: Recogniser | None):
        super().__init__(recogniser, ("text",))

    def measure(self, items: Sequence[Item]) -> list[Record]:
        """Errors and words of each."""
        records = []
        for item, said in zip(items, self.said(items), strict=True):
            wanted, heard = (" ".join(text_scores.plain_words(text)) for text in (item.texts["text"], said))
            wrong, words = errors(wanted, heard)
            records.append({"text": item.texts["text"], "said": said, "errors": wrong, "words": words})
        return records

    def conclude(self, row: str, records: Sequence[Record]) -> tuple[list[Record], list[Table]]:
        """The rate over all words."""
        wrong, words = ([record[key] for record in records] for key in ("errors", "words"))
        figures = {"WER": average("WER", wrong, f"{WER} {PLAIN}", "%", words)}
        return list(records), [Table("Words", {row: figures})]


class Perplexity(_OfText):
    """Log-perplexity of what was said under a causal language model, by all three definitions."""

    name = "perplexity"

    def __init__(self, lm: LanguageModel, recogniser: Recogniser | None, keep_case: bool = False):
        super().__init__(recogniser)
        self.lm = lm
        self.judges.append(lm.facts)
        self.keep_case = keep_case
        self.settings["case"] = "kept" if keep_case else "lower"

    def measure(self, items: Sequence[Item]) -> list[Record]:
        """Σ −ln p, tokens and words of each."""
        said = self.said(items)
        found = perplexity.surprise(self.lm, said, self.keep_case)
        return [{"said": text, **each._asdict()} for text, each in zip(said, found, strict=True)]

    def conclude(self, row: str, records: Sequence[Record]) -> tuple[list[Record], list[Table]]:
        """Per token, per word, and summed."""
        found = [perplexity.Surprise(r["nats"], r["tokens"], r["words"]) for r in records]
        note = _left_out(row, [not each.words for each in found], "nothing was said that could be scored")
        return list(records), [Table("Log-perplexity", {row: perplexity.perplexity_figures(found)}, note)]


class Questions(_OfText):
    """Right answers by three scorers; answers of at most two characters apart."""

    name = "qa"

    def __init__(self, recogniser: Recogniser | None):
        super().__init__(recogniser, ("answers",))

    def measure(self, items: Sequence[Item]) -> list[Record]:
        """A verdict from each scorer."""
        records = []
        for item, said in zip(items, self.said(items), strict=True):
            verdicts = {name: scorer(item.answers, said) for name, scorer in text_scores.SCORERS.items()}
            short = text_scores.is_short(item.answers)
            records.append({"answers": list(item.answers), "said": said, "short": short, **verdicts})
        return records

    def conclude(self, row: str, records: Sequence[Record]) -> tuple[list[Record], list[Table]]:
        """All answers, then the short ones and the others, where there are both."""
        groups = {row: records}
        if len({record["short"] for record in records}) == 2:
            groups[f"{row}, short answers"] = [record for record in records if record["short"]]
            groups[f"{row}, other answers"] = [record for record in records if not record["short"]]
        rows = {
            name: {
                scorer: proportion(scorer, [[record[scorer]] for record in chosen], definition)
                for scorer, definition in text_scores.DEFINITIONS.items()
            }
            for name, chosen in groups.items()
        }
        return list(records), [Table("Answers", rows, text_scores.SHORT_NOTE)]


def _left_out(row: str, lacking: Sequence[bool], why: str) -> str:
    return f"{row}: {sum(lacking)} of {len(lacking)} left out, {why}." if any(lacking) else ""
