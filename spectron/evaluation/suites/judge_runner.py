"""Runs the judges of a suite over recordings, in chunks that a cache keeps."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int

from spectron.evaluation.judges.base import check_rate, facts_of
from spectron.evaluation.metrics.perplexity import surprise
from spectron.evaluation.metrics.similarity import cosine, windows
from spectron.utils.chunk_cache import ChunkCache, checksum

Recordings = Sequence[Int[np.ndarray, " S"]]


@dataclasses.dataclass(frozen=True)
class Judges:
    """The judges of continuations; None: not used.

    asr: types.Recogniser; lm, speaker, mos: LanguageModel, SpeakerEncoder and SpeechQuality of judges.base. Raises
    UserError for a recogniser of another sample rate.
    """

    asr: Any = None
    lm: Any = None
    speaker: Any = None
    mos: Any = None

    def __post_init__(self) -> None:
        check_rate(self.asr, "--asr")

    def facts(self) -> list[dict[str, Any]]:
        """Their entries in the results."""
        return [facts_of(judge) for judge in (self.asr, self.lm, self.speaker, self.mos) if judge is not None]

    def quality(self) -> Mapping[str, str]:
        """Measure → definition of the judge of quality; {} without one."""
        return getattr(self.mos, "measures", {})


@dataclasses.dataclass(frozen=True)
class Judgement:
    """What the judges measured of one recording; None: no such judge, or nothing to judge.

    heard: the recogniser's text. nats: −ln p of that text, of which `tokens` were scored. similarity: cosine with the
    prompt, None if no voice was found. course: the same of each window of similarity.windows, NaN without a voice.
    """

    heard: str | None = None
    nats: float | None = None
    tokens: int = 0
    similarity: float | None = None
    course: tuple[float, ...] = ()
    mos: Mapping[str, float] = dataclasses.field(default_factory=dict)


class JudgeRunner:
    """Judges with a folder for their cached answers.

    size: recordings per call of a judge. with_windows: also embed windows of every recording.
    """

    def __init__(self, judges: Judges, folder: str | Path, size: int, with_windows: bool = True):
        self.judges, self.folder, self.size, self.with_windows = judges, Path(folder), size, with_windows

    def _run(self, name: str, role: str, given: Sequence[bytes], work: Callable[[range], Sequence[Any]]) -> list[Any]:
        plan = {"judge": facts_of(getattr(self.judges, role)), "items": checksum(given), "size": self.size}
        cache = ChunkCache(self.folder / f"{name}-{role}", plan)
        return cache.records(len(given), self.size, work, f"{role}, {name}")

    def texts(self, name: str, recordings: Recordings) -> list[str]:
        """The recogniser's texts, in lower case."""

        def work(indices: range) -> list[str]:
            hypotheses = self.judges.asr.transcribe([np.asarray(recordings[i]) for i in indices])
            return [" ".join(hypothesis.text.lower().split()) for hypothesis in hypotheses]

        return self._run(name, "asr", [r.tobytes() for r in recordings], work)

    def likelihoods(self, name: str, texts: Sequence[str]) -> list[tuple[float, int] | None]:
        """(−ln p, tokens) of each text; None if no token was scored."""

        def work(indices: range) -> list[Any]:
            return [each[:2] for each in surprise(self.judges.lm, [texts[i] for i in indices])]

        scores = self._run(name, "lm", [text.encode() for text in texts], work)
        return [(nats, tokens) if tokens else None for nats, tokens in scores]

    def voices(self, name: str, recordings: Recordings, with_windows: bool) -> list[list[list[float]]]:
        """Unit vectors of each recording: of the whole, then of its windows if asked for; [] for an empty one."""

        def work(indices: range) -> list[Any]:
            parts = [[recordings[i], *(windows(recordings[i]) if with_windows else ())] for i in indices]
            parts = [each if len(each[0]) else [] for each in parts]
            flat = [part for each in parts for part in each]
            vectors = iter(np.asarray(self.judges.speaker.embed(flat), np.float32).tolist() if flat else [])
            return [[next(vectors) for _ in each] for each in parts]

        return self._run(name, "speaker", [r.tobytes() for r in recordings], work)

    def ratings(self, name: str, recordings: Recordings) -> list[dict[str, float]]:
        """Measure → value of each recording; {} if there is nothing to rate."""

        def work(indices: range) -> list[Any]:
            full = [i for i in indices if len(recordings[i])]
            ratings = self.judges.mos.rate([recordings[i] for i in full], ()) if full else []
            scores = dict(zip(full, ratings, strict=True))
            return [{k: float(v) for k, v in scores.get(i, {}).items() if not math.isnan(v)} for i in indices]

        return self._run(name, "mos", [r.tobytes() for r in recordings], work)

    def judge(self, name: str, recordings: Recordings, prompt_voices: Sequence[Sequence[Any]]) -> list[Judgement]:
        """Everything the judges measure. prompt_voices: voices() of the prompts; () without a speaker encoder."""
        judges, count = self.judges, len(recordings)
        heard: list[Any] = self.texts(name, recordings) if judges.asr else [None] * count
        likelihoods = self.likelihoods(name, heard) if judges.asr and judges.lm else [None] * count
        voices: list[Any] = self.voices(name, recordings, self.with_windows) if judges.speaker else [[]] * count
        ratings = self.ratings(name, recordings) if judges.mos else [{}] * count
        judgements = []
        for i in range(count):
            spoken = voices[i] if voices[i] and prompt_voices[i] else []
            pairs = [np.asarray([prompt_voices[i][0], vector], np.float32) for vector in spoken]
            cosines = [cosine(prompt, vector) for prompt, vector in pairs]
            nats, tokens = likelihoods[i] or (None, 0)
            whole = cosines[0] if cosines and not math.isnan(cosines[0]) else None
            judgements.append(Judgement(heard[i], nats, tokens, whole, tuple(cosines[1:]), ratings[i]))
        return judgements
