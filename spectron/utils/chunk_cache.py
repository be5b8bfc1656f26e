"""Long work in chunks, each kept as one file that is there whole or not at all: what was done stays done."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from spectron.types import UserError
from spectron.utils.files import remove_parts, write_bytes

PLAN = "plan.json"


class Journal:
    """A folder of numbered chunks that belongs to one plan.

    plan: everything that would change what the chunks hold (JSON). Raises UserError when the folder has another plan,
    naming the first thing that differs. One process at a time may write.
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

    def __call__(self, items: int, size: int, work: Callable[[range], bytes], what: str) -> list[bytes]:
        """What work(numbers) gave for every chunk of `size` of so many items, in order; now, or in an earlier run."""
        from tqdm import tqdm

        found = []
        with tqdm(total=items, desc=what, unit="item", disable=None) as bar:
            for start in range(0, items, size):
                numbers = range(start, min(start + size, items))
                path = self.folder / f"{start:07d}"
                if not path.is_file():
                    write_bytes(path, work(numbers))
                found.append(path.read_bytes())
                bar.update(len(numbers))
        return found


def _short(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 80 else text[:77] + "…"
