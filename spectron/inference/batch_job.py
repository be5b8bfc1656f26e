"""Batch inference: recordings → answers in a folder, by continuous batching on every device, resumable.

NAME.json is the last file of an answer. An input that has it is done; the others are answered again after a kill, with
the same result: an input's randomness depends on its name alone, and no slot of an engine on another. Another batch
size, JAX version or kind of device may change the last bits, so each answer records what it was made with, and a folder
holds answers of one setting only.
"""

from __future__ import annotations

import collections
import concurrent.futures
import dataclasses
import hashlib
import json
import os
import re
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jaxtyping import Int

from spectron.audio import wav
from spectron.audio.spectrogram_png import spectrograms
from spectron.audio.spectrograms import log_mels
from spectron.inference.api import MIN_PROMPT_SECONDS, Spectron
from spectron.inference.decode import Decoded
from spectron.inference.engine import Request
from spectron.inference.inputs import Input
from spectron.inference.sampling import GREEDY, Sampler
from spectron.types import Answer, UserError
from spectron.utils.console import Progress
from spectron.utils.files import write_bytes

# A file's temporary name, as wav.write and write_bytes choose it.
PART = re.compile(r"\.(.+?)(?:\.(?:json|png)\.[0-9a-f]{32}\.part|\.[0-9a-f]{32}\.wav)")
READ_AHEAD = 2  # ours: prompts read ahead, and answers waiting to be written, in batches
MAX_NAME_BYTES = 255 - len("..json.part.") - 32  # of a file system's 255: temporary names are longer, see PART


@dataclasses.dataclass(frozen=True)
class JobSummary:
    """Counts of a run. made: new answers; present: answers that existed before; failed: a sentence for each input
    without an answer; prompt_seconds, answer_seconds: of the new answers' sound; seconds: of the run, without loading
    the model."""

    made: int
    present: int
    failed: tuple[str, ...]
    prompt_seconds: float
    answer_seconds: float
    seconds: float

    def __str__(self) -> str:
        text = f"{self.made} answer{'s' * (self.made != 1)}: {self.prompt_seconds:.1f} s heard, "
        text += f"{self.answer_seconds:.1f} s spoken, in {self.seconds:.1f} s"
        text += f" ({self.answer_seconds / self.seconds:.2f} x real time)" if self.made else ""
        text += f"; {self.present} were there already" if self.present else ""
        return text + (f"; {len(self.failed)} failed" if self.failed else "") + "."


@dataclasses.dataclass(frozen=True)
class JobSettings:
    """How to generate. facts: of the checkpoint, recorded with every answer; prompt_seconds: use only the first seconds
    of each recording, 0 for all; pictures: draw spectrograms."""

    facts: Mapping[str, Any]
    seed: int = 0
    batch_size: int = 8
    prompt_seconds: float = 0.0
    pictures: bool = True
    sampler: Sampler = GREEDY


def generate(
    model: Spectron,
    inputs: Sequence[Input],
    out: str | Path,
    settings: JobSettings,
    part: tuple[int, int] = (0, 1),
    on_answer: Callable[[Path, Answer], None] | None = None,
) -> JobSummary:
    """Answer every input that has no answer yet: NAME.wav, NAME.png and, last, NAME.json, in the folder `out`.

    part: (i, n) takes every nth input from the ith on. An input that cannot be read is a line of OUT/failures.jsonl
    (each part has a file of its own), and the others are answered. on_answer: called with each new answer and its
    NAME.wav. Raises UserError if the settings do not suit the model, an answer in `out` was made with others, none
    of all inputs can be read, or `out` cannot be written; finished answers stay.
    """
    seconds, longest = settings.prompt_seconds, model.prompt_size / model.features.sample_rate
    if seconds and not MIN_PROMPT_SECONDS <= seconds <= longest:
        raise UserError(
            f"--prompt-seconds {seconds:g} does not suit this model: give {MIN_PROMPT_SECONDS:g} to {longest:g}, or "
            f"leave it out."
        )
    return _Run(model, Path(out), settings, on_answer)(inputs, part)


class _Run:
    def __init__(
        self,
        model: Spectron,
        out: Path,
        settings: JobSettings,
        on_answer: Callable[[Path, Answer], None] | None,
    ) -> None:
        self.model = model
        self.out = out
        self.settings = settings
        self.on_answer = on_answer
        self.config = model.config_with(sampler=settings.sampler)
        self.failed: dict[str, tuple[Path, str]] = {}
        self.made = 0
        self.prompt_samples = 0
        self.answer_samples = 0
        self.lock = threading.Lock()
        self.error: BaseException | None = None  # of any thread: the others stop
        self.weights = model.weights  # computed once, not by each device's thread
        self.facts = {
            **settings.facts,
            "seed": settings.seed,
            "prompt_limit": settings.prompt_seconds,
            "batch_size": settings.batch_size,
            "sampler": settings.sampler.facts,
            "max_lengths": dataclasses.asdict(self.config.max_lengths),
            "vocoder": model.vocoder.facts,
            "jax": f"{jax.__version__} {jax.default_backend()}",
        }

    def __call__(self, inputs: Sequence[Input], part: tuple[int, int]) -> JobSummary:
        everything, inputs = len(inputs), inputs[part[0] :: part[1]]
        # One answer alone takes one slot: fewer rows to compute, and less to compile.
        self.slots = 1 if everything == 1 else self.settings.batch_size
        todo = [each for each in inputs if not self._done(each)]
        _sweep(self.out, todo)
        start = time.monotonic()
        cores, devices = os.cpu_count() or 1, jax.local_devices()
        ahead = READ_AHEAD * self.settings.batch_size * len(devices)
        with (
            Progress(len(inputs), "", "item", initial=len(inputs) - len(todo)) as self.progress,
            concurrent.futures.ThreadPoolExecutor(cores) as self.readers,
            concurrent.futures.ThreadPoolExecutor(cores) as self.writers,
            concurrent.futures.ThreadPoolExecutor(len(devices)) as runners,
        ):
            self.unwritten = threading.BoundedSemaphore(ahead)  # when it is used up, the devices wait for the disk
            requests = _SharedIterator(self._requests(todo, ahead))
            running = [runners.submit(self._answer_on, device, requests) for device in devices]
            try:
                for each in running:
                    each.result()
            except BaseException as error:  # an interrupt: stop the threads
                self.error = error
                raise
        if self.error:
            raise self.error
        failed = tuple(reason for _, reason in self.failed.values())
        if len(failed) == everything == 1:
            raise UserError(failed[0])
        listed = self._write_failures(part)
        if len(failed) == everything:
            raise UserError(f"All {everything} inputs are bad (see {str(listed)!r}), the first: {failed[0]}")
        rate, seconds = self.model.features.sample_rate, time.monotonic() - start
        return JobSummary(
            made=self.made,
            present=len(inputs) - len(todo),
            failed=failed,
            prompt_seconds=self.prompt_samples / rate,
            answer_seconds=self.answer_samples / rate,
            seconds=seconds,
        )

    def _facts_of(self, each: Input) -> dict[str, Any]:
        number = int.from_bytes(hashlib.sha256(os.fsencode(each.name)).digest()[:4], "little") >> 1
        return {**self.facts, "number": number}

    def _done(self, each: Input) -> bool:
        path = self.out / f"{each.name}.json"
        try:
            record = json.loads(path.read_bytes())
        except FileNotFoundError:
            return False
        except (OSError, ValueError) as error:
            if _too_long(each):
                return False  # it cannot exist
            raise UserError(f"{str(path)!r} cannot be read ({error}); delete it, or choose another --out.") from error
        for key, value in self._facts_of(each).items():
            if key != "checkpoint" and (not isinstance(record, dict) or record.get(key) != value):
                raise UserError(
                    f"{str(path)!r} is an answer with another {key} than {value!r}; choose another --out, or delete it."
                )
        return True

    def _requests(self, todo: Sequence[Input], ahead: int) -> Iterator[Request]:
        """Prompts in order, read by several threads; inputs that cannot be read are recorded and left out."""
        waiting: collections.deque[tuple[Input, concurrent.futures.Future]] = collections.deque()
        remaining = iter(todo)
        while not self.error:
            while len(waiting) < ahead and (each := next(remaining, None)) is not None:
                waiting.append((each, self.readers.submit(self._read, each)))
            if not waiting:
                return
            each, future = waiting.popleft()
            try:
                prompt = future.result()
            except UserError as error:
                self.failed[each.name] = each.path, str(error)
                self.progress.advance(f"{len(self.failed)} failures")
                continue
            yield Request(samples=prompt, number=self._facts_of(each)["number"], tag=each)

    def _read(self, each: Input) -> Int[np.ndarray, " S"]:
        if _too_long(each):
            raise UserError(
                f"Recording {str(each.path)!r} has a name of more than {MAX_NAME_BYTES} bytes, too long for "
                f"its answer's files; give it a shorter one."
            )
        features = self.model.features
        seconds = self.model.prompt_size / features.sample_rate
        samples = wav.read(each.path, features.sample_rate, self.settings.prompt_seconds)
        wav.check_prompt(samples, str(each.path), features, MIN_PROMPT_SECONDS, seconds)
        return samples

    def _answer_on(self, device: jax.Device, requests: Iterator[Request]) -> None:
        """Answer requests on one device until there are none left."""
        settings = self.settings
        try:
            weights = jax.device_put(self.weights, device)
            engine = self.model.engine(self.slots, settings.seed, self.config, weights)
            for request, out in engine.answers(requests):
                self.unwritten.acquire()
                self.writers.submit(self._finish, request, out).add_done_callback(self._written)
                if self.error:
                    return
        except BaseException as error:  # raised by __call__, after the other devices have stopped too
            if isinstance(error, jax.errors.JaxRuntimeError) and "RESOURCE_EXHAUSTED" in str(error):
                error = UserError(
                    f"--batch-size {settings.batch_size} does not fit into the memory of {device}; give a smaller one."
                )
            self.error = self.error or error

    def _finish(self, request: Request, out: Decoded) -> None:
        each, prompt = request.tag, request.samples
        answer = self.model.answer(out)
        self._write(each, prompt, answer)
        with self.lock:
            self.made += 1
            self.prompt_samples += len(prompt)
            self.answer_samples += len(answer.samples)
            self.progress.advance(f"{len(self.failed)} failures")
            if self.on_answer:
                self.on_answer(self.out / f"{each.name}.wav", answer)

    def _written(self, future: concurrent.futures.Future) -> None:
        self.unwritten.release()
        self.error = self.error or future.exception()

    def _write(self, each: Input, prompt: np.ndarray, answer: Answer) -> None:
        """Write an answer's files, NAME.json last; each appears whole or not at all."""
        features, place = self.model.features, self.out / each.name
        wav.write(place.with_name(place.name + ".wav"), answer.samples, features.sample_rate)
        if self.settings.pictures:
            prompt_frames = log_mels([prompt], features)[0]
            picture = spectrograms([("prompt,\nanswer", prompt_frames, answer.frames)], features)
            write_bytes(place.with_name(place.name + ".png"), picture)
        record = {
            "transcript": answer.transcript,
            "frames": len(answer.frames),
            "seconds": len(answer.samples) / features.sample_rate,
            "stopped_by": answer.stopped_by,
            "prompt_seconds": len(prompt) / features.sample_rate,
            "sample_rate": features.sample_rate,
            "audio": str(each.path),
            **self._facts_of(each),
        }
        write_bytes(place.with_name(place.name + ".json"), _encoded(record, 1))

    def _write_failures(self, part: tuple[int, int]) -> Path:
        """List this part's failures; delete the lists of earlier runs of this part and of other numbers of parts."""
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
    return len(os.fsencode(Path(each.name).name)) > MAX_NAME_BYTES


def _encoded(record: Mapping[str, Any], indent: int | None = None) -> bytes:
    """JSON text and a line break; bytes of a file's name that are not UTF-8 become escapes."""
    return (json.dumps(record, indent=indent, ensure_ascii=False) + "\n").encode(errors="backslashreplace")


def _sweep(out: Path, todo: Sequence[Input]) -> None:
    """Delete what killed runs left of these inputs only: other processes may be writing to the same folder."""
    mine = {out / each.name for each in todo}
    for folder in sorted({path.parent for path in mine}):
        for path in folder.iterdir() if folder.is_dir() else ():
            left = PART.fullmatch(path.name)
            if left and folder / left[1] in mine:
                path.unlink(missing_ok=True)


class _SharedIterator:
    """One iterator that several threads read."""

    def __init__(self, requests: Iterator[Request]) -> None:
        self._requests = requests
        self._lock = threading.Lock()

    def __iter__(self) -> Iterator[Request]:
        return self

    def __next__(self) -> Request:
        with self._lock:
            return next(self._requests)
