"""A cache of finished chunks: long work that is interrupted resumes with the missing chunk."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from spectron.types import UserError
from spectron.utils.files import read_sealed, remove_parts, write_bytes, write_sealed

PLAN = "plan.json"


class ChunkCache:
    """A folder of numbered chunks that belongs to one plan.

    plan: everything that would change what the chunks hold (JSON). Raises UserError when the folder has another plan,
    naming the first key that differs. Only one process at a time may write.
    """

    def __init__(self, folder: str | Path, plan: Mapping[str, Any]):
        self.folder = Path(folder)
        path, wanted = self.folder / PLAN, json.loads(json.dumps(plan))
        if not path.is_file():
            write_bytes(path, (json.dumps(wanted, indent=1) + "\n").encode())
        else:
            try:
                stored = json.loads(path.read_text(encoding="utf-8"))
            except (OSError, ValueError) as error:
                raise UserError(f"{str(path)!r} cannot be read ({error}); delete its folder.") from error
            if not isinstance(stored, dict):
                raise UserError(f"{str(path)!r} holds no plan; delete its folder.")
            for key in sorted({*wanted, *stored}):
                if wanted.get(key) != stored.get(key):
                    raise UserError(
                        f"{str(self.folder)!r} holds the work of another {key} ({_short(stored.get(key))}, not "
                        f"{_short(wanted.get(key))}); choose another --out, or delete it."
                    )
        remove_parts(self.folder)

    def chunks(self, count: int, size: int, work: Callable[[range], bytes], label: str) -> list[bytes]:
        """work(indices) for every chunk of `size` of `count` items, in order; computed now or in an earlier run.

        label: of the progress bar.
        """
        from tqdm import tqdm

        contents = []
        with tqdm(total=count, desc=label, unit="item", disable=None) as bar:
            for start in range(0, count, size):
                indices = range(start, min(start + size, count))
                path = self.folder / f"{start:07d}"
                content = read_sealed(path)
                if content is None:
                    content = work(indices)
                    write_sealed(path, content)
                contents.append(content)
                bar.update(len(indices))
        return contents

    def records(self, count: int, size: int, work: Callable[[range], Sequence[Any]], label: str) -> list[Any]:
        """The same for work(indices) that returns one JSON value an item; the values of all items, in order."""

        def encoded(indices: range) -> bytes:
            return json.dumps(list(work(indices))).encode()

        return [value for chunk in self.chunks(count, size, encoded, label) for value in json.loads(chunk)]


def checksum(parts: Iterable[bytes]) -> str:
    """Sixteen hexadecimal digits that change with any part, its length or its position."""
    digest = hashlib.sha256()
    for part in parts:
        digest.update(len(part).to_bytes(8, "little"))
        digest.update(part)
    return digest.hexdigest()[:16]


def _short(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 80 else text[:77] + "…"
