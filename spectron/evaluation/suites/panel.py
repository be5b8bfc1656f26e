"""The judges of continuations, asked in chunks that are kept: who hears, who reads, who knows voices, who rates."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int

from spectron.evaluation.judges import outside
from spectron.evaluation.scores.perplexity import surprise
from spectron.evaluation.scores.similarity import cosine
from spectron.evaluation.scores.similarity import windows as windows_of
from spectron.evaluation.suites.answers import checksum, judge_items

Recordings = Sequence[Int[np.ndarray, " S"]]


@dataclasses.dataclass(frozen=True)
class Panel:
    """Judges; None is not asked.

    asr hears (types.Recogniser), lm reads, speaker knows voices, mos rates how good it sounds (LanguageModel,
    SpeakerEncoder and SpeechQuality of judges.outside). Raises UserError for one that hears another rate.
    """

    asr: Any = None
    lm: Any = None
    speaker: Any = None
    mos: Any = None

    def __post_init__(self) -> None:
        outside.check_rate(self.asr, "--asr")

    def facts(self) -> list[dict[str, Any]]:
        """Who judges, for the results."""
        return [facts_of(judge) for judge in (self.asr, self.lm, self.speaker, self.mos) if judge is not None]


def facts_of(judge: Any) -> dict[str, Any]:
    """role, name, version, settings and checksum of a judge."""
    return dict(judge.facts) if hasattr(judge, "facts") else outside.facts_of(judge)


@dataclasses.dataclass(frozen=True)
class Opinion:
    """What the panel says of one recording; None: not asked, or there was nothing to judge.

    nats: −ln p of what was heard, of so many tokens. similarity: cosine to the prompt, None where one of them has no
    voice. course: the same for each of similarity.windows, NaN without a voice.
    """

    heard: str | None = None
    nats: float | None = None
    tokens: int = 0
    similarity: float | None = None
    course: tuple[float, ...] = ()
    mos: Mapping[str, float] = dataclasses.field(default_factory=dict)


class Hearing:
    """A panel with a place to keep what it said. size: recordings it is asked about at once; windows: also of parts."""

    def __init__(self, panel: Panel, folder: str | Path, size: int, windows: bool = True):
        self.panel, self.folder, self.size, self.windows = panel, Path(folder), size, windows

    def _ask(self, name: str, role: str, given: Sequence[bytes], work: Callable[[range], Sequence[Any]]) -> list[Any]:
        plan = {"judge": facts_of(getattr(self.panel, role)), "items": checksum(given), "size": self.size}
        return judge_items(self.folder / f"{name}-{role}", plan, len(given), self.size, work, f"{role}, {name}")

    def texts(self, name: str, recordings: Recordings) -> list[str]:
        """What the recogniser hears, in lower case."""

        def work(numbers: range) -> list[str]:
            found = self.panel.asr.transcribe([np.asarray(recordings[i]) for i in numbers])
            return [" ".join(hypothesis.text.lower().split()) for hypothesis in found]

        return self._ask(name, "asr", [r.tobytes() for r in recordings], work)

    def likelihoods(self, name: str, texts: Sequence[str]) -> list[tuple[float, int] | None]:
        """(−ln p, tokens) of each text; None where no token was scored."""

        def work(numbers: range) -> list[Any]:
            return [each[:2] for each in surprise(self.panel.lm, [texts[i] for i in numbers])]

        found = self._ask(name, "lm", [t.encode() for t in texts], work)
        return [(nats, tokens) if tokens else None for nats, tokens in found]

    def voices(self, name: str, recordings: Recordings, windows: bool) -> list[list[list[float]]]:
        """Unit vectors of each recording: of the whole, then, if wanted, of its windows; [] for an empty one."""

        def work(numbers: range) -> list[Any]:
            parts = [[recordings[i], *(windows_of(recordings[i]) if windows else ())] for i in numbers]
            parts = [each if len(each[0]) else [] for each in parts]
            flat = [part for each in parts for part in each]
            vectors = iter(np.asarray(self.panel.speaker.embed(flat), np.float32).tolist() if flat else [])
            return [[next(vectors) for _ in each] for each in parts]

        return self._ask(name, "speaker", [r.tobytes() for r in recordings], work)

    def opinions(self, name: str, recordings: Recordings, prompt_voices: Sequence[Sequence[Any]]) -> list[Opinion]:
        """Everything the panel has to say. prompt_voices: voices() of the prompts; () where no speaker judge is."""
        count = len(recordings)
        heard: list[Any] = self.texts(name, recordings) if self.panel.asr else [None] * count
        known = self.panel.asr and self.panel.lm
        likelihoods = self.likelihoods(name, heard) if known else [None] * count
        voices: list[Any] = self.voices(name, recordings, self.windows) if self.panel.speaker else [[]] * count
        rated = self._ratings(name, recordings) if self.panel.mos else [{}] * count
        found = []
        for i in range(count):
            near = [cosine(_vector(prompt_voices[i][0]), _vector(v)) for v in voices[i] if prompt_voices[i]]
            nats, tokens = likelihoods[i] or (None, 0)
            whole = near[0] if near and not math.isnan(near[0]) else None
            found.append(Opinion(heard[i], nats, tokens, whole, tuple(near[1:]), rated[i]))
        return found

    def _ratings(self, name: str, recordings: Recordings) -> list[dict[str, float]]:
        def work(numbers: range) -> list[Any]:
            full = [i for i in numbers if len(recordings[i])]
            rated = self.panel.mos.rate([recordings[i] for i in full], ()) if full else []
            scores = dict(zip(full, rated, strict=True))
            return [{k: float(v) for k, v in scores.get(i, {}).items() if not math.isnan(v)} for i in numbers]

        return self._ask(name, "mos", [r.tobytes() for r in recordings], work)


def _vector(values: Sequence[float]) -> Any:
    return np.asarray(values, np.float32)
