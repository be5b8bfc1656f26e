"""Assigning to nested frozen dataclasses by dotted keys, and building them from JSON; with suggestions for typos."""

from __future__ import annotations

import dataclasses
import difflib
import json
import types
import typing
from collections.abc import Sequence
from typing import Any

from spectron.types import UserError


def override(config: Any, assignments: Sequence[str]) -> Any:
    """Apply "a.b=c" assignments. Elements of tuples of named configs are addressed by name: stages.joint.steps=10.

    Raises UserError for an unknown key or a value of another type.
    """
    for assignment in assignments:
        key, sign, value = assignment.partition("=")
        if not sign:
            raise UserError(f"--set {assignment!r} has no '='; write key=value.")
        config = _assign(config, key.split("."), value, key)
    return config


def _assign(node: Any, path: list[str], value: str, key: str) -> Any:
    head, rest = path[0], path[1:]
    if isinstance(node, tuple):
        names = [str(getattr(e, "name", "") or getattr(e, "objective", i)) for i, e in enumerate(node)]
        index = names.index(head) if head in names else int(head) if head.isdigit() and int(head) < len(node) else None
        if index is None or not rest:
            raise UserError(_unknown(key, head, names))
        return (*node[:index], _assign(node[index], rest, value, key), *node[index + 1 :])
    names = [f.name for f in dataclasses.fields(node)]
    if head not in names:
        raise UserError(_unknown(key, head, names))
    if rest:
        child = getattr(node, head)
        if not (dataclasses.is_dataclass(child) or isinstance(child, tuple)):
            raise UserError(f"Config key {key!r}: {head!r} is a plain value and has no parts.")
        return dataclasses.replace(node, **{head: _assign(child, rest, value, key)})
    hint = typing.get_type_hints(type(node))[head]
    return dataclasses.replace(node, **{head: _parse(hint, value, key)})


def _unknown(key: str, head: str, names: Sequence[str]) -> str:
    close = difflib.get_close_matches(head, names, 1)
    hint = f"did you mean {close[0]!r}?" if close else f"known: {', '.join(names)}."
    return f"Unknown config key {key!r}: there is no {head!r}; {hint}"


def _parse(hint: Any, value: str, key: str) -> Any:
    try:
        if hint is bool:
            return {"true": True, "false": False, "1": True, "0": False}[value.lower()]
        if hint in (int, float, str):
            return hint(value)
        return build(hint, json.loads(value), key)
    except (KeyError, ValueError) as error:
        kind = hint.__name__ if isinstance(hint, type) else str(hint)
        raise UserError(f"Config key {key!r}: {value!r} is not a {kind}.") from error


def build(hint: Any, value: Any, key: str) -> Any:
    """A value of the type `hint` from JSON's lists, objects and numbers. Raises UserError naming the key."""
    if dataclasses.is_dataclass(hint) and isinstance(hint, type):
        hints = typing.get_type_hints(hint)
        if not isinstance(value, dict):
            raise UserError(f"Config key {key!r} must be an object with the fields of {hint.__name__}, not {value!r}.")
        for name in value:
            if name not in hints:
                raise UserError(_unknown(f"{key}.{name}", name, list(hints)))
        try:
            return hint(**{name: build(hints[name], child, f"{key}.{name}") for name, child in value.items()})
        except TypeError as error:
            raise UserError(f"Config key {key!r}: {error}.") from error
    if typing.get_origin(hint) is tuple:
        args = typing.get_args(hint)
        if not isinstance(value, (list, tuple)):
            raise UserError(f"Config key {key!r} must be a list, not {value!r}.")
        kinds = [args[0]] * len(value) if len(args) == 2 and args[1] is Ellipsis else args
        if len(kinds) != len(value):
            raise UserError(f"Config key {key!r} must have {len(kinds)} parts, not {len(value)}.")
        return tuple(build(kind, item, f"{key}.{i}") for i, (kind, item) in enumerate(zip(kinds, value, strict=True)))
    if isinstance(hint, types.UnionType):
        raise UserError(f"Config key {key!r} has an unsupported type {hint}.")
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if not isinstance(value, hint):
        raise UserError(f"Config key {key!r}: {value!r} is not a {hint.__name__}.")
    return value
