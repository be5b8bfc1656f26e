"""The two judges of the counting world: trained once, kept in a folder, and judged themselves."""

from __future__ import annotations

import dataclasses
import json
import logging
import os
import time
import zlib
from pathlib import Path

import numpy as np

from spectron.config import DataConfig, FeatureConfig
from spectron.data.counting.clips import Clips, load_clips
from spectron.evaluation.judges import digits
from spectron.evaluation.judges.digits import DigitJudge, train_digit_judge
from spectron.evaluation.judges.outside import checksum_of
from spectron.evaluation.judges.speakers import SpeakerJudge, train_speaker_judge
from spectron.types import UserError

log = logging.getLogger(__name__)

VERSION = 3  # of the recipe: another one is trained anew
# Ours: synthesised digits are learnt sooner (all of 600 unseen utterances right after 300 steps).
STEPS = {"fsdd": digits.STEPS, "espeak": 300}


@dataclasses.dataclass(frozen=True)
class Judges:
    """Who hears the digits and who hears the voice. Both are given int16 at 16 kHz."""

    digits: DigitJudge
    speakers: SpeakerJudge


def get_judges(data: DataConfig, features: FeatureConfig, folder: str | Path) -> Judges:
    """The judges of these training clips from `folder`; trained and stored there first if it has none.

    Raises UserError when the training clips are missing or at another rate, or the folder cannot be written.
    """
    if features.sample_rate != digits.FEATURES.sample_rate:
        raise UserError(
            f"features.sample_rate={features.sample_rate}: the judges hear {digits.FEATURES.sample_rate} Hz only; "
            f"evaluate a model of that rate."
        )
    clips, folder = load_clips(data, features, "train"), Path(folder)
    wanted = {"version": VERSION, "clips": data.clips, "fingerprint": fingerprint(clips)}
    try:
        if json.loads((folder / "judges.json").read_text()) == wanted | {"files": _sums(folder)}:
            return Judges(DigitJudge.load(folder / "digits.npz"), SpeakerJudge.load(folder / "speakers.npz"))
    except (OSError, ValueError):
        pass  # none there, or half of them, or somebody else's half: train
    judges = train_judges(clips, STEPS.get(data.clips, digits.STEPS))
    try:
        folder.mkdir(parents=True, exist_ok=True)
        judges.digits.save(folder / "digits.npz")
        judges.speakers.save(folder / "speakers.npz")
        temporary = folder / ".judges.json"
        temporary.write_text(json.dumps(wanted | {"files": _sums(folder)}))
        os.replace(temporary, folder / "judges.json")  # last: it says that the others are whole
    except OSError as error:
        raise UserError(f"The judges cannot be kept in {str(folder)!r} ({error}); choose another --judges.") from error
    return judges


def _sums(folder: Path) -> dict[str, str]:
    return {name: checksum_of([folder / name]) for name in ("digits.npz", "speakers.npz")}


def train_judges(clips: Clips, steps: int) -> Judges:
    """Both judges from the training clips alone."""
    from tqdm import tqdm

    log.info("Training the judges on %d clips of %d voices (once).", len(clips.digits), len(clips.speakers))
    began = time.monotonic()
    with tqdm(total=steps, desc="digit judge", unit="step", disable=None) as bar:
        heard = train_digit_judge(clips, steps=steps, progress=lambda _: bar.update())
    judges = Judges(heard, train_speaker_judge(clips))
    log.info("The judges are trained (%.0f s).", time.monotonic() - began)
    return judges


def fingerprint(clips: Clips) -> str:
    """What the judges learn from: the clips' samples, digits and speakers in eight hexadecimal digits."""
    names = repr((clips.names, clips.speakers, clips.lengths.tolist())).encode()
    return f"{zlib.crc32(np.ascontiguousarray(clips.samples).tobytes(), zlib.crc32(names)):08x}"
