"""inspect.html: what a task holds, in one file that needs no network: examples, lengths, rates, padding, the rest."""

from __future__ import annotations

import html
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from spectron.audio import spectrogram_png
from spectron.audio.spectrograms import log_mels
from spectron.config import Experiment, StreamConfig
from spectron.data.buckets import BucketIndex, bucket_ids, bucket_shapes
from spectron.data.example import BadExample, Source
from spectron.data.order import BatchShape
from spectron.data.vocabulary import encode_target, make_vocabulary
from spectron.evaluation.report.page import TEMPLATE, data_uri, wav_uri
from spectron.evaluation.picking import spread
from spectron.objectives import make_objective
from spectron.types import Example
from spectron.utils.files import write_text

READ = 100  # ours: records read, evenly spread over the task, for what is not known without reading
NAMED = 5  # ours: of what is left out for one reason
BATCH = 32  # ours: rows of the longest bucket where no stage reads the task


class Lengths(NamedTuple):
    """A task's records: seconds [N] of all or of those read; the others of those read, the bad ones included."""

    seconds: np.ndarray
    known: bool  # of all
    tokens: np.ndarray  # of those read
    tokens_per_second: float
    read: int
    bad: list[str]


def look(experiment: Experiment, source: Source) -> Lengths:
    """Read some records of a task, evenly spread."""
    vocabulary, rate = make_vocabulary(experiment.data.vocabulary), experiment.features.sample_rate
    tokens, seconds, bad = [], [], []
    for i in spread(range(len(source)), READ):
        try:
            example = source[i]
        except BadExample as error:
            bad.append(str(error))
            continue
        tokens.append(len(encode_target(vocabulary, example.text)[0]))
        seconds.append(len(example.samples) / rate)
    known = source.lengths
    speech = sum(seconds)
    return Lengths(
        np.asarray(seconds) if known is None else np.asarray(known) / rate,
        known is not None,
        np.asarray(tokens),
        sum(tokens) / speech if speech else 0.0,
        len(tokens) + len(bad),
        bad,
    )


class Padding(NamedTuple):
    """What a task's batches hold besides its records.

    samples, positions: shares that are padding without buckets and with the config's (positions: of a stage; NaN where
    no stage reads the task, or its tokens are not known before reading). records: how many each bucket has.
    """

    samples: tuple[float, float]
    positions: tuple[float, float]
    records: dict[BatchShape, int]


def padding(experiment: Experiment, task: str, source: Source) -> Padding:
    """Of whole batches of a task whose source knows its lengths, as the first stream that reads it takes them."""
    data, features = experiment.data, experiment.features
    stream = _stream(experiment, task)
    rooms = bucket_shapes(data, features, stream.batch_size if stream else BATCH)
    rows = BucketIndex([task], [source], [1.0], 0, rooms, [bucket_ids(source, task, data, features, rooms)])
    lengths = np.asarray(source.lengths)
    samples, positions = [], []
    for cells in ({rooms[-1]: np.arange(len(lengths))}, dict(zip(rows.shapes, rows.cells[0], strict=True))):
        computed = sum(room.samples * len(cell) for room, cell in cells.items())
        samples.append(1 - int(lengths.sum()) / computed)
        positions.append(_positions(experiment, stream, source, cells))
    counts = {room: int(count) for room, count in zip(rows.shapes, rows.counts[0], strict=True)}
    return Padding((samples[0], samples[1]), (positions[0], positions[1]), counts)


def _positions(
    experiment: Experiment, stream: StreamConfig | None, source: Source, cells: Mapping[BatchShape, np.ndarray]
) -> float:
    if stream is None or source.tokens is None:
        return math.nan
    lengths, tokens = np.asarray(source.lengths), np.asarray(source.tokens)
    objective = make_objective(stream.objective, experiment, None)
    usual = round(experiment.data.prompt_seconds * experiment.features.sample_rate)
    prompts = np.minimum(np.full(len(lengths), usual) if source.prompts is None else source.prompts, lengths)
    real = computed = 0
    for room, cell in cells.items():
        found, each = objective.positions(room, lengths[cell], prompts[cell], tokens[cell])
        real, computed = real + int(found.sum()), computed + len(cell) * each
    return 1 - real / computed


def write(path: Path, experiment: Experiment, task: str, source: Source, shown: Mapping[int, Example]) -> None:
    """Write the page. shown: record → example. Raises UserError without matplotlib or a place to write."""
    spectrogram_png.check()
    found = look(experiment, source)
    style = TEMPLATE.read_text(encoding="utf-8").split("<style>")[1].split("</style>")[0]
    title = f"Task {html.escape(task)} · {html.escape(experiment.name)}"
    rows = "".join(_example(i, example, experiment) for i, example in shown.items())
    page = (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1"><meta name="color-scheme" '
        'content="light dark"><meta http-equiv="Content-Security-Policy" content="default-src \'none\'; style-src '
        f"'unsafe-inline'; img-src data:; media-src data:\"><title>{title}</title><style>{style}</style></head><body>"
        f"<h1>{title}</h1><h2>The task</h2>{_table(_facts(experiment, task, source, found))}"
        f"{_picture(experiment, found)}<h2>Padding</h2>{_table(_padding(experiment, task, source, found))}"
        f"<h2>Left out</h2>{_table(_left_out(source, found))}<h2>Examples</h2>"
        '<div class="box"><table class="items"><thead><tr><th scope="col">record</th>'
        '<th scope="col">sound and spectrogram</th>'
        f'<th scope="col">text</th></tr></thead><tbody>{rows}</tbody></table></div></body></html>\n'
    )
    write_text(path, page)


def _table(rows: Sequence[tuple[str, str]]) -> str:
    cells = "".join(f'<tr><th scope="row">{html.escape(k)}</th><td>{html.escape(v)}</td></tr>' for k, v in rows)
    return f'<div class="box"><table><tbody>{cells}</tbody></table></div>'


def _facts(experiment: Experiment, task: str, source: Source, found: Lengths) -> list[tuple[str, str]]:
    seconds = found.seconds
    facts = [("usable records", f"{len(source):,}")]
    if seconds.any():
        quantiles = ", ".join(f"{q} % {np.percentile(seconds, q):.2f}" for q in (0, 5, 50, 95, 100))
        of = "" if found.known else f" of {found.read} records read"
        facts += [
            ("speech", f"{seconds.sum() / 3600:,.2f} h{of}, mean {seconds.mean():.2f} s"),
            ("seconds of a record", quantiles),
            ("tokens per second of speech", f"{found.tokens_per_second:.2f} (of {len(found.tokens)} records read)"),
        ]
    if len(found.tokens):
        facts.append(("tokens of a record", f"mean {found.tokens.mean():.1f}, most {found.tokens.max()} of those read"))
    for mixture in experiment.data.mixtures:
        rates = dict(mixture.rates)
        if task in rates:
            share = rates[task] / sum(rates.values())
            facts.append((f"share of mixture {mixture.name}", f"{100 * share:.1f} % (rate {rates[task]:g})"))
    return facts


def _picture(experiment: Experiment, found: Lengths) -> str:
    if not found.seconds.any():
        return ""
    png = spectrogram_png.histogram(found.seconds, "seconds of a record; red: buckets", experiment.data.buckets)
    return f'<p><img alt="Histogram of lengths in seconds" src="{data_uri(png, "image/png")}"></p>'


def _padding(experiment: Experiment, task: str, source: Source, found: Lengths) -> list[tuple[str, str]]:
    if not found.seconds.any():
        return [("samples", "none")]
    if not found.known:
        return [("not known", "this source does not know its lengths before reading: all are in the longest bucket")]
    share = padding(experiment, task, source)
    kinds = {"of the samples": share.samples, "of the positions that a stage computes": share.positions}
    told = [{kind: 100 * values[i] for kind, values in kinds.items() if not math.isnan(values[i])} for i in (0, 1)]
    without, bucketed = (", ".join(f"{value:.1f} % {kind}" for kind, value in found.items()) for found in told)
    facts = [("without buckets", without)]
    if not experiment.data.buckets:
        return [*facts, ("with data.buckets", "the config has none")]
    facts.append(("with data.buckets", bucketed))
    rate = experiment.features.sample_rate
    for room, count in share.records.items():
        shape = f"batches of {room.rows} rows, {room.tokens} tokens"
        facts.append((f"up to {room.samples / rate:g} s", f"{count:,} records, {shape}"))
    return facts


def _stream(experiment: Experiment, task: str) -> StreamConfig | None:
    mixtures = {task} | {m.name for m in experiment.data.mixtures if task in dict(m.rates)}
    streams = [stream for stage in experiment.stages for stream in stage.streams]
    return next((stream for stream in streams if stream.mixture in mixtures), None)


def _left_out(source: Source, found: Lengths) -> list[tuple[str, str]]:
    reasons = [(reason, f"{len(ids):,}: {', '.join(ids[:NAMED])}") for reason, ids in source.rejected.items()]
    if found.bad:
        reasons.append((f"unusable when read, of {found.read}", f"{len(found.bad)}: {'; '.join(found.bad[:NAMED])}"))
    return reasons or [("nothing", "")]


def _example(number: int, example: Example, experiment: Experiment) -> str:
    features = experiment.features
    name = html.escape(example.id)
    look = "text only"
    if len(example.samples):
        prompt, rest = example.samples[: example.prompt_samples], example.samples[example.prompt_samples :]
        mels = log_mels([prompt, rest], features)
        png = spectrogram_png.spectrograms([("log-mel", mels[0], mels[1])], features)
        sound = wav_uri(example.samples, features.sample_rate)
        look = (
            f'<img alt="Spectrogram of {name}" src="{data_uri(png, "image/png")}">'
            f'<audio controls preload="none" aria-label="{name}" src="{sound}"></audio>'
        )
    seconds, prompt_seconds = len(example.samples) / features.sample_rate, example.prompt_samples / features.sample_rate
    return (
        f'<tr><th scope="row"><b>{number}</b> {name}<small>{html.escape(example.speaker)}</small>'
        f'<small>{seconds:.2f} s, prompt {prompt_seconds:.2f} s</small></th><td class="look">{look}</td>'
        f"<td>{html.escape(example.text)}</td></tr>"
    )
