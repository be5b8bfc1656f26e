"""Batches for training: a pure function of (seed, step), sharded by process, prefetched in the background.

Three readers give the same batches: "seqio" (through seqio tasks and the feature converter), "direct" (the same sources
through `to_batch`, no TensorFlow) and packed data (`data.packed`: also direct, from files that numpy alone reads).
"""

from __future__ import annotations

import atexit
import functools
import itertools
import queue
import threading
from collections.abc import Callable, Generator, Iterator, Sequence

from spectron.config import DataConfig, Experiment, FeatureConfig
from spectron.data.buckets import BucketIndex, bucket_ids, bucket_shapes, longest_shape
from spectron.data.example import Source
from spectron.data.fields import to_batch
from spectron.data.fitting import check_left_out
from spectron.data.order import BatchShape, MixtureIndex, Records, Step, Steps
from spectron.data.sources import fingerprint, source_of
from spectron.data.unknown import check_known
from spectron.data.vocabulary import make_vocabulary
from spectron.types import Batch, UserError

PREFETCH = 2  # ours: batches prepared in advance


class Feed:
    """Batches of one mixture for one process. `step(n)` names the rows of all processes.

    everything: the rows of all lengths in the mixture's order, and the shape that one of them needs.
    """

    def __init__(
        self,
        rows: Records,
        read: Callable[[Records, Steps], Generator[Batch, None, None]],
        step: Callable[[int], Step],
        everything: tuple[Records, BatchShape],
        process_index: int = 0,
        process_count: int = 1,
    ):
        self.rows = rows
        self.step = step
        self._everything = everything
        self._read = read
        self._index = process_index
        self._count = process_count

    @functools.cached_property
    def fingerprints(self) -> dict[str, str]:
        """Task → a hash of its data, wherever it lies."""
        pairs = zip(self.rows.names, self.rows.sources, strict=True)
        return {name: fingerprint(source) for name, source in pairs}

    def steps(self, start_step: int = 0) -> Iterator[Step]:
        """Per step, the shape of the whole batch and the rows of this process: its equal part."""
        for step in itertools.count(start_step):
            shape, rows = self.step(step)
            part = len(rows) // self._count
            yield shape, rows[self._index * part : (self._index + 1) * part]

    def batches(self, start_step: int = 0) -> Iterator[Batch]:
        """Batches from a step on, without end, the same for the same seed. Close the iterator to stop early."""
        return prefetch(self._read(self.rows, lambda: self.steps(start_step)), PREFETCH)

    def in_order(self, size: int) -> Iterator[Batch]:
        """Batches of `size` rows in the mixture's order, which are the same for every process and batch size.

        For measurements, which want a few rows of all lengths. Close the iterator.
        """
        rows, shape = self._everything

        def steps() -> Iterator[Step]:
            return ((shape._replace(rows=size), range(i, i + size)) for i in itertools.count(0, size))

        return prefetch(self._read(rows, steps), 1)


def make_feed(
    experiment: Experiment,
    mixture_name: str,
    batch_size: int,
    process_index: int = 0,
    process_count: int = 1,
    seed: int | None = None,
    opened: dict[str, Source] | None = None,
) -> Feed:
    """The feed of a mixture or a task. `batch_size` is global (with buckets: the rows of the longest); process p takes
    its p-th equal part. opened: task → its source, of those to which the seed does not matter; missing ones are added,
    so that several feeds read a corpus's index once.

    Raises UserError for an unknown mixture, a batch that does not divide, or data that is missing or bad.
    """
    data, features = experiment.data, experiment.features
    seed = experiment.seed if seed is None else seed
    if batch_size < 1 or batch_size % process_count:
        raise UserError(
            f"Batch size {batch_size} does not divide by {process_count} processes; change streams' batch_size."
        )
    names, rates = mixture_of(data, mixture_name)
    sources = [_open(experiment, name, seed, {} if opened is None else opened) for name in names]
    everything = MixtureIndex(names, sources, rates, seed, data.readers)
    rows, step = _order(data, features, everything, rates, seed, batch_size)
    if process_count > 1 and isinstance(rows, BucketIndex):
        uneven = [shape for shape in rows.shapes if shape.rows % process_count]
        if uneven:
            raise UserError(
                f"data.row_multiple {data.row_multiple} gives a bucket {uneven[0].rows} rows, which do not divide by "
                f"{process_count} processes; make it a multiple of them."
            )
    vocabulary = make_vocabulary(data.vocabulary)
    if data.packed or data.reader == "direct":

        def read(rows: Records, steps: Steps) -> Generator[Batch, None, None]:
            ahead = ((shape, rows.start(numbers)) for shape, numbers in steps())
            shape, examples = next(ahead)
            for after in ahead:  # the next batch's files are read while this one is put together
                yield to_batch(list(examples), data, features, vocabulary, rows.text_only, shape)
                shape, examples = after

    else:
        try:
            from spectron.data.seqio import tasks
        except ModuleNotFoundError as error:
            raise UserError(
                f"data.reader 'seqio' needs the package {error.name!r}; pip install 'spectron-jax[data]', "
                "or set data.reader=direct for the same batches without it."
            ) from error

        registered = tasks.register(experiment)

        def read(rows: Records, steps: Steps) -> Generator[Batch, None, None]:
            return tasks.read([registered[name] for name in names], rows, steps)

    one = longest_shape(data, features, 1)
    return Feed(rows, read, step, (everything, one), process_index, process_count)


def _open(experiment: Experiment, name: str, seed: int, opened: dict[str, Source]) -> Source:
    if name in opened:
        return opened[name]
    source = source_of(experiment, name, seed)
    check_left_out(name, source, experiment.data)
    check_known(name, source, experiment.data.vocabulary)
    if not source.seeded:
        opened[name] = source
    return source


def _order(
    data: DataConfig,
    features: FeatureConfig,
    everything: MixtureIndex,
    rates: Sequence[float],
    seed: int,
    batch_size: int,
) -> tuple[Records, Callable[[int], Step]]:
    """The rows of a mixture, and which of them a step takes. Text alone has one length and needs no buckets."""
    shapes = bucket_shapes(data, features, batch_size)
    if data.buckets and not everything.text_only:
        names, sources = everything.names, everything.sources
        record_buckets = [bucket_ids(s, name, data, features, shapes) for s, name in zip(sources, names, strict=True)]
        bucketed = BucketIndex(names, sources, rates, seed, shapes, record_buckets, data.readers)
        return bucketed, bucketed.step
    shape = shapes[-1]
    return everything, lambda step: (shape, range(step * batch_size, (step + 1) * batch_size))


def mixture_of(data: DataConfig, name: str) -> tuple[list[str], list[float]]:
    """(task names, rates) of a mixture, or of a single task. Raises UserError for an unknown name."""
    tasks = [task.name for task in data.tasks]
    for mixture in data.mixtures:
        if mixture.name == name:
            for task, _ in mixture.rates:
                if task not in tasks:
                    raise UserError(
                        f"Mixture {name!r} names task {task!r}, which data.tasks lacks; tasks: {', '.join(tasks)}."
                    )
            return [task for task, _ in mixture.rates], [rate for _, rate in mixture.rates]
    if name in tasks:
        return [name], [1.0]
    known = [m.name for m in data.mixtures] + tasks
    raise UserError(f"There is no mixture or task {name!r} in data; known: {', '.join(known) or 'none'}.")


def prefetch(items: Generator[Batch, None, None], depth: int) -> Iterator[Batch]:
    """The same items, prepared in advance by one thread; its exceptions are raised here."""
    ready: queue.Queue = queue.Queue(maxsize=depth)
    stop = threading.Event()

    def put(kind: str, value: object) -> bool:
        while not stop.is_set():
            try:
                ready.put((kind, value), timeout=0.1)
                return True
            except queue.Full:
                continue
        return False

    def work() -> None:
        try:
            for item in items:
                if not put("item", item):
                    return
            put("end", None)
        except BaseException as error:  # handed to the consumer, who decides
            put("error", error)

    def finish() -> None:
        if not stop.is_set():
            stop.set()
            atexit.unregister(finish)
            thread.join()
            items.close()

    thread = threading.Thread(target=work, name="spectron-feed", daemon=True)
    thread.start()
    # TensorFlow's iterators must be closed before the interpreter exits: the process would hang at exit if one is open.
    atexit.register(finish)
    try:
        while True:
            kind, value = ready.get()
            if kind == "error":
                raise value
            if kind == "end":
                return
            yield value
    finally:
        finish()
