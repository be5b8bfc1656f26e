"""Batch inference: recordings → answers in a folder, by continuous batching on every device, as often as killed.

An answer's last file is NAME.json. What has one is done; whatever was killed before is made again, and comes out the
same: an item's randomness hangs on its name alone, and no row of a batch touches another. With another batch size, JAX
or kind of device the last bits may differ; answers say what they were made with, and are not mixed.
"""

from __future__ import annotations

import collections
import concurrent.futures
import dataclasses
import hashlib
import json
import os
import re
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jaxtyping import Int
from tqdm import tqdm

from spectron.audio import wav
from spectron.audio.spectrogram_png import spectrograms
from spectron.audio.spectrograms import log_mels
from spectron.inference.api import MIN_PROMPT_SECONDS, Spectron
from spectron.inference.decode import limits
from spectron.inference.engine import Batch, Request
from spectron.inference.inputs import Input
from spectron.types import Answer, UserError
from spectron.utils.files import write_bytes

# A file under its temporary name, as wav.write and write_bytes give them.
PART = re.compile(r"\.(.+?)(?:\.(?:json|png)\.[0-9a-f]{32}\.part|\.[0-9a-f]{32}\.wav)")
AHEAD = 2  # ours: prompts read ahead and answers waiting to be written, in batches
LONGEST_NAME = 255 - len("..json.part.") - 32  # bytes, of a file system's 255, that a name may have: see PART
LINES = 30.0  # ours: seconds between lines of progress where there is no terminal


@dataclasses.dataclass(frozen=True)
class Summary:
    """What a run did. present: answers that were there before; failed: why some inputs have none; heard, spoken:
    seconds of prompts and answers; seconds: it took, loading the model left out."""

    made: int
    present: int
    failed: tuple[str, ...]
    heard: float
    spoken: float
    seconds: float

    def __str__(self) -> str:
        said = f"{self.made} answer{'s' * (self.made != 1)}: {self.heard:.1f} s heard, {self.spoken:.1f} s spoken, "
        said += f"in {self.seconds:.1f} s"
        said += f" ({self.spoken / self.seconds:.2f} x real time)" if self.made else ""
        said += f"; {self.present} were there already" if self.present else ""
        return said + (f"; {len(self.failed)} failed" if self.failed else "") + "."


@dataclasses.dataclass(frozen=True)
class Settings:
    """How to generate. facts: of the checkpoint; prompt_seconds: hear no more than that, 0 for all of a recording."""

    facts: Mapping[str, Any]
    seed: int = 0
    batch_size: int = 8
    prompt_seconds: float = 0.0
    pictures: bool = True


def generate(
    model: Spectron,
    inputs: Sequence[Input],
    out: str | Path,
    settings: Settings,
    part: tuple[int, int] = (0, 1),
    said: Callable[[Path, Answer], None] | None = None,
) -> Summary:
    """Answer every input that has no answer yet: NAME.wav, NAME.png and, last, NAME.json each, below OUT.

    part: (i, n) takes every nth input from the ith on. What cannot be read is told in OUT/failures.jsonl, or one of a
    part's own, a line each, and the others are done. said: called with each new answer's NAME.wav. Raises UserError
    where settings do not suit the model, an answer in OUT was made with others, none of all inputs can be read, or OUT
    cannot be written; what was done stays.
    """
    seconds, most = settings.prompt_seconds, model.experiment.data.max_prompt_seconds
    if seconds and not MIN_PROMPT_SECONDS <= seconds <= most:
        raise UserError(
            f"--prompt-seconds {seconds:g} does not suit this model: give {MIN_PROMPT_SECONDS:g} to {most:g}, or leave "
            f"it out."
        )
    return _Run(model, Path(out), settings, said)(inputs, part)


class _Run:
    def __init__(
        self, model: Spectron, out: Path, settings: Settings, said: Callable[[Path, Answer], None] | None
    ) -> None:
        self.model, self.out, self.settings, self.said = model, out, settings, said
        self.failed: dict[str, tuple[Path, str]] = {}
        self.made, self.heard, self.spoken = 0, 0, 0
        self.lock = threading.Lock()
        self.broken: BaseException | None = None
        self.weights = model.weights  # once, not by every device's thread

    def __call__(self, inputs: Sequence[Input], part: tuple[int, int]) -> Summary:
        everything, inputs = len(inputs), inputs[part[0] :: part[1]]
        todo = [each for each in inputs if not self._done(each)]
        _sweep(self.out, todo)
        start = self.told = time.monotonic()
        rows, cores = self.settings.batch_size, os.cpu_count() or 1
        devices = jax.local_devices()
        with (
            tqdm(total=len(inputs), initial=len(inputs) - len(todo), unit="item", disable=None) as self.bar,
            concurrent.futures.ThreadPoolExecutor(cores) as self.readers,
            concurrent.futures.ThreadPoolExecutor(cores) as self.writers,
            concurrent.futures.ThreadPoolExecutor(len(devices)) as runners,
        ):
            # Full, it makes the devices wait for the disk.
            self.room = threading.BoundedSemaphore(AHEAD * rows * len(devices))
            requests = _Shared(self._requests(todo, AHEAD * rows * len(devices)))
            running = [runners.submit(self._on, device, requests) for device in devices]
            try:
                for each in running:
                    each.result()
            except BaseException as error:  # an interrupt: the threads must hear of it
                self.broken = error
                raise
        if self.broken:
            raise self.broken
        failed = tuple(reason for _, reason in self.failed.values())
        if len(failed) == everything == 1:
            raise UserError(failed[0])
        told = self._tell(part)
        if len(failed) == everything:
            raise UserError(f"All {everything} inputs are bad (see {str(told)!r}), the first: {failed[0]}")
        rate, seconds = self.model.features.sample_rate, time.monotonic() - start
        present = len(inputs) - len(todo)
        return Summary(self.made, present, failed, self.heard / rate, self.spoken / rate, seconds)

    def _facts(self, each: Input) -> dict[str, Any]:
        number = int.from_bytes(hashlib.sha256(os.fsencode(each.name)).digest()[:4], "little") >> 1
        return {
            **self.settings.facts,
            "seed": self.settings.seed,
            "prompt_limit": self.settings.prompt_seconds,
            "batch_size": self.settings.batch_size,
            "jax": f"{jax.__version__} {jax.default_backend()}",
            "number": number,
        }

    def _done(self, each: Input) -> bool:
        path = self.out / f"{each.name}.json"
        try:
            record = json.loads(path.read_bytes())
        except FileNotFoundError:
            return False
        except (OSError, ValueError) as error:
            if _too_long(each):
                return False  # and never will be there
            raise UserError(f"{str(path)!r} cannot be read ({error}); delete it, or choose another --out.") from error
        for key, value in self._facts(each).items():
            if key != "checkpoint" and (not isinstance(record, dict) or record.get(key) != value):
                raise UserError(
                    f"{str(path)!r} is an answer with another {key} than {value!r}; choose another --out, or delete it."
                )
        return True

    def _requests(self, todo: Sequence[Input], ahead: int) -> Iterator[Request]:
        """Prompts in order, read by several threads; what cannot be read is left out."""
        waiting: collections.deque[tuple[Input, concurrent.futures.Future]] = collections.deque()
        coming = iter(todo)
        while not self.broken:
            while len(waiting) < ahead and (each := next(coming, None)) is not None:
                waiting.append((each, self.readers.submit(self._read, each)))
            if not waiting:
                return
            each, future = waiting.popleft()
            try:
                prompt = future.result()
            except UserError as error:
                self.failed[each.name] = each.path, str(error)
                self._progress()
                continue
            yield Request(prompt, self._facts(each)["number"], tag=(each, prompt))

    def _read(self, each: Input) -> Int[np.ndarray, " S"]:
        if _too_long(each):
            raise UserError(
                f"Recording {str(each.path)!r} has a name of more than {LONGEST_NAME} bytes, too long for those of its "
                f"answer's files; give it a shorter one."
            )
        features, seconds = self.model.features, self.model.experiment.data.max_prompt_seconds
        samples = wav.read(each.path, features.sample_rate, self.settings.prompt_seconds)
        wav.check_prompt(samples, str(each.path), features, MIN_PROMPT_SECONDS, seconds)
        return samples

    def _on(self, device: jax.Device, requests: Iterator[Request]) -> None:
        """Answer on one device until there is nothing left."""
        model = self.model
        try:
            batch = Batch(
                *(jax.device_put(self.weights, device), model.statistics, model.experiment, limits(model.experiment)),
                rows=self.settings.batch_size,
                longest=model.prompt_size,
                seed=self.settings.seed,
            )
            for request, said in batch.answers(requests):
                self.room.acquire()
                self.writers.submit(self._finish, request, said).add_done_callback(self._written)
                if self.broken:
                    return
        except BaseException as error:  # told by the caller, once the other devices have stopped too
            if isinstance(error, jax.errors.JaxRuntimeError) and "RESOURCE_EXHAUSTED" in str(error):
                rows = self.settings.batch_size
                error = UserError(f"--batch-size {rows} does not fit into the memory of {device}; give fewer rows.")
            self.broken = self.broken or error

    def _finish(self, request: Request, said: Any) -> None:
        each, prompt = request.tag
        answer = self.model.answer(said)
        self._write(each, prompt, answer)
        with self.lock:
            self.made += 1
            self.heard += len(prompt)
            self.spoken += len(answer.samples)
            self._progress()
            if self.said:
                self.said(self.out / f"{each.name}.wav", answer)

    def _progress(self) -> None:
        """One more is done: a bar, or now and then a line."""
        self.bar.update()
        now = time.monotonic()
        if self.bar.disable and now - self.told > LINES:
            self.told = now
            print(f"{self.made} answers, {len(self.failed)} failures", file=sys.stderr, flush=True)

    def _written(self, future: concurrent.futures.Future) -> None:
        self.room.release()
        self.broken = self.broken or future.exception()

    def _write(self, each: Input, prompt: np.ndarray, answer: Answer) -> None:
        """Each file whole or not at all."""
        features, place = self.model.features, self.out / each.name
        wav.write(place.with_name(place.name + ".wav"), answer.samples, features.sample_rate)
        if self.settings.pictures:
            heard = log_mels([prompt], features)[0]
            picture = spectrograms([("prompt | answer", heard, answer.frames)], features, dpi=120)
            write_bytes(place.with_name(place.name + ".png"), picture)
        record = {
            "transcript": answer.transcript,
            "frames": len(answer.frames),
            "seconds": len(answer.samples) / features.sample_rate,
            "stopped_by": answer.stopped_by,
            "prompt_seconds": len(prompt) / features.sample_rate,
            "sample_rate": features.sample_rate,
            "audio": str(each.path),
            **self._facts(each),
        }
        write_bytes(place.with_name(place.name + ".json"), _encoded(record, 1))

    def _tell(self, part: tuple[int, int]) -> Path:
        """The failures of this run or part, and no older ones, nor those of another number of parts."""
        path = self.out / ("failures.jsonl" if part[1] == 1 else f"failures-{part[0]:05d}-of-{part[1]:05d}.jsonl")
        for old in [self.out / "failures.jsonl", *self.out.glob("failures-*-of-*.jsonl")]:
            if part[1] == 1 or old == path or not old.stem.endswith(f"-of-{part[1]:05d}"):
                old.unlink(missing_ok=True)
        if self.failed:
            lines = [
                _encoded({"name": name, "audio": str(audio), "reason": reason})
                for name, (audio, reason) in sorted(self.failed.items())
            ]
            write_bytes(path, b"".join(lines))
        return path


def _too_long(each: Input) -> bool:
    return len(os.fsencode(Path(each.name).name)) > LONGEST_NAME


def _encoded(record: Mapping[str, Any], indent: int | None = None) -> bytes:
    """JSON; of a file's name that is no UTF-8 the odd bytes as escapes."""
    return (json.dumps(record, indent=indent, ensure_ascii=False) + "\n").encode(errors="backslashreplace")


def _sweep(out: Path, todo: Sequence[Input]) -> None:
    """Delete what killed writers left of these inputs; other processes may be writing theirs in the same folders."""
    mine = {out / each.name for each in todo}
    for folder in sorted({path.parent for path in mine}):
        for path in folder.iterdir() if folder.is_dir() else ():
            left = PART.fullmatch(path.name)
            if left and folder / left[1] in mine:
                path.unlink(missing_ok=True)


class _Shared:
    """One iterator for several threads."""

    def __init__(self, each: Iterator[Request]) -> None:
        self._each, self._lock = each, threading.Lock()

    def __iter__(self) -> Iterator[Request]:
        return self

    def __next__(self) -> Request:
        with self._lock:
            return next(self._each)
