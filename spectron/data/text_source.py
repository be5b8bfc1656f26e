"""Examples of text alone: a text file with one text per line, read from the file when it is needed."""

from __future__ import annotations

import functools
import gzip
import os
import re
import weakref
from array import array
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import TypeVar

import numpy as np

from spectron.config import DataConfig, FeatureConfig, TaskConfig
from spectron.data.example import BadExample, Source
from spectron.data.fitting import AT_ONCE, SPARE_TOKENS, TOO_MANY, WITHOUT_TEXT, Fitting
from spectron.data.measuring import stamp_of
from spectron.types import Example, UserError
from spectron.utils.console import Progress
from spectron.utils.environment import cache_folder
from spectron.utils.stored_arrays import digest, stored_arrays
from spectron.utils.text_files import placed_lines

TEXTS = "texts.txt"  # the file in a folder
SMALL_BYTES = 4 << 20  # ours: shorter files are read through at every start
LIKELY = 4  # ours: bytes a token; a longer line probably has too many, and is cut without being counted as a whole
KEPT_WORDS = 1 << 20  # ours: words whose number of tokens is remembered while lines are cut
_WORD = re.compile(r"\S+")

T = TypeVar("T")
Span = tuple[int, int]  # the first character, and the one after the last


class TextSource(Source):
    """A text file with one text per line, or a folder with texts.txt; examples without audio.

    A line with more than max_tokens tokens is cut into several examples, between words where that is possible. 16 bytes
    are held in memory for each example, and the text itself only if the file is gzipped. Where the examples are is
    found at the first start, and kept in a hidden file beside the text, or else in the cache folder.
    """

    text_only = True
    seeded = False
    normalises = True

    def __init__(self, task: TaskConfig, data: DataConfig, features: FeatureConfig):
        path = Path(task.root or data.root)
        path = path / TEXTS if path.is_dir() else path
        if not path.is_file():
            raise UserError(
                f"Task {task.name!r}: root {str(path)!r} is not a file; give a text file with one text per line."
            )
        self._path = path
        self._fitting = Fitting(task, data, features)
        self._max_tokens = data.max_tokens
        places = self._stored("places", self._find)
        self._starts, self._sizes, self._lines = places["starts"], places["sizes"], places["lines"]
        misfits = {WITHOUT_TEXT: places["empty"], TOO_MANY: places["uncuttable"]}
        self.rejected: Mapping[str, Sequence[str]] = {
            reason: [f"{path.name}:{line}" for line in lines.tolist()]
            for reason, lines in misfits.items()
            if len(lines)
        }
        # Views of a single zero: a text has no samples.
        self.lengths = self.prompts = np.broadcast_to(np.int64(0), (len(self._starts),))
        self._unzipped = gzip.decompress(path.read_bytes()) if path.suffix.lower() == ".gz" else None
        self._file = os.open(path, os.O_RDONLY)
        weakref.finalize(self, os.close, self._file)

    def __len__(self) -> int:
        return len(self._starts)

    def __getitem__(self, i: int) -> Example:
        return Example(samples=np.zeros(0, np.int16), prompt_samples=0, text=self._text(i), id=self._id(i))

    def _text(self, i: int) -> str:
        start, size = int(self._starts[i]), int(self._sizes[i])
        try:
            if self._unzipped is not None:
                raw = self._unzipped[start : start + size]
            else:
                raw = os.pread(self._file, size, start)
            return self._fitting.text(raw.decode())
        except (OSError, UnicodeDecodeError) as error:
            raise BadExample(f"{self._id(i)!r}: {str(self._path)!r} cannot be read ({error}).") from error

    def _id(self, i: int) -> str:
        """FILE:LINE, with .NUMBER after it if the line was cut."""
        line = self._lines[i]
        first, after = np.searchsorted(self._lines, [line, line + 1]).tolist()
        return f"{self._path.name}:{line}" + (f".{i - first + 1}" if after - first > 1 else "")

    @functools.cached_property
    def tokens(self) -> np.ndarray:
        """int32 [N]: tokens of each text, including eos."""

        def count() -> Mapping[str, np.ndarray]:
            parts = (self._fitting.tokens([*map(self._text, part)]) for part in _groups(range(len(self)), AT_ONCE))
            return {"tokens": np.concatenate([np.zeros(0, np.int32), *parts])}

        return self._stored("tokens", count)["tokens"]

    def _stored(self, name: str, compute: Callable[[], Mapping[str, np.ndarray]]) -> Mapping[str, np.ndarray]:
        if self._path.stat().st_size < SMALL_BYTES:
            return compute()
        key = digest([self._path.name, stamp_of(str(self._path)), self._fitting.checksum(), self._max_tokens, name])
        beside = self._path.with_name(f".{self._path.name}.{self._fitting.checksum()[:12]}-{self._max_tokens}.{name}")
        return stored_arrays([beside, cache_folder() / "texts" / key[:32]], key, compute)

    # Finding the examples in the file.

    def _find(self) -> Mapping[str, np.ndarray]:
        """starts int64, sizes int32, lines uint32 [N]: first byte, bytes and line number of each example. empty,
        uncuttable: numbers of the lines that give none."""
        starts, sizes, lines = array("q"), array("i"), array("I")
        misfits: dict[str, array[int]] = {"empty": array("I"), "uncuttable": array("I")}
        cutter = Cutter(self._fitting, self._max_tokens)
        for part in _groups(self._shown(placed_lines(self._path)), AT_ONCE):
            for (number, start, line), spans in zip(part, cutter.cut([line for *_, line in part]), strict=True):
                if not spans:
                    misfits["uncuttable" if line.strip() else "empty"].append(number)
                for first, after in spans:
                    starts.append(start + len(line[:first].encode()))
                    sizes.append(len(line[first:after].encode()))
                    lines.append(number)
        arrays: dict[str, np.ndarray] = {"starts": np.asarray(starts, np.int64)}
        arrays["sizes"] = np.asarray(sizes, np.int32)
        arrays["lines"] = np.asarray(lines, np.uint32)
        arrays |= {name: np.asarray(numbers, np.uint32) for name, numbers in misfits.items()}
        return arrays

    def _shown(self, lines: Iterator[tuple[int, int, str]]) -> Iterator[tuple[int, int, str]]:
        """The same lines with a progress bar."""
        size = self._path.stat().st_size
        step = max(SMALL_BYTES, size // 100)
        with Progress(size // step, f"reading {self._path.name}", "part", leave=False) as bar:
            following = step
            for number, start, line in lines:
                if start >= following:
                    following += step
                    bar.advance()
                yield number, start, line


class Cutter:
    """Cuts texts that have too many tokens. Texts go to the tokenizer many at a time, and most of them once."""

    def __init__(self, fitting: Fitting, max_tokens: int):
        self._fitting = fitting
        self._most = max_tokens
        self._sizes: dict[str, int] = {}  # tokens of a word and the space before it
        with_space, without, _ = fitting.tokens([" a", "a", ""]).tolist()
        self._space = with_space - without  # the first word of a piece has no space before it

    def cut(self, lines: Sequence[str]) -> list[list[Span]]:
        """The pieces of each line that have at most max_tokens tokens: the line itself if it has no more, none if it is
        blank or cannot be cut."""
        texts = [self._fitting.text(line) for line in lines]
        spans: list[list[Span]] = [[(0, len(line))] if text else [] for line, text in zip(lines, texts, strict=True)]
        sizes = [len(text.encode()) for text in texts]
        unsure = [i for i, size in enumerate(sizes) if self._most - SPARE_TOKENS < size <= LIKELY * self._most]
        counts = self._fitting.tokens([texts[i] for i in unsure]).tolist()
        long = [i for i, count in zip(unsure, counts, strict=True) if count > self._most]
        long += [i for i, size in enumerate(sizes) if size > LIKELY * self._most]
        words = [[match.span() for match in _WORD.finditer(lines[i])] for i in long]
        self._learn({lines[i][a:b] for i, line in zip(long, words, strict=True) for a, b in line})
        pieces = [self._pieces(lines[i], line) for i, line in zip(long, words, strict=True)]
        parts = [lines[i][a:b] for i, line in zip(long, pieces, strict=True) for a, b in line]
        exact = iter(self._fitting.tokens([self._fitting.text(part) for part in parts]).tolist())
        for i, line in zip(long, pieces, strict=True):
            fits = [(piece, next(exact) <= self._most) for piece in line]
            spans[i] = [span for piece, fit in fits for span in ([piece] if fit else self._halves(lines[i], piece))]
        return spans

    def _learn(self, words: set[str]) -> None:
        """Count the tokens of words that are new."""
        if len(self._sizes) > KEPT_WORDS:
            self._sizes.clear()
        new = [word for word in words if word not in self._sizes]
        counts = self._fitting.tokens([f" {self._fitting.text(word)}" for word in new]) - 1
        self._sizes |= dict(zip(new, counts.tolist(), strict=True))

    def _pieces(self, line: str, words: Sequence[Span]) -> list[Span]:
        """Spans of as many words as fit by the sum of their tokens, or of a single word that does not."""
        pieces: list[Span] = []
        room = 0
        for first, after in words:
            size = self._sizes[line[first:after]]
            if size <= room:
                pieces[-1] = (pieces[-1][0], after)
                room -= size
            else:
                pieces.append((first, after))
                room = self._most - 1 + self._space - size  # eos needs a place too
        return pieces

    def _halves(self, line: str, span: Span) -> list[Span]:
        """The parts of a span, halved until they fit, between words if there are several; none for what never fits."""
        first, after = span
        if self._fitting.tokens([self._fitting.text(line[first:after])])[0] <= self._most:
            return [span]
        if after - first < 2:
            return []
        ends = [first + match.start() for match in _WORD.finditer(line[first:after])][1:]
        middle = ends[len(ends) // 2] if ends else (first + after) // 2
        halves = self._halves(line, (first, middle)), self._halves(line, (middle, after))
        return [*halves[0], *halves[1]]


def _groups(items: Iterable[T], size: int) -> Iterator[list[T]]:
    """The items in lists of `size`; the last may be shorter."""
    iterator = iter(items)
    while group := list(islice(iterator, size)):
        yield group
