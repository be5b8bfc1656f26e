"""Tagged unions of settings, assignments by dotted key, and the round trip to JSON; with suggestions for typos."""

from __future__ import annotations

import dataclasses
import difflib
import json
import math
import types
import typing
from collections.abc import Iterable, Sequence
from typing import Any, ClassVar

from spectron.config.rules import shown
from spectron.errors import UserError

TYPES = {int: "a whole number", float: "a number", str: "text", bool: "true or false"}


class Choice:
    """Base of a family of settings, a tagged union: `kind` names the class.

    A family derives from Choice directly; its members derive from the family and state their kind:

        class EncoderConfig(Choice): ...

        @dataclasses.dataclass(frozen=True)
        class ConformerConfig(EncoderConfig, kind="conformer"):
            dim: int = 128

    JSON holds {"kind": "conformer", "dim": 128}. The override `model.encoder.kind=conformer` takes its defaults.
    A member defined outside this package is known once its module has been imported.
    """

    kind: ClassVar[str] = ""
    members: ClassVar[dict[str, type]] = {}

    def __init_subclass__(cls, kind: str = "", **arguments: Any) -> None:
        super().__init_subclass__(**arguments)
        if Choice in cls.__bases__:
            cls.members = {}
        elif kind:
            other = cls.members.get(kind, cls)
            if (other.__module__, other.__qualname__) != (cls.__module__, cls.__qualname__):
                raise TypeError(
                    f"kind {kind!r} is taken by {other.__qualname__}; choose another for {cls.__qualname__}"
                )
            cls.kind = kind
            cls.members[kind] = cls


def assign(config: Any, assignments: Sequence[str]) -> Any:
    """Apply "a.b=c" assignments, without the checks of checks.py.

    Elements of tuples of named settings are addressed by name: stages.joint.steps=10.

    Raises UserError for an unknown key or kind, or a value of another type.
    """
    for assignment in assignments:
        key, sign, value = assignment.partition("=")
        if not sign:
            raise UserError(f"--set {assignment!r} has no '='; write key=value.")
        config = _assign(config, key.split("."), value, key)
    return config


def as_dict(config: Any) -> Any:
    """A setting as dicts, lists and plain values, in declaration order, with the kind of every member of a union."""
    if dataclasses.is_dataclass(config) and not isinstance(config, type):
        fields = {f.name: as_dict(getattr(config, f.name)) for f in dataclasses.fields(config)}
        return {"kind": config.kind, **fields} if isinstance(config, Choice) else fields
    if isinstance(config, (tuple, list)):
        return [as_dict(item) for item in config]
    return config


def to_json(config: Any) -> str:
    """A setting as JSON text, keys in declaration order."""
    return json.dumps(as_dict(config), indent=1)


def element_name(element: Any, index: int) -> str:
    """The name by which overrides and messages address an element of a tuple: its name, its key, or its place."""
    if isinstance(element, tuple):
        return str(element[0])
    return str(getattr(element, "name", "") or getattr(element, "key", index))


def _assign(node: Any, path: list[str], value: str, key: str) -> Any:
    head, rest = path[0], path[1:]
    if isinstance(node, tuple):
        return _assign_element(node, head, rest, value, key)
    if head == "kind" and not rest and isinstance(node, Choice):
        return _default_of(type(node), value, key)
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


def _assign_element(node: tuple, head: str, rest: list[str], value: str, key: str) -> tuple:
    names = [element_name(element, i) for i, element in enumerate(node)]
    places = {str(i): i for i in range(len(node))} | {name: i for i, name in reversed(list(enumerate(names)))}
    if head not in places:
        raise UserError(_unknown(key, head, names))
    index = places[head]
    element = node[index]
    child = element[1] if isinstance(element, tuple) else element  # a pair of a name and its setting, or a setting
    if not rest:
        raise UserError(f"Config key {key!r}: there is no value at {head!r}, an element; give the whole list as JSON.")
    if not dataclasses.is_dataclass(child):
        raise UserError(f"Config key {key!r}: {head!r} is a plain value and has no parts.")
    changed: Any = _assign(child, rest, value, key)
    if isinstance(element, tuple):
        changed = (element[0], changed)
    return (*node[:index], changed, *node[index + 1 :])


def _default_of(member: type[Choice], kind: str, key: str) -> Any:
    chosen = _member(member, kind, key)
    try:
        return chosen()
    except TypeError as error:
        raise UserError(
            f"Config key {key!r}: {kind!r} has no defaults ({error}); give a JSON object instead."
        ) from error


def _member(family: type[Choice], kind: Any, key: str) -> type:
    if isinstance(kind, str) and kind in family.members:
        return family.members[kind]
    close = difflib.get_close_matches(str(kind), family.members, 1)
    known = f"did you mean {close[0]!r}?" if close else f"known: {', '.join(family.members)} (yours: --import MODULE)."
    raise UserError(f"Config key {key!r}: there is no kind {shown(kind)}; {known}")


def _unknown(key: str, head: str, names: Iterable[str]) -> str:
    names = list(names)
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
    except (KeyError, ValueError, RecursionError) as error:
        kind = TYPES.get(hint, "valid JSON")
        raise UserError(f"Config key {key!r}: {shown(value)} is not {kind}.") from error


def build(hint: Any, value: Any, key: str) -> Any:
    """A value of the type `hint` from JSON's lists, objects and numbers. Raises UserError naming the key."""
    if isinstance(hint, type) and (dataclasses.is_dataclass(hint) or issubclass(hint, Choice)):
        return _build_object(hint, value, key)
    if typing.get_origin(hint) is tuple:
        args = typing.get_args(hint)
        if not isinstance(value, (list, tuple)):
            raise UserError(f"Config key {key!r} must be a list, not {shown(value)}.")
        kinds = [args[0]] * len(value) if len(args) == 2 and args[1] is Ellipsis else args
        if len(kinds) != len(value):
            raise UserError(f"Config key {key!r} must have {len(kinds)} parts, not {len(value)}.")
        return tuple(build(kind, item, f"{key}.{i}") for i, (kind, item) in enumerate(zip(kinds, value, strict=True)))
    if isinstance(hint, types.UnionType):
        raise UserError(f"Config key {key!r} has an unsupported type {hint}.")
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        limit = math.inf if value > 0 else -math.inf
        return float(value) if value.bit_length() < 1024 else limit
    if not isinstance(value, hint) or (isinstance(value, bool) and hint is not bool):
        raise UserError(f"Config key {key!r}: {shown(value)} is not {TYPES.get(hint, f'a {hint.__name__}')}.")
    return value


def _build_object(hint: type, value: Any, key: str) -> Any:
    if not isinstance(value, dict):
        raise UserError(f"Config key {key!r} must be an object with the fields of {hint.__name__}, not {shown(value)}.")
    value = dict(value)
    if issubclass(hint, Choice):
        if "kind" not in value:
            raise UserError(f'Config key {key!r} needs a "kind", one of: {", ".join(hint.members)}.')
        hint = _member(hint, value.pop("kind"), f"{key}.kind")
    hints = typing.get_type_hints(hint)
    names = [f.name for f in dataclasses.fields(hint)]
    for name in value:
        if name not in names:
            raise UserError(_unknown(f"{key}.{name}", name, names))
    try:
        return hint(**{name: build(hints[name], child, f"{key}.{name}") for name, child in value.items()})
    except TypeError as error:
        raise UserError(f"Config key {key!r}: {error}.") from error
