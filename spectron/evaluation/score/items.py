"""What is scored: recordings and texts that belong together, from a manifest (JSONL) or folders with equal stems."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from spectron.audio import wav
from spectron.audio.finding import COMMON, find_files, warn_passed_over
from spectron.evaluation.judges.base import RATE
from spectron.types import UserError
from spectron.utils.text_files import are_texts, read_json, read_objects, read_text

SOUNDS = ("prompt", "continuation", "audio", "reference")  # roles that are recordings
GENERATED = ("audio", "continuation")  # those of them that a system made, and may have left empty
TEXTS = ("text", "transcript", "answers")  # roles that are texts; answers may be several
TEXT_SUFFIXES = (".txt", ".json")


@dataclasses.dataclass(frozen=True)
class ScoredItem:
    """One thing to score. sounds: role → file; texts: role → text; answers: what would be right."""

    id: str
    sounds: Mapping[str, Path] = dataclasses.field(default_factory=dict)
    texts: Mapping[str, str] = dataclasses.field(default_factory=dict)
    answers: Sequence[str] = ()

    def hear(self, role: str, may_be_empty: bool = False) -> np.ndarray:
        """int16 [S] at 16 kHz. Raises UserError for a file that is not audio, or has no samples.

        may_be_empty: a generated recording without samples (the system said nothing) gives shape [0].
        """
        path = self.sounds[role]
        if may_be_empty and role in GENERATED and wav.has_no_samples(_bytes(path)):
            return np.zeros(0, np.int16)
        return wav.read(path, RATE)


@dataclasses.dataclass(frozen=True)
class ScoredItems:
    """All that is scored together. name: its source, as the user named it."""

    name: str
    items: Sequence[ScoredItem]

    def facts(self) -> dict[str, Any]:
        """{"name", "items", "checksum"}: SHA-256 over ids, texts and the recordings' bytes."""
        digest = hashlib.sha256()
        for item in self.items:
            texts = [item.id, dict(item.texts), list(item.answers)]
            digest.update(json.dumps(texts, ensure_ascii=False, sort_keys=True).encode())
            for role, path in sorted(item.sounds.items()):
                digest.update(role.encode() + hashlib.sha256(_bytes(path)).digest())
        return {"name": self.name, "items": len(self.items), "checksum": digest.hexdigest()}


def from_manifest(
    path: str | Path,
    roles: Sequence[str],
    fields: Mapping[str, str] | None = None,
    where: Mapping[str, str] | None = None,
) -> ScoredItems:
    """The lines of a JSONL file as items; recordings are named relative to its folder.

    roles: what an item needs. fields: role → the line's key, if it differs from the role. where: key → the value that a
    line must have. Raises UserError naming line and key.
    """
    path, fields, where = Path(path), fields or {}, where or {}
    check_roles(fields, roles, "--field")
    items: dict[str, ScoredItem] = {}
    for number, place, record in read_objects(path):
        if any(str(record.get(key)) != value for key, value in where.items()):
            continue
        name = str(record.get("id", number))
        if name in items:
            raise UserError(
                f"{place} has the id {name!r} of a line before it; give it another, or choose with --where."
            )
        items[name] = _item(name, {role: _value(record, fields.get(role, role), role, place) for role in roles}, path)
    if not items:
        chosen = " with " + " and ".join(f"{k}={v}" for k, v in where.items()) if where else ""
        raise UserError(f"Manifest {str(path)!r} has no line{chosen}; check it.")
    return ScoredItems(str(path), list(items.values()))


def _value(record: Mapping[str, Any], key: str, role: str, place: str) -> Any:
    value = record.get(key)
    if are_texts(value) if role == "answers" else isinstance(value, str):
        return value
    if key not in record:
        known = ", ".join(record) or "none"
        raise UserError(f"{place} has no field {key!r} (it has {known}); name the right one: --field {role}=KEY.")
    wanted = "a text or a list of texts, none of them empty" if role == "answers" else "a text"
    raise UserError(f"{place} field {key!r} must be {wanted}.")


def _item(name: str, values: Mapping[str, Any], manifest: Path) -> ScoredItem:
    answers = values.get("answers", ())
    return ScoredItem(
        name,
        {role: manifest.parent / value for role, value in values.items() if role in SOUNDS},
        {role: value for role, value in values.items() if role in TEXTS and role != "answers"},
        [answers] if isinstance(answers, str) else list(answers),
    )


def from_folders(folders: Mapping[str, str], roles: Sequence[str]) -> ScoredItems:
    """Files of equal stems (their paths below the folder, without suffix) as items, one folder for each role.

    Texts are STEM.txt, or STEM.json as `spectron generate` writes it, with the role's name as the key; several answers
    are lines. Raises UserError naming a folder without files or a stem that another folder lacks.
    """
    check_roles(folders, roles, "--folder")
    missing = [role for role in roles if role not in folders]
    if missing:
        raise UserError(f"There is no folder for {missing[0]!r}; add --folder {missing[0]}=DIR.")
    files = {role: _files(Path(folders[role]), role) for role in roles}
    first, *others = roles
    for role in others:
        for one, other in ((first, role), (role, first)):
            lacking = sorted(set(files[one]) - set(files[other]))
            if lacking:
                raise UserError(
                    f"{str(folders[one])!r} has {lacking[0]!r} and {str(folders[other])!r} has not ({len(lacking)} "
                    f"such); both must hold the same stems."
                )
    items = []
    for stem in sorted(files[first]):
        sounds = {role: files[role][stem] for role in roles if role in SOUNDS}
        texts = {role: _text(files[role][stem], role) for role in roles if role in TEXTS and role != "answers"}
        items.append(ScoredItem(stem, sounds, texts, _answers(files["answers"][stem]) if "answers" in roles else ()))
    return ScoredItems(", ".join(f"{role}={folders[role]}" for role in roles), items)


def check_roles(given: Mapping[str, str], roles: Sequence[str], flag: str) -> None:
    """Raise UserError for a role that is not among those this metric reads."""
    for role in given:
        if role not in roles:
            raise UserError(f"{flag} {role}=… is not read here; what is scored has {', '.join(roles)}.")


def _files(folder: Path, role: str) -> dict[str, Path]:
    if not folder.is_dir():
        raise UserError(f"--folder {role}={folder}: there is no such folder; check the path.")
    found = find_files(folder)
    if role in SOUNDS:
        warn_passed_over(found.unreadable)
    texts = [path for path in found.others if path.suffix.lower() in TEXT_SUFFIXES]
    files: dict[str, Path] = {}
    for path in sorted(found.audio if role in SOUNDS else texts):
        if not path.is_file():
            continue
        stem = path.relative_to(folder).with_suffix("").as_posix()
        if stem in files:
            raise UserError(f"{str(files[stem])!r} and {str(path)!r} have the same stem; take one of them away.")
        files[stem] = path
    if not files:
        wanted = f"audio ({COMMON})" if role in SOUNDS else ", ".join(TEXT_SUFFIXES)
        raise UserError(f"--folder {role}={folder} holds no {wanted}; check the path.")
    return files


def _text(path: Path, role: str) -> str:
    text = _content(path, role)
    if not isinstance(text, str):
        raise UserError(f"{str(path)!r}: {role!r} must be a text.")
    return text


def _answers(path: Path) -> list[str]:
    answers = _content(path, "answers")
    is_text = path.suffix.lower() == ".txt"
    if is_text:
        answers = [line for line in answers.split("\n") if line.strip()]
    if not are_texts(answers):
        wanted = "one on every line" if is_text else "a text or a list of texts, none of them empty"
        raise UserError(f"{str(path)!r} holds no answers; write {wanted}.")
    return [answers] if isinstance(answers, str) else [answer.strip() for answer in answers]


def _content(path: Path, role: str) -> Any:
    if path.suffix.lower() == ".txt":
        return read_text(path)
    content = read_json(path)
    if not isinstance(content, dict) or role not in content:
        raise UserError(f"{str(path)!r} holds no {role}; give STEM.txt, or JSON with {role!r}.")
    return content[role]


def _bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except (OSError, ValueError) as error:  # of a value: a name that no file can have
        reason = getattr(error, "strerror", None) or error
        raise UserError(f"{str(path)!r} cannot be read ({reason}); check the path.") from error
