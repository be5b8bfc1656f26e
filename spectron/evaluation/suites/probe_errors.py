"""Whether a wrong transcript goes with a wrong continuation: errors of both, answer by answer."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from spectron.evaluation.metrics import wer
from spectron.evaluation.metrics.intervals import average, correlation
from spectron.evaluation.results import Figure
from spectron.evaluation.suites.speaking import Measured, Row
from spectron.utils.plain_words import plain_words

ErrorPairs = list[list[tuple[float, float]]]  # [item][seed]: errors per word of the transcript, of the continuation

_HEARD = "word errors a word of the transcript's part that is the prompt's"
CLOSED = f"Of {_HEARD} and of the speech against the real continuation."
BY_LM = f"Of {_HEARD} and −ln p a word of the speech's transcript under the language model."
BY_TEXT = f"Of {_HEARD} and of the speech against the model's own text."


def error_pairs(row: Row, truths: Sequence[str | None], kind: str) -> ErrorPairs:
    """kind: CLOSED compares the speech with the real one, BY_LM takes its log-perplexity, BY_TEXT the model's text."""
    pairs: ErrorPairs = []
    for each, truth in zip(row, truths, strict=True):
        pairs.append([])
        for m in each:
            errors = _speech_errors(m, truth, kind)
            if errors is not None and m.prompt_errors is not None and m.prompt_words:
                pairs[-1].append((m.prompt_errors / m.prompt_words, errors))
    return pairs


def _speech_errors(m: Measured, truth: str | None, kind: str) -> float | None:
    heard = m.judgement.heard
    if heard is None or m.heard is None:
        return None
    if kind == BY_LM:
        return None if m.judgement.nats is None else m.judgement.nats / max(len(m.heard), 1)
    if kind == CLOSED:
        errors = None if truth is None else wer.word_errors(truth, heard, plain_words)
    else:
        errors = m.word_errors(wer.english_words)
    return None if errors is None else errors[0] / max(errors[1], 1)


def error_rows(free: Mapping[str, tuple[Row, Sequence[str | None]]], closed: bool) -> dict[str, dict[str, Figure]]:
    """Rows of the table: each free row alone, then all of them together, in one unit.

    free: name → (row, the true text after each prompt). closed: there is one right answer.
    """
    scored = any(m.judgement.nats is not None for row, _ in free.values() for each in row for m in each)
    kind = CLOSED if closed else BY_LM if scored else BY_TEXT
    pairs_of = {name: error_pairs(row, truths, kind) for name, (row, truths) in free.items()}
    rows = {name: error_figures(pairs, kind) for name, pairs in pairs_of.items()}
    if len(pairs_of) > 1:
        together = [[pair for part in parts for pair in part] for parts in zip(*pairs_of.values(), strict=True)]
        rows["all of these"] = error_figures(together, kind)
    return {name: row for name, row in rows.items() if row}


def error_figures(pairs: ErrorPairs, kind: str) -> dict[str, Figure]:
    """Column → figure; without a wrong transcript, or a right one, there is nothing to compare."""
    columns = {}
    linked = correlation("correlation", pairs, kind)
    if not math.isnan(linked.value):
        columns["correlation"] = linked
    for label, wrong in (("errors, transcript right", False), ("errors, transcript wrong", True)):
        values = [ys for each in pairs if (ys := [y for x, y in each if (x > 0) == wrong])]
        if values:
            unit = "nats a word" if kind == BY_LM else "%"
            definition = (
                f"The continuation's errors a word in answers {'with' if wrong else 'without'} an error in the "
                f"transcript's prompt part."
            )
            columns[label] = average(label, list(map(sum, values)), definition, unit, list(map(len, values)))
    return columns
