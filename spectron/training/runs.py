"""The state of training runs, read from their work folders. It imports no JAX: `spectron runs` must start at once.

A work folder holds a folder per stage. Training leaves three things there: checkpoints, metrics.jsonl, and
process.json, which names the process that trains the stage, its host, and when it started.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import socket
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from spectron.checkpoints.steps import FOLDER, META, steps_in
from spectron.errors import UserError
from spectron.utils.console import duration
from spectron.utils.files import write_bytes

METRICS = "metrics.jsonl"
VALIDATION = "validation_"  # how the names of validation metrics begin in it
PROCESS = "process.json"
LOCK = ".lock"
REFRESH_SECONDS = 10.0  # ours: how often a training process writes process.json again
TAIL_BYTES = 1 << 16  # ours: of metrics.jsonl; hundreds of lines
DEPTH = 3  # ours: how deep below a folder work folders are looked for; noisy-student keeps them at GENERATION/training


class ProcessFile:
    """Keeps process.json of a stage up to date: a context manager around its training.

    stages: the number of steps of every stage of the experiment. main: the names of the stage's main metrics. write:
    False on all hosts but one. A file that cannot be written never stops training.
    """

    def __init__(self, folder: Path, stages: Mapping[str, int], main: Sequence[str], step: int, write: bool) -> None:
        self.path = folder / PROCESS
        self.write = write
        self._written = 0.0
        self._record: dict[str, Any] = {
            "pid": os.getpid(),
            "host": socket.gethostname(),
            "clock_ticks": _start_of(os.getpid()),
            "started": time.time(),
            "ended": None,
            "step": step,
            "stages": dict(stages),
            "main": list(main),
        }

    def beat(self, step: int) -> None:
        """Record the newest step, every ten seconds."""
        self._record["step"] = step
        if time.monotonic() - self._written >= REFRESH_SECONDS:
            self._save()

    def _save(self) -> None:
        self._written = time.monotonic()
        if self.write:
            with contextlib.suppress(UserError):
                write_bytes(self.path, json.dumps(self._record).encode())

    def __enter__(self) -> ProcessFile:
        self._save()
        return self

    def __exit__(self, *_: object) -> None:
        self._record["ended"] = time.time()
        self._save()


@contextlib.contextmanager
def only_writer(folder: Path, write: bool) -> Iterator[None]:
    """Hold the lock of a stage's folder: two processes would write over each other's checkpoints and metrics.

    write: False on all hosts but one. File systems without locks are left unlocked. Raises UserError naming the process
    that holds it.
    """
    import filelock

    lock = filelock.FileLock(folder / LOCK, timeout=0)
    if write:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            lock.acquire()
        except filelock.Timeout as error:
            with contextlib.suppress(OSError, ValueError):
                record = json.loads((folder / PROCESS).read_bytes())
                raise UserError(
                    f"Process {record['pid']} on {record['host']} is training in {str(folder)!r}; wait until it ends, "
                    f"stop it, or give another --workdir."
                ) from error
            raise UserError(f"Another process is training in {str(folder)!r}; give another --workdir.") from error
        except (OSError, NotImplementedError):
            pass  # who cannot write here is told by what is written next
    try:
        yield
    finally:
        lock.release()


@dataclasses.dataclass(frozen=True)
class StageRun:
    """One stage of a run.

    step: the newest one that is known; steps: of the whole stage, 0 if that is not recorded; saved: the step of the
    newest checkpoint, 0 before the first. figures: the newest main and validation metrics. active: when anything was
    written last, in seconds since 1970, 0 for a stage that has not begun. state: "finished", "running, pid 7", ….
    """

    name: str
    step: int = 0
    steps: int = 0
    saved: int = 0
    figures: Mapping[str, float] = dataclasses.field(default_factory=dict)
    active: float = 0.0
    state: str = "not begun"


def find_runs(folder: Path, depth: int = DEPTH) -> dict[Path, list[StageRun]]:
    """Work folder → its stages, of the work folder `folder`, of a stage's folder, or of all work folders below it.

    Raises UserError if there is none.
    """
    if not folder.is_dir():
        raise UserError(f"{str(folder)!r} is not a folder; give the --workdir of a training run.")
    if _is_stage(folder):
        return {folder.parent: [_read_stage(folder)[0]]}
    found = {path: read_run(path) for path in _work_folders(folder, depth)}
    if not found:
        raise UserError(f"There are no runs in {str(folder)!r}; give the --workdir of `spectron train`, or its parent.")
    return found


def read_run(workdir: Path) -> list[StageRun]:
    """The stages of a work folder, in the experiment's order; those that have not begun too, if they are known."""
    stages = {path.name: _read_stage(path) for path in sorted(workdir.iterdir()) if _is_stage(path)}
    newest = sorted(stages.values(), key=lambda each: each[0].active)
    planned = next((steps for _, steps in reversed(newest) if steps), {})
    first = [stages.pop(name)[0] if name in stages else StageRun(name, steps=steps) for name, steps in planned.items()]
    return first + [run for run, _ in stages.values()]


def _work_folders(folder: Path, depth: int) -> list[Path]:
    below = sorted(path for path in _entries(folder) if path.is_dir() and not path.name.startswith("."))
    if any(_is_stage(path) for path in below):
        return [folder]
    return [found for path in below if depth for found in _work_folders(path, depth - 1)]


def _entries(folder: Path) -> list[Path]:
    try:
        return list(folder.iterdir())
    except OSError:  # of another user
        return []


def _is_stage(folder: Path) -> bool:
    return (folder / PROCESS).is_file() or (folder / METRICS).is_file() or bool(steps_in(folder / FOLDER))


def _read_stage(folder: Path) -> tuple[StageRun, dict[str, int]]:
    """A stage's run, and the steps of every stage of its experiment."""
    checkpoints = steps_in(folder / FOLDER)
    saved = checkpoints[-1] if checkpoints else 0
    newest = folder / FOLDER / str(saved) / META
    process, lines = _read_json(folder / PROCESS), _tail(folder / METRICS)
    planned = process.get("stages") or _planned(_read_json(newest))
    steps = planned.get(folder.name, 0)
    metrics = {name: value for line in lines for name, value in line.items()}
    main = [name for name in process.get("main", ()) if name in metrics] or ["loss"]
    shown = [*(name for name in main if name in metrics), *(name for name in metrics if name.startswith(VALIDATION))]
    active = max(_modified(path) for path in (folder / METRICS, folder / PROCESS, newest))
    run = StageRun(
        name=folder.name,
        step=max([saved, process.get("step", 0), *(line.get("step", 0) for line in lines[-1:])]),
        steps=steps,
        saved=saved,
        figures={name: metrics[name] for name in shown},
        active=active,
        state="finished" if steps and saved >= steps else state_of(process, active),
    )
    return run, planned


def state_of(process: Mapping[str, Any], active: float) -> str:
    """Whether the process that process.json describes is alive. active: when the stage's folder was written last.

    A process of another host cannot be asked: then the sentence says how long ago it wrote something.
    """
    if not process:
        return "unknown"
    if process.get("ended"):
        return "stopped"
    if process.get("host") != socket.gethostname():
        return f"last written {duration(time.time() - active)} ago on {process.get('host')}"
    pid = int(process["pid"])
    if not _alive(pid) or _start_of(pid) != process.get("clock_ticks"):  # another process may have its number now
        return f"gone, pid {pid}"
    return f"running, pid {pid}, for {duration(time.time() - process['started'])}"


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # another user's
        return True
    return True


def _start_of(pid: int) -> int | None:
    """When a process started, in clock ticks since the machine's start; None where there is no /proc (see proc(5))."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
        return int(stat.rpartition(")")[2].split()[19])  # field 22; the name before it, in brackets, may hold spaces
    except (OSError, ValueError, IndexError):
        return None


def _planned(meta: Mapping[str, Any]) -> dict[str, int]:
    """Stage → steps, of the experiment in a checkpoint's meta JSON."""
    return {stage["name"]: stage["steps"] for stage in meta.get("experiment", {}).get("stages", ())}


def _tail(path: Path) -> list[dict[str, Any]]:
    """The last lines of metrics.jsonl; one that is being written is left out."""
    try:
        with path.open("rb") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(size - TAIL_BYTES, 0))
            lines = file.read().splitlines()
    except OSError:
        return []
    found = []
    for line in lines:
        with contextlib.suppress(ValueError):
            record = json.loads(line)
            found += [record] if isinstance(record, dict) else []
    return found


def _read_json(path: Path) -> dict[str, Any]:
    """{} for a file that is missing or cannot be read."""
    try:
        read = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return {}
    return read if isinstance(read, dict) else {}


def _modified(path: Path) -> float:
    """When a file was written last, in seconds since 1970; 0 if it is missing."""
    try:
        return path.stat().st_mtime
    except OSError:
        return 0.0
