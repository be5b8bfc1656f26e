"""Decoding: one jitted loop in which every slot advances one position a step.

A slot holds one answer under way, and a phase: an index into the model's output streams. A model that writes and speaks
decodes text until a stop id, then frames until its stop head fires; a model that only writes is done where its text
ends. Slots in different phases share a step. A slot's real elements are at the front of its cache, so slots that began
at different times share a step too: `decode` runs one batch to its end; `prefill`, `insert` and `decode_until_done`
refill each slot as soon as it is done.

`weights` are in the decode layout (spectron/models/decode_layout.py). DecodeConfig is the only static argument.
"""

from __future__ import annotations

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Key, UInt

from spectron.audio.features import denormalise, log_mel, normalise
from spectron.inference.decode_config import DecodeConfig
from spectron.models.decoder import Cache, empty_cache
from spectron.models.spectron import Spectron
from spectron.objectives.joint import dropout_keep, go_frames
from spectron.types import Params, Statistics

FREE = -1  # in forced tokens: the sampler chooses


class Decoded(NamedTuple):
    """Answers; `read_slot` returns one without the axis B.

    text: token ids, 0 after the first num_tokens (which include the stop id). frames: log-mel, of which num_frames are
    real. stopped: whether the last output stream ended by itself (stop head or stop id), not at its maximum length.
    """

    text: Int[Array, "B L"]
    frames: Float[Array, "B T F"]
    num_tokens: Int[Array, " B"]
    num_frames: Int[Array, " B"]
    stopped: Bool[Array, " B"]


class DecodeState(NamedTuple):
    """B slots: what the loop carries. N frame steps of R = frames_per_step · F values."""

    key_data: UInt[Array, "B 2"]  # the slot's own random key
    position: Int[Array, " B"]  # elements in the cache
    num_generated: Int[Array, " B"]  # how many of them are not the prompt's: text tokens and frame steps
    num_steps: Int[Array, " B"]  # how many of those are frame steps
    num_frames: Int[Array, " B"]  # frames up to the one at which the stop head fired
    phase: Int[Array, " B"]  # index of the output stream that is decoded
    token: Int[Array, " B"]  # the next token to read, in the text's phase
    previous_frames: Float[Array, "B R"]  # the next frames to read, in the frames' phase; normalised
    forced_tokens: Int[Array, "B L"]  # token ids that must be written; FREE leaves the choice to the sampler
    done: Bool[Array, " B"]  # all streams have ended, or the slot is empty
    stopped: Bool[Array, " B"]  # the last stream ended by itself
    text: Int[Array, "B L"]
    frames: Float[Array, "B N R"]  # normalised
    cache: Cache


def make_model(config: DecodeConfig) -> Spectron:
    """The model that decodes: its LM's layers are unstacked."""
    return Spectron(config.model, config.vocab_size, config.features.num_mels, unrolled=True)


@functools.partial(jax.jit, static_argnames="config")
def decode(
    weights: Params,
    statistics: Statistics,
    samples: Int[Array, "B S"],
    num_samples: Int[Array, " B"],
    keys: Key[Array, " B"],
    forced_tokens: Int[Array, "B L"] | None = None,
    *,
    config: DecodeConfig,
) -> Decoded:
    """Answer a batch of int16 prompts from start to end.

    keys: each slot's own randomness, so that an answer does not depend on its batch. forced_tokens: ids that must be
    written, with a stop id where the text must end, and FREE elsewhere. A slot without samples is skipped: padding.
    """
    state = prefill(
        weights, statistics, samples, num_samples, keys, forced_tokens,
        config=config, cache_length=config.cache_length(samples.shape[1]),
    )  # fmt: skip
    step = functools.partial(decode_step, weights, config=config)
    return finish(jax.lax.while_loop(lambda state: ~state.done.all(), step, state), statistics)


@functools.partial(jax.jit, static_argnames=("config", "cache_length"))
def prefill(
    weights: Params,
    statistics: Statistics,
    samples: Int[Array, "B S"],
    num_samples: Int[Array, " B"],
    keys: Key[Array, " B"],
    forced_tokens: Int[Array, "B L"] | None = None,
    *,
    config: DecodeConfig,
    cache_length: int | None = None,
) -> DecodeState:
    """Slots that have read their int16 prompts and nothing else.

    cache_length: by default only the prompts' own positions, for `insert` into slots of a full cache.
    """
    length = config.prefix_length(samples.shape[1]) if cache_length is None else cache_length
    batch, frames = samples.shape[0], config.model.frames
    prompt = normalise(log_mel(samples, num_samples, config.features), statistics)
    cache, prefix_mask = make_model(config).apply(
        {"params": weights}, samples, num_samples, statistics, _empty_cache(config, batch, length), method="prefill"
    )
    state = _blank_state(config, batch, cache)
    if forced_tokens is not None:
        state = state._replace(forced_tokens=forced_tokens)
    return state._replace(
        key_data=jax.random.key_data(keys),
        position=prefix_mask.sum(axis=1).astype(jnp.int32),
        phase=jnp.zeros(batch, jnp.int32),
        previous_frames=go_frames(prompt, frames).reshape(batch, config.step_width),
        done=prompt.lengths == 0,
    )


@functools.partial(jax.jit, static_argnames=("config", "num_slots"))
def init_state(weights: Params, *, config: DecodeConfig, num_slots: int) -> DecodeState:
    """Empty slots with room for the longest prompt and answer, on the device of `weights`."""
    del weights  # jit places the result on its device
    return _blank_state(config, num_slots, _empty_cache(config, num_slots, config.cache_length()))


def _blank_state(config: DecodeConfig, batch: int, cache: Cache) -> DecodeState:
    zeros, no = jnp.zeros(batch, jnp.int32), jnp.zeros(batch, bool)
    return DecodeState(
        key_data=jnp.zeros((batch, 2), jnp.uint32),
        position=zeros,
        num_generated=zeros,
        num_steps=zeros,
        num_frames=zeros,
        phase=jnp.full(batch, len(config.output_streams), jnp.int32),
        token=jnp.full(batch, config.sos_id, jnp.int32),
        previous_frames=jnp.zeros((batch, config.step_width), jnp.float32),
        forced_tokens=jnp.full((batch, config.text_tokens), FREE, jnp.int32),
        done=~no,
        stopped=no,
        text=jnp.zeros((batch, config.text_tokens), jnp.int32),
        frames=jnp.zeros((batch, config.frame_steps, config.step_width), jnp.float32),
        cache=cache,
    )


def _empty_cache(config: DecodeConfig, batch: int, length: int) -> Cache:
    return empty_cache(config.model.lm, batch, length, jnp.dtype(config.model.compute_dtype), scan=False)


def decode_step(weights: Params, state: DecodeState, *, config: DecodeConfig) -> DecodeState:
    """Advance every slot that is not done by one position."""
    model, streams = make_model(config), config.output_streams
    active = {name: ~state.done & (state.phase == i) for i, name in enumerate(streams)}
    # One key for each slot and position: a text position samples with it, a frame position draws its dropout.
    keys = jax.vmap(jax.random.fold_in)(jax.random.wrap_key_data(state.key_data), state.num_generated)
    hidden, cache = model.apply(
        {"params": weights},
        tokens=state.token if config.has_text else None,
        previous_frames=state.previous_frames if config.has_frames else None,
        reads_text=state.phase == (streams.index("text") if config.has_text else -1),
        dropout_mask=_dropout_mask(keys, config),
        positions=state.position,
        cache=state.cache,
        method="decode_step",
    )
    new, ends = state, jnp.zeros_like(state.done)
    for name in streams:
        head = _write_token if name == "text" else _write_frames
        new, ended, by_itself = head(model, weights, new, hidden, keys, active[name], config)
        ends |= ended
        if name == streams[-1]:
            new = new._replace(stopped=new.stopped | by_itself)
    phase = state.phase + ends
    return new._replace(
        position=state.position + ~state.done,
        num_generated=state.num_generated + ~state.done,
        phase=phase,
        done=state.done | (phase == len(streams)),
        cache=cache,
    )


def _dropout_mask(keys: Key[Array, " B"], config: DecodeConfig) -> Float[Array, "B K"] | None:
    frames = config.model.frames
    if not (config.has_frames and frames.dropout_in_decoding and frames.prenet_dropout):
        return None
    return jax.vmap(lambda key: dropout_keep(key, (frames.bottleneck,), frames.prenet_dropout))(keys)


def _write_token(
    model: Spectron,
    weights: Params,
    state: DecodeState,
    hidden: Float[Array, "B D"],
    keys: Key[Array, " B"],
    active: Bool[Array, " B"],
    config: DecodeConfig,
) -> tuple[DecodeState, Bool[Array, " B"], Bool[Array, " B"]]:
    """The next token of the active slots; where the text ends, and where it ends by a stop id."""

    def choose(hidden: Float[Array, "B D"]) -> Int[Array, " B"]:
        logits = model.apply({"params": weights}, hidden[:, None], method="logits")[:, 0]
        return jax.vmap(config.sampler.sample)(logits, keys).astype(jnp.int32)

    # Skip the vocabulary projection when no slot writes text.
    token = jax.lax.cond(active.any(), choose, lambda hidden: jnp.zeros(hidden.shape[0], jnp.int32), hidden)
    slots, written = jnp.arange(token.shape[0]), state.num_generated - state.num_steps
    place = jnp.minimum(written, config.text_tokens - 1)
    forced = state.forced_tokens[slots, place]
    token = jnp.where(forced == FREE, token, forced)
    by_itself = active & functools.reduce(jnp.logical_or, [token == i for i in config.stop_ids], jnp.zeros_like(active))
    new = state._replace(
        token=jnp.where(active, token, state.token),
        text=state.text.at[slots, place].set(jnp.where(active, token, state.text[slots, place])),
    )
    return new, by_itself | (active & (written + 1 >= config.text_tokens)), by_itself


def _write_frames(
    model: Spectron,
    weights: Params,
    state: DecodeState,
    hidden: Float[Array, "B D"],
    keys: Key[Array, " B"],
    active: Bool[Array, " B"],
    config: DecodeConfig,
) -> tuple[DecodeState, Bool[Array, " B"], Bool[Array, " B"]]:
    """The next frame step of the active slots; where the frames end, and where they end by the stop head."""
    del keys
    frames, stop = model.apply({"params": weights}, hidden[:, None], method="predict_frames")
    frames = frames.reshape(frames.shape[0], config.step_width)
    slots = jnp.arange(frames.shape[0])
    place = jnp.minimum(state.num_steps, config.frame_steps - 1)
    fires = jax.nn.sigmoid(stop) > config.model.frames.stop_threshold
    by_itself = active & fires.any(axis=1)
    real = jnp.where(by_itself, fires.argmax(axis=1) + 1, config.model.frames.frames_per_step)
    num_steps = state.num_steps + active
    new = state._replace(
        num_steps=num_steps,
        num_frames=state.num_frames + jnp.where(active, real, 0),
        previous_frames=jnp.where(active[:, None], frames, state.previous_frames),
        frames=state.frames.at[slots, place].set(jnp.where(active[:, None], frames, state.frames[slots, place])),
    )
    return new, by_itself | (active & (num_steps >= config.frame_steps)), by_itself


def finish(state: DecodeState, statistics: Statistics) -> Decoded:
    """What the slots have written and spoken so far."""
    batch, steps, width = state.frames.shape
    bands = statistics.mean.shape[0]
    frames = state.frames.reshape(batch, steps * (width // bands), bands)
    return Decoded(
        text=state.text,
        frames=denormalise(frames, statistics),
        num_tokens=state.num_generated - state.num_steps,
        num_frames=state.num_frames,
        stopped=state.stopped,
    )


@functools.partial(jax.jit, donate_argnames="state")
def insert(state: DecodeState, prefilled: DecodeState, slot: Int[Array, ""]) -> DecodeState:
    """Put a prefilled slot in place of slot number `slot`."""

    # Overwrite the whole slot: NaNs left in masked entries would leak.
    def put(old: Array, new: Array) -> Array:
        padding = [(0, a - b) for a, b in zip(old.shape[1:], new.shape[1:], strict=True)]  # the cache is longer
        new = jnp.pad(new, [(0, 0), *padding])
        start = slot * new.shape[0]  # more than one in the cache, whose first axis is slots times heads
        return jax.lax.dynamic_update_slice(old, new, (start, *(0,) * (old.ndim - 1)))

    return jax.tree.map(put, state, prefilled)


@functools.partial(jax.jit, static_argnames="config", donate_argnames="state")
def decode_until_done(
    weights: Params, state: DecodeState, max_steps: Int[Array, ""], *, config: DecodeConfig
) -> DecodeState:
    """Decode until at least one more slot is done, at most `max_steps` steps."""
    done = state.done.sum()

    def more(carry: tuple[Array, DecodeState]) -> Array:
        steps, state = carry
        return (steps < max_steps) & (state.done.sum() == done) & ~state.done.all()

    def step(carry: tuple[Array, DecodeState]) -> tuple[Array, DecodeState]:
        return carry[0] + 1, decode_step(weights, carry[1], config=config)

    return jax.lax.while_loop(more, step, (jnp.int32(0), state))[1]


@jax.jit
def read_slot(state: DecodeState, slot: Int[Array, ""], statistics: Statistics) -> Decoded:
    """What one slot has written and spoken so far, without the axis B."""
    one = jax.tree.map(lambda x: x[slot][None], state._replace(cache=()))
    return jax.tree.map(lambda x: x[0], finish(one, statistics))
