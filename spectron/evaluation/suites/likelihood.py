"""How likely a model finds recordings, and of pairs of them which one more: speech language models' likelihood suites.

A model of tokens has a likelihood by construction. Spectron predicts spectrogram frames by regression; its likelihood
(ours) is that of the density whose negative logarithm is, but for ln Z, the first term of its reconstruction loss: L_s,
summed over frames and bands. λ, L_f and L_t have no part in it: differences of frames are no frames of their own.

- A recording x is a prompt x_p, its first seconds but at most half of it, and the rest x_c; y is its text: what is
  given, else what the model writes when it hears x_p.
- frames = ln p(x_c | x_p, y): every band of every frame of x_c, normalised as the model's features are, lies d away
  from what the model predicts from all frames before it, with the density exp(−|d| − d²) / Z, Z = √π e^¼ erfc(½).
- text = ln p(y | x_p), eos included.

Pairs are compared by frames per frame, by text per token (of a y that the model wrote itself this says how sure it
is), and by the sum of both, in nats. Pairs of one item (of one word by several voices, say) are averaged first, as the
suites do. Pre-net dropout is off.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
import logging
import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from spectron.audio import wav
from spectron.config import Experiment, FeatureConfig, JointConfig
from spectron.data.buckets import samples_per_row
from spectron.data.fields import to_batch
from spectron.data.order import BatchShape
from spectron.data.vocabulary import encode_target
from spectron.evaluation.judges.outside import checkpoint_facts
from spectron.evaluation.picking import spread
from spectron.evaluation.report import page
from spectron.evaluation.scores.intervals import Figure, proportion
from spectron.evaluation.scores.tables import Results, Table, markdown
from spectron.evaluation.suites.answers import checksum
from spectron.evaluation.suites.pairs import Pair, read_pairs
from spectron.inference.api import Spectron
from spectron.objectives.joint import Joint
from spectron.objectives.losses import log_probability
from spectron.types import Batch, Example, Params, Statistics, UserError
from spectron.utils.chunk_cache import Journal
from spectron.utils.files import write_text

log = logging.getLogger(__name__)

LOG_Z = math.log(math.sqrt(math.pi) * math.exp(0.25) * math.erfc(0.5))  # ∫ exp(−|d| − d²) dd
SHOWN = 100  # ours: pairs on the page
PROMPT_SECONDS = 1.0  # ours: of a recording of a word, half is left to score
COLUMNS = {
    "frames": "The right recording has more ln p of frames per frame.",
    "text": "The right recording has more ln p of text per token.",
    "both": "The right recording has more ln p of text and frames, summed.",
}


class Likelihood(NamedTuple):
    """Of one recording, in nats, and over how much."""

    frames: float
    num_frames: int
    text: float
    tokens: int

    def by(self, column: str) -> float:
        """What a pair is compared by."""
        if column == "both":
            return self.frames + self.text
        return self.frames / max(self.num_frames, 1) if column == "frames" else self.text / max(self.tokens, 1)


@functools.partial(jax.jit, static_argnames="experiment")
def _score(
    params: Params, statistics: Statistics, batch: Batch, *, experiment: Experiment
) -> tuple[Float[Array, " B"], Int[Array, " B"], Float[Array, " B"]]:
    """A batch → ln p of frames, their number, ln p of text."""
    objective = Joint(JointConfig(), experiment, statistics)
    inputs, continuation = objective.inputs_and_target(batch)
    out = objective.model.apply({"params": params}, **inputs._asdict())
    apart = jnp.abs(continuation.values - out.frames)
    each = -(apart + jnp.square(apart)).sum(axis=-1) - experiment.features.num_mels * LOG_Z
    spelled = log_probability(functools.partial(objective.logits, params), out.text_hidden, batch.text, batch.text_mask)
    return jnp.where(continuation.mask, each, 0.0).sum(axis=1), continuation.mask.sum(axis=1), spelled


def log_likelihood(
    generator: Spectron,
    recordings: Sequence[Int[np.ndarray, " S"]],
    prompt_seconds: float = PROMPT_SECONDS,
    texts: Sequence[str] | None = None,
    batch_size: int = 8,
) -> list[Likelihood]:
    """int16 [S] at the model's rate each → how likely it is; the module says what that means.

    Of a recording longer than the model was trained for, what is too long at its end is not scored.
    """
    found = []
    for first in range(0, len(recordings), batch_size):
        chunk = list(recordings[first : first + batch_size])
        known = None if texts is None else texts[first : first + batch_size]
        found += _chunk(generator, chunk, prompt_seconds, known, batch_size)
    return found


def _chunk(
    generator: Spectron,
    recordings: list[Int[np.ndarray, " S"]],
    prompt_seconds: float,
    texts: Sequence[str] | None,
    rows: int,
) -> list[Likelihood]:
    experiment, rate = generator.experiment, generator.features.sample_rate
    assert generator.statistics is not None
    longest = round(min(prompt_seconds, experiment.data.max_prompt_seconds) * rate)
    prompts = [min(longest, len(x) // 2) for x in recordings]
    if texts is None:
        heard = [x[:size] for x, size in zip(recordings, prompts, strict=True)]
        texts = [_fitting(text, generator) for text in generator.generate_text(heard, rows)]
    most = round(experiment.data.max_continuation_seconds * rate)
    examples = [
        Example(x[: size + most], size, text, str(i), "")
        for i, (x, size, text) in enumerate(zip(recordings, prompts, texts, strict=True))
    ]
    nothing = Example(np.zeros(0, np.int16), 0, "", "", "")  # every batch runs the same program
    size = samples_per_row(experiment.data, experiment.features)
    room = BatchShape(rows, max(size, longest + most), experiment.data.max_tokens)
    batch = to_batch(
        [*examples, *[nothing] * (rows - len(examples))],
        experiment.data,
        generator.features,
        generator.vocabulary,
        shape=room,
    )
    frames, counts, spelled = jax.device_get(
        _score(generator.params, generator.statistics, batch, experiment=experiment)
    )
    tokens = np.asarray(batch.text_mask).sum(axis=1)
    return [
        Likelihood(float(frames[i]), int(counts[i]), float(spelled[i]), int(tokens[i])) for i in range(len(recordings))
    ]


def _fitting(text: str, generator: Spectron) -> str:
    """Without its last words, where what was decoded takes more tokens when it is encoded again."""
    words = text.split()
    while words and len(encode_target(generator.vocabulary, " ".join(words))[0]) > generator.experiment.data.max_tokens:
        words.pop()
    return " ".join(words)


def evaluate_likelihood(
    checkpoint: str | Path,
    pairs: str | Path,
    out: str | Path,
    prompt_seconds: float = PROMPT_SECONDS,
    batch_size: int = 8,
    limit: int = 0,
) -> Results:
    """How often the right recording of a pair is the likelier one; writes OUT/results.json, results.md, items.jsonl and
    report.html.

    Goes on where a killed run stopped. limit: only so many pairs, evenly spread (0: all). Raises UserError.
    """
    if batch_size < 2 or batch_size % 2:
        raise UserError(f"--batch-size {batch_size} holds no pairs; give an even number.")
    if not (math.isfinite(prompt_seconds) and prompt_seconds > 0):
        raise UserError(f"--prompt-seconds {prompt_seconds:g} must be a number above 0.")
    if limit < 0:
        raise UserError(f"--limit {limit} must be above 0, or 0 for all pairs.")
    listed = read_pairs(pairs)
    listed = [listed[i] for i in spread(range(len(listed)), limit or len(listed))]
    generator, folder = Spectron.from_checkpoint(checkpoint), Path(out)
    facts = {
        **checkpoint_facts(checkpoint),
        "pairs": str(pairs),
        "prompt_seconds": prompt_seconds,
        "batch_size": batch_size,
        "jax": f"{jax.__version__} {jax.default_backend()}",
    }
    data = [{"name": str(pairs), "items": len(listed), "checksum": content_of(listed)}]

    def work(numbers: range) -> bytes:
        files = [path for i in numbers for path in (listed[i].good, listed[i].bad)]
        recordings = [wav.read(path, generator.features.sample_rate) for path in files]
        found = log_likelihood(generator, recordings, prompt_seconds, batch_size=batch_size)
        for path, each in zip(files, found, strict=True):
            if not each.num_frames:
                raise UserError(f"{str(path)!r} is too short: behind its prompt there is no frame; leave its pair out.")
        return json.dumps(found).encode()

    kept = Journal(folder / "likelihoods", {**facts, "data": data})(len(listed), batch_size // 2, work, "pairs")
    scores = [Likelihood(*row) for chunk in kept for row in json.loads(chunk)]
    results = summarise(listed, scores[::2], scores[1::2], facts, data)
    rows = zip(listed, scores[::2], scores[1::2], strict=True)
    lines = [
        json.dumps({"id": pair.id, "group": pair.group, "good": good._asdict(), "bad": bad._asdict()})
        for pair, good, bad in rows
    ]
    write_text(folder / "items.jsonl", "\n".join(lines) + "\n")
    _page(folder / "report.html", results, listed, scores, generator.features)
    write_text(folder / "results.md", markdown(results))
    write_text(folder / "results.json", results.to_json())
    return results


def summarise(
    pairs: Sequence[Pair],
    good: Sequence[Likelihood],
    bad: Sequence[Likelihood],
    facts: dict[str, Any],
    data: Sequence[dict[str, Any]] = (),
) -> Results:
    """Accuracies of all items and of every group; two alike count as half right."""
    groups: dict[str, dict[tuple[str, str], list[int]]] = {"all": {}}  # group → item → its pairs
    for i, pair in enumerate(pairs):
        for group in ("all", pair.group) if pair.group else ("all",):
            groups.setdefault(group, {}).setdefault((pair.group, pair.item or pair.id), []).append(i)
    if len(groups) == 2 and groups["all"] == groups[next(reversed(groups))]:
        del groups[next(reversed(groups))]  # one group is all of them

    def right(i: int, column: str) -> float:
        a, b = good[i].by(column), bad[i].by(column)
        return 0.5 if a == b else float(a > b)

    def figure(column: str, items: Iterable[list[int]]) -> Figure:
        hits = [[right(i, column) for i in members] for members in items]
        found = proportion(column, hits, f"{COLUMNS[column]} Share of items, each the mean of its pairs.")  # type: ignore[arg-type]
        return dataclasses.replace(found, definition=found.definition.replace("decoding seeds", "its pairs"))

    rows = {name: {column: figure(column, items.values()) for column in COLUMNS} for name, items in groups.items()}
    table = Table("Speech-LM likelihood: the right one of two recordings", rows, "Two alike count as half right.")
    return Results("likelihood", [table], facts, data=data)


def content_of(pairs: Sequence[Pair]) -> str:
    """A checksum of what pairs are called, how they belong together, and of the bytes of their recordings."""
    return checksum(
        part
        for pair in pairs
        for part in (
            *(name.encode() for name in (pair.id, pair.group, pair.item)),
            *(hashlib.sha256(path.read_bytes()).digest() for path in (pair.good, pair.bad)),
        )
    )


def _page(
    path: Path, results: Results, pairs: Sequence[Pair], scores: Sequence[Likelihood], features: FeatureConfig
) -> None:
    items = []
    for i in spread(range(len(pairs)), SHOWN):
        pair, good, bad = pairs[i], scores[2 * i], scores[2 * i + 1]
        cells = {
            name: page.Cell(f"{good.by(name):.2f}", good.by(name) > bad.by(name), f"wrong one {bad.by(name):.2f}")
            for name in COLUMNS
        }
        heard = [wav.read(file, features.sample_rate) for file in (pair.good, pair.bad)]
        sounds = list(zip(("right", "wrong"), heard, strict=True))
        items.append(
            page.Item(pair.id, cells, sounds, right=cells["both"].right, groups=[pair.group] if pair.group else [])
        )
    text = (
        "Of each pair of recordings one is right. Numbers are the right one's logarithmic likelihood in nats, per "
        "frame, per token and summed; a mark says that it is above the wrong one's."
    )
    intro = [text]
    if len(items) < len(pairs):
        intro.append(f"{len(items)} of {len(pairs)} pairs are shown, evenly spread; all are in items.jsonl.")
    page.write(path, results, items, intro, features, "Pair")
