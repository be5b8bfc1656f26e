"""The Spectron objective: transcript, continued text and spectrogram in one sequence."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from spectron.audio.features import log_mel, normalise
from spectron.config import Experiment, FramesConfig, StreamConfig
from spectron.data.batches import samples_per_row
from spectron.data.buckets import continuation_room
from spectron.data.vocabulary import make_vocabulary
from spectron.models.spectron import Output, Spectron
from spectron.objectives import losses
from spectron.objectives.text_lm import shift_right
from spectron.types import Batch, Losses, Params, Sequence, Statistics, Term, length_mask


class Joint:
    """L = L_CE + λ (L_s + L_f + L_t) + stop, every term named."""

    name = "spectron"
    parts = ("encoder", "connector", "lm", "prenet", "postnet", "stop")

    def __init__(self, experiment: Experiment, statistics: Statistics, stream: StreamConfig) -> None:
        self.experiment, self.statistics = experiment, statistics
        self.vocabulary = make_vocabulary(experiment.data.vocabulary)
        self.model = make_model(experiment)
        self.chunk = experiment.model.logits_chunk
        self.prompt_size = round(experiment.data.max_prompt_seconds * experiment.features.sample_rate)
        self.num_frames = self.frames_in(samples_per_row(experiment.data, experiment.features))

    def init(self, key: Array, batch: Batch) -> Params:
        """Fresh parameters of every part."""
        return self.model.init(key, *self.inputs(batch))["params"]

    def frames_in(self, samples: int) -> int:
        """Frames of continuation, in whole steps, of a batch whose rows have so many samples (at most `num_frames`)."""
        step = self.experiment.model.frames.frames_per_step
        return -(-continuation_room(samples, self.experiment.data, self.experiment.features) // step) * step

    def features(self, batch: Batch) -> tuple[Sequence, Sequence]:
        """Normalised log-mel of prompt [B, P, F] and continuation [B, T, F]; a prompt hears nothing behind its end."""
        config = self.experiment.features
        samples = jnp.asarray(batch.samples)
        prompt = log_mel(samples[:, : self.prompt_size], batch.prompt_samples, config)
        whole = log_mel(samples, batch.num_samples, config)
        start = config.num_frames(batch.prompt_samples)
        continuation = window(whole, start, self.frames_in(samples.shape[1]))
        return normalise(prompt, self.statistics), normalise(continuation, self.statistics)

    def inputs(self, batch: Batch) -> tuple[Sequence, Sequence, Sequence]:
        """What the model reads under teacher forcing: prompt, tokens from sos on, frame steps from go on."""
        prompt, continuation = self.features(batch)
        tokens = Sequence(shift_right(batch.text, self.vocabulary.sos_id), batch.text_mask)
        frames = self.experiment.model.frames
        return prompt, tokens, feedback(continuation, go_frames(prompt, frames), frames.frames_per_step)

    def loss(self, params: Params, batch: Batch, key: Array, train: bool = True) -> Losses:
        """Terms "text", "frames", "delta_freq", "delta_time_k", "stop", the metric "text_accuracy"; if their
        weights ask for them "agreement", "alignment" and the metric "alignment_accuracy"."""
        prompt, continuation = self.features(batch)
        frames = self.experiment.model.frames
        tokens = Sequence(shift_right(batch.text, self.vocabulary.sos_id), batch.text_mask)
        steps = feedback(continuation, go_frames(prompt, frames), frames.frames_per_step)
        dropout_key, keep_key = jax.random.split(key)
        keep = None
        if train:
            keep = dropout_keep(keep_key, (*steps.mask.shape, frames.bottleneck), frames.prenet_dropout)
        out = self.model.apply(
            {"params": params}, prompt, tokens, steps, keep, not train, rngs={"dropout": dropout_key}
        )
        found = self.terms(params, out, batch, continuation, steps)
        return found + self.agreement(params, out, tokens, batch) if self.experiment.loss.agreement_weight else found

    def agreement(self, params: Params, out: Output, tokens: Sequence, batch: Batch) -> Losses:
        """How far the guesses at unscored tokens are from those of the LM that reads the text alone."""
        teacher = self.model.apply({"params": params}, tokens.values, tokens.mask, method="read")

        def compare(hidden: Array, teacher: Array, mask: Array) -> dict[str, Term]:
            return {"agreement": losses.agreement(self.logits(params, hidden), self.logits(params, teacher), mask)}

        unscored = batch.text_mask & ~batch.text_loss_mask
        terms = losses.by_chunks(compare, self.chunk, out.written, jax.lax.stop_gradient(teacher), unscored)
        return Losses(terms, {"agreement": jnp.float32(self.experiment.loss.agreement_weight)})

    def logits(self, params: Params, hidden: Array) -> Array:
        """Vocabulary logits of hidden states."""
        return self.model.apply({"params": params}, hidden, method="logits")

    def terms(self, params: Params, out: Output, batch: Batch, continuation: Sequence, steps: Sequence) -> Losses:
        """Compare what came out with what should have."""
        config = self.experiment.loss
        real = jnp.repeat(steps.mask, self.experiment.model.frames.frames_per_step, axis=1)
        logits = functools.partial(self.logits, params)
        spectral = losses.reconstruction(continuation, out.frames, config.time_deltas)
        terms = {
            **losses.classification("text", logits, self.chunk, out.written, batch.text, batch.text_loss_mask),
            **spectral,
            "stop": losses.stop(out.stop, continuation.lengths, real, config.stop_positive_weight),
        }
        coefficients = {"text": 1.0, "stop": config.stop_weight}
        coefficients |= dict.fromkeys(spectral, config.reconstruction_weight)
        if config.alignment_weight:
            middles = self.middles(batch, steps.mask.shape[1])
            said, known = losses.tokens_said(batch.text, batch.token_ends, middles)
            terms |= losses.classification("alignment", logits, self.chunk, out.spoken, said, steps.mask & known)
            coefficients["alignment"] = config.alignment_weight
        return Losses(terms, {name: jnp.float32(value) for name, value in coefficients.items()})

    def middles(self, batch: Batch, steps: int) -> Int[Array, "B N"]:
        """The sample in the middle of each frame step."""
        features, size = self.experiment.features, self.experiment.model.frames.frames_per_step
        start = features.num_frames(jnp.asarray(batch.prompt_samples)) * features.hop
        return start[:, None] + features.hop * (size * jnp.arange(steps)[None, :] + size // 2)


def make_model(experiment: Experiment, unrolled: bool = False) -> Spectron:
    """The joint model of an experiment; unrolled: the one that decodes with kernels.for_decoding's parameters."""
    vocabulary = make_vocabulary(experiment.data.vocabulary)
    return Spectron(experiment.model, vocabulary.size, experiment.features.num_mels, unrolled)


def window(sequence: Sequence, start: Array, size: int) -> Sequence:
    """`size` frames of each row from its own `start` on, padded at the end."""
    index = jnp.asarray(start)[:, None] + jnp.arange(size)[None, :]
    inside = jnp.minimum(index, sequence.values.shape[1] - 1)
    values = jnp.take_along_axis(sequence.values, inside[..., None], axis=1)
    return Sequence(values, index < sequence.lengths[:, None]).masked()


def go_frames(prompt: Sequence, config: FramesConfig) -> Float[Array, "B r F"]:
    """What starts the frame stream: the prompt's last r frames (zeros before a shorter prompt), or zeros."""
    step = config.frames_per_step
    if config.go == "zeros":
        return jnp.zeros((prompt.values.shape[0], step, prompt.values.shape[2]), prompt.values.dtype)
    padded = Sequence(
        jnp.pad(prompt.values, ((0, 0), (step, 0), (0, 0))),
        jnp.pad(prompt.mask, ((0, 0), (step, 0)), constant_values=True),
    )
    return window(padded, prompt.lengths, step).values


def feedback(continuation: Sequence, go: Float[Array, "B r F"], step: int) -> Sequence:
    """The frame stream the pre-net reads: go, then the continuation without its last step, r frames a step."""
    batch, length, bands = continuation.values.shape
    shifted = jnp.concatenate([go, continuation.values[:, :-step]], axis=1).reshape(batch, length // step, step * bands)
    steps = -(-continuation.lengths // step)
    return Sequence(shifted, length_mask(steps, length // step)).masked()


def dropout_keep(key: Array, shape: tuple[int, ...], rate: float) -> Float[Array, ...] | None:
    """Multipliers of inverted dropout: 0 or 1 / (1 − rate). None without dropout."""
    if rate == 0.0:
        return None
    return jax.random.bernoulli(key, 1.0 - rate, shape).astype(jnp.float32) / (1.0 - rate)
