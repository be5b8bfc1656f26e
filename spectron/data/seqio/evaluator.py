"""seqio's Evaluator over a held-out task: what a model writes, or how likely it finds the texts, put into figures."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import numpy as np

from spectron.config import Experiment
from spectron.data.seqio import tasks
from spectron.data.seqio.converter import SpectronConverter, feature_lengths, seqio, tf
from spectron.data.sources import source_of
from spectron.data.vocabulary import encode_target, make_vocabulary
from spectron.types import Batch, UserError
from spectron.utils.edit_distance import edit_distance

Predict = Callable[[Batch], Sequence[Any]]  # a batch → of each row label ids, or ln p of its text


def word_error_rate(targets: Sequence[str], predictions: Sequence[str]) -> dict[str, float]:
    """Word errors of all texts over their words; no text is normalised."""
    pairs = [(target.split(), prediction.split()) for target, prediction in zip(targets, predictions, strict=True)]
    return {"wer": sum(edit_distance(*pair) for pair in pairs) / max(sum(len(words) for words, _ in pairs), 1)}


class ValidationSet:
    """The first examples of a task, kept in memory and put to a model again and again."""

    def __init__(self, experiment: Experiment, task: str, examples: int, batch_size: int, writes: bool):
        """writes: the model answers with label ids (figure "wer"), else with ln p of the text ("log_perplexity").

        Raises UserError for an unknown task, or one without examples.
        """
        known = tasks.register(experiment)
        if task not in known:
            raise UserError(f"evaluate_on={task!r} is no task; known: {', '.join(known) or 'none'}.")
        vocabulary, name = make_vocabulary(experiment.data.vocabulary), f"{task}.validation"

        def log_perplexity(targets: Sequence[str], scores: Sequence[float]) -> dict[str, float]:
            tokens = sum(len(encode_target(vocabulary, text)[0]) for text in targets)
            return {"log_perplexity": -float(np.sum(scores)) / tokens}

        seqio.TaskRegistry.remove(name)
        seqio.TaskRegistry.add(
            name,
            source=known[task].source,
            preprocessors=known[task].preprocessors,
            output_features=known[task].output_features,
            postprocess_fn=lambda text, **_: " ".join(text.split()),
            metric_fns=[word_error_rate if writes else log_perplexity],
        )
        self._name = name
        self._rows = batch_size
        self._writes = writes
        source = source_of(experiment, task)
        lengths = feature_lengths(experiment.data, experiment.features, source.text_only)
        with _quiet():
            self._evaluator = seqio.Evaluator(
                name,
                SpectronConverter(),
                eval_split=next(iter(known[task].splits)),
                sequence_length=lengths,
                num_examples=examples,
                async_compute_metrics=False,  # takes milliseconds, and an error belongs to the step that had it
                target_field_name="text",
            )

    def __call__(self, predict: Predict) -> dict[str, float]:
        """Put every example to the model; the figures."""

        def through(dataset: tf.data.Dataset) -> list[tuple[int, Any]]:
            outcomes = []
            for numbers, fields in dataset.batch(self._rows).as_numpy_iterator():
                batch = Batch(**fields)
                outcomes += list(zip(numbers.tolist(), predict(_filled(batch, self._rows)), strict=False))
            return outcomes

        given = {"predict_fn" if self._writes else "score_fn": through}
        metrics, _ = self._evaluator.evaluate(compute_metrics=True, **given)
        return {name: float(value) for name, value in metrics.result()[self._name].items()}


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without seqio's advice on lengths and loggers, which are meant."""
    log = logging.getLogger("absl")
    before = log.level
    log.setLevel(logging.ERROR)
    try:
        yield
    finally:
        log.setLevel(before)


def _filled(batch: Batch, rows: int) -> Batch:
    """The batch with its last row repeated, so that all batches have one shape."""
    missing = rows - batch.size

    def repeat(x: np.ndarray) -> np.ndarray:
        return np.concatenate([x, np.repeat(x[-1:], missing, axis=0)])

    return jax.tree.map(repeat, batch) if missing else batch
