"""Judges of sound: speaker embeddings by resemblyzer, speech quality by DNSMOS, PESQ and STOI."""

from __future__ import annotations

import abc
import contextlib
import importlib
import importlib.metadata
import importlib.util
import itertools
import math
import sys
import types
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from jaxtyping import Float

from spectron.evaluation.judges.base import RATE, facts, missing, version_of
from spectron.types import UserError
from spectron.utils.files import checksum_of

LENGTHS = 0.1  # ours: seconds by which a recording and its reference may differ; the longer is cut
SHORTEST = 0.25  # seconds: PESQ (ITU-T P.862) takes no less
VAD_WINDOW = 480  # samples: resemblyzer looks for voice in windows of 30 ms


class Resemblyzer:
    """resemblyzer's GE2E encoder (256 dimensions, VoxCeleb and LibriSpeech) with its own pre-processing.

    Loudness is raised to −30 dBFS, long silences are cut, windows of 1.6 s are embedded and averaged; a shorter
    recording is one window, padded with zeros. All recordings of a call are one batch. Raises UserError if it is not
    installed.
    """

    def __init__(self) -> None:
        self._library = _import_resemblyzer()
        self._encoder = self._library.VoiceEncoder("cpu", verbose=False)
        weights = Path(self._library.__file__).with_name("pretrained.pt")
        settings = {"preprocess_wav": True, "rate": 1.3, "min_coverage": 0.75}  # the library's own
        name, version = "resemblyzer", version_of("resemblyzer")
        self.facts = facts("speaker encoder", name, version, settings, checksum_of([weights]))

    def embed(self, recordings: Sequence[np.ndarray]) -> Float[np.ndarray, "N D"]:
        """int16 [S] each, at 16 kHz → unit vectors float32 [N, 256]; zeros if no voice is left."""
        import torch

        windows: list[np.ndarray] = []
        owners: list[int] = []
        for i, samples in enumerate(recordings):
            new = self._windows(samples)
            windows += new
            owners += [i] * len(new)
        out = np.zeros((len(recordings), 256), np.float32)
        if windows:
            with torch.inference_mode(), _one_thread(torch):
                embedded = self._encoder(torch.from_numpy(np.stack(windows))).numpy()
            np.add.at(out, owners, embedded)
        norms = np.linalg.norm(out, axis=1, keepdims=True)
        return np.divide(out, norms, out=np.zeros_like(out), where=norms > 0)

    def _windows(self, samples: np.ndarray) -> list[np.ndarray]:
        """Mel windows float32 [160, 40] of the voiced part."""
        if len(samples) < VAD_WINDOW or not np.any(samples):
            return []
        voiced = self._library.preprocess_wav(samples.astype(np.float32) / 32768)
        if not len(voiced):
            return []
        pieces, frames = self._encoder.compute_partial_slices(len(voiced), rate=1.3, min_coverage=0.75)
        padded = np.pad(voiced, (0, max(0, pieces[-1].stop - len(voiced))))
        mel = self._library.wav_to_mel_spectrogram(padded)
        return [mel[each] for each in frames]


class DNSMOS:
    """Predicted mean opinion scores after ITU-T P.835 and P.808 (Reddy et al. 2022), by the package speechmos.

    Recordings below 9.01 s are repeated until they are as long, as the package does.
    """

    measures: ClassVar[dict[str, str]] = {
        "DNSMOS overall": "DNSMOS P.835, predicted mean opinion score of the whole, 1 to 5.",
        "DNSMOS speech": "DNSMOS P.835, predicted mean opinion score of the speech, 1 to 5.",
        "DNSMOS background": "DNSMOS P.835, predicted mean opinion score of the background, 1 to 5.",
        "DNSMOS P.808": "DNSMOS P.808, predicted mean opinion score, 1 to 5.",
    }
    _keys = ("ovrl_mos", "sig_mos", "bak_mos", "p808_mos")

    def __init__(self) -> None:
        try:
            from speechmos import dnsmos
        except ImportError as error:
            raise missing(error, "DNSMOS") from error
        folder = Path(dnsmos.__file__).parent / "dnsmos_models"
        self._run = dnsmos.run
        models = [folder / "sig_bak_ovr.onnx", folder / "model_v8.onnx"]
        settings = {"model_type": "dnsmos"}
        self.facts = facts("speech quality", "speechmos DNSMOS", version_of("speechmos"), settings, checksum_of(models))

    def rate(self, recordings: Sequence[np.ndarray], references: Sequence[np.ndarray] = ()) -> list[dict[str, float]]:
        """int16 [S] each, at 16 kHz → the four scores; NaN for a recording of nothing but zeros."""
        return [self._rate(samples) for samples in recordings]

    def _rate(self, samples: np.ndarray) -> dict[str, float]:
        if not np.any(samples):
            return dict.fromkeys(self.measures, math.nan)
        scores = self._run(samples.astype(np.float32) / 32768, RATE, model_type="dnsmos")
        return {name: float(scores[key]) for name, key in zip(self.measures, self._keys, strict=True)}


class PairedQuality(abc.ABC):
    """A measure of recordings against references of the same length. Raises UserError if its package is missing."""

    name: ClassVar[str]
    definition: ClassVar[str]

    def __init__(self, package: str, settings: dict[str, Any]) -> None:
        try:
            self._library = importlib.import_module(package)
        except ImportError as error:
            raise missing(error, self.name) from error
        self.measures = {self.name: self.definition}
        self.facts = facts("speech quality", package, version_of(package), settings, "")

    def rate(self, recordings: Sequence[np.ndarray], references: Sequence[np.ndarray]) -> list[dict[str, float]]:
        """int16 [S] pairs at 16 kHz → {name: value}, NaN if there is too little. UserError for unequal lengths."""
        pairs = itertools.starmap(equal_lengths, zip(recordings, references, strict=True))
        return [{self.name: self._rate(samples, reference)} for samples, reference in pairs]

    @abc.abstractmethod
    def _rate(self, samples: np.ndarray, reference: np.ndarray) -> float: ...


class PESQ(PairedQuality):
    """Perceptual evaluation of speech quality, wide band (ITU-T P.862.2), by the package pesq."""

    name = "PESQ"
    definition = "Wide-band PESQ (ITU-T P.862.2) of a recording against its reference, 1.04 to 4.64."

    def __init__(self) -> None:
        super().__init__("pesq", {"mode": "wb"})

    def _rate(self, samples: np.ndarray, reference: np.ndarray) -> float:
        if len(samples) < SHORTEST * RATE or not (np.any(samples) and np.any(reference)):
            return math.nan
        try:
            return float(self._library.pesq(RATE, reference, samples, "wb"))
        except self._library.NoUtterancesError:
            return math.nan


class STOI(PairedQuality):
    """Short-time objective intelligibility (Taal et al. 2011), by the package pystoi."""

    name = "STOI"
    definition = "Short-time objective intelligibility (Taal et al. 2011) against its reference, up to 1."

    def __init__(self) -> None:
        super().__init__("pystoi", {"extended": False})

    def _rate(self, samples: np.ndarray, reference: np.ndarray) -> float:
        if not np.any(reference):
            return math.nan
        with warnings.catch_warnings():
            warnings.simplefilter("error", RuntimeWarning)  # the package's sign that too little speech is left
            try:
                return float(self._library.stoi(reference / 32768, samples / 32768, RATE))
            except (RuntimeWarning, ValueError):
                return math.nan


def equal_lengths(samples: np.ndarray, reference: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Both cut to the shorter one. Raises UserError if they differ by more than a tenth of a second."""
    if abs(len(samples) - len(reference)) > LENGTHS * RATE:
        raise UserError(
            f"The recording lasts {len(samples) / RATE:.2f} s, its reference {len(reference) / RATE:.2f} s; "
            f"give the same utterance in the same time."
        )
    size = min(len(samples), len(reference))
    return samples[:size], reference[:size]


@contextlib.contextmanager
def _one_thread(torch: Any) -> Iterator[None]:
    # An LSTM's steps are too small for threads; on a busy machine an embedding took 3.7 s with them.
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _import_resemblyzer() -> Any:
    """The library. Its webrtcvad asks pkg_resources for a version, which setuptools no longer has."""
    stand_in = types.ModuleType("pkg_resources")
    stand_in.get_distribution = importlib.metadata.distribution  # type: ignore[attr-defined]
    absent = "pkg_resources" not in sys.modules and importlib.util.find_spec("pkg_resources") is None
    if absent:
        sys.modules["pkg_resources"] = stand_in
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of deprecations inside these two packages
            import resemblyzer
    except ImportError as error:
        raise missing(error, "Speaker similarity by resemblyzer") from error
    finally:
        if absent:
            del sys.modules["pkg_resources"]
    return resemblyzer
