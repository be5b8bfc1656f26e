"""What a training step costs, by formula: model FLOPs per part, and what the chips could do.

Model FLOPs (Chowdhery et al. 2022, arXiv 2204.02311, appendix B): two per multiply-add of every matrix product that the
model's definition asks for, on the padded shapes of the batch; the backward pass costs twice the forward. Attention
counts the pairs that may see each other once: a prefix all of its pairs, what follows the causal half. Left out:
rematerialisation (it is no progress), norms, softmax, activations, log-mel, the optimizer.

    MFU = model FLOPs per step / (step time x chips x peak FLOP/s of a chip)
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np

from spectron.config import EncoderConfig, Experiment, LMConfig, StageConfig, StreamConfig
from spectron.data.batches import samples_per_row
from spectron.data.buckets import continuation_room
from spectron.data.order import Room
from spectron.data.vocabulary import make_vocabulary
from spectron.models.conformer import Conformer
from spectron.types import Batch


@dataclasses.dataclass(frozen=True)
class Chip:
    """One accelerator: dense bfloat16 FLOP/s, bytes of memory and per second to and from it, bytes per second that it
    can send to its neighbours over all links together (ici), and over the data-centre network (dcn)."""

    name: str
    flops: float
    memory: float
    bandwidth: float
    ici: float = 0.0
    dcn: float = 0.0


# Cloud TPU's system architecture pages (docs.cloud.google.com/tpu/docs/v4, /v5e, /v5p, /v6e); links are given there in
# both directions together, here one way. NVIDIA: the data sheets, dense figures. Keys: what JAX calls the device.
CHIPS = {
    "TPU v4": Chip("v4", 275e12, 32 * 2**30, 1228e9, ici=300e9, dcn=6.25e9),
    "TPU v5 lite": Chip("v5e", 197e12, 16e9, 819e9, ici=200e9, dcn=3.125e9),
    "TPU v5": Chip("v5p", 459e12, 95 * 2**30, 2765e9, ici=600e9, dcn=6.25e9),
    "TPU v6 lite": Chip("v6e", 918e12, 32e9, 1640e9, ici=400e9, dcn=12.5e9),
    "NVIDIA A100-SXM4-80GB": Chip("A100", 312e12, 80e9, 2039e9),
    "NVIDIA H100 80GB HBM3": Chip("H100", 989e12, 80e9, 3350e9),
    "NVIDIA H200": Chip("H200", 989e12, 141e9, 4800e9),
}


def chip_of(kind: str) -> Chip | None:
    """The chip that JAX calls `kind`; None for a CPU or one that the table lacks."""
    return CHIPS.get({"TPU v5e": "TPU v5 lite", "TPU v5p": "TPU v5", "TPU v6e": "TPU v6 lite"}.get(kind, kind))


@dataclasses.dataclass(frozen=True)
class Flops:
    """Forward FLOPs by part: encoder (with the connector), LM, vocabulary (the text head), frames (pre-net, post-net,
    stop); `detached` is the share of them all whose backward pass is not computed."""

    encoder: float = 0.0
    lm: float = 0.0
    vocabulary: float = 0.0
    frames: float = 0.0
    detached: float = 0.0

    def __add__(self, other: Flops) -> Flops:
        return Flops(*(a + b for a, b in zip(dataclasses.astuple(self), dataclasses.astuple(other), strict=True)))

    @property
    def forward(self) -> float:
        """All parts, forward."""
        return self.encoder + self.lm + self.vocabulary + self.frames

    @property
    def step(self) -> float:
        """Forward and backward."""
        return 3 * self.forward - 2 * self.detached


def encoder_flops(config: EncoderConfig, mels: int, frames: int) -> float:
    """The Conformer's forward pass over one row of `frames` log-mel frames."""
    half, dim = (frames + 1) // 2, config.dim
    out = Conformer.output_length(frames)
    subsampling = half * 3 * mels * config.conv_channels + out * (3 * config.conv_channels * dim + dim * dim)
    feed_forwards = 2 * 2 * dim * dim * config.ff_multiple
    attention, convolution = 4 * dim * dim, 3 * dim * dim + config.kernel_size * dim
    pairs = 2 * out * out * dim  # scores and the mix of values
    return 2.0 * (subsampling + config.num_layers * (out * (feed_forwards + attention + convolution) + pairs))


def lm_flops(config: LMConfig, prefix: int, length: int) -> float:
    """The decoder's forward pass over one row of `length` positions, the first `prefix` of them seen both ways."""
    dim = config.dim
    width = dim // config.num_heads
    weights = 2 * dim * dim + 2 * dim * width * config.num_kv_heads + 3 * dim * config.ff_dim
    seen = prefix * prefix + (length * (length + 1) - prefix * (prefix + 1)) / 2
    return 2.0 * config.num_layers * (length * weights + 2 * seen * dim)


def longest(experiment: Experiment, stream: StreamConfig) -> Room:
    """The shape of a stream's batches without buckets, which is that of the longest bucket."""
    data = experiment.data
    return Room(stream.batch_size, samples_per_row(data, experiment.features), data.max_tokens)


def stream_flops(experiment: Experiment, stream: StreamConfig, room: Room | None = None) -> Flops:
    """Of one batch of a stream, of the shape `room`. An objective that this formula does not know counts nothing."""
    model, data, features = experiment.model, experiment.data, experiment.features
    room = room or longest(experiment, stream)
    vocabulary, text = make_vocabulary(data.vocabulary).size, room.tokens
    head = 2.0 * model.lm.dim * vocabulary
    if stream.objective == "text_lm":
        found = Flops(lm=lm_flops(model.lm, 0, text), vocabulary=text * head)
    elif stream.objective == "ctc":
        frames = features.num_frames(room.samples)
        labels = 2.0 * model.encoder.dim * vocabulary * Conformer.output_length(frames)
        found = Flops(encoder=encoder_flops(model.encoder, features.num_mels, frames), vocabulary=labels)
    elif stream.objective == "spectron":
        found = _joint_flops(experiment, head, room)
    else:
        return Flops()
    return Flops(*(room.rows * part for part in dataclasses.astuple(found)))


def _joint_flops(experiment: Experiment, head: float, room: Room) -> Flops:
    model, features, data = experiment.model, experiment.features, experiment.data
    dim, text, per_step = model.lm.dim, room.tokens, model.frames.frames_per_step
    heard = features.num_frames(min(room.samples, round(data.max_prompt_seconds * features.sample_rate)))
    steps = -(-continuation_room(room.samples, data, features) // per_step)
    prefix, step = Conformer.output_length(heard), per_step * features.num_mels
    found = Flops(
        encoder=encoder_flops(model.encoder, features.num_mels, heard) + 2.0 * prefix * model.encoder.dim * dim,
        lm=lm_flops(model.lm, prefix, prefix + text + steps),
        vocabulary=(text + (steps if experiment.loss.alignment_weight else 0)) * head,
        frames=2.0 * steps * (model.frames.bottleneck * (step + dim) + dim * (dim + step + per_step)),
    )
    if not experiment.loss.agreement_weight:
        return found
    teacher = lm_flops(model.lm, 0, text) + text * head
    return found + Flops(lm=lm_flops(model.lm, 0, text), vocabulary=2 * text * head, detached=teacher)


def step_flops(experiment: Experiment, stage: StageConfig, rooms: Sequence[Room] | None = None) -> Flops:
    """Of one training step of a stage, all streams together; `rooms`: the shapes of its batches."""
    rooms = rooms or [longest(experiment, stream) for stream in stage.streams]
    pairs = zip(stage.streams, rooms, strict=True)
    return sum((stream_flops(experiment, stream, room) for stream, room in pairs), Flops())


def position_bytes(experiment: Experiment, seen: int, rows: int = 1) -> dict[str, float]:
    """Bytes that a step of decoding must move in each phase, "text" and "frames": every weight that it multiplies by,
    once, and of each row the keys and values of the `seen` positions before it and its own. In compute_dtype; norms,
    biases, activations and the embedding that is looked up are left out."""
    model, dim = experiment.model, experiment.model.lm.dim
    width = dim // model.lm.num_heads * model.lm.num_kv_heads
    layer = 2 * dim * dim + 2 * dim * width + 3 * dim * model.lm.ff_dim
    cache = rows * (seen + 1) * 2 * width
    step = model.frames.frames_per_step * experiment.features.num_mels
    heads = {
        "text": dim * make_vocabulary(experiment.data.vocabulary).size,
        "frames": model.frames.bottleneck * (step + dim) + dim * (dim + step + model.frames.frames_per_step),
    }
    layers = model.lm.num_layers * (layer + cache)
    return {phase: float(np.dtype(model.compute_dtype).itemsize * (layers + head)) for phase, head in heads.items()}


def positions(experiment: Experiment, stream: StreamConfig, batch: Batch) -> tuple[int, int]:
    """(real, computed) positions of a batch of numpy arrays: encoder frames, tokens and decoder steps of an objective.

    An objective that is not known counts encoder frames where there is speech, tokens where there is none.
    """
    rows, size = batch.samples.shape
    room = Room(rows, size, batch.text_mask.shape[1])
    real, computed = row_positions(
        experiment,
        stream,
        room,
        np.asarray(batch.num_samples),
        np.asarray(batch.prompt_samples),
        np.asarray(batch.text_mask).sum(axis=1),
    )
    return int(real.sum()), room.rows * computed


def row_positions(
    experiment: Experiment,
    stream: StreamConfig,
    room: Room,
    samples: np.ndarray,
    prompts: np.ndarray,
    tokens: np.ndarray,
) -> tuple[np.ndarray, int]:
    """Real positions of rows of so many samples, prompt samples and tokens (int [N] each), and those that are computed
    for each of them in a batch of the shape `room`."""
    data, features = experiment.data, experiment.features
    if not room.samples or stream.objective == "text_lm":
        return tokens, room.tokens
    frames = features.num_frames(samples)
    if stream.objective != "spectron":
        return Conformer.output_length(frames), Conformer.output_length(features.num_frames(room.samples))
    per_step = experiment.model.frames.frames_per_step
    heard = features.num_frames(prompts)
    prompt = features.num_frames(min(room.samples, round(data.max_prompt_seconds * features.sample_rate)))
    real = Conformer.output_length(heard) - (heard - frames) // per_step  # minus minus: rounded up
    steps = -(-continuation_room(room.samples, data, features) // per_step)
    return real + tokens, Conformer.output_length(prompt) + steps + room.tokens


def peak(devices: Sequence[Any]) -> float:
    """FLOP/s of all devices together; 0 where the table does not know them."""
    chips = [chip_of(device.device_kind) for device in devices]
    return sum(chip.flops for chip in chips if chip) if all(chips) else 0.0
