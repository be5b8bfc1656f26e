"""Shards: ArrayRecord files of utterances (FLAC audio with text and metadata) with random access.

`shard-00000.array_record` has one msgpack map per utterance; `shard-00000.index.npz` has everything but the audio, as
columns. The index is written last: a shard is complete when its index exists.
"""

from __future__ import annotations

import contextlib
import functools
import io
import itertools
import json
import math
import os
import threading
import zipfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from spectron.types import UserError
from spectron.utils.files import part_of

VERSION = 1
SUFFIX = ".array_record"
PLAN = "corpus.json"  # the command and settings that made the folder, and its number of shards
STRINGS = ("id", "speaker", "book", "recording", "text", "labelled_by")
NUMBERS = {"num_samples": "<i8", "sample_rate": "<i4", "tokens": "<i4", "score": "<f8", "start": "<f8"}
_WRITER = "group_size:1,uncompressed,max_parallelism:1"  # one record per chunk; FLAC is compressed already
_READER = "readahead_buffer_size:0,max_parallelism:0"  # for random access
OPEN_FILES = 128  # ours: shards open at once; processes are commonly limited to 1,024 files


class Utterance(NamedTuple):
    """One utterance of a shard."""

    id: str
    speaker: str
    book: str
    audio: bytes  # FLAC, mono
    sample_rate: int  # Hz
    num_samples: int
    text: str = ""  # "" before labelling
    labelled_by: str = ""  # the recogniser's name; "" for a human transcript or none
    score: float = math.nan  # log-probability of the text
    tokens: int = 0  # output labels of the text
    start: float = 0.0  # position in the recording, seconds
    recording: str = ""  # name of the recording that it was cut from

    @property
    def seconds(self) -> float:
        """Length in seconds."""
        return self.num_samples / self.sample_rate

    def samples(self) -> np.ndarray:
        """The audio as int16 [num_samples]. Raises UserError if it is damaged or has another length."""
        import soundfile

        from spectron.audio import wav

        try:
            samples, rate = wav.decode_flac(self.audio) or soundfile.read(io.BytesIO(self.audio), dtype="int16")
        except (soundfile.SoundFileError, RuntimeError, ValueError) as error:
            raise UserError(f"Utterance {self.id!r}: its audio is damaged; write its shard again.") from error
        if samples.shape != (self.num_samples,) or rate != self.sample_rate:
            raise UserError(
                f"Utterance {self.id!r}: its audio has {len(samples)} samples at {rate} Hz, its record says "
                f"{self.num_samples} at {self.sample_rate}; write its shard again."
            )
        return samples


def encode_flac(samples: np.ndarray, sample_rate: int) -> bytes:
    """int16 [S] → FLAC bytes; the same samples give the same bytes."""
    import soundfile

    file = io.BytesIO()
    soundfile.write(file, np.asarray(samples, np.int16), sample_rate, format="FLAC", subtype="PCM_16")
    return file.getvalue()


def shard_path(folder: str | Path, number: int) -> Path:
    """The file of shard `number` in a folder."""
    return Path(folder) / f"shard-{number:05d}{SUFFIX}"


def index_path(path: str | Path) -> Path:
    """The index file of a shard."""
    path = Path(path)
    return path.with_name(index_name(path.name))


def index_name(name: str) -> str:
    """The name of the index file of a shard, from the shard's."""
    return name.removesuffix(SUFFIX) + ".index.npz"


def is_finished(path: str | Path) -> bool:
    """Whether a shard is complete."""
    return index_path(path).is_file() and Path(path).is_file()


def write_shard(
    path: str | Path, utterances: Iterable[Utterance], rejected: Mapping[str, list[str]] | None = None
) -> int:
    """Write a shard, then its index, each atomically; returns the number of utterances.

    rejected: reason → names of what was left out; stored in the index. It is read after the last utterance, so the
    iterator may fill it. The same utterances give the same bytes. Raises UserError if the files cannot be written.
    """
    import msgpack
    from array_record.python.array_record_module import ArrayRecordWriter

    path = Path(path)
    columns: dict[str, list[Any]] = {name: [] for name in (*STRINGS, *NUMBERS)}
    part = part_of(path)
    index_part = part_of(index_path(path))
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        writer = ArrayRecordWriter(str(part), _WRITER)
        try:
            for utterance in utterances:
                fields = utterance._asdict()
                writer.write(msgpack.packb(fields))
                for name, values in columns.items():
                    values.append(fields[name])
        finally:
            writer.close()
        with index_part.open("wb") as file:
            rejected_json = np.frombuffer(json.dumps(rejected or {}).encode(), np.uint8)
            np.savez(file, allow_pickle=False, version=VERSION, rejected=rejected_json, **_column_arrays(columns))
        index_path(path).unlink(missing_ok=True)  # an old index must not be left next to new records
        os.replace(part, path)
        os.replace(index_part, index_path(path))
    except (OSError, RuntimeError) as error:
        raise UserError(f"Cannot write {str(path)!r} ({error}); check the folder and the free space.") from error
    finally:
        for temporary in (part, index_part):
            with contextlib.suppress(OSError):
                temporary.unlink()
    return len(columns["id"])


def _column_arrays(columns: dict[str, list[Any]]) -> dict[str, np.ndarray]:
    """Columns as arrays; strings as concatenated UTF-8 with the start of each."""
    arrays = {name: np.asarray(columns[name], kind) for name, kind in NUMBERS.items()}
    for name in STRINGS:
        encoded = [value.encode() for value in columns[name]]
        arrays[name] = np.frombuffer(b"".join(encoded), np.uint8)
        arrays[f"{name}_starts"] = np.cumsum([0, *map(len, encoded)], dtype=np.int64)
    return arrays


class Index:
    """The columns of one shard: everything but the audio."""

    def __init__(self, path: str | Path):
        """Raises UserError if the index cannot be read."""
        self._path = index_path(path)
        handle = None
        try:
            handle = self._path.open("rb")  # NumPy leaves a file that it cannot read open
            self._file = np.load(handle)
            self._file.fid = handle  # closed with it
            if int(self._file["version"]) != VERSION:
                raise ValueError(f"its version is {self._file['version']}, not {VERSION}")
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
            if handle is not None:
                handle.close()
            raise UserError(f"{str(self._path)!r} is not a shard's index ({error}); write the shard again.") from error

    def numbers(self, name: str) -> np.ndarray:
        """A numeric column [N]: num_samples, sample_rate, tokens, score or start."""
        return self._file[name]

    def strings(self, name: str) -> list[str]:
        """A text column [N]: id, speaker, book, recording, text or labelled_by."""
        content = self._file[name].tobytes()
        starts = self._file[f"{name}_starts"].tolist()
        return [content[a:b].decode() for a, b in itertools.pairwise(starts)]

    def string_sizes(self, name: str) -> np.ndarray:
        """int64 [N]: length of each string of a text column in bytes of UTF-8."""
        return np.diff(self._file[f"{name}_starts"])

    def rejected(self) -> dict[str, list[str]]:
        """Reason → names of what was left out when the shard was written."""
        return json.loads(self._file["rejected"].tobytes())

    def close(self) -> None:
        """Close the file."""
        self._file.close()


class Shards:
    """A folder of shards with random access to its utterances. Thread-safe."""

    def __init__(
        self, folder: str | Path, paths: Sequence[Path] | None = None, sizes: Sequence[int] | np.ndarray | None = None
    ):
        """paths, sizes: its shards and the utterances of each, if they are known. Raises UserError for a folder without
        shards or with missing ones."""
        self.folder = Path(folder)
        self.paths = finished_shards(self.folder) if paths is None else paths
        if sizes is None:
            sizes = [len(lengths) for lengths in self._lengths]
        self.starts = np.cumsum([0, *sizes])  # [shards + 1]: index of each shard's first utterance
        self._lock = threading.Lock()
        self._reader = functools.lru_cache(OPEN_FILES)(_open)

    @functools.cached_property
    def _lengths(self) -> list[np.ndarray]:
        lengths = []
        for path in self.paths:
            index = Index(path)
            lengths.append(index.numbers("num_samples"))
            index.close()
        return lengths

    @functools.cached_property
    def lengths(self) -> np.ndarray:
        """int64 [N]: samples of each utterance, at its own rate."""
        return np.concatenate(self._lengths).astype(np.int64)

    def __len__(self) -> int:
        return int(self.starts[-1])

    def __getitem__(self, i: int) -> Utterance:
        """Utterance i. Raises UserError if its record is damaged."""
        shard, record = self.place(i)
        with self._lock:
            reader = self._reader(self.paths[shard])
        return _read(reader, self.paths[shard], record)

    def place(self, i: int) -> tuple[int, int]:
        """Utterance i → (shard, record). Raises IndexError."""
        if not 0 <= i < len(self):
            raise IndexError(i)
        shard = int(np.searchsorted(self.starts, i, side="right")) - 1
        return shard, i - int(self.starts[shard])

    def index(self, shard: int) -> Index:
        """The index of a shard; close it after use."""
        return Index(self.paths[shard])

    def __getstate__(self) -> dict[str, Any]:
        return {"folder": self.folder}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(state["folder"])  # type: ignore[misc]


def finished_shards(folder: Path) -> list[Path]:
    """The shards of a folder, sorted. Raises UserError if there are none, or some are missing or incomplete."""
    # One listing, and names instead of paths: there may be thousands, in a bucket far away.
    present = set(os.listdir(folder)) if folder.is_dir() else set()
    names = sorted(name for name in present if name.endswith(SUFFIX) and not name.startswith("."))
    try:
        expected = int(json.loads((folder / PLAN).read_text())["shards"])
    except (OSError, ValueError, KeyError, TypeError):
        expected = len(names)
    unfinished = [name for name in names if index_name(name) not in present]
    if unfinished or len(names) < expected:
        done = len(names) - len(unfinished)
        raise UserError(
            f"{str(folder)!r} is incomplete ({done} of {expected} shards); run the command that writes it again."
        )
    if not names:
        raise UserError(f"{str(folder)!r} holds no shards; write some with spectron data cut or spectron data write.")
    return [folder / name for name in names]


def read_shard(path: str | Path) -> Iterator[Utterance]:
    """Iterate over the utterances of one shard in order. Raises UserError if it is damaged."""
    path = Path(path)
    reader = _open(path)
    for record in range(reader.num_records()):
        yield _read(reader, path, record)


def _open(path: Path) -> Any:
    from array_record.python.array_record_module import ArrayRecordReader

    reader = ArrayRecordReader(str(path), _READER)
    if not reader.ok():
        raise UserError(f"Shard {str(path)!r} is damaged; delete it with its index and write it again.")
    return reader


def _read(reader: Any, path: Path, record: int) -> Utterance:
    import msgpack

    try:
        return Utterance(**msgpack.unpackb(reader.read([record])[0]))
    except (RuntimeError, IndexError, ValueError, TypeError) as error:
        raise UserError(
            f"Shard {str(path)!r}: record {record} is damaged; delete the shard and write it again."
        ) from error
