"""The Spectron objective: transcript, continued text and spectrogram in one sequence."""

from __future__ import annotations

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from spectron.audio.features import log_mel, normalise
from spectron.config import Experiment, FramesConfig, JointConfig
from spectron.cost.flops import LM_BODY, Flops, Product, head_product, lm_products
from spectron.data.buckets import continuation_capacity, samples_per_row
from spectron.data.order import BatchShape
from spectron.data.vocabulary import make_vocabulary
from spectron.models.encoder import check_sample_rate, make_encoder
from spectron.models.spectron import Output, Spectron, connector_flops, prefix_length
from spectron.objectives import losses
from spectron.objectives.base import LOG_PROBABILITY, OBJECTIVES, Objective, shift_right
from spectron.types import Batch, Losses, Params, Sequence, Statistics, Term, length_mask

READ = ("encoder", "connector", "prenet")  # the parts whose output the LM reads


class ModelInput(NamedTuple):
    """The arguments of Spectron's call under teacher forcing."""

    prompt: Array  # int16 [B, S], samples
    prompt_samples: Array  # int32 [B]
    statistics: Statistics
    tokens: Sequence  # int [B, L], from sos on
    steps: Sequence  # [B, T / r, r · F], the frames fed back, from go on


@OBJECTIVES.register(JointConfig)
class Joint(Objective):
    """L = L_CE + λ (L_s + L_f + L_t) + stop, every term named."""

    config: JointConfig
    parts = ("encoder", "connector", "lm", "prenet", "postnet", "stop")
    validates = LOG_PROBABILITY
    main_metrics = ("text_accuracy", "frames", "stop")

    def __init__(self, config: JointConfig, experiment: Experiment, statistics: Statistics | None) -> None:
        super().__init__(config, experiment, statistics)
        self.model = make_model(experiment)
        self.chunk = experiment.model.logits_chunk
        self.prompt_size = round(experiment.data.max_prompt_seconds * experiment.features.sample_rate)
        self.num_frames = self.frames_in(samples_per_row(experiment.data, experiment.features))

    def init(self, key: Array, batch: Batch) -> Params:
        """Fresh parameters of every part."""
        return self.model.init(key, **self.inputs(batch)._asdict())["params"]

    def frames_in(self, samples: int) -> int:
        """Frames of continuation, in whole frame steps, of a batch with `samples` per row; at most `num_frames`."""
        step = self.experiment.model.frames.frames_per_step
        return -(-continuation_capacity(samples, self.experiment.data, self.experiment.features) // step) * step

    def spectrograms(self, batch: Batch) -> tuple[Sequence, Sequence]:
        """Normalised log-mel of prompt [B, P, F] and continuation [B, T, F]. The prompt's frames do not depend on later
        samples."""
        config = self.experiment.features
        samples = jnp.asarray(batch.samples)
        prompt = log_mel(samples[:, : self.prompt_size], batch.prompt_samples, config)
        whole = log_mel(samples, batch.num_samples, config)
        start = config.num_frames(batch.prompt_samples)
        continuation = window(whole, start, self.frames_in(samples.shape[1]))
        return normalise(prompt, self.measured), normalise(continuation, self.measured)

    def inputs_and_target(self, batch: Batch) -> tuple[ModelInput, Sequence]:
        """What the model reads under teacher forcing, and the continuation [B, T, F] that it predicts."""
        prompt, continuation = self.spectrograms(batch)
        frames = self.experiment.model.frames
        inputs = ModelInput(
            prompt=jnp.asarray(batch.samples)[:, : self.prompt_size],
            prompt_samples=jnp.asarray(batch.prompt_samples),
            statistics=self.measured,
            tokens=Sequence(shift_right(batch.text, self.vocabulary.sos_id), batch.text_mask),
            steps=feedback(continuation, go_frames(prompt, frames), frames.frames_per_step),
        )
        return inputs, continuation

    def inputs(self, batch: Batch) -> ModelInput:
        """What the model reads under teacher forcing."""
        return self.inputs_and_target(batch)[0]

    def loss(self, params: Params, batch: Batch, key: Array, train: bool = True) -> Losses:
        """Terms "text", "frames", "delta_freq", "delta_time_k", "stop", the metric "text_accuracy"; if their
        weights ask for them "agreement", "alignment" and the metric "alignment_accuracy"."""
        inputs, continuation = self.inputs_and_target(batch)
        tokens, steps = inputs.tokens, inputs.steps
        dropout_key, mask_key = jax.random.split(key)
        dropout_mask = None
        if train:
            frames = self.experiment.model.frames
            dropout_mask = dropout_keep(mask_key, (*steps.mask.shape, frames.bottleneck), frames.prenet_dropout)
        out = self.model.apply(
            {"params": params},
            **inputs._asdict(),
            dropout_mask=dropout_mask,
            deterministic=not train,
            rngs={"dropout": dropout_key},
        )
        total = self.terms(params, out, batch, continuation, steps)
        if self.config.agreement_weight:
            total += self.agreement(params, out, tokens, batch)
        return total

    def agreement(self, params: Params, out: Output, tokens: Sequence, batch: Batch) -> Losses:
        """How far the guesses at unscored tokens are from those of the LM that reads the text alone."""
        teacher = self.model.apply({"params": params}, tokens.values, tokens.mask, method="hidden_states")

        def compare(hidden: Array, teacher: Array, mask: Array) -> dict[str, Term]:
            return {"agreement": losses.agreement(self.logits(params, hidden), self.logits(params, teacher), mask)}

        unscored = batch.text_mask & ~batch.text_loss_mask
        terms = losses.by_chunks(compare, self.chunk, out.text_hidden, jax.lax.stop_gradient(teacher), unscored)
        return Losses(terms, {"agreement": jnp.float32(self.config.agreement_weight)})

    def logits(self, params: Params, hidden: Array) -> Array:
        """Vocabulary logits of hidden states."""
        return self.model.apply({"params": params}, hidden, method="logits")

    def terms(self, params: Params, out: Output, batch: Batch, continuation: Sequence, steps: Sequence) -> Losses:
        """The loss terms of the model's output against the batch."""
        config = self.config
        real = jnp.repeat(steps.mask, self.experiment.model.frames.frames_per_step, axis=1)
        logits = functools.partial(self.logits, params)
        spectral = losses.reconstruction(continuation, out.frames, config.time_deltas)
        terms = {
            **losses.classification("text", logits, self.chunk, out.text_hidden, batch.text, batch.text_loss_mask),
            **spectral,
            "stop": losses.stop(out.stop, continuation.lengths, real, config.stop_positive_weight),
        }
        coefficients = {"text": 1.0, "stop": config.stop_weight}
        coefficients |= dict.fromkeys(spectral, config.reconstruction_weight)
        if config.alignment_weight:
            middles = self.middles(batch, steps.mask.shape[1])
            spoken, known = losses.spoken_tokens(batch.text, batch.token_ends, middles)
            terms |= losses.classification(
                "alignment", logits, self.chunk, out.frame_hidden, spoken, steps.mask & known
            )
            coefficients["alignment"] = config.alignment_weight
        return Losses(terms, {name: jnp.float32(value) for name, value in coefficients.items()})

    def validation(self, params: Params, batch: Batch) -> Array:
        """ln p of each text, given the prompt. float32 [B]."""
        out = self.model.apply({"params": params}, **self.inputs(batch)._asdict())
        logits = functools.partial(self.logits, params)
        return losses.log_probability(logits, out.text_hidden, batch.text, batch.text_mask)

    def prompt_capacity(self, shape: BatchShape) -> int:
        """Samples that the encoder reads per row in a batch of this shape."""
        return min(shape.samples, self.prompt_size)

    def flops(self, shape: BatchShape) -> Flops:
        """Encoder on the prompt, LM on prefix, text and frame steps; the agreement term reads the text once more."""
        model, text, vocabulary = self.experiment.model, shape.tokens, self.vocabulary.size
        samples, steps = self.prompt_capacity(shape), self.frames_in(shape.samples) // model.frames.frames_per_step
        prefix = prefix_length(model, samples)
        bidirectional = prefix if model.bidirectional_prefix else 0
        total = lm_products(model.lm, bidirectional, prefix + text + steps, READ)
        scored = text + (steps if self.config.alignment_weight else 0)
        total += Flops(
            (
                Product("encoder", make_encoder(model).flops(samples), "encoder", ("encoder",)),
                Product("encoder", connector_flops(model, samples), "connector", ("encoder",)),
                head_product(model.lm, vocabulary, scored, READ),
                *self.frame_products(steps),
            )
        )
        if self.config.agreement_weight:  # the LM on text alone, without a gradient
            teacher = lm_products(model.lm, 0, text, ()) + Flops((head_product(model.lm, vocabulary, text, ()),))
            total += Flops(tuple(product._replace(weights="", inputs=()) for product in teacher.products))
        return total.scaled(shape.rows)

    def frame_products(self, steps: int) -> tuple[Product, ...]:
        """Pre-net, post-net and stop head on one row of that many frame steps."""
        frames, dim = self.experiment.model.frames, self.experiment.model.lm.dim
        width = frames.frames_per_step * self.features.num_mels
        hidden = LM_BODY + READ
        return (
            Product("frames", 2.0 * steps * width * frames.bottleneck, "prenet"),
            Product("frames", 2.0 * steps * frames.bottleneck * dim, "prenet", ("prenet",)),
            Product("frames", 2.0 * steps * dim * dim, "postnet", hidden),
            Product("frames", 2.0 * steps * dim * width, "postnet", ("postnet", *hidden)),
            Product("frames", 2.0 * steps * dim * frames.frames_per_step, "stop", hidden),
        )

    def positions(
        self, shape: BatchShape, num_samples: np.ndarray, prompt_samples: np.ndarray, num_tokens: np.ndarray
    ) -> tuple[np.ndarray, int]:
        """Prefix positions of the prompt, tokens and frame steps; tokens alone in batches without speech."""
        if not shape.samples:
            return num_tokens, shape.tokens
        per_step = self.experiment.model.frames.frames_per_step
        frames, heard = self.features.num_frames(num_samples), self.features.num_frames(prompt_samples)
        steps = -((heard - frames) // per_step)  # rounded up
        model = self.experiment.model
        computed = prefix_length(model, self.prompt_capacity(shape)) + self.frames_in(shape.samples) // per_step
        return prefix_length(model, prompt_samples) + steps + num_tokens, computed + shape.tokens

    def middles(self, batch: Batch, steps: int) -> Int[Array, "B N"]:
        """The middle of each frame step of the continuation: a sample's index from the utterance's start."""
        features, size = self.experiment.features, self.experiment.model.frames.frames_per_step
        start = features.num_frames(jnp.asarray(batch.prompt_samples)) * features.hop
        return start[:, None] + features.hop * (size * jnp.arange(steps)[None, :] + size // 2)


def make_model(experiment: Experiment, unrolled: bool = False) -> Spectron:
    """The joint model of an experiment. unrolled: for parameters in the layout of to_decode_layout.

    Raises UserError if the encoder and the spectrogram want different sample rates.
    """
    check_sample_rate(experiment)
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
    """The frame stream the pre-net reads: go, then the continuation without its last step, r frames per step."""
    batch, length, bands = continuation.values.shape
    shifted = jnp.concatenate([go, continuation.values[:, :-step]], axis=1).reshape(batch, length // step, step * bands)
    steps = -(-continuation.lengths // step)
    return Sequence(shifted, length_mask(steps, length // step)).masked()


def dropout_keep(key: Array, shape: tuple[int, ...], rate: float) -> Float[Array, ...] | None:
    """Multipliers of inverted dropout: 0 or 1 / (1 − rate). None without dropout."""
    if rate == 0.0:
        return None
    return jax.random.bernoulli(key, 1.0 - rate, shape).astype(jnp.float32) / (1.0 - rate)
