"""What a model says to every item of a suite: decoded once, in batches that survive a kill."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jaxtyping import Float, Int

from spectron.inference.api import Spectron
from spectron.utils.chunk_cache import Journal

NO_FRAMES = np.zeros((0, 0), np.float32)


@dataclasses.dataclass(frozen=True)
class Said:
    """One answer. samples: int16 [S], the spoken continuation; stopped: by the stop head; ids: of the transcript.

    frames: log-mel float32 [T, F]; [0, 0] where they are not kept.
    """

    transcript: str
    samples: Int[np.ndarray, " S"]
    stopped: bool
    ids: tuple[int, ...] = ()
    frames: Float[np.ndarray, "T F"] = dataclasses.field(default_factory=lambda: NO_FRAMES)


def answer_items(
    generator: Spectron,
    prompts: Sequence[Int[np.ndarray, " S"]],
    folder: str | Path,
    plan: Mapping[str, Any],
    seed: int = 0,
    batch_size: int = 8,
    forced: Sequence[Sequence[int]] | None = None,
    what: str = "decoding",
    frames: bool = False,
) -> list[Said]:
    """What the model says to int16 prompts, in order, each kept in `folder` as soon as its batch is through.

    Item i always draws from fold_in(seed, i) and is always in the same batch, so a run that was killed and started
    again says the same to the bit. plan: what else decides the answers (checkpoint, settings). forced: as in
    Spectron.generate. frames: keep them too. Raises UserError where `folder` holds answers to another plan, or a
    prompt does not fit.
    """
    forced = forced or [()] * len(prompts)
    journal = Journal(
        folder,
        {
            **plan,
            "seed": seed,
            "batch_size": batch_size,
            "set of prompts": checksum(p.tobytes() for p in prompts),
            "forced text": checksum(repr(tuple(map(int, ids))).encode() for ids in forced)
            if any(map(len, forced))
            else "",
            "jax": f"{jax.__version__} {jax.default_backend()}",
        },
    )

    def work(numbers: range) -> bytes:
        chosen = [prompts[i] for i in numbers]
        said = generator.generate(chosen, seed, batch_size, numbers=numbers, forced=[forced[i] for i in numbers])
        return pack(
            [
                Said(a.transcript, a.samples, a.stopped_by == "stop head", a.ids, a.frames if frames else NO_FRAMES)
                for a in said
            ]
        )

    return [said for chunk in journal(len(prompts), batch_size, work, what) for said in unpack(chunk)]


def judge_items(
    folder: str | Path,
    plan: Mapping[str, Any],
    items: int,
    size: int,
    work: Callable[[range], Sequence[Any]],
    what: str,
) -> list[Any]:
    """What a judge says of each of so many items, as JSON values, `size` at a time, kept like the answers."""

    def encoded(numbers: range) -> bytes:
        return json.dumps(list(work(numbers))).encode()

    return [said for chunk in Journal(folder, plan)(items, size, encoded, what) for said in json.loads(chunk)]


def checksum(parts: Iterable[bytes]) -> str:
    """Sixteen hexadecimal digits that change with any part, its length or its place."""
    digest = hashlib.sha256()
    for part in parts:
        digest.update(len(part).to_bytes(8, "little"))
        digest.update(part)
    return digest.hexdigest()[:16]


def pack(answers: Sequence[Said]) -> bytes:
    """A line of JSON, then the samples of all, one behind the other, then the frames of all."""
    head = [
        [a.transcript, len(a.samples), bool(a.stopped), list(map(int, a.ids)), list(a.frames.shape)] for a in answers
    ]
    parts = [np.asarray(a.samples, "<i2").tobytes() for a in answers]
    parts += [np.asarray(a.frames, "<f4").tobytes() for a in answers]
    return b"\n".join([json.dumps(head).encode(), b"".join(parts)])


def unpack(content: bytes) -> list[Said]:
    """The inverse of pack."""
    head, _, rest = content.partition(b"\n")
    rows, found, at, below = json.loads(head), [], 0, 0
    total = sum(size for _, size, *_ in rows)
    samples = np.frombuffer(rest, "<i2", total).astype(np.int16)
    values = np.frombuffer(rest[2 * total :], "<f4").astype(np.float32)
    for transcript, size, stopped, ids, shape in rows:
        frames = values[below : below + math.prod(shape)].reshape(shape)
        found.append(Said(transcript, samples[at : at + size], stopped, tuple(ids), frames))
        at, below = at + size, below + frames.size
    return found
