"""Decoding: one jitted loop in which every row advances one position a step and carries its own phase.

A row writes text until eos, then frames until its stop head fires; rows in different phases share a step. A row's real
elements stand one behind the other at the front of its cache, so that rows that began at different times share a step
too: `decode` runs a batch to its end, `hear`, `admit` and `run` put a new prompt in the place of a row that is done.

`weights` are to_decode_layout's.
"""

from __future__ import annotations

import dataclasses
import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array

from spectron.audio.features import denormalise, log_mel, normalise
from spectron.config import Experiment
from spectron.data.vocabulary import make_vocabulary
from spectron.models.decoder import Cache, empty_cache
from spectron.models.spectron import prefix_length
from spectron.objectives.joint import dropout_keep, go_frames, make_model
from spectron.types import Params, Statistics


class Decoded(NamedTuple):
    """text int32 [B, L] (0 behind eos), frames float32 [B, T, F] log-mel, num_frames int32 [B], stopped bool [B]."""

    text: Array
    frames: Array
    num_frames: Array
    stopped: Array


class Rows(NamedTuple):
    """Answers under way, a row for each; what the loop carries."""

    seed: Array  # uint32 [B, 2]: the row's own randomness, a key's data
    position: Array  # int32 [B]: how many elements are in the cache
    made: Array  # int32 [B]: how many of them are not the prompt's
    token: Array  # int32 [B]: what a row that writes reads next
    fed: Array  # float32 [B, r·F]: what a row that speaks reads next, normalised
    go: Array  # float32 [B, r·F]: what it reads first
    forced: Array  # int32 [B, L]: above 0 what is written there, whatever the model would have said
    is_text: Array  # bool [B]
    done: Array  # bool [B]: also of a row that has no prompt
    stopped: Array  # bool [B]: by the stop head
    steps: Array  # int32 [B]: of frames
    num_frames: Array  # int32 [B]
    text: Array  # int32 [B, L]
    frames: Array  # float32 [B, steps, r·F], normalised
    cache: Cache


@dataclasses.dataclass(frozen=True)
class Limits:
    """The longest answer: text tokens with eos, and frame steps of r frames."""

    tokens: int
    steps: int


def limits(experiment: Experiment) -> Limits:
    """The sizes the model was trained with."""
    data, step = experiment.data, experiment.model.frames.frames_per_step
    frames = experiment.features.num_frames(round(data.max_continuation_seconds * experiment.features.sample_rate))
    return Limits(data.max_tokens, -(-frames // step))


def positions(samples: int, experiment: Experiment, limit: Limits) -> int:
    """How many elements a row may come to have: of a prompt of so many samples, of the text and of the frames."""
    return prefix_length(experiment.model, samples) + limit.tokens + limit.steps


@functools.partial(jax.jit, static_argnames=("experiment", "limit"))
def decode(
    weights: Params,
    statistics: Statistics,
    samples: Array,
    num_samples: Array,
    keys: Array,
    forced: Array | None = None,
    *,
    experiment: Experiment,
    limit: Limits,
) -> Decoded:
    """Prompts int16 [B, S] → text and log-mel. `keys` [B]: each row's own randomness, whatever its batch.

    forced: int32 [B, L] with L = limit.tokens; above 0 it is the token that is written there, whatever the model would
    have said (eos ends the text). A row of no samples is skipped (padding of a batch).
    """
    forced = jnp.zeros((samples.shape[0], limit.tokens), jnp.int32) if forced is None else forced
    seed = jax.random.key_data(keys)
    rows = prefill(weights, statistics, samples, num_samples, seed, forced, experiment=experiment, limit=limit)
    step = functools.partial(advance, weights, experiment=experiment)
    return finish(jax.lax.while_loop(lambda rows: ~rows.done.all(), step, rows), statistics)


def finish(rows: Rows, statistics: Statistics) -> Decoded:
    """What the rows said."""
    frames = rows.frames.reshape(rows.frames.shape[0], -1, statistics.mean.shape[0])
    return Decoded(rows.text, denormalise(frames, statistics), rows.num_frames, rows.stopped)


def prefill(
    weights: Params,
    statistics: Statistics,
    samples: Array,
    num_samples: Array,
    seed: Array,
    forced: Array,
    *,
    experiment: Experiment,
    limit: Limits,
    room: int = 0,
) -> Rows:
    """Rows that have heard their prompts int16 [B, S]. room: positions of the cache, if not just enough for them."""
    config = experiment.model
    room = room or positions(samples.shape[1], experiment, limit)
    prompt = normalise(log_mel(samples, num_samples, experiment.features), statistics)
    batch, width = samples.shape[0], config.frames.frames_per_step * experiment.features.num_mels
    cache = empty_cache(config.lm, batch, room, jnp.dtype(config.compute_dtype), scan=False)
    model = make_model(experiment, unrolled=True)
    cache, prefix_mask = model.apply({"params": weights}, samples, num_samples, statistics, cache, method="prefill")
    go = go_frames(prompt, config.frames).reshape(batch, width)
    nothing = jnp.zeros(batch, jnp.int32)
    return Rows(
        seed=seed,
        position=prefix_mask.sum(axis=1).astype(jnp.int32),
        made=nothing,
        token=jnp.full(batch, make_vocabulary(experiment.data.vocabulary).sos_id, jnp.int32),
        fed=go,
        go=go,
        forced=forced,
        is_text=jnp.ones(batch, bool),
        done=prompt.lengths == 0,
        stopped=jnp.zeros(batch, bool),
        steps=nothing,
        num_frames=nothing,
        text=jnp.zeros((batch, limit.tokens), jnp.int32),
        frames=jnp.zeros((batch, limit.steps, width), jnp.float32),
        cache=cache,
    )


def advance(weights: Params, rows: Rows, *, experiment: Experiment) -> Rows:
    """One position for every row that is not done."""
    config = experiment.model.frames
    step, tokens = config.frames_per_step, rows.text.shape[1]
    model = make_model(experiment, unrolled=True)
    eos = make_vocabulary(experiment.data.vocabulary).eos_id
    keep = None
    if config.dropout_in_decoding and config.prenet_dropout:
        keys = jax.vmap(jax.random.fold_in)(jax.random.wrap_key_data(rows.seed), rows.made)
        keep = jax.vmap(lambda key: dropout_keep(key, (config.bottleneck,), config.prenet_dropout))(keys)
    hidden, frames, stop, cache = model.apply(
        {"params": weights},
        *(rows.token, rows.fed, rows.is_text, keep, rows.position, rows.cache),
        method="advance",
    )
    writes, speaks = rows.is_text & ~rows.done, ~rows.is_text & ~rows.done

    def best(hidden: Array) -> Array:
        logits = model.apply({"params": weights}, hidden[:, None], method="logits")
        return logits[:, 0].argmax(axis=-1).astype(jnp.int32)

    # A large vocabulary's table is most of what a position reads: while all rows speak, it stays where it is.
    token = jax.lax.cond(writes.any(), best, lambda hidden: jnp.zeros(hidden.shape[0], jnp.int32), hidden)
    each = jnp.arange(token.shape[0])
    place = jnp.minimum(rows.made, tokens - 1)
    token = jnp.where(rows.forced[each, place] > 0, rows.forced[each, place], token)
    text = rows.text.at[each, place].set(jnp.where(writes, token, rows.text[each, place]))
    text_ends = writes & ((token == eos) | (rows.made + 1 >= tokens))
    fed = frames.reshape(frames.shape[0], -1)
    at = jnp.minimum(rows.steps, rows.frames.shape[1] - 1)
    spoken = rows.frames.at[each, at].set(jnp.where(speaks[:, None], fed, rows.frames[each, at]))
    fires = jax.nn.sigmoid(stop) > config.stop_threshold
    stops = speaks & fires.any(axis=1)
    within = jnp.where(stops, fires.argmax(axis=1) + 1, step)
    steps = rows.steps + speaks
    return rows._replace(
        position=rows.position + ~rows.done,
        made=rows.made + ~rows.done,
        token=token,
        fed=jnp.where(speaks[:, None], fed, rows.go),
        is_text=rows.is_text & ~text_ends,
        done=rows.done | stops | (speaks & (steps >= rows.frames.shape[1])),
        stopped=rows.stopped | stops,
        steps=steps,
        num_frames=rows.num_frames + jnp.where(speaks, within, 0),
        text=text,
        frames=spoken,
        cache=cache,
    )


@functools.partial(jax.jit, static_argnames=("experiment", "limit", "batch", "room"))
def idle(weights: Params, *, experiment: Experiment, limit: Limits, batch: int, room: int) -> Rows:
    """Rows without prompts, for `admit`."""
    del weights  # says on which device
    width = experiment.model.frames.frames_per_step * experiment.features.num_mels
    nothing, no = jnp.zeros(batch, jnp.int32), jnp.zeros(batch, bool)
    frames = jnp.zeros((batch, width), jnp.float32)
    return Rows(
        seed=jnp.zeros((batch, 2), jnp.uint32),
        position=nothing,
        made=nothing,
        token=nothing,
        fed=frames,
        go=frames,
        forced=jnp.zeros((batch, limit.tokens), jnp.int32),
        is_text=no,
        done=~no,
        stopped=no,
        steps=nothing,
        num_frames=nothing,
        text=jnp.zeros((batch, limit.tokens), jnp.int32),
        frames=jnp.zeros((batch, limit.steps, width), jnp.float32),
        cache=empty_cache(experiment.model.lm, batch, room, jnp.dtype(experiment.model.compute_dtype), scan=False),
    )


@functools.partial(jax.jit, static_argnames=("experiment", "limit"))
def hear(
    weights: Params,
    statistics: Statistics,
    samples: Array,
    num_samples: Array,
    key: Array,
    forced: Array,
    *,
    experiment: Experiment,
    limit: Limits,
) -> Rows:
    """A row that has heard its prompt int16 [S], for `admit`; forced: int32 [L].

    By itself, so that what it hears is the same to the bit whoever comes to be beside it.
    """
    seed = jax.random.key_data(key)[None]
    return prefill(
        *(weights, statistics, samples[None], num_samples[None], seed, forced[None]),
        experiment=experiment,
        limit=limit,
        room=prefix_length(experiment.model, samples.shape[0]),
    )


@functools.partial(jax.jit, donate_argnames="rows")
def admit(rows: Rows, new: Rows, row: Array) -> Rows:
    """Rows with a new one in place of row number `row`, all of it: what is masked is still multiplied, and the row
    before it may have left what is no number."""

    def put(old: Array, new: Array) -> Array:
        more = [(0, a - b) for a, b in zip(old.shape[1:], new.shape[1:], strict=True)]  # the cache's room
        new = jnp.pad(new, [(0, 0), *more])
        start = row * new.shape[0]  # more than one in the cache: its heads
        return jax.lax.dynamic_update_slice(old, new, (start, *(0,) * (old.ndim - 1)))

    return jax.tree.map(put, rows, new)


@functools.partial(jax.jit, static_argnames="experiment", donate_argnames="rows")
def run(weights: Params, rows: Rows, most: Array, *, experiment: Experiment) -> Rows:
    """Advance until one more row is done, at most so many steps."""
    done = rows.done.sum()

    def more(carry: tuple[Array, Rows]) -> Array:
        made, rows = carry
        return (made < most) & (rows.done.sum() == done) & ~rows.done.all()

    def step(carry: tuple[Array, Rows]) -> tuple[Array, Rows]:
        return carry[0] + 1, advance(weights, carry[1], experiment=experiment)

    return jax.lax.while_loop(more, step, (jnp.int32(0), rows))[1]


@jax.jit
def take(rows: Rows, row: Array, statistics: Statistics) -> Decoded:
    """What one row said, without the axis of rows."""
    return jax.tree.map(
        lambda x: x[0], finish(jax.tree.map(lambda x: x[row][None], rows._replace(cache=())), statistics)
    )
