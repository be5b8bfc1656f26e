"""Settings from config files, overrides and JSON, all of them checked.

A config file in configs/ is Python with one function: `experiment()` returns an Experiment, `loop()` a LoopConfig.
"""

from __future__ import annotations

import inspect
import json
import os
import traceback
import types
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from spectron.config.checks import check_settings
from spectron.config.noisy_student import LoopConfig
from spectron.config.overrides import assign, build
from spectron.config.relations import recipe
from spectron.config.schema import Experiment
from spectron.errors import UserError


def override(config: Any, assignments: Sequence[str]) -> Any:
    """Apply "a.b=c" assignments. Elements of tuples of named settings are addressed by name: stages.joint.steps=10.

    Raises UserError for an unknown key or kind, a value of another type, or settings that checks.py refuses.
    """
    changed = assign(config, assignments)
    check_settings(changed)
    return changed


def from_json(text: str, cls: type = Experiment) -> Any:
    """The inverse of to_json. Raises UserError for an unknown key, a wrong type, or what checks.py refuses."""
    made = build(cls, json.loads(text), cls.__name__)
    check_settings(made)
    return made


def load_experiment(path: str | Path, overrides: Sequence[str] = ()) -> Experiment:
    """Run a config file's `experiment()` and apply `key=value` overrides. Raises UserError naming file or key."""
    experiment = run_config(path, "experiment", Experiment, overrides)
    check_recipe(experiment)
    return experiment


def load_loop(path: str | Path, overrides: Sequence[str] = ()) -> LoopConfig:
    """Run a config file's `loop()` and apply `key=value` overrides. Raises UserError naming file or key."""
    made = run_config(path, "loop", LoopConfig, overrides)
    if not made.generations:
        raise UserError(f"loop() in {str(path)!r} has no generation; give at least a teacher.")
    for generation in made.generations:
        check_recipe(generation.experiment, f"generations.{generation.name}.experiment")
    return made


def check_recipe(experiment: Experiment, key: str = "") -> None:
    """Raise UserError for an experiment that reads what its data config lacks, or cannot use what it reads."""
    for problem in recipe(experiment, key):
        raise UserError(problem)


def run_config(path: str | Path, function: str, cls: type, overrides: Sequence[str]) -> Any:
    """Call `function()` of a config file, which returns a `cls`, and apply overrides. Raises UserError.

    A function with a parameter `data_root` gets the value of data.root among the overrides, "" without one: a recipe
    may depend on the data.
    """
    if not os.path.isfile(path):  # False, not an error, for a name that is too long or holds NUL
        what = "is not a file" if os.path.exists(path) else "does not exist"
        raise UserError(f"Config {str(path)!r} {what}; give a Python file such as configs/quickstart.py.")
    if Path(path).suffix != ".py":
        raise UserError(f"Config {str(path)!r} is not a Python file; its name must end in .py.")
    module = types.ModuleType("spectron_user_config")
    module.__file__ = str(path)
    given = dict(assignment.partition("=")[::2] for assignment in overrides)
    try:
        exec(compile(Path(path).read_bytes(), str(path), "exec"), module.__dict__)
        call = getattr(module, function, None)
        if not callable(call):
            lacking = f"no function {function}()" if call is None else f"{function}, which is not a function"
            raise UserError(f"Config {str(path)!r} has {lacking}; define one that returns {cls.__name__}.")
        takes_root = "data_root" in inspect.signature(call).parameters
        made = call(data_root=given.get("data.root", "")) if takes_root else call()
    except UserError:
        raise
    except (Exception, SystemExit) as error:
        raise UserError(f"Config {str(path)!r} cannot be run: {_where(error, Path(path))}{_reason(error)}.") from error
    if not isinstance(made, cls):
        raise UserError(f"{function}() in {str(path)!r} returned {type(made).__name__}, not {cls.__name__}.")
    return override(made, overrides)


def _where(error: BaseException, path: Path) -> str:
    """ "line 3: ", the line of the config at which it failed, or of a file beside it that it runs; "" if unknown."""
    places = [(frame.filename, frame.lineno) for frame in traceback.extract_tb(error.__traceback__)]
    if isinstance(error, SyntaxError) and error.filename:
        places.append((error.filename, error.lineno))
    folder = path.absolute().parent
    for file, line in reversed(places):
        if Path(file).absolute() == path.absolute():
            return f"line {line}: "
        if Path(file).is_file() and Path(file).absolute().parent == folder:  # not "<frozen os>"
            return f"{Path(file).name}, line {line}: "
    return ""


def _reason(error: BaseException) -> str:
    """The kind of the error and what it says, on one line."""
    text = error.msg if isinstance(error, SyntaxError) else str(error)
    words = " ".join(text.split())[:300].rstrip(".")
    return f"{type(error).__name__}: {words}" if words else type(error).__name__
