"""inspect.html of `spectron data inspect`: a task's size, lengths, mixture shares, padding, rejects and examples."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from spectron.audio import spectrogram_png
from spectron.audio.spectrograms import log_mels
from spectron.config import Experiment, FeatureConfig, StreamConfig, VocabularyConfig
from spectron.data.buckets import BucketIndex, bucket_ids, bucket_shapes
from spectron.data.example import BadExample, Source
from spectron.data.fields import encode_text
from spectron.data.fitting import share_left_out
from spectron.data.order import BatchShape
from spectron.data.shards import encode_flac
from spectron.data.vocabulary import make_vocabulary
from spectron.objectives import make_objective
from spectron.types import Example
from spectron.utils.files import write_text
from spectron.utils.html import Cell, Histogram, Listing, Media, Row, Section, data_uri, render
from spectron.utils.spacing import evenly_spaced

SAMPLE_SIZE = 100  # ours: records read, evenly spaced over the task, for figures that need the records themselves
NAMED = 5  # ours: rejected records named for each reason
BATCH = 32  # ours: rows of the longest bucket if no stage reads the task
BINS = 48  # ours: bars of the histogram


class TaskSample(NamedTuple):
    """Statistics of a task's records, from a sample of them."""

    seconds: np.ndarray  # [N] lengths: of all records if lengths_known, else of the records read
    lengths_known: bool  # whether the source knows all lengths before reading
    tokens: np.ndarray  # [records read]
    tokens_per_second: float
    num_read: int
    unusable: list[str]  # why, one message a record


def read_sample(source: Source, vocabulary_config: VocabularyConfig, sample_rate: int) -> TaskSample:
    """Read at most SAMPLE_SIZE records of a task, evenly spaced."""
    vocabulary = make_vocabulary(vocabulary_config)
    tokens: list[int] = []
    seconds: list[float] = []
    unusable: list[str] = []
    for i in evenly_spaced(range(len(source)), SAMPLE_SIZE):
        try:
            example = source[i]
        except BadExample as error:
            unusable.append(str(error))
            continue
        tokens.append(len(encode_text(example, vocabulary).ids))
        seconds.append(len(example.samples) / sample_rate)
    lengths = source.lengths
    return TaskSample(
        seconds=np.asarray(seconds) if lengths is None else np.asarray(lengths) / sample_rate,
        lengths_known=lengths is not None,
        tokens=np.asarray(tokens),
        tokens_per_second=sum(tokens) / sum(seconds) if any(seconds) else 0.0,
        num_read=len(tokens) + len(unusable),
        unusable=unusable,
    )


class Padding(NamedTuple):
    """The padding in a task's batches: (without buckets, with the config's buckets) as shares of what is computed."""

    samples: tuple[float, float]
    positions: tuple[float, float]  # of the model's sequence; NaN if no stage reads the task or tokens are unknown
    records: dict[BatchShape, int]  # bucket → number of records


def padding(experiment: Experiment, task: str, source: Source) -> Padding:
    """The padding of a task whose source knows its lengths, with the batch size of the first stream that reads it."""
    data = experiment.data
    features = experiment.features
    stream = _stream(experiment, task)
    shapes = bucket_shapes(data, features, stream.batch_size if stream else BATCH)
    index = BucketIndex([task], [source], [1.0], 0, shapes, [bucket_ids(source, task, data, features, shapes)])
    lengths = np.asarray(source.lengths)
    buckets = dict(zip(index.shapes, index.cells[0], strict=True))  # bucket → its records
    no_buckets = {shapes[-1]: np.arange(len(lengths))}
    samples, positions = [], []
    for records in (no_buckets, buckets):
        computed = sum(shape.samples * len(numbers) for shape, numbers in records.items())
        samples.append(1 - int(lengths.sum()) / computed)
        positions.append(_position_padding(experiment, stream, source, records))
    counts = {shape: int(count) for shape, count in zip(index.shapes, index.counts[0], strict=True)}
    return Padding(samples=(samples[0], samples[1]), positions=(positions[0], positions[1]), records=counts)


def _position_padding(
    experiment: Experiment, stream: StreamConfig | None, source: Source, records: Mapping[BatchShape, np.ndarray]
) -> float:
    if stream is None or source.tokens is None:
        return math.nan
    lengths = np.asarray(source.lengths)
    tokens = np.asarray(source.tokens)
    objective = make_objective(stream.objective, experiment, None)
    default_prompt = round(experiment.data.prompt_seconds * experiment.features.sample_rate)
    prompts = np.full(len(lengths), default_prompt) if source.prompts is None else source.prompts
    prompts = np.minimum(prompts, lengths)
    real = computed = 0
    for shape, numbers in records.items():
        real_positions, row_positions = objective.positions(shape, lengths[numbers], prompts[numbers], tokens[numbers])
        real += int(real_positions.sum())
        computed += len(numbers) * row_positions
    return 1 - real / computed


def write(path: Path, experiment: Experiment, task: str, source: Source, shown: Mapping[int, Example]) -> None:
    """Write the page. shown: record number → example. Raises UserError without a place to write."""
    sample = read_sample(source, experiment.data.vocabulary, experiment.features.sample_rate)
    histograms = _histograms(sample.seconds, experiment.data.buckets)
    sections = [
        Section("The task", _facts(experiment, task, source, sample), histograms=histograms),
        Section("Padding", _padding(experiment, task, source, sample)),
        Section("Left out", _left_out(source, sample)),
    ]
    rows = [_example(i, example, experiment.features) for i, example in shown.items()]
    listing = Listing("Examples", ("Record", "Text"), rows)
    write_text(path, render(f"Task {task} · {experiment.name}", (), sections, listing))


def _histograms(seconds: np.ndarray, buckets: Sequence[float]) -> list[Histogram]:
    if not seconds.any():
        return []
    counts, edges = np.histogram(seconds, BINS)
    caption = "Length in seconds" + ("; red lines: data.buckets" if buckets else "")
    return [Histogram(caption, counts.tolist(), edges.tolist(), buckets)]


def _facts(experiment: Experiment, task: str, source: Source, sample: TaskSample) -> list[tuple[str, str]]:
    seconds = sample.seconds
    left_out = f"{100 * share_left_out(source):.1f} % left out, at most {100 * experiment.data.max_left_out:g} % may be"
    facts = [("usable records", f"{len(source):,} ({left_out})")]
    facts += [("normaliser of texts", each.normaliser) for each in experiment.data.tasks if each.name == task]
    if seconds.any():
        quantiles = ", ".join(f"{q} % {np.percentile(seconds, q):.2f}" for q in (0, 5, 50, 95, 100))
        of = "" if sample.lengths_known else f" of {sample.num_read} records read"
        facts += [
            ("speech", f"{seconds.sum() / 3600:,.2f} h{of}, mean {seconds.mean():.2f} s"),
            ("length in seconds, percentiles", quantiles),
            ("tokens per second of speech", f"{sample.tokens_per_second:.2f} (of {len(sample.tokens)} records read)"),
        ]
    if len(sample.tokens):
        of = f"of {len(sample.tokens)} records read"
        facts.append(("tokens per record", f"mean {sample.tokens.mean():.1f}, maximum {sample.tokens.max()} ({of})"))
    for mixture in experiment.data.mixtures:
        rates = dict(mixture.rates)
        if task in rates:
            share = rates[task] / sum(rates.values())
            facts.append((f"share of mixture {mixture.name}", f"{100 * share:.1f} % (rate {rates[task]:g})"))
    return facts


def _padding(experiment: Experiment, task: str, source: Source, sample: TaskSample) -> list[tuple[str, str]]:
    if not sample.seconds.any():
        return [("samples", "none")]
    if not sample.lengths_known:
        return [("not known", "this source does not know its lengths before reading: all are in the longest bucket")]
    share = padding(experiment, task, source)
    kinds = {"of the samples": share.samples, "of the positions that a stage computes": share.positions}
    without, bucketed = (
        ", ".join(f"{100 * shares[i]:.1f} % {kind}" for kind, shares in kinds.items() if not math.isnan(shares[i]))
        for i in (0, 1)
    )
    facts = [("without buckets", without)]
    if not experiment.data.buckets:
        return [*facts, ("with data.buckets", "the config has none")]
    facts.append(("with data.buckets", bucketed))
    for shape, count in share.records.items():
        seconds = shape.samples / experiment.features.sample_rate
        batches = f"batches of {shape.rows} rows, {shape.tokens} tokens"
        facts.append((f"up to {seconds:g} s", f"{count:,} records, {batches}"))
    return facts


def _stream(experiment: Experiment, task: str) -> StreamConfig | None:
    """The first stream that reads the task, by itself or in a mixture."""
    mixtures = {task} | {mixture.name for mixture in experiment.data.mixtures if task in dict(mixture.rates)}
    streams = [stream for stage in experiment.stages for stream in stage.streams]
    return next((stream for stream in streams if stream.mixture in mixtures), None)


def _left_out(source: Source, sample: TaskSample) -> list[tuple[str, str]]:
    reasons = [(reason, f"{len(ids):,}: {', '.join(ids[:NAMED])}") for reason, ids in source.rejected.items()]
    if sample.unusable:
        examples = "; ".join(sample.unusable[:NAMED])
        reasons.append((f"unusable when read, of {sample.num_read}", f"{len(sample.unusable)}: {examples}"))
    return reasons or [("nothing", "")]


def _example(number: int, example: Example, features: FeatureConfig) -> Row:
    seconds = len(example.samples) / features.sample_rate
    prompt_seconds = example.prompt_samples / features.sample_rate
    small = f"{example.speaker}\n{seconds:.2f} s, prompt {prompt_seconds:.2f} s"
    name = Cell(f"{number} {example.id}", small=small, value=number)
    if not len(example.samples):
        return Row([name, Cell(example.text, small="text only")])
    prompt, continuation = np.split(example.samples, [example.prompt_samples])
    prompt_mel, continuation_mel = log_mels([prompt, continuation], features)
    png = spectrogram_png.spectrograms([("log-mel", prompt_mel, continuation_mel)], features)
    sounds = [("recording", data_uri(encode_flac(example.samples, features.sample_rate), "audio/flac"))]
    return Row([name, example.text], Media(example.id, data_uri(png, "image/png"), sounds))
