"""Libriheavy (arXiv 2309.08105): Libri-Light aligned with the texts of its books, as a manifest of lhotse cuts.

A line of libriheavy_cuts_{small,medium,large,dev,test_…}.jsonl.gz is one cut: `recording.id` is Libri-Light's path
without suffix, `start` and `duration` are in seconds, `supervisions[0]` has `speaker` and `custom.texts`: the text of
the book, then a recogniser's transcript. The extracted manifests have `supervisions[0].text` instead.
"""

from __future__ import annotations

import dataclasses
import json
import math
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from spectron.config import check_settings
from spectron.corpora.cutting import CuttingConfig
from spectron.corpora.labels import clean_text
from spectron.corpora.librilight import SUBSETS, BadChapter, Recording, Rejected, recording_at
from spectron.corpora.report import name_hashes, write_report
from spectron.corpora.shard_jobs import fingerprint, read_plan, run_shards, settings_of, under_construction
from spectron.data.shards import PLAN, Utterance, encode_flac, is_finished, shard_path, write_shard
from spectron.types import UserError
from spectron.utils.files import remove_parts, write_bytes
from spectron.utils.text_files import parse_json, read_lines

TEXTS = ("book", "asr")  # the order of custom.texts
PER_SHARD = 4096  # ours: cuts in a shard


class HeavyCut(NamedTuple):
    """One line of a manifest."""

    id: str
    recording: str  # path below Libri-Light's root, without suffix
    start: float  # seconds
    duration: float  # seconds
    speaker: str
    text: str


def parse(line: str, texts: str = "book") -> HeavyCut:
    """Parse a line of a manifest. Raises ValueError if it is malformed."""
    try:
        row = parse_json(line)
        supervision = row["supervisions"][0]
        versions = (supervision.get("custom") or {}).get("texts")
        text = versions[TEXTS.index(texts)] if versions else supervision["text"]
        recording = row["recording"]["id"]
        if recording.split("/")[0] not in SUBSETS or ".." in recording.split("/"):
            raise ValueError(f"recording {recording!r} is not a path of Libri-Light")
        parsed = HeavyCut(
            id=str(row["id"]),
            recording=recording,
            start=float(row["start"]),
            duration=float(row["duration"]),
            speaker=str(supervision.get("speaker") or recording.split("/")[1]),
            text=clean_text(text),
        )
        (parsed.id + parsed.recording + parsed.speaker).encode()  # raises ValueError for a lone surrogate
    except (KeyError, IndexError, TypeError, AttributeError, OverflowError) as error:
        raise ValueError(f"not a cut of Libriheavy: {error!r}") from error
    if not (0 <= parsed.start < math.inf and 0 < parsed.duration < math.inf):
        raise ValueError("start or duration is out of range")
    return parsed


def read_cuts(path: str | Path, texts: str, rejected: Rejected) -> Iterator[HeavyCut]:
    """The cuts of a manifest (.jsonl or .jsonl.gz); malformed lines and repeated ids go to `rejected`.

    Raises UserError.
    """
    path = Path(path)
    seen: set[int] = set()
    for number, line in read_lines(path):
        try:
            cut = parse(line, texts)
        except ValueError:
            rejected.setdefault("lines of the manifest that are broken", []).append(f"{path.name}:{number}")
            continue
        key = int(name_hashes([cut.id])[0])
        if key in seen:
            rejected.setdefault("duplicate ids", []).append(cut.id)
            continue
        seen.add(key)
        yield cut


def cut_libriheavy(
    manifest: str | Path,
    root: str | Path,
    out: str | Path,
    config: CuttingConfig,
    texts: str = "book",
    per_shard: int = PER_SHARD,
    options: Sequence[str] = (),
) -> dict[str, Any]:
    """Write the cuts of a manifest as shards with texts; returns the report that is also written to OUT.

    root: of Libri-Light. config: only min_seconds and max_seconds are used. Raises UserError.
    """
    check_settings(config)
    if texts not in TEXTS:
        raise UserError(f"--texts {texts!r} is unknown; use one of: {', '.join(TEXTS)}.")
    if not Path(manifest).is_file():
        raise UserError(f"Manifest {str(manifest)!r} does not exist; give a libriheavy_cuts_….jsonl.gz.")
    if not any((Path(root) / name).is_dir() for name in SUBSETS):
        raise UserError(f"{str(root)!r} contains none of {', '.join(SUBSETS)}; give the root of Libri-Light.")
    settings = {
        "manifest": fingerprint([Path(manifest).name, os.path.getsize(manifest)]),
        "texts": texts,
        "per_shard": per_shard,
        "limits": {"min_seconds": settings_of(config.min_seconds), "max_seconds": settings_of(config.max_seconds)},
    }
    plans = Path(out) / "cuts"
    begun = (Path(out) / PLAN).exists()  # then nothing is written before under_construction compares the settings
    count, left_out = _read_plans(out, plans) if begun else _write_plans(manifest, plans, texts, per_shard)
    with under_construction(out, "libriheavy", settings, count) as folder:
        work = HeavyShard(str(folder), str(root), config)
        run_shards(work, range(count), work.finished, options, "shards cut")
        return write_report(folder, left_out)


def _read_plans(out: str | Path, plans: Path) -> tuple[int, Rejected]:
    try:
        return int(read_plan(out)["shards"]), json.loads((plans / "plan.json").read_text())["left_out"]
    except (OSError, ValueError, KeyError) as error:
        raise UserError(
            f"{str(out)!r} was not started from a Libriheavy manifest ({error}); give another folder."
        ) from error


def _write_plans(manifest: str | Path, plans: Path, texts: str, per_shard: int) -> tuple[int, Rejected]:
    """Split the manifest into one file per shard, so that a worker reads only its own; returns their number."""
    done = plans / "plan.json"
    key = fingerprint([os.path.getsize(manifest), texts, per_shard])
    if done.is_file():
        plan = json.loads(done.read_text())
        if plan["key"] == key:
            return plan["shards"], plan["left_out"]
    remove_parts(plans)
    rejected: Rejected = {}
    lines: list[str] = []
    count = 0
    for cut in read_cuts(manifest, texts, rejected):
        lines.append(json.dumps(cut) + "\n")
        if len(lines) == per_shard:
            write_bytes(plans / f"shard-{count:05d}.jsonl", "".join(lines).encode())
            lines = []
            count += 1
    if lines:
        write_bytes(plans / f"shard-{count:05d}.jsonl", "".join(lines).encode())
        count += 1
    if not count:
        raise UserError(f"Manifest {str(manifest)!r} has no usable cut; give a libriheavy_cuts_….jsonl.gz.")
    write_bytes(done, json.dumps({"key": key, "shards": count, "left_out": rejected}).encode())
    return count, rejected


@dataclasses.dataclass(frozen=True)
class HeavyShard:
    """Writes the cuts of one shard; sent to the workers."""

    out: str
    root: str
    config: CuttingConfig

    def finished(self, number: int) -> bool:
        """Whether the shard is complete."""
        return is_finished(shard_path(self.out, number))

    def __call__(self, number: int) -> None:
        """Write shard `number`."""
        rejected: Rejected = {}
        write_shard(shard_path(self.out, number), self._utterances(number, rejected), rejected)

    def _utterances(self, number: int, rejected: Rejected) -> Iterator[Utterance]:
        plan = Path(self.out) / "cuts" / f"shard-{number:05d}.jsonl"
        name = ""
        recording: Recording | None = None
        try:
            for line in plan.read_text(encoding="utf-8").split("\n")[:-1]:
                cut = HeavyCut(*json.loads(line))
                reason = self._reason(cut)
                try:
                    if not reason:
                        if recording is None or name != cut.recording:
                            if recording is not None:
                                recording.close()
                                recording = None
                            name = cut.recording
                            recording = Recording(str(recording_at(f"{self.root}/{cut.recording}")))
                        yield _read(cut, recording)
                except BadChapter as error:
                    reason = f"utterances {error}"
                if reason:
                    rejected.setdefault(reason, []).append(cut.id)
        finally:
            if recording is not None:
                recording.close()

    def _reason(self, cut: HeavyCut) -> str:
        """Why the cut is left out; "" keeps it."""
        if cut.duration < self.config.min_seconds:
            return "utterances shorter than min_seconds"
        if cut.duration > self.config.max_seconds:
            return "utterances longer than max_seconds"
        return "" if cut.text else "without text"


def _read(cut: HeavyCut, recording: Recording) -> Utterance:
    start = round(cut.start * recording.rate)
    end = start + round(cut.duration * recording.rate)
    if end > recording.total:
        raise BadChapter("beyond the end of their recording")
    samples = recording.read(start, end)
    return Utterance(
        id=cut.id,
        speaker=cut.speaker,
        book=cut.recording.split("/")[2] if cut.recording.count("/") > 2 else "",
        audio=encode_flac(samples, recording.rate),
        sample_rate=recording.rate,
        num_samples=len(samples),
        text=cut.text,
        start=cut.start,
        recording=cut.recording,
    )
