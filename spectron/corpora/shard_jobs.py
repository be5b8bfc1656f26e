"""Jobs that fill a folder of shards: the folder records its settings, and finished shards are not made again."""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import hashlib
import json
import logging
import re
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from spectron.data.shards import PLAN
from spectron.types import UserError
from spectron.utils.files import remove_parts, write_bytes

log = logging.getLogger(__name__)

INLINE = "inline"  # the runner without Beam: one shard after the other in this process
POLL_SECONDS = 1.0  # ours: interval at which the progress bar looks for finished shards


def fingerprint(parts: Iterable[object]) -> str:
    """A hash of the parts' text, 16 hexadecimal digits."""
    digest = hashlib.sha256()
    for part in parts:
        digest.update(f"{part}\n".encode("utf-8", "surrogatepass"))
    return digest.hexdigest()[:16]


def settings_of(value: Any) -> Any:
    """Settings as JSON values: the fields of a dataclass, the class name of any other object."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return json.loads(json.dumps(dataclasses.asdict(value)))
    if value is None or isinstance(value, bool | int | float | str):
        return value
    return type(value).__name__


@contextlib.contextmanager
def under_construction(folder: str | Path, kind: str, settings: dict[str, Any], shards: int) -> Iterator[Path]:
    """Lock a folder for `shards` shards made by the command `kind` with these settings.

    Raises UserError if the folder has shards of other settings, or another process holds the lock.
    """
    import fcntl

    folder = Path(folder)
    plan = {"kind": kind, "shards": shards, "settings": settings}
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = (folder / ".lock").open("w")
    except OSError as error:
        raise UserError(f"Cannot write into {str(folder)!r} ({error.strerror}); give another folder.") from error
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise UserError(f"{str(folder)!r} is being written by another process; wait for it or stop it.") from error
        remove_parts(folder)
        if (folder / PLAN).exists():
            _check_same(folder, plan)
        elif any(folder.glob("shard-*")):
            raise UserError(f"{str(folder)!r} contains shards but no {PLAN} with their settings; give another folder.")
        else:
            write_bytes(folder / PLAN, (json.dumps(plan, indent=1) + "\n").encode())
        yield folder


def _check_same(folder: Path, plan: dict[str, Any]) -> None:
    try:
        existing = read_plan(folder)
    except (OSError, ValueError) as error:
        raise UserError(
            f"{str(folder / PLAN)!r} is broken ({error}); give another folder or delete this one."
        ) from error
    for name, (old, new) in _differences(existing, plan):
        raise UserError(
            f"{str(folder)!r} was started with {name} {old!r}, this run has {new!r}; "
            "give another folder or the same settings."
        )


def read_plan(folder: str | Path) -> dict[str, Any]:
    """The command, number of shards and settings that a folder records. Raises OSError or ValueError."""
    return json.loads((Path(folder) / PLAN).read_text())


def _differences(old: Any, new: Any, name: str = "") -> Iterator[tuple[str, tuple[Any, Any]]]:
    """(dotted key, (old, new)) of every value that differs."""
    if isinstance(old, dict) and isinstance(new, dict):
        for key in sorted(old.keys() | new.keys()):
            yield from _differences(old.get(key), new.get(key), f"{name}.{key}".removeprefix(".settings").lstrip("."))
    elif old != json.loads(json.dumps(new)):
        yield name, (old, new)


def run_shards(
    work: Callable[[Any], None],
    items: Sequence[Any],
    finished: Callable[[Any], bool],
    options: Sequence[str] = (),
    name: str = "shards",
) -> None:
    """Call work(item) for every unfinished item: on Beam, or in this process with the options `--runner inline`.

    `work` and the items must be picklable; after work(item), finished(item) must be True. The options are Beam's; the
    default is its DirectRunner (N processes with --direct_num_workers=N --direct_running_mode=multi_processing). Other
    machines must see the folders under the same paths. Raises UserError.
    """
    from tqdm import tqdm

    todo = [item for item in items if not finished(item)]
    runner, rest = split_runner(options)
    if runner == INLINE and rest:
        raise UserError(f"{rest[0]!r} is not a flag of this command, and --runner inline has none; remove it.")
    with tqdm(total=len(items), initial=len(items) - len(todo), desc=name, unit="shard", disable=None) as bar:
        if runner == INLINE:
            for item in todo:
                work(item)
                bar.update()
        elif todo:
            with _progress(bar, todo, finished):
                _run_on_beam(work, todo, runner, rest)
    missing = [item for item in todo if not finished(item)]
    if missing:
        raise UserError(f"{len(missing)} of {len(items)} {name} are not written; run the command again.")


def split_runner(options: Sequence[str]) -> tuple[str, list[str]]:
    """Pipeline options → (the runner's name, the other options)."""
    runner = "DirectRunner"
    rest = []
    words = iter(options)
    for word in words:
        if word == "--runner":
            runner = next(words, "")
        elif word.startswith("--runner="):
            runner = word.partition("=")[2]
        else:
            rest.append(word)
    return runner, rest


@contextlib.contextmanager
def _progress(bar: Any, items: Sequence[Any], finished: Callable[[Any], bool]) -> Iterator[None]:
    """Update a progress bar from a thread that looks for finished shards; any process may write them."""
    over = threading.Event()

    def watch() -> None:
        waiting = list(items)
        while waiting and not over.wait(POLL_SECONDS):
            still = [item for item in waiting if not finished(item)]
            bar.update(len(waiting) - len(still))
            waiting = still

    thread = threading.Thread(target=watch, name="spectron-progress", daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def _check_flags(options: Sequence[str], known_options: Any) -> None:
    """Raise UserError for a flag that Beam does not know: Beam itself ignores it."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    for kind in {cls.__name__: cls for cls in known_options.__subclasses__()}.values():
        with contextlib.suppress(argparse.ArgumentError):  # two option classes define the same flag
            kind._add_argparse_args(parser)
    _, unknown = parser.parse_known_args(list(options))
    if unknown:
        raise UserError(f"{unknown[0]!r} is a flag of neither this command nor Beam; see --help.")


def _run_on_beam(work: Callable[[Any], None], items: Sequence[Any], runner: str, options: Sequence[str]) -> None:
    try:
        import apache_beam as beam
        from apache_beam.options.pipeline_options import PipelineOptions
        from apache_beam.runners.portability.fn_api_runner import FnApiRunner
    except ImportError as error:
        raise UserError(
            f"The pipeline needs {error.name}: pip install 'spectron-jax[beam]', or give --runner inline."
        ) from error
    if runner == "DirectRunner":
        _check_flags(options, PipelineOptions)
    # An object, because by the name "DirectRunner" Beam may download a program.
    chosen = FnApiRunner() if runner == "DirectRunner" else runner
    try:
        with beam.Pipeline(runner=chosen, options=PipelineOptions(list(options))) as pipeline:
            _ = pipeline | beam.Create(list(items)) | beam.Reshuffle() | beam.Map(work).with_output_types(type(None))
    except UserError:
        raise
    except Exception as error:
        message = re.search(r"UserError: (.+?)(?:\\n| \[while running|\n|$)", str(error))
        if message is None:
            raise
        raise UserError(message.group(1)) from error
