"""Which collectives a compiled program runs: kind, bytes, how often, and over which axes of the mesh.

Read from the program's text (HLO). A loop's body is counted as often as it runs. What crosses slices appears in
the HLO as a send to the hosts' runtime (Megascale) that names the collective.
"""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Iterator, Sequence

import numpy as np

KINDS = ("all-gather", "all-reduce", "reduce-scatter", "all-to-all", "collective-permute")
_BYTES = {"pred": 1, "s8": 1, "u8": 1, "bf16": 2, "f16": 2, "s16": 2, "u16": 2, "f32": 4, "s32": 4, "u32": 4}
_WIDE = {"f64": 8, "s64": 8, "u64": 8, "c64": 8}
_ARRAY = re.compile(r"\b(" + "|".join([*_BYTES, *_WIDE]) + r")\[([\d,]*)\]")
_COMPUTATION = re.compile(r"^(?:ENTRY )?%?([\w.\-]+) .*\{\s*$")
_END = re.compile(r"^\}(, \w+=.*)?\s*$")  # not the "}}" that closes a custom call's text over several lines
_OPERATION = re.compile(r"^\s*(?:ROOT )?%?([\w.\-]+) = (.*?) ([\w\-]+)\((.*)$")
_CALLS = re.compile(
    r"(?:body|condition|to_apply|calls|called_computations|branch_computations)=\{?([^,}]*(?:, ?%[^,}]*)*)"
)
_SUB_AXIS = re.compile(r"'([^']*)'(?::\((\d+)\)(\d+))?")
_BOUND = re.compile(r"[su]\d+\[\]\S* constant\((\d+)\)")
_IOTA = r"\(?\[([\d,]+)\](?:T\(([\d,]+)\))?\)?"
_ACROSS = re.compile(r'_xla_megascale_target="\{([\d,:]+)\}x')  # the slices that take part
_MEANT = re.compile(r'_xla_megascale_transfer_type="(\w+)"')
_RENDEZVOUS = re.compile(r'_xla_host_transfer_rendezvous="([^"]*)"')
_TRIPS = re.compile(r'"known_trip_count":\{"n":"(\d+)"\}')


@dataclasses.dataclass(frozen=True)
class Collective:
    """One collective of the program. `size`: bytes of the larger of what goes in and what comes out, on one device;
    `group`: how many devices take part; `axes`: the mesh axes they differ in; `times`: how often it runs."""

    kind: str
    name: str
    dtype: str
    shape: tuple[int, ...]
    size: int
    group: int
    axes: tuple[str, ...]
    times: int

    @property
    def sent(self) -> float:
        """Bytes that each device sends in one step on a ring: (n − 1) / n of the array, an all-reduce twice that."""
        share = (self.group - 1) / self.group
        if self.kind == "collective-permute":
            share = 1.0
        return self.times * self.size * share * (2 if self.kind == "all-reduce" else 1)


def collectives(text: str, axes: Sequence[tuple[str, int]]) -> list[Collective]:
    """The collectives in a compiled program's text. axes: the mesh, (name, size) each, in the order of its devices."""
    computations = dict(_computations(text))
    times = _times(computations)
    # TPUs run a collective in pieces between other work, and write it into every piece: one channel is one collective,
    # and its least frequent piece runs as often as it does.
    by_channel: dict[str, Collective] = {}
    for name, lines in computations.items():
        for line in lines:
            operation = _OPERATION.match(line)
            if operation and times.get(name):
                kind = operation[3].removesuffix("-start")
                if kind == "send" and "xla_megascale_runtime" in line:
                    one = _between_slices(operation, line, times[name])
                    by_channel[one.name] = one
                elif kind in KINDS:
                    channel = re.search(r"channel_id=\d+", line)
                    one = _collective(kind, operation, line, times[name], axes)
                    known = by_channel.setdefault(channel[0] if channel else one.name, one)
                    if one.times < known.times:
                        by_channel[channel[0] if channel else one.name] = one
    return list(by_channel.values())


def _computations(text: str) -> Iterator[tuple[str, list[str]]]:
    name = ""
    lines: list[str] = []
    for line in text.splitlines():
        begins = _COMPUTATION.match(line)
        if begins and " = " not in line.split("{")[0].split("(")[0]:
            name, lines = begins[1] + ("@entry" if line.startswith("ENTRY") else ""), []
        elif name and _END.match(line):
            yield name, lines
            name = ""
        elif name:
            lines.append(line)


def _times(computations: dict[str, list[str]]) -> dict[str, int]:
    """How often each computation runs in one call of the program."""
    calls: dict[str, list[tuple[str, int]]] = {}
    for name, lines in computations.items():
        calls[name] = []
        for line in lines:
            called = [each.strip().lstrip("%") for group in _CALLS.findall(line) for each in group.split(",")]
            called = [each for each in called if each in computations]
            trips = _trips(line, computations) if " while(" in line else 1
            calls[name] += [(each, trips) for each in called]
    times: dict[str, int] = {}

    def visit(name: str, count: int) -> None:
        times[name] = times.get(name, 0) + count
        for called, trips in calls[name]:
            visit(called, count * trips)

    for entry in (name for name in computations if name.endswith("@entry")):
        visit(entry, 1)
    return times


def _trips(line: str, computations: dict[str, list[str]]) -> int:
    """How often a loop's body runs: XLA's trip-count annotation, else the bound in its condition, else 1."""
    known = _TRIPS.search(line)
    if known:
        return int(known[1])
    condition = re.search(r"condition=%?([\w.\-]+)", line)
    bounds = [int(n) for each in computations.get(condition[1] if condition else "", ()) for n in _BOUND.findall(each)]
    return max(bounds, default=1)


def _collective(
    kind: str, operation: re.Match[str], line: str, times: int, axes: Sequence[tuple[str, int]]
) -> Collective:
    arrays = [_array(*match) for match in _ARRAY.findall(operation[2])]
    if "-start(" in line:  # returns (operands, results, flags without dimensions)
        arrays = [each for each in arrays if each[1]]
        arrays = arrays[len(arrays) // 2 :]
    total = sum(size for _, _, size in arrays)
    largest = max(arrays, key=lambda each: each[2], default=("", (), 0))
    groups = _groups(line, math.prod(size for _, size in axes))
    group = groups.shape[1] if groups.size else 1
    if kind == "reduce-scatter":
        total *= group
    return Collective(kind, operation[1], largest[0], largest[1], total, group, _axes(groups, axes), times)


def _between_slices(operation: re.Match[str], line: str, times: int) -> Collective:
    """A send to the hosts' runtime: one buffer, combined with that of the same device of every other slice."""
    meant, across, rendezvous = _MEANT.search(line), _ACROSS.search(line), _RENDEZVOUS.search(line)
    kind = meant[1].lower().replace("_", "-") if meant else ""
    if kind not in KINDS or across is None or rendezvous is None:
        raise ValueError(f"a transfer between slices that is not known here: {line.strip()[:600]}")
    spans = [[int(n) for n in each.split(":")] for each in across[1].split(",")]
    group = sum(span[-1] - span[0] + 1 for span in spans)
    dtype, shape, size = _array(*_ARRAY.findall(operation[2])[0])
    whole = size * group if kind == "all-gather" else size
    return Collective(kind, rendezvous[1], dtype, shape, whole, group, ("replica",), times)


def _array(dtype: str, dims: str) -> tuple[str, tuple[int, ...], int]:
    shape = tuple(int(each) for each in dims.split(",") if each)
    return dtype, shape, math.prod(shape) * (_BYTES | _WIDE)[dtype]


def _groups(line: str, devices: int) -> np.ndarray:
    """Device numbers [groups, members] from replica_groups (explicit or iota) or the pairs of a permutation."""
    iota = re.search(r"replica_groups=\[([\d,]+)\]<=" + _IOTA, line)
    if iota:
        return _iota(iota[2], iota[3]).reshape([int(n) for n in iota[1].split(",")])
    named = re.search(r"replica_groups=mesh\[([^\]]*)\](?:, device_ids=\(" + _IOTA + r"\))? ?\{([^}]*)\}", line)
    if named:
        places = _named_groups(named[1], named[4])
        return _iota(named[2], named[3])[places] if named[2] else places
    explicit = re.search(r"(?:replica_groups|source_target_pairs)=\{(\{[\d,{} ]*\})\}", line)
    if explicit:
        return np.asarray([[int(n) for n in each.split(",")] for each in re.findall(r"\{([\d, ]+)\}", explicit[1])])
    if re.search(r"(replica_groups|source_target_pairs)=(?!\{\})", line):
        raise ValueError(f"a notation of groups that is not known here: {line.strip()[:300]}")
    return np.arange(devices)[None]


def _iota(source: str, order: str | None) -> np.ndarray:
    """ "2,4" and "1,0": device numbers 0 … 7 as a 2 x 4 table, its axes in that order, flat."""
    numbers = np.arange(math.prod(int(n) for n in source.split(","))).reshape([int(n) for n in source.split(",")])
    return (numbers.transpose([int(n) for n in order.split(",")]) if order else numbers).ravel()


def _named_groups(mesh: str, chosen: str) -> np.ndarray:
    """ "'a'=2,'b'=4" and "'b'" or "'b':(1)2" (two of b's four, after one) → device numbers [groups, members]."""
    sizes = {name: int(size) for name, size in re.findall(r"'([^']*)'=(\d+)", mesh)}
    parts: list[int] = []
    members: list[int] = []
    wanted = {name: (int(before or 1), int(size or 0)) for name, before, size in _SUB_AXIS.findall(chosen)}
    for name, whole in sizes.items():
        before, size = wanted.get(name, (whole, 1))
        size = size or whole
        members += [len(parts) + 1] if name in wanted else []
        parts += [before, size, whole // (before * size)]
    rest = [i for i in range(len(parts)) if i not in members]
    numbers = np.arange(math.prod(parts)).reshape(parts).transpose(rest + members)
    return numbers.reshape(-1, math.prod(parts[i] for i in members))


def _axes(groups: np.ndarray, axes: Sequence[tuple[str, int]]) -> tuple[str, ...]:
    """The mesh axes in which the devices of a replica group differ. groups: device numbers [groups, members]."""
    places = np.stack(np.unravel_index(groups, [size for _, size in axes]))
    differ = (places != places[:, :, :1]).any(axis=(1, 2))
    return tuple(name for (name, _), varies in zip(axes, differ, strict=True) if varies)
