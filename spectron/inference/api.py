"""A trained model: recordings in, text and speech out.

from spectron import Spectron

model = Spectron.from_checkpoint("runs/digits")
answer = model.generate("prompt.wav")
print(answer.transcript, len(answer.samples))
"""

from __future__ import annotations

import concurrent.futures
import dataclasses
import functools
import os
from collections.abc import Iterator
from collections.abc import Sequence as Seq
from pathlib import Path
from typing import NamedTuple, overload

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int

from spectron.audio import wav
from spectron.audio.signal import to_int16
from spectron.checkpoints.checkpoint import Checkpoint
from spectron.config import Experiment
from spectron.data.vocabulary import make_vocabulary
from spectron.inference.decode import FREE, Decoded
from spectron.inference.decode_config import DecodeConfig, MaxLengths
from spectron.inference.engine import Engine, Request
from spectron.inference.sampling import Sampler
from spectron.models.decode_layout import to_decode_layout
from spectron.objectives.joint import Joint
from spectron.types import Answer, Params, Statistics, UserError
from spectron.utils import programs
from spectron.utils.compilation_cache import use_compilation_cache
from spectron.vocoders.base import Vocoder, check_vocoder
from spectron.vocoders.griffin_lim import GriffinLim

MIN_PROMPT_SECONDS = 0.3  # ours: a shorter recording holds no word
STREAM_STEPS = 16  # ours: positions that are decoded between two pieces of a streamed answer

Audio = str | Path | Int[np.ndarray, " S"] | Float[np.ndarray, " S"]


class Piece(NamedTuple):
    """The next part of a streamed answer: text, or int16 samples of speech."""

    text: str
    samples: Int[np.ndarray, " S"]


class Spectron:
    """A model that continues a recording: it writes the transcript and its continuation, then speaks the continuation.

    vocoder: turns the model's log-mel into sound; Griffin-Lim by default. decode_config: the answers' greatest length,
    stop ids and sampler; by default the training data's lengths, eos, and greedy. Raises UserError for parameters that
    are not a whole Spectron's, and for a vocoder of other features than the model's.
    """

    def __init__(
        self,
        params: Params,
        experiment: Experiment,
        statistics: Statistics | None,
        vocoder: Vocoder | None = None,
        decode_config: DecodeConfig | None = None,
    ) -> None:
        missing = [part for part in Joint.parts if part not in params]
        if missing or statistics is None:
            raise UserError(
                f"The checkpoint holds no {', '.join(missing) or 'statistics'}: give the one of a spectron stage."
            )
        use_compilation_cache()
        programs.keep_programs()
        self.params = {part: params[part] for part in Joint.parts}
        self.experiment = experiment
        self.statistics = statistics
        self.features = experiment.features
        self.vocoder = vocoder or GriffinLim(self.features)
        check_vocoder(self.vocoder, self.features)
        self.vocabulary = make_vocabulary(experiment.data.vocabulary)
        self.vocabulary.decode([])  # reads the tokenizer's file: a missing one raises now, not after an answer
        self.decode_config = decode_config or DecodeConfig.from_experiment(experiment)

    @classmethod
    def from_checkpoint(cls, folder: str | Path | Checkpoint, vocoder: Vocoder | None = None) -> Spectron:
        """Load a checkpoint, the moving average if there is one, or an export; see Checkpoint.open for folders.

        Raises UserError if there is none, it cannot be read, or it is not a whole Spectron's.
        """
        checkpoint = Checkpoint.open(folder)
        return cls(checkpoint.load(), checkpoint.experiment, checkpoint.statistics, vocoder)

    @functools.cached_property
    def weights(self) -> Params:
        """The parameters in the decode layout, on the default device."""
        return jax.device_put(to_decode_layout(self.params, jnp.dtype(self.experiment.model.compute_dtype)))

    @property
    def prompt_size(self) -> int:
        """Samples of the longest prompt."""
        return self.decode_config.max_prompt_samples

    @overload
    def generate(
        self, audio: Audio, seed: int = ..., *, sampler: Sampler | None = ..., max_lengths: MaxLengths | None = ...
    ) -> Answer: ...

    @overload
    def generate(
        self,
        audio: list[Audio] | list[Int[np.ndarray, " S"]],
        seed: int = ...,
        batch_size: int = ...,
        numbers: Seq[int] = ...,
        forced: Seq[Seq[int]] = ...,
        *,
        sampler: Sampler | None = ...,
        max_lengths: MaxLengths | None = ...,
    ) -> list[Answer]: ...

    def generate(self, audio, seed=0, batch_size=8, numbers=(), forced=(), *, sampler=None, max_lengths=None):
        """Answers to recordings: files of any sample rate, or samples [S] at the model's (int16, or float within ±1).

        One recording gives one answer, a list of recordings gives a list in the same order. numbers: prompt i's
        randomness is fold_in(seed, numbers[i]), whatever its batch (default: its index). forced: for each prompt the
        token ids that it must write, with a stop id where its text must end, and −1 where the model chooses; []
        leaves all to the model. sampler, max_lengths: instead of the decode config's.
        Raises UserError for a recording that cannot be read, and for a prompt or forced text that is too long.
        """
        if isinstance(audio, (str, Path, np.ndarray)):
            settings = {"sampler": sampler, "max_lengths": max_lengths}
            return self.generate([self._prompt_with_samples(audio)], seed, 1, numbers, forced, **settings)[0]
        prompts = [self.prompt(each) for each in audio]
        config = self.config_with(sampler=sampler, max_lengths=max_lengths)
        requests = self.requests(prompts, numbers, forced, config)
        engine = self.engine(batch_size, seed, config)
        with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:  # vocodes while decoding continues
            pending = [(request.tag, pool.submit(self.answer, out)) for request, out in engine.answers(requests)]
            answers = {tag: future.result() for tag, future in pending}
        return [answers[i] for i in range(len(prompts))]

    def stream(self, audio: Audio, seed: int = 0, *, sampler: Sampler | None = None) -> Iterator[Piece]:
        """The answer of `generate(audio, seed)` in pieces, each as soon as it is certain.

        The pieces' texts and samples, joined, are the answer's. With Griffin-Lim a sample is certain when all frames
        are there that its iterations read (1.2 s of speech), or at the end. Raises what `generate` raises.
        """
        config = self.config_with(sampler=sampler)
        engine = self.engine(1, seed, config)
        (request,) = self.requests([self._prompt_with_samples(audio)], config=config)
        slot = engine.insert(request, engine.prefill(request))
        text, spoken_frames, ended = "", 0, False
        while not ended:
            done = engine.decode(STREAM_STEPS)
            ended = bool(done)
            out = done[0][1] if done else engine.read_slot(slot)
            whole = self.vocabulary.decode(self._ids(out))
            # A replacement character at the end may be the first bytes of a character whose other bytes will follow.
            if whole != text and whole.startswith(text) and (ended or not whole.endswith("\ufffd")):
                yield Piece(whole[len(text) :], np.zeros(0, np.int16))
                text = whole
            frames = np.asarray(out.frames[: out.num_frames])
            samples = np.asarray(to_int16(self.vocoder.synthesise_chunk(frames, spoken_frames, ended)))
            spoken_frames += len(samples) // self.features.hop
            if len(samples):
                yield Piece("", samples)

    def generate_text(self, audio: Seq[Audio], batch_size: int = 8) -> list[str]:
        """The text of the answers to recordings (the prompt's transcript and its continuation), in order; no frames.

        Raises what `generate` raises.
        """
        config = self.config_with(output_streams=("text",))
        requests = self.requests([self.prompt(each) for each in audio], config=config)
        answers = {
            request.tag: self.vocabulary.decode(self._ids(out))
            for request, out in self.engine(batch_size, 0, config).answers(requests)
        }
        return [answers[i] for i in range(len(requests))]

    def config_with(self, **changes: object) -> DecodeConfig:
        """The decode config with some fields changed; None changes nothing."""
        given = {name: value for name, value in changes.items() if value is not None}
        return dataclasses.replace(self.decode_config, **given)  # type: ignore[arg-type]

    def prompt(self, audio: Audio) -> Int[np.ndarray, " S"]:
        """A recording as int16 samples at the model's rate. Raises UserError."""
        rate, max_seconds = self.features.sample_rate, self.prompt_size / self.features.sample_rate
        if isinstance(audio, (str, Path)):
            samples = wav.read(audio, rate)
            wav.check_prompt(samples, str(audio), self.features, MIN_PROMPT_SECONDS, max_seconds)
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
            raise UserError(f"A prompt of {len(samples)} samples is shorter than a frame; give a longer recording.")
        if len(samples) > self.prompt_size:
            trained = f"the {max_seconds:g} s this model was trained for"
            raise UserError(f"A prompt of {len(samples) / rate:.2f} s is longer than {trained}; cut it.")
        return samples

    def _prompt_with_samples(self, audio: Audio) -> Int[np.ndarray, " S"]:
        """`prompt`, which must not be empty; in a list, an empty prompt is skipped like a batch's padding."""
        samples = self.prompt(audio)
        if not len(samples):
            raise UserError("A prompt holds no samples; give a recording.")
        return samples

    def requests(
        self,
        prompts: Seq[Int[np.ndarray, " S"]],
        numbers: Seq[int] = (),
        forced: Seq[Seq[int]] = (),
        config: DecodeConfig | None = None,
    ) -> list[Request]:
        """Prompts as the engine's requests, tagged with their index. numbers, forced: see `generate`.

        Raises UserError for a forced text that is too long or holds an unknown id, and if the numbers of prompts,
        numbers and forced texts differ.
        """
        config = config or self.decode_config
        numbers, forced = numbers or range(len(prompts)), forced or [()] * len(prompts)
        for ids in forced:
            if len(ids) > config.text_tokens:
                raise UserError(
                    f"A forced text of {len(ids)} tokens is longer than the {config.text_tokens} of the longest "
                    f"answer; shorten it."
                )
            unknown = [i for i in ids if not FREE <= i < config.vocab_size]
            if unknown:
                raise UserError(f"Forced token {unknown[0]} is not in the vocabulary of {config.vocab_size}.")
        if not len(numbers) == len(forced) == len(prompts):
            raise UserError(
                f"{len(prompts)} prompts have {len(numbers)} numbers and {len(forced)} forced texts; give as many."
            )
        each = enumerate(zip(prompts, numbers, forced, strict=True))
        return [
            Request(samples=prompt, number=int(number), forced=tuple(ids), tag=i) for i, (prompt, number, ids) in each
        ]

    def engine(
        self, num_slots: int, seed: int = 0, config: DecodeConfig | None = None, weights: Params | None = None
    ) -> Engine:
        """An engine with `num_slots` slots, on the device of `weights` (default: this model's)."""
        if num_slots < 1:
            raise UserError(f"A batch of {num_slots} slots answers nothing; give at least 1.")
        weights = self.weights if weights is None else weights
        return Engine(weights, self.statistics, config or self.decode_config, num_slots, seed)

    def answer(self, out: Decoded) -> Answer:
        """One slot's answer, vocoded. Text alone has no frames and no samples."""
        frames, ids = np.asarray(out.frames[: out.num_frames]), self._ids(out)
        if len(frames):
            samples = np.asarray(to_int16(self.vocoder.synthesise(frames)))
        else:
            samples = np.zeros(0, np.int16)
        sign = "stop head" if out.frames.shape[0] else "stop id"  # of text alone
        return Answer(
            transcript=self.vocabulary.decode(ids),
            frames=frames,
            samples=samples,
            stopped_by=sign if out.stopped else "maximum length",
            ids=ids,
        )

    def _ids(self, out: Decoded) -> tuple[int, ...]:
        """One slot's text tokens without the stop id."""
        ids = tuple(int(i) for i in out.text[: out.num_tokens])
        return ids[:-1] if ids and ids[-1] in self.decode_config.stop_ids else ids
