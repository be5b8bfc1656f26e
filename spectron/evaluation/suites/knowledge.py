"""`spectron evaluate knowledge`: what a text LM still knows after speech training, asked in writing."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from spectron.config import FeatureConfig
from spectron.evaluation.report import page
from spectron.evaluation.scores.intervals import Z95, Figure, proportion
from spectron.evaluation.scores.tables import Results, Table
from spectron.evaluation.scores.text_scores import SCORERS
from spectron.evaluation.suites import qa
from spectron.evaluation.suites.qa import Asked
from spectron.evaluation.suites.questions import QuestionSet

BEFORE, AFTER = "before", "after"
MEANING = {
    BEFORE: "the text LM before speech training, given the question's text.",
    AFTER: "the text LM after it, given the same.",
}
INTRO = (
    "The same written questions, answered by the language model before and after it was trained to listen and speak. A "
    "row is right where the tokens of a right answer are contained in what the model answers after."
)


def evaluate_knowledge(
    before: Any,
    after: Any,
    sets: Sequence[QuestionSet],
    out: str | Path,
    prompt: str = qa.PROMPT,
    max_tokens: int = qa.MAX_TOKENS,
) -> Results:
    """Ask two text LMs in writing; writes results.json, results.md, items.jsonl and report.html in OUT.

    before, after: complete(prompts, max_tokens) → texts each, and `facts`. Work that was done stays done in OUT/work.
    Raises UserError.
    """
    page.check()
    qa.check_prompt(prompt)
    qa.check_names(sets)
    out = Path(out)
    questions = [(each.name, q) for each in sets for q in each.questions]
    texts = [q.question for _, q in questions]
    lms = {BEFORE: before, AFTER: after}
    found = {
        name: qa.complete(lm, texts, prompt, max_tokens, out / "work" / name, f"asking, {name} speech training")
        for name, lm in lms.items()
    }
    asked = [
        Asked(name, q, {key: [answers[i]] for key, answers in found.items()}) for i, (name, q) in enumerate(questions)
    ]
    results = Results(
        "knowledge",
        [qa.table(asked, MEANING), *_changes(asked)],
        {"prompt": prompt, "max_tokens": max_tokens},
        [qa.judge_facts(f"lm {name}", lm) for name, lm in lms.items()],
        qa.data_facts(sets),
    )
    qa.write(out, results, asked, [{}] * len(asked), lambda path: _report(path, results, asked))
    return results


def _changes(asked: Sequence[Asked]) -> list[Table]:
    """Per set, by scorer: the difference, of the same questions, and how much of what was known is known still."""
    made = []
    for name in dict.fromkeys(a.set_name for a in asked):
        rows = [a for a in asked if a.set_name == name]
        made.append(Table(f"{name}, what changed", {scorer: _change(rows, scorer) for scorer in SCORERS}))
    return made


def _change(rows: Sequence[Asked], scorer: str) -> dict[str, Figure]:
    pairs = [(a.verdicts(BEFORE, scorer)[0], a.verdicts(AFTER, scorer)[0]) for a in rows]
    still = proportion(
        "Still right", [[now] for then, now in pairs if then], "Of the questions right before, those right after."
    )
    return {"after less before": difference(pairs), "still right": still}


def difference(pairs: Sequence[tuple[bool, bool]]) -> Figure:
    """Share right after less share right before, of the same questions.

    The interval is that of Agresti and Min (Statistics in Medicine 24, 2005): Wald's for matched pairs with half a pair
    more in each of the four cells, which has a width where nothing changed too.
    """
    n, learnt = len(pairs), sum(now and not then for then, now in pairs)
    forgotten = sum(then and not now for then, now in pairs)
    total, apart, changed = n + 2, learnt - forgotten, learnt + forgotten + 1
    spread = Z95 * math.sqrt(changed - apart**2 / total) / total
    return Figure(
        "After less before",
        apart / n if n else math.nan,
        n,
        max(-1.0, apart / total - spread),
        min(1.0, apart / total + spread),
        "Difference of the shares of right answers, of the same questions. 95 % interval: Agresti and Min's for "
        "matched pairs.",
    )


def _report(path: Path, results: Results, asked: Sequence[Asked]) -> None:
    items = []
    for each in asked:
        then, now = (each.verdicts(system, "contains")[0] for system in (BEFORE, AFTER))
        change = {(True, False): ["forgotten"], (False, True): ["learnt"]}.get((then, now), [])
        items.append(qa.written_item(each, qa.cells(each, MEANING), now, change))
    page.write(path, results, items, [INTRO], FeatureConfig(), "Question id")
