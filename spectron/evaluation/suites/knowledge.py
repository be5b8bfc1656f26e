"""`spectron evaluate knowledge`: what a text LM still answers after speech training, asked in writing."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from spectron.config import FeatureConfig
from spectron.data.question_sets import QuestionSet
from spectron.evaluation.metrics.intervals import Z95, proportion
from spectron.evaluation.metrics.text_scores import SCORERS
from spectron.evaluation.report import page
from spectron.evaluation.results import INTERVAL, Figure, Results, Table
from spectron.evaluation.suite import Record, check_output, run_suite
from spectron.evaluation.suites import qa

BEFORE, AFTER = "before", "after"
SYSTEMS = {
    BEFORE: "the text LM before speech training, given the question's text.",
    AFTER: "the text LM after it, given the same.",
}


def evaluate_knowledge(
    before: Any,
    after: Any,
    sets: Sequence[QuestionSet],
    out: str | Path,
    prompt: str = qa.PROMPT,
    max_tokens: int = qa.MAX_TOKENS,
) -> Results:
    """Ask two text LMs in writing; results and report.html in OUT. Resumes if interrupted.

    before, after: judges.base.LanguageModel. Raises UserError.
    """
    qa.check(sets, prompt)
    check_output(out)
    lms = {BEFORE: before, AFTER: after}
    suite = KnowledgeSuite(
        facts={"prompt": prompt, "max_tokens": max_tokens},
        judges=[qa.judge_facts(f"lm {name}", lm) for name, lm in lms.items()],
        data=qa.data_facts(sets),
        features=FeatureConfig(),
        questions=[(each.name, q) for each in sets for q in each.questions],
        lms=lms,
    )
    return run_suite(suite, out)


@dataclasses.dataclass(kw_only=True)
class KnowledgeSuite(qa.QASuite):
    """The same questions, answered before and after."""

    name = "knowledge"
    intro = (
        "The same written questions, answered by the language model before and after it was trained to listen and "
        "speak. A row is right if the tokens of a right answer are contained in what the model answers after."
    )

    lms: dict[str, Any]

    def measure(self, work: Path) -> list[Record]:
        """Both answers to every question."""
        texts = [q.question for _, q in self.questions]
        prompt, max_tokens = self.facts["prompt"], self.facts["max_tokens"]
        answers = {
            name: qa.complete(lm, texts, prompt, max_tokens, work / name, f"asking, {name} speech training")
            for name, lm in self.lms.items()
        }
        return [
            qa.judged(name, question, {system: [each[i]] for system, each in answers.items()})
            for i, (name, question) in enumerate(self.questions)
        ]

    def tables(self, records: Sequence[Record]) -> list[Table]:
        """The answers, and what changed in each set."""
        changes = [
            Table(f"{name}, what changed", {scorer: _change(of_set, scorer) for scorer in SCORERS})
            for name, of_set in qa.by_set(records).items()
        ]
        return [qa.answer_table(records, SYSTEMS), *changes]

    def page_item(self, i: int, record: Record, with_media: bool) -> page.Item:
        """The two answers."""
        then, now = (qa.verdicts(record, system, "contains")[0] for system in SYSTEMS)
        change = {(True, False): ["forgotten"], (False, True): ["learnt"]}.get((then, now), [])
        return self.question_item(record, SYSTEMS, now, groups=change)


def _change(records: Sequence[Record], scorer: str) -> dict[str, Figure]:
    pairs = [(qa.verdicts(r, BEFORE, scorer)[0], qa.verdicts(r, AFTER, scorer)[0]) for r in records]
    definition = "Of the questions right before, those right after."
    still = proportion("Still right", [[now] for then, now in pairs if then], definition)
    return {"after less before": difference(pairs), "still right": still}


def difference(pairs: Sequence[tuple[bool, bool]]) -> Figure:
    """Share right after less share right before, of the same questions.

    The interval is that of Agresti and Min (Statistics in Medicine 24, 2005): Wald's for matched pairs with half a pair
    more in each of the four cells, which has a width even if nothing changed.
    """
    n, learnt = len(pairs), sum(now and not then for then, now in pairs)
    forgotten = sum(then and not now for then, now in pairs)
    total, balance, changed = n + 2, learnt - forgotten, learnt + forgotten + 1
    half = Z95 * math.sqrt(changed - balance**2 / total) / total
    return Figure(
        "After less before",
        balance / n if n else math.nan,
        n,
        max(-1.0, balance / total - half),
        min(1.0, balance / total + half),
        f"Difference of the shares of right answers, of the same questions.{INTERVAL}Agresti and Min's for matched "
        "pairs.",
    )
