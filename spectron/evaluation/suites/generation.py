"""What a checkpoint generates for every item of a suite: decoded once, in batches that a cache keeps."""

from __future__ import annotations

import dataclasses
import io
import json
import logging
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jaxtyping import Float, Int

from spectron.checkpoints.checkpoint import Checkpoint
from spectron.config import override
from spectron.evaluation.judges.base import RATE
from spectron.inference.api import Spectron
from spectron.types import UserError
from spectron.utils.chunk_cache import ChunkCache, checksum

log = logging.getLogger(__name__)

NO_FRAMES = np.zeros((0, 0), np.float32)
STOPS = "The stop head ended the answer before the maximum length."


@dataclasses.dataclass(frozen=True)
class Generated:
    """One answer. samples: int16 [S], the spoken continuation; stopped: by the stop head; ids: of the transcript.

    frames: log-mel float32 [T, F]; [0, 0] if they are not kept.
    """

    transcript: str
    samples: Int[np.ndarray, " S"]
    stopped: bool
    ids: tuple[int, ...] = ()
    frames: Float[np.ndarray, "T F"] = dataclasses.field(default_factory=lambda: NO_FRAMES)


def load_generator(
    checkpoint: str | Path, overrides: Sequence[str], seeds: int = 1, batch_size: int = 1, limit: int = 0
) -> tuple[Spectron, dict[str, Any]]:
    """A checkpoint that speaks at the judges' sample rate, and the facts that identify a run of it. Raises UserError.

    overrides: "key=value" for the checkpoint's experiment, such as data.root.
    """
    if seeds < 1 or batch_size < 1 or limit < 0:
        raise UserError("--seeds and --batch-size must be at least 1, and --limit at least 0.")
    facts: dict[str, Any] = {**Checkpoint.open(checkpoint).facts}
    generator = configured(Spectron.from_checkpoint(facts["checkpoint"]), overrides)
    rate = generator.experiment.features.sample_rate
    if rate != RATE:
        raise UserError(f"features.sample_rate={rate}: the judges hear {RATE} Hz only; evaluate a model of that rate.")
    facts |= {"experiment": generator.experiment.name, "set": list(overrides)}
    return generator, facts | {"decoding_seeds": seeds, "batch_size": batch_size, "limit": limit}


def configured(generator: Spectron, overrides: Sequence[str]) -> Spectron:
    """The generator with other settings, "key=value" each: built anew, since it derives its sizes from them."""
    if not overrides:
        return generator
    return Spectron(generator.params, override(generator.experiment, overrides), generator.statistics)


def with_room(generator: Spectron, prompts: Sequence[Int[np.ndarray, " S"]], seconds: float = 0.0) -> Spectron:
    """The generator, or one with a larger capacity, where prompts or `seconds` of speech exceed what it trained on."""
    rate, data = generator.features.sample_rate, generator.experiment.data
    longest = math.ceil(100 * max(map(len, prompts), default=0) / rate) / 100
    room = max(longest, data.max_prompt_seconds), max(seconds, data.max_continuation_seconds)
    if room == (data.max_prompt_seconds, data.max_continuation_seconds):
        return generator
    if longest > data.max_prompt_seconds:
        trained = f"{data.max_prompt_seconds:g} s"
        log.warning("Prompts of up to %.2f s: longer than the %s this model was trained for.", longest, trained)
    data = dataclasses.replace(data, max_prompt_seconds=room[0], max_continuation_seconds=room[1])
    wider = dataclasses.replace(generator.experiment, data=data)
    return Spectron(generator.params, wider, generator.statistics)


def plan_of(generator: Spectron, facts: Mapping[str, Any]) -> dict[str, Any]:
    """What decides a generator's answers, besides prompts and seed: the plan of their cache."""
    data = generator.experiment.data
    room = [data.max_prompt_seconds, data.max_continuation_seconds, data.max_tokens]
    return {**{key: facts.get(key) for key in ("checkpoint", "weights", "set")}, "room": room}


def generate_all(
    generator: Spectron,
    prompts: Sequence[Int[np.ndarray, " S"]],
    folder: str | Path,
    plan: Mapping[str, Any],
    seed: int = 0,
    batch_size: int = 8,
    forced: Sequence[Sequence[int]] | None = None,
    label: str = "decoding",
    frames: bool = False,
) -> list[Generated]:
    """The answers to int16 prompts, in order, each batch kept in `folder` as soon as it is decoded.

    Item i always draws from fold_in(seed, i) and is always in the same batch, so a run that was killed and started
    again gives the same bits. plan: what else decides the answers (checkpoint, settings). forced: as in
    Spectron.generate. frames: keep the log-mel too. Raises UserError if `folder` holds answers to another plan, or a
    prompt does not fit.
    """
    forced = forced or [()] * len(prompts)
    given = checksum(repr(tuple(map(int, ids))).encode() for ids in forced) if any(map(len, forced)) else ""
    cache = ChunkCache(
        folder,
        {
            **plan,
            "seed": seed,
            "batch_size": batch_size,
            "set of prompts": checksum(p.tobytes() for p in prompts),
            "forced text": given,
            "jax": f"{jax.__version__} {jax.default_backend()}",
        },
    )

    def work(indices: range) -> bytes:
        chosen = [prompts[i] for i in indices]
        answers = generator.generate(chosen, seed, batch_size, numbers=indices, forced=[forced[i] for i in indices])
        return pack(
            [
                Generated(
                    a.transcript, a.samples, a.stopped_by == "stop head", a.ids, a.frames if frames else NO_FRAMES
                )
                for a in answers
            ]
        )

    return [each for chunk in cache.chunks(len(prompts), batch_size, work, label) for each in unpack(chunk)]


def pack(answers: Sequence[Generated]) -> bytes:
    """Answers as one .npz."""
    arrays: dict[str, Any] = {
        "head": json.dumps([[a.transcript, bool(a.stopped), list(map(int, a.ids))] for a in answers])
    }
    for i, answer in enumerate(answers):
        arrays |= {f"samples{i}": np.asarray(answer.samples, np.int16), f"frames{i}": np.float32(answer.frames)}
    content = io.BytesIO()
    np.savez(content, **arrays)
    return content.getvalue()


def unpack(content: bytes) -> list[Generated]:
    """The inverse of pack."""
    with np.load(io.BytesIO(content)) as stored:
        return [
            Generated(transcript, stored[f"samples{i}"], stopped, tuple(ids), stored[f"frames{i}"])
            for i, (transcript, stopped, ids) in enumerate(json.loads(str(stored["head"])))
        ]
