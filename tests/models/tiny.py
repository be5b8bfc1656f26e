"""Small models and sequences that the tests of models, objectives and decoding share."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
from flax.core import meta

from spectron.config import (
    ConformerConfig,
    DataConfig,
    Experiment,
    FeatureConfig,
    FramesConfig,
    LMConfig,
    ModelConfig,
    SpecAugmentConfig,
    WordsConfig,
)
from spectron.types import Batch, Sequence, Statistics, length_mask

WORDS = ("zero", "one", "two", "three")
FEATURES = FeatureConfig(num_mels=8, low_hz=100.0)
ENCODER = ConformerConfig(
    features=FEATURES,
    dim=16,
    num_layers=2,
    num_heads=2,
    kernel_size=3,
    ff_multiple=2,
    conv_channels=8,
    dropout=0.0,
)
LM = LMConfig(dim=16, num_layers=2, num_heads=4, num_kv_heads=2, ff_dim=24)
# Between them they use every option of LMConfig.
GPT2_LIKE = dataclasses.replace(
    LM,
    num_kv_heads=4,
    gated=False,
    qkv_bias=True,
    out_bias=True,
    ff_bias=True,
    norm="layer",
    norm_epsilon=1e-5,
    positions="learned",
    max_positions=40,
    tie_embeddings=True,
    tied_logit_scale=1.0,
)
GEMMA_LIKE = dataclasses.replace(
    LM, head_dim=6, num_kv_heads=1, norm_offset=1.0, embedding_scale=4.0, attention_scale=0.3
)
QWEN_LIKE = dataclasses.replace(LM, qkv_bias=True, activation="silu", rope_base=1e6)
FAMILIES = {"gpt2": GPT2_LIKE, "gemma": GEMMA_LIKE, "qwen": QWEN_LIKE}


def experiment(frames_per_step: int = 2, prenet_dropout: float = 0.5) -> Experiment:
    """A Spectron of some thousand parameters that reads a quarter of a second."""
    return Experiment(
        "tiny",
        DataConfig(
            vocabulary=WordsConfig(WORDS),
            max_seconds=0.5,
            max_prompt_seconds=0.25,
            max_continuation_seconds=0.25,
            max_tokens=5,
        ),
        (),
        features=FEATURES,
        model=ModelConfig(
            encoder=ConformerConfig(
                features=FEATURES,
                dim=16,
                num_layers=1,
                num_heads=2,
                kernel_size=3,
                ff_multiple=2,
                conv_channels=8,
                specaugment=SpecAugmentConfig(1, 2, 0.3, 0.1),
            ),
            lm=LM,
            frames=FramesConfig(frames_per_step=frames_per_step, bottleneck=8, prenet_dropout=prenet_dropout),
        ),
    )


def with_data(experiment: Experiment, **data: float) -> Experiment:
    """The experiment with other sizes."""
    return dataclasses.replace(experiment, data=dataclasses.replace(experiment.data, **data))


def statistics(bands: int = 8) -> Statistics:
    """Something like speech's."""
    return Statistics(np.full(bands, -6.0, np.float32), np.full(bands, 3.0, np.float32))


def batch(rows: int = 3, seed: int = 0) -> Batch:
    """Noise with lengths of its own in every row."""
    rng = np.random.default_rng(seed)
    size = 8000
    num_samples = rng.integers(6000, size + 1, rows).astype(np.int32)
    prompt = rng.integers(2000, 4001, rows).astype(np.int32)
    mask = np.arange(5)[None, :] < rng.integers(2, 6, rows)[:, None]
    text = np.where(mask, rng.integers(4, 8, (rows, 5)), 0).astype(np.int32)
    samples = rng.integers(-4000, 4000, (rows, size)).astype(np.int16)
    samples[np.arange(size)[None, :] >= num_samples[:, None]] = 0
    # Every other row knows when its tokens end, the last of which is eos.
    known = np.pad(mask[:, 1:], ((0, 0), (0, 1))) & (np.arange(rows) % 2 == 0)[:, None]
    ends = np.where(known, np.linspace(prompt, num_samples, text.shape[1]).T, 0).astype(np.int32)
    return jax.tree.map(
        jnp.asarray,
        Batch(
            samples=samples,
            num_samples=num_samples,
            prompt_samples=prompt,
            text=text,
            text_mask=mask,
            text_loss_mask=mask,
            token_ends=ends,
        ),
    )


def sequence(lengths: list[int], width: int, seed: int = 0) -> Sequence:
    """Noise [B, max length + 3, width] with zero padding."""
    rng = np.random.default_rng(seed)
    size = max(lengths) + 3
    values = rng.normal(size=(len(lengths), size, width)).astype(np.float32)
    return Sequence(jnp.asarray(values), length_mask(jnp.asarray(lengths), size)).masked()


def speech(lengths: list[int], seed: int = 0) -> tuple[jax.Array, jax.Array]:
    """Noise as float samples [B, longest + 450], which gradients can reach, and the lengths int32 [B]."""
    rng = np.random.default_rng(seed)
    samples = rng.normal(size=(len(lengths), max(lengths) + 450)).astype(np.float32) / 10
    real = np.arange(samples.shape[1])[None, :] < np.asarray(lengths)[:, None]
    return jnp.asarray(np.where(real, samples, 0)), jnp.asarray(lengths, jnp.int32)


def poisoned(sequence: Sequence) -> Sequence:
    """The same with NaN in the padding."""
    return Sequence(jnp.where(sequence.mask[..., None], sequence.values, jnp.nan), sequence.mask)


def row(sequence: Sequence, i: int) -> Sequence:
    """Row i alone."""
    return jax.tree.map(lambda x: x[i : i + 1], sequence)


def unbox(tree):
    """Parameters without their axis names, moved off their initial values so that no bias or scale is trivial."""
    leaves, treedef = jax.tree.flatten(meta.unbox(tree))
    keys = jax.random.split(jax.random.key(7), len(leaves))
    moved = [x + 0.1 * jax.random.normal(k, x.shape, x.dtype) for x, k in zip(leaves, keys, strict=True)]
    return jax.tree.unflatten(treedef, moved)
