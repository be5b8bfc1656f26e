"""The two judges of the counting world: trained once, kept in a folder, and used like any judges."""

from __future__ import annotations

import json
import logging
import time
import zlib
from pathlib import Path

import numpy as np

from spectron.config import Experiment
from spectron.data.counting.clips import Clips, load_clips
from spectron.evaluation.counting import digit_judge
from spectron.evaluation.counting.digit_judge import DigitJudge, train_digit_judge
from spectron.evaluation.counting.speaker_judge import SpeakerJudge, train_speaker_judge
from spectron.evaluation.judges.base import facts
from spectron.evaluation.suites.judge_runner import Judges
from spectron.types import UserError
from spectron.utils.files import check_out, checksum_of, write_text

log = logging.getLogger(__name__)

VERSION = 4  # of the recipe: judges of another version are trained anew
# Ours: synthesised digits are learnt sooner. After 300 steps all of 600 unseen utterances are right, but of a model's
# answers two such judges fail different ones.
STEPS = {"fsdd": digit_judge.STEPS, "espeak": 600}
DIGITS, SPEAKERS = "digits.npz", "speakers.npz"


def get_judges(experiment: Experiment, folder: str | Path) -> Judges:
    """The judges of an experiment's speakers from `folder`; trained and stored there first if it has none.

    Raises UserError when the clips are missing or at another rate, or the folder cannot be written.
    """
    data, features = experiment.data, experiment.features
    if features.sample_rate != digit_judge.FEATURES.sample_rate:
        raise UserError(
            f"features.sample_rate={features.sample_rate}: the judges hear {digit_judge.FEATURES.sample_rate} Hz only; "
            f"evaluate a model of that rate."
        )
    clips, folder = load_clips(data, features, "judge"), Path(folder)
    plan = {"version": VERSION, "clips": data.clips, "fingerprint": fingerprint(clips)}
    try:
        if json.loads((folder / "judges.json").read_text()) != plan | {"files": _checksums(folder)}:
            raise ValueError("of other clips, or damaged")
        digits, speakers = DigitJudge.load(folder / DIGITS), SpeakerJudge.load(folder / SPEAKERS)
    except (OSError, ValueError):
        digits, speakers = train_judges(clips, STEPS.get(data.clips, digit_judge.STEPS))
        try:
            folder.mkdir(parents=True, exist_ok=True)
            digits.save(folder / DIGITS)
            speakers.save(folder / SPEAKERS)
        except OSError as error:
            raise UserError(f"Cannot keep the judges in {str(folder)!r} ({error}); choose another --judges.") from error
        write_text(folder / "judges.json", json.dumps(plan | {"files": _checksums(folder)}))  # last: all is whole
    settings, sums = {"clips": data.clips}, _checksums(folder)
    digits.facts = facts("speech recogniser", digits.name, str(VERSION), settings, sums[DIGITS])
    speakers.facts = facts("speaker encoder", "speaker judge", str(VERSION), settings, sums[SPEAKERS])
    return Judges(asr=digits, speaker=speakers)


def check_judges_folder(folder: str | Path | None) -> None:
    """Raise UserError if judges that are still to be trained could not be written."""
    if folder and not (Path(folder) / "judges.json").is_file():
        check_out(folder, "--judges")


def _checksums(folder: Path) -> dict[str, str]:
    return {name: checksum_of([folder / name]) for name in (DIGITS, SPEAKERS)}


def train_judges(clips: Clips, steps: int) -> tuple[DigitJudge, SpeakerJudge]:
    """Both judges from the training clips alone."""
    from tqdm import tqdm

    log.info("Training the judges on %d clips of %d voices (once).", len(clips.digits), len(clips.speakers))
    began = time.monotonic()
    with tqdm(total=steps, desc="digit judge", unit="step", disable=None) as bar:
        digits = train_digit_judge(clips, steps=steps, progress=lambda _: bar.update())
    speakers = train_speaker_judge(clips)
    log.info("The judges are trained (%.0f s).", time.monotonic() - began)
    return digits, speakers


def fingerprint(clips: Clips) -> str:
    """Checksum of what the judges learn from: the clips' samples, digits and speakers."""
    names = repr((clips.names, clips.speakers, clips.lengths.tolist())).encode()
    return f"{zlib.crc32(np.ascontiguousarray(clips.samples).tobytes(), zlib.crc32(names)):08x}"
