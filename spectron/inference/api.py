"""A trained model ready to listen and speak.

from spectron import Spectron

model = Spectron.from_checkpoint("runs/digits")
answer = model.generate("prompt.wav")
print(answer.transcript, len(answer.samples))
"""

from __future__ import annotations

import concurrent.futures
import functools
import os
from collections.abc import Iterable, Iterator
from collections.abc import Sequence as Seq
from pathlib import Path
from typing import NamedTuple, overload

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int

from spectron.audio import wav
from spectron.audio.signal import to_int16
from spectron.checkpoints.manager import load_params
from spectron.config import Experiment
from spectron.data.vocabulary import make_vocabulary
from spectron.inference.decode import Decoded, Limits, limits
from spectron.inference.engine import Batch, Request
from spectron.models.decode_layout import to_decode_layout
from spectron.objectives.joint import Joint
from spectron.types import Answer, Params, Statistics, UserError
from spectron.vocoders.griffin_lim import griffin_lim, griffin_lim_part

MIN_PROMPT_SECONDS = 0.3  # ours: less holds no word
STREAM_STEPS = 16  # ours: positions between two looks at what a streamed answer has become

Audio = str | Path | Int[np.ndarray, " S"] | Float[np.ndarray, " S"]


class Piece(NamedTuple):
    """What a streamed answer grew by: some text, or int16 samples of speech."""

    text: str
    samples: Int[np.ndarray, " S"]


class Spectron:
    """A model that hears a recording, writes what it heard and thinks, and speaks on."""

    def __init__(self, params: Params, experiment: Experiment, statistics: Statistics | None) -> None:
        missing = [part for part in Joint.parts if part not in params]
        if missing or statistics is None:
            raise UserError(
                f"The checkpoint holds no {', '.join(missing) or 'statistics'}: give the one of a spectron stage."
            )
        self.params = {part: params[part] for part in Joint.parts}
        self.experiment, self.statistics = experiment, statistics
        self.features = experiment.features
        self.vocabulary = make_vocabulary(experiment.data.vocabulary)
        self.vocabulary.decode([])  # a model of pieces that is missing is missed now, not after an answer
        self.prompt_size = round(experiment.data.max_prompt_seconds * self.features.sample_rate)

    @classmethod
    def from_checkpoint(cls, directory: str | Path) -> Spectron:
        """Load the newest checkpoint of a run, the moving average where one is kept, or an export.

        Raises UserError where there is none, or it cannot be read, or it does not speak.
        """
        loaded = load_params(directory)
        return cls(loaded.params, loaded.experiment, loaded.statistics)

    @functools.cached_property
    def weights(self) -> Params:
        """The parameters as decoding reads them, on the default device."""
        return jax.device_put(to_decode_layout(self.params, jnp.dtype(self.experiment.model.compute_dtype)))

    @overload
    def generate(self, audio: Audio, seed: int = ...) -> Answer: ...

    @overload
    def generate(
        self,
        audio: list[Audio] | list[Int[np.ndarray, " S"]],
        seed: int = ...,
        batch_size: int = ...,
        rows: Seq[int] = ...,
        forced: Seq[Seq[int]] = ...,
    ) -> list[Answer]: ...

    def generate(self, audio, seed=0, batch_size=8, rows=(), forced=()):
        """Answers to recordings: files of any rate, or samples [S] at the model's (int16, or float within ±1).

        One recording gives one answer, a list of them a list in the same order. Prompt i draws from
        fold_in(seed, rows[i]); rows: a number for each prompt that is its own in every batch (default: its place).
        forced: ids for each prompt that it must write, with eos where its text shall end; [] leaves it free.
        Raises UserError for a recording that cannot be read, or a prompt or a forced text that is longer than the model
        was trained for.
        """
        if isinstance(audio, (str, Path, np.ndarray)):
            return self.generate([self._heard(audio)], seed, 1, rows, forced)[0]
        prompts = [self.prompt(each) for each in audio]
        with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:  # each row's phases on a core of its own
            requests = self.requests(prompts, rows, forced)
            batch = self.batch(batch_size, seed)
            waiting = [(request.tag, pool.submit(self.answer, out)) for request, out in batch.answers(requests)]
            made = {tag: future.result() for tag, future in waiting}
        return [made[i] for i in range(len(prompts))]

    def stream(self, audio: Audio, seed: int = 0) -> Iterator[Piece]:
        """The same answer as `generate(audio, seed)`, in pieces as soon as they are certain.

        Joined, texts and samples are the answer's. A sample is certain when all frames are there that reach it through
        the iterations that find the phases (1.2 s of speech), or at the end. Raises what `generate` does.
        """
        batch = self.batch(1, seed)
        (request,) = self.requests([self._heard(audio)])
        row, text, spoken, ended = batch.admit(request, batch.hear(request)), "", 0, None
        nothing = np.zeros(0, np.int16)
        while ended is None:
            found = batch.run(STREAM_STEPS)
            ended = found[0][1] if found else None
            out = ended if ended is not None else batch.peek(row)
            whole = self.vocabulary.decode(self._ids(out.text))
            # The last bytes of a letter may be missing.
            if whole != text and whole.startswith(text) and (ended is not None or not whole.endswith("\ufffd")):
                yield Piece(whole[len(text) :], nothing)
                text = whole
            part, spoken = self._sound(out, spoken, ended is not None)
            if len(part):
                yield Piece("", part)

    def write(self, audio: Seq[Audio], batch_size: int = 8) -> list[str]:
        """What the model writes when it hears recordings, in order, without speaking (one frame step).

        Raises what `generate` does.
        """
        limit = Limits(limits(self.experiment).tokens, 1)
        requests = self.requests([self.prompt(each) for each in audio])
        written = {
            request.tag: self.vocabulary.decode(self._ids(out.text))
            for request, out in self.batch(batch_size, 0, limit).answers(requests)
        }
        return [written[i] for i in range(len(requests))]

    def prompt(self, audio: Audio) -> Int[np.ndarray, " S"]:
        """A recording as the model hears it. Raises UserError."""
        data, rate = self.experiment.data, self.features.sample_rate
        if isinstance(audio, (str, Path)):
            samples = wav.read(audio, rate)
            wav.check_prompt(samples, str(audio), self.features, MIN_PROMPT_SECONDS, data.max_prompt_seconds)
            return samples
        samples = np.asarray(audio)
        if samples.ndim != 1:
            raise UserError(f"A prompt has shape {samples.shape}; give one channel, [S].")
        if samples.dtype != np.int16:
            if not np.issubdtype(samples.dtype, np.floating):
                raise UserError(f"A prompt is of {samples.dtype}; give int16 samples, or floats within ±1.")
            if not np.isfinite(samples).all():
                raise UserError("A prompt holds NaN or infinite samples; give numbers within ±1.")
            samples = np.asarray(to_int16(samples.astype(np.float32)))
        if 0 < len(samples) < self.features.hop:
            raise UserError(f"A prompt of {len(samples)} samples is shorter than a frame; give a recording.")
        if len(samples) > self.prompt_size:
            trained = f"the {data.max_prompt_seconds:g} s this model was trained for"
            raise UserError(f"A prompt of {len(samples) / rate:.2f} s is longer than {trained}; cut it.")
        return samples

    def _heard(self, audio: Audio) -> Int[np.ndarray, " S"]:
        """A prompt that there is; of a list, one without samples is left out like a batch's padding."""
        samples = self.prompt(audio)
        if not len(samples):
            raise UserError("A prompt holds no samples; give a recording.")
        return samples

    def requests(
        self, prompts: Seq[Int[np.ndarray, " S"]], rows: Seq[int] = (), forced: Seq[Seq[int]] = ()
    ) -> list[Request]:
        """Prompts for a Batch, tagged by their place. Raises UserError for a forced text that is too long."""
        most = limits(self.experiment).tokens
        numbers, forced = rows or range(len(prompts)), forced or [()] * len(prompts)
        for ids in forced:
            if len(ids) > most:
                trained = f"the {most} this model was trained for"
                raise UserError(f"A forced text of {len(ids)} tokens is longer than {trained}; shorten it.")
        if not len(numbers) == len(forced) == len(prompts):
            raise UserError(
                f"{len(prompts)} prompts have {len(numbers)} rows and {len(forced)} forced texts; give as many."
            )
        each = zip(prompts, numbers, forced, strict=True)
        return [Request(prompt, int(number), tuple(ids), i) for i, (prompt, number, ids) in enumerate(each)]

    def batch(self, size: int, seed: int = 0, limit: Limits | None = None) -> Batch:
        """Rows for requests, on the default device."""
        if size < 1:
            raise UserError(f"A batch of {size} rows holds nobody; give at least 1.")
        limit = limit or limits(self.experiment)
        return Batch(self.weights, self.statistics, self.experiment, limit, size, self.prompt_size, seed)

    def answer(self, out: Decoded) -> Answer:
        """What one row said, with its sound."""
        frames = np.asarray(out.frames[: out.num_frames])
        samples = np.asarray(to_int16(griffin_lim(frames, self.features)))
        stopped_by, ids = "stop head" if out.stopped else "maximum length", self._ids(out.text)
        return Answer(self.vocabulary.decode(ids), frames, samples, stopped_by, ids)

    def _sound(self, out: Decoded, spoken: int, ended: bool) -> tuple[Int[np.ndarray, " S"], int]:
        """The samples behind `spoken` frames that no later frame can change, and how many frames they make."""
        frames = np.asarray(out.frames[: out.num_frames])
        part = griffin_lim_part(frames, self.features, spoken, ended)
        return np.asarray(to_int16(part)), spoken + len(part) // self.features.hop

    def _ids(self, text: Iterable[int]) -> tuple[int, ...]:
        """The tokens of one row before eos."""
        ids = [int(i) for i in text]
        return tuple(ids[: ids.index(self.vocabulary.eos_id)] if self.vocabulary.eos_id in ids else ids)
