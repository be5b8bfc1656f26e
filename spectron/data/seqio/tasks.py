"""Our sources as seqio tasks and mixtures, and the reader that streams a feed's rows through them."""

from __future__ import annotations

import functools
import logging
import re
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from typing import Any

import numpy as np

from spectron.config import DataConfig, Experiment
from spectron.data.example import EXAMPLE_FIELDS, BadExample
from spectron.data.fields import FIELDS, encode_text
from spectron.data.order import BatchShape, Records, Steps
from spectron.data.seqio.converter import Spec, SpectronConverter, lengths_in, seqio, tf
from spectron.data.sources import source_of
from spectron.data.vocabulary import Vocabulary, make_vocabulary
from spectron.types import Batch, Example, UserError

log = logging.getLogger(__name__)

CHUNK = 16  # ours: examples handed to TensorFlow at once; one at a time costs half a millisecond each
TYPES = {int: tf.int32, str: tf.string, tuple[int, ...]: tf.int32}  # of the fields of an Example


def raw_signature() -> dict[str, tf.TensorSpec]:
    """What Python hands to TensorFlow: N examples side by side, sequences padded, with the length of each."""
    signature = {"samples": tf.TensorSpec([None, None], tf.int16), "samples_length": tf.TensorSpec([None], tf.int32)}
    for name, hint in EXAMPLE_FIELDS.items():
        sequence = hint not in (int, str)
        signature[name] = tf.TensorSpec([None, None] if sequence else [None], TYPES[hint])
        if sequence:
            signature[f"{name}_length"] = tf.TensorSpec([None], tf.int32)
    return signature | {"row": tf.TensorSpec([None], tf.int64)}


class SeqioVocabulary(seqio.Vocabulary):
    """Our vocabulary in seqio's interface."""

    def __init__(self, vocabulary: Vocabulary):
        self._ours = vocabulary
        super().__init__()

    eos_id = property(lambda self: self._ours.eos_id)
    unk_id = property(lambda self: self._ours.unk_id)
    bos_id = property(lambda self: self._ours.sos_id)
    _base_vocab_size = property(lambda self: self._ours.size)

    def __eq__(self, other: object) -> bool:
        """Mixtures compare the vocabularies of their tasks."""
        return isinstance(other, SeqioVocabulary) and self._ours == other._ours

    def __hash__(self) -> int:
        return hash(self._ours)

    def _encode(self, s: str) -> Sequence[int]:
        return self._ours.encode(s)

    def _decode(self, ids: Iterable[int]) -> str:
        return self._ours.decode(ids)

    def _encode_tf(self, s: tf.Tensor) -> tf.Tensor:
        ids = tf.numpy_function(
            lambda t: np.asarray(self._ours.encode(np.asarray(t).item().decode()), np.int32),
            [s],
            tf.int32,
            stateful=False,
        )
        return tf.ensure_shape(ids, [None])

    def _decode_tf(self, ids: tf.Tensor) -> tf.Tensor:
        return tf.numpy_function(lambda i: self._ours.decode(i).encode(), [ids], tf.string, stateful=False)


def output_features(data: DataConfig) -> dict[str, seqio.Feature]:
    """The features every task of ours ends with: the fields of a batch, each of rank 1."""
    plain = {
        name: seqio.Feature(seqio.PassThroughVocabulary(0), add_eos=False, dtype=tf.as_dtype(field.dtype))
        for name, field in FIELDS.items()
    }
    return plain | {"text": seqio.Feature(SeqioVocabulary(make_vocabulary(data.vocabulary)), add_eos=True)}


def to_fields(vocabulary: Vocabulary) -> Callable[[tf.data.Dataset], tf.data.Dataset]:
    """The last preprocessor: an example, its text still words → the unpadded fields of its row."""
    names, fields = ("samples", *EXAMPLE_FIELDS), tuple(FIELDS.values())

    def value_of(name: str, value: Any) -> Any:
        hint = EXAMPLE_FIELDS.get(name)
        if hint is str:
            return value.decode()
        return int(value) if hint is int else value if hint is None else tuple(value.tolist())

    def encode(*values: Any) -> list[np.ndarray]:
        example = Example(**{name: value_of(name, value) for name, value in zip(names, values, strict=True)})
        text = encode_text(example, vocabulary)
        return [np.atleast_1d(np.asarray(f.from_example(example, text), f.dtype)) for f in fields]

    def one(example: dict[str, tf.Tensor]) -> dict[str, tf.Tensor]:
        types = [tf.as_dtype(field.dtype) for field in fields]
        values = tf.numpy_function(encode, [example[name] for name in names], types, stateful=False)
        row = {f.name: tf.ensure_shape(value, [None]) for f, value in zip(fields, values, strict=True)}
        return row | ({"row": example["row"]} if "row" in example else {})

    return lambda dataset: dataset.map(one)


Numbered = tuple[list[int], list[Example]]  # examples and the number of each


class _Records(seqio.DataSource):
    """A stream of numbered examples as a seqio data source."""

    def __init__(self, split: str, stream: Callable[[], Iterator[Numbered]]):
        super().__init__([split], caching_permitted=False)
        self._stream = stream

    @property
    def supports_arbitrary_sharding(self) -> bool:
        """Sharding is by example."""
        return False

    def list_shards(self, split: str) -> list[str]:
        """One shard."""
        return ["0"]

    def get_dataset(
        self, split: str = "train", shuffle: bool = False, seed: int | None = None, **_: Any
    ) -> tf.data.Dataset:
        """Raw examples in the stream's order; shuffling is the task's business."""

        def raw() -> Iterator[dict[str, Any]]:
            for numbers, examples in self._stream():
                yield _side_by_side(numbers, examples)

        def cut(example: dict[str, tf.Tensor]) -> dict[str, tf.Tensor]:
            lengths = {name.removesuffix("_length"): n for name, n in example.items() if name.endswith("_length")}
            kept = {name: value for name, value in example.items() if not name.endswith("_length")}
            return kept | {name: example[name][:length] for name, length in lengths.items()}

        return tf.data.Dataset.from_generator(raw, output_signature=raw_signature()).unbatch().map(cut)


def _side_by_side(numbers: list[int], examples: list[Example]) -> dict[str, Any]:
    columns: dict[str, Any] = {"row": numbers}
    for name in ("samples", *EXAMPLE_FIELDS):
        values = [getattr(example, name) for example in examples]
        if EXAMPLE_FIELDS.get(name) in (int, str):
            columns[name] = values
            continue
        lengths = [len(value) for value in values]
        # Never no column: TensorFlow 2.21 crashes when it takes an empty tensor apart.
        padded = np.zeros((len(values), max(1, *lengths)), np.int16 if name == "samples" else np.int32)
        for row, value in zip(padded, values, strict=True):
            row[: len(value)] = value
        columns |= {name: padded, f"{name}_length": lengths}
    return columns


def _in_order(experiment: Experiment, task_name: str) -> Iterator[Numbered]:
    records = source_of(experiment, task_name)
    for start in range(0, len(records), CHUNK):
        numbers, examples = [], []
        for i in range(start, min(start + CHUNK, len(records))):
            try:
                examples.append(records[i])
                numbers.append(i)
            except BadExample as error:
                log.warning("Record left out: %s", error)
        if numbers:
            yield numbers, examples


def register(experiment: Experiment) -> dict[str, seqio.Task]:
    """Put the experiment's tasks and mixtures into seqio's registries, in the place of any of the same names.

    Returns the tasks by name. Raises UserError for a name that seqio does not take.
    """
    data = experiment.data
    for mixture in data.mixtures:
        seqio.MixtureRegistry.remove(mixture.name)
    for task in data.tasks:
        if not re.fullmatch(r"[\w.:#]+", task.name):
            raise UserError(
                f"Task name {task.name!r} is not one seqio takes; use letters, digits, '_', '.', ':' or '#'."
            )
        seqio.TaskRegistry.remove(task.name)
        seqio.TaskRegistry.add(
            task.name,
            source=_Records(task.split, functools.partial(_in_order, experiment, task.name)),
            output_features=output_features(data),
            preprocessors=[to_fields(make_vocabulary(data.vocabulary))],
        )
    for mixture in data.mixtures:
        seqio.MixtureRegistry.add(mixture.name, list(mixture.rates))
    return {task.name: seqio.TaskRegistry.get(task.name) for task in data.tasks}


def read(tasks: Sequence[seqio.Task], rows: Records, steps: Steps) -> Generator[Batch, None, None]:
    """The batches of the steps, through their tasks' preprocessors and the converter; a dataset for each shape.

    Raises UserError for bad data, or for a task whose preprocessors drop or multiply examples.
    """
    failures: list[BaseException] = []
    made: dict[tuple[BatchShape, int], Iterator[dict[str, np.ndarray]]] = {}
    for room, numbers in steps():
        shape = room, len(numbers)
        if shape not in made:
            made[shape] = _batches_of(tasks, rows, functools.partial(_alike, steps, shape), shape, failures)
        try:
            fields = next(made[shape])
        except (tf.errors.OpError, StopIteration) as error:
            if failures:
                raise failures[0] from None
            raise UserError(
                f"seqio made no batch of {', '.join(rows.names)}; if an example is too long, raise data.max_seconds or "
                f"data.max_tokens ({str(error).splitlines()[0]})."
            ) from error
        if fields.pop("row").tolist() != list(numbers):
            raise UserError(
                f"The preprocessors of {', '.join(rows.names)} drop or multiply examples; make them one to one."
            )
        yield Batch(**fields)


def _alike(steps: Steps, shape: tuple[BatchShape, int]) -> Iterator[Sequence[int]]:
    """The rows of the steps whose batches have exactly this shape and row count."""
    return (numbers for room, numbers in steps() if (room, len(numbers)) == shape)


def _batches_of(
    tasks: Sequence[seqio.Task],
    rows: Records,
    steps: Callable[[], Iterator[Sequence[int]]],
    shape: tuple[BatchShape, int],
    failures: list[BaseException],
) -> Iterator[dict[str, np.ndarray]]:
    def stream(task: int) -> Iterator[Numbered]:
        try:
            for numbers in steps():
                mine = [row for row in numbers if rows.place(row)[0] == task]
                if mine:
                    yield mine, rows.fetch_all(mine)
        except UserError as error:  # TensorFlow would wrap it in a long message
            failures.append(error)
            raise

    room, size = shape
    converter = SpectronConverter(passthrough_features={"row": Spec(dtype=tf.int64, rank=0)})
    dataset = converter(_mixed(tasks, rows, steps, stream), lengths_in(room, rows.text_only) | {"row": None})
    return dataset.batch(size, drop_remainder=True).as_numpy_iterator()


def _mixed(
    tasks: Sequence[seqio.Task],
    rows: Records,
    steps: Callable[[], Iterator[Sequence[int]]],
    stream: Callable[[int], Iterator[Numbered]],
) -> tf.data.Dataset:
    parts = []
    for number, task in enumerate(tasks):
        streamed = task.replace(source=_Records("train", functools.partial(stream, number)))
        parts.append(streamed.get_dataset(None, "train", shuffle=False, try_in_mem_cache=False))
    if len(parts) == 1:
        return parts[0]

    def choice() -> Iterator[list[int]]:
        for numbers in steps():
            yield [rows.place(row)[0] for row in numbers]

    chosen = tf.data.Dataset.from_generator(choice, output_signature=tf.TensorSpec([None], tf.int64)).unbatch()
    return tf.data.Dataset.choose_from_datasets(parts, chosen)
