"""Folders of shards under construction: what made them stands beside them, and what is finished is never redone."""

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

INLINE = "inline"  # the runner that is none: one shard after the other in this process, without Beam
POLL_SECONDS = 1.0  # ours: how often the progress of a pipeline is looked at


def fingerprint(parts: Iterable[object]) -> str:
    """A short name for a list of things: the same list, the same name."""
    digest = hashlib.sha256()
    for part in parts:
        digest.update(f"{part}\n".encode("utf-8", "surrogatepass"))
    return digest.hexdigest()[:16]


def settings_of(value: Any) -> Any:
    """Settings as JSON can hold them: frozen dataclasses as their fields, anything else by its name."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return json.loads(json.dumps(dataclasses.asdict(value)))
    if value is None or isinstance(value, bool | int | float | str):
        return value
    return type(value).__name__


@contextlib.contextmanager
def under_construction(folder: str | Path, kind: str, settings: dict[str, Any], shards: int) -> Iterator[Path]:
    """A folder for `shards` shards made by `kind` with these settings, for this process alone.

    Raises UserError when it holds shards made otherwise, or another process is writing them.
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
            raise UserError(f"{str(folder)!r} is being written by another process; wait for it or end it.") from error
        remove_parts(folder)
        if (folder / PLAN).exists():
            _same(folder, plan)
        elif any(folder.glob("shard-*")):
            raise UserError(f"{str(folder)!r} holds shards but no {PLAN} that says what they are; give another folder.")
        else:
            write_bytes(folder / PLAN, (json.dumps(plan, indent=1) + "\n").encode())
        yield folder


def _same(folder: Path, plan: dict[str, Any]) -> None:
    try:
        there = read_plan(folder)
    except (OSError, ValueError) as error:
        raise UserError(
            f"{str(folder / PLAN)!r} is broken ({error}); give another folder or delete this one."
        ) from error
    for name, (old, new) in _differences(there, plan):
        raise UserError(
            f"{str(folder)!r} was begun with {name} {old!r}, this run has {new!r}; "
            "give another folder or the same settings."
        )


def read_plan(folder: str | Path) -> dict[str, Any]:
    """What made a folder: kind, shards, settings. Raises OSError or ValueError."""
    return json.loads((Path(folder) / PLAN).read_text())


def _differences(old: Any, new: Any, name: str = "") -> Iterator[tuple[str, tuple[Any, Any]]]:
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
    """Call work(item) for every item that is not finished: by Beam, or here with the options `--runner inline`.

    `work` and the items must be picklable; work must leave finished(item) True. Options are Beam's; its DirectRunner
    is the default (with --direct_num_workers=N --direct_running_mode=multi_processing: N processes). Other machines
    must see the same folders under the same paths. Raises UserError.
    """
    from tqdm import tqdm

    todo = [item for item in items if not finished(item)]
    runner, rest = split_runner(options)
    if runner == INLINE and rest:
        raise UserError(f"{rest[0]!r} is no flag of this command, and --runner inline takes no others; leave it out.")
    with tqdm(total=len(items), initial=len(items) - len(todo), desc=name, unit="shard", disable=None) as bar:
        if runner == INLINE:
            for item in todo:
                work(item)
                bar.update()
        elif todo:
            with _watching(bar, todo, finished):
                _beam(work, todo, runner, rest)
    missing = [item for item in todo if not finished(item)]
    if missing:
        raise UserError(f"{len(missing)} of {len(items)} {name} are not written; run the command again.")


def split_runner(options: Sequence[str]) -> tuple[str, list[str]]:
    """Pipeline options → (the runner's name, the other options)."""
    rest, runner = [], "DirectRunner"
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
def _watching(bar: Any, items: Sequence[Any], finished: Callable[[Any], bool]) -> Iterator[None]:
    """Moves a progress bar with the shards that turn up, whoever writes them."""
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
    """Raise UserError for a flag that Beam itself does not know; it would pass over it."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    for kind in {cls.__name__: cls for cls in known_options.__subclasses__()}.values():
        with contextlib.suppress(argparse.ArgumentError):  # a flag that two kinds of options share
            kind._add_argparse_args(parser)
    _, unknown = parser.parse_known_args(list(options))
    if unknown:
        raise UserError(f"{unknown[0]!r} is a flag neither of this command nor of Beam's; look at --help.")


def _beam(work: Callable[[Any], None], items: Sequence[Any], runner: str, options: Sequence[str]) -> None:
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
    # By name, Beam's DirectRunner may fetch a program of its own from the network.
    chosen = FnApiRunner() if runner == "DirectRunner" else runner
    try:
        with beam.Pipeline(runner=chosen, options=PipelineOptions(list(options))) as pipeline:
            _ = pipeline | beam.Create(list(items)) | beam.Reshuffle() | beam.Map(work).with_output_types(type(None))
    except UserError:
        raise
    except Exception as error:
        found = re.search(r"UserError: (.+?)(?:\\n| \[while running|\n|$)", str(error))
        if found is None:
            raise
        raise UserError(found.group(1)) from error
