"""Every seam, used from outside: nothing here is known to spectron/, and all of it trains, is saved, and speaks."""

import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from spectron import Spectron
from spectron.checkpoints.checkpoint import Checkpoint
from spectron.config import (
    AdamConfig,
    ConnectorConfig,
    DataConfig,
    EncoderConfig,
    Experiment,
    FeatureConfig,
    FramesConfig,
    JointConfig,
    LMConfig,
    ModelConfig,
    ObjectiveConfig,
    StageConfig,
    StreamConfig,
    TaskConfig,
    WordsConfig,
    from_json,
    override,
    to_json,
)
from spectron.cost.flops import Flops, Product
from spectron.data.example import Source
from spectron.data.fields import FIELDS, ROW, Field, register_field
from spectron.data.sources import SOURCES
from spectron.inference.sampling import Sampler
from spectron.models.connectors import Connector, connectors
from spectron.models.encoder import SpeechEncoder, encoders, make_encoder
from spectron.models.layers import Dense
from spectron.objectives.base import OBJECTIVES, Objective
from spectron.training.loop import train
from spectron.types import Example, Losses, Sequence, Term, length_mask
from spectron.vocoders.base import Vocoder

RATE, FRAME = 16_000, 400


# An encoder on the raw waveform: 25 ms of samples a vector, one layer, no statistics.


@dataclasses.dataclass(frozen=True)
class WaveformConfig(EncoderConfig, kind="waveform"):
    dim: int = 16


@encoders.register(WaveformConfig)
class WaveformEncoder(SpeechEncoder):
    config: WaveformConfig

    def frontend(self, samples, num_samples, statistics):
        frames = samples.shape[1] // FRAME
        values = samples[:, : frames * FRAME].reshape(-1, frames, FRAME).astype(jnp.float32) / 32768
        return Sequence(values, length_mask(num_samples // FRAME, frames)).masked()

    @nn.compact
    def encode(self, inputs, deterministic=True):
        x = Dense(self.config.dim, (None, "embed"), use_bias=True, dtype=self.dtype, name="frames")(inputs.values)
        return Sequence(nn.relu(x), inputs.mask).masked()

    def output_length(self, num_samples):
        return num_samples // FRAME

    @property
    def width(self):
        return self.config.dim

    def flops(self, num_samples):
        return 2.0 * self.output_length(num_samples) * FRAME * self.config.dim


# A connector that keeps every second vector.


@dataclasses.dataclass(frozen=True)
class SecondConfig(ConnectorConfig, kind="every_second"):
    pass


@connectors.register(SecondConfig)
class EverySecond(Connector):
    config: SecondConfig

    @nn.compact
    def __call__(self, encoded):
        kept = Sequence(encoded.values[:, ::2], encoded.mask[:, ::2])
        values = Dense(self.dim, (None, "embed"), dtype=self.dtype, name="dense")(kept.values)
        return Sequence(values, kept.mask).masked()

    def output_length(self, length):
        return (length + 1) // 2

    def flops(self, width, length):
        return 2.0 * self.output_length(length) * width * self.dim


# A field of the batch, and an objective that predicts it from the encoder's vectors.


def loudness(example, text):
    return np.sqrt(np.mean(np.square(example.samples / 32768)))


@dataclasses.dataclass(frozen=True)
class LoudnessConfig(ObjectiveConfig, kind="loudness"):
    scale: float = 2.0


@OBJECTIVES.register(LoudnessConfig)
class Loudness(Objective):
    config: LoudnessConfig
    parts = ("encoder", "loudness_head")

    def __init__(self, config, experiment, statistics):
        super().__init__(config, experiment, statistics)
        self.encoder, self.head = make_encoder(experiment.model), Dense(1, ("embed", None), use_bias=True)

    def init(self, key, batch):
        encoder = self.encoder.init(key, batch.samples, batch.num_samples, self.statistics)["params"]
        head = self.head.init(key, jnp.zeros((1, self.encoder.width)))["params"]
        return {"encoder": encoder, "loudness_head": head}

    def loss(self, params, batch, key, train=True):
        vectors = self.encoder.apply(
            {"params": params["encoder"]}, batch.samples, batch.num_samples, self.statistics, not train
        )
        mean = vectors.values.sum(axis=1) / jnp.maximum(vectors.lengths, 1)[:, None]
        predicted = self.head.apply({"params": params["loudness_head"]}, mean)[:, 0]
        error = self.config.scale * jnp.square(predicted - batch.loudness)
        return Losses({"loudness": Term(error.sum(), jnp.float32(error.shape[0]))}, {"loudness": jnp.float32(1.0)})

    def flops(self, shape):
        encoder = Product("encoder", self.encoder.flops(shape.samples), "encoder", ("encoder",))
        return Flops((encoder,)).scaled(shape.rows)

    def positions(self, shape, num_samples, prompt_samples, num_tokens):
        return self.encoder.output_length(num_samples), self.encoder.output_length(shape.samples)


# A source of tones, a vocoder of clicks, and a sampler that takes the second best token.


class Tones(Source):
    def __init__(self):
        self.rejected = {}

    def __len__(self):
        return 20

    def __getitem__(self, i):
        time = np.arange(RATE) / RATE
        samples = (3000 * (1 + i % 5) * np.sin(2 * np.pi * (200 + 40 * i) * time)).astype(np.int16)
        return Example(samples, RATE // 2, "low high" if i % 2 else "high low", f"tone {i}")


class Clicks(Vocoder):
    def __init__(self, features):
        self.features = features

    def synthesise(self, log_mel):
        samples = np.zeros(len(log_mel) * self.features.hop, np.float32)
        samples[:: self.features.hop] = 0.5
        return samples


@dataclasses.dataclass(frozen=True)
class SecondBest(Sampler):
    def sample(self, logits, key):
        return jax.lax.top_k(logits, 2)[1][1]


@pytest.fixture
def seams():
    """The source and the field; configs and their classes need no undoing."""
    register_field(Field("loudness", np.float32, ROW, loudness))
    SOURCES["tones"] = lambda task, data, features, seed: Tones()
    yield
    del FIELDS["loudness"], SOURCES["tones"]


def experiment() -> Experiment:
    data = DataConfig(
        reader="direct", tasks=(TaskConfig("tones", "tones"),), vocabulary=WordsConfig(("low", "high")),
        max_seconds=1.0, max_prompt_seconds=0.5, max_continuation_seconds=0.5, max_tokens=4,
    )  # fmt: skip
    model = ModelConfig(
        encoder=WaveformConfig(),
        connector=SecondConfig(),
        lm=LMConfig(dim=16, num_layers=1, num_heads=2, num_kv_heads=1, ff_dim=32),
        frames=FramesConfig(frames_per_step=4, bottleneck=8),
    )
    streams = (StreamConfig(JointConfig(), "tones", 4), StreamConfig(LoudnessConfig(), "tones", 4))
    stage = StageConfig("joint", streams, steps=3, optimizer=AdamConfig(1e-3), save_every=2, log_every=1)
    return Experiment("extended", data, (stage,), FeatureConfig(num_mels=16, low_hz=100.0), model)


def test_everything_plugs_in_from_outside(seams, tmp_path):
    config = experiment()
    assert from_json(to_json(config)) == config
    changed = override(config, ["stages.joint.streams.loudness.objective.scale=3", "model.encoder.dim=8"])
    assert changed.stages[0].streams[1].objective == LoudnessConfig(3.0)
    assert changed.model.encoder == WaveformConfig(8)

    assert not train(config, tmp_path, stop_after=2)  # two steps, saved
    two = Checkpoint.open(tmp_path)
    assert two.step == 2
    assert {"encoder", "connector", "loudness_head", "lm"} <= set(two.parts)
    assert train(config, tmp_path)  # restored, and a step more
    assert Checkpoint.open(tmp_path).step == 3
    lines = (tmp_path / "joint" / "metrics.jsonl").read_text().splitlines()
    assert len(lines) == 3
    assert all('"loudness"' in line and '"frames"' in line for line in lines)

    prompt = Tones()[3].samples[: RATE // 2]
    model = Spectron.from_checkpoint(tmp_path, vocoder=Clicks(config.features))
    answer = model.generate(prompt)
    assert len(answer.samples) == len(answer.frames) * config.features.hop
    assert set(np.flatnonzero(answer.samples) % config.features.hop) <= {0}
    assert len(answer.frames) > 0
    second = model.generate(prompt, sampler=SecondBest())
    assert second.ids != answer.ids
