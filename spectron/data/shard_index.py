"""The indexes of all shards of a folder as one: what training must know of every record before it reads the first.

A large corpus has thousands of shards and millions of texts. Their columns and the number of tokens of every text are
collected at the first start and kept in hidden files of the folder, or else in the cache folder; later starts read
those. The tokens belong to one vocabulary and normaliser, by their checksum.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import overload

import numpy as np

from spectron.data.fitting import SMALL, Fitting
from spectron.data.measuring import stamp_of
from spectron.data.shards import Index, finished_shards, index_name
from spectron.utils.console import Progress
from spectron.utils.environment import cache_folder
from spectron.utils.stored_arrays import digest, stored_arrays

MANY = 32  # ours: the columns of fewer shards are read from their indexes at every start


class FolderIndex:
    """Columns of a folder's records, in the order of its shards.

    paths: of the shards. sizes: int64 [shards], records of each. num_samples (at the record's own rate), sample_rate in
    Hz, text_bytes (of the raw text): int32 [N].
    """

    def __init__(self, folder: Path):
        """Raises UserError for a folder without shards, with missing ones, or with an index that cannot be read."""
        self.paths = finished_shards(folder)
        self._folder = folder
        names = [path.name for path in self.paths]
        self._stamps = digest([name, *stamp_of(os.path.join(folder, index_name(name)))] for name in names)
        columns = self._stored("columns", "", len(self.paths) >= MANY, self._read)
        self.sizes, self.num_samples = columns["sizes"], columns["num_samples"]
        self.sample_rate, self.text_bytes = columns["sample_rate"], columns["text_bytes"]
        self.starts = np.concatenate([[0], np.cumsum(self.sizes)])  # int64 [shards + 1]: each shard's first record

    def __len__(self) -> int:
        return int(self.starts[-1])

    def tokens(self, fitting: Fitting) -> np.ndarray:
        """int32 [N]: tokens of each text, including eos: 1 for a record without text."""

        def count() -> Mapping[str, np.ndarray]:
            counted = []
            with Progress(len(self.paths), f"counting tokens in {self._folder.name}", "shard", leave=False) as bar:
                for index in self._indexes():
                    counted.append(fitting.tokens([*map(fitting.text, index.strings("text"))]))
                    bar.advance()
            return {"tokens": np.concatenate(counted)}

        return self._stored("tokens", fitting.checksum(), len(self) >= SMALL, count)["tokens"]

    def id_of(self, record: int) -> str:
        """The id of a record."""
        shard = int(np.searchsorted(self.starts, record, side="right")) - 1
        return self.shard_ids(shard)[record - int(self.starts[shard])]

    def shard_ids(self, shard: int) -> list[str]:
        """The ids of a shard's records."""
        index = Index(self.paths[shard])
        names = index.strings("id")
        index.close()
        return names

    def _indexes(self) -> Iterator[Index]:
        for path in self.paths:
            index = Index(path)
            yield index
            index.close()

    def _read(self) -> Mapping[str, np.ndarray]:
        columns: dict[str, list[np.ndarray]] = {"num_samples": [], "sample_rate": [], "text_bytes": []}
        for index in self._indexes():
            for name, parts in columns.items():
                values = index.string_sizes("text") if name == "text_bytes" else index.numbers(name)
                parts.append(values.astype(np.int32))
        sizes = np.asarray([len(part) for part in columns["num_samples"]], np.int64)
        return {name: np.concatenate(parts) for name, parts in columns.items()} | {"sizes": sizes}

    def _stored(
        self, name: str, checksum: str, keep: bool, compute: Callable[[], Mapping[str, np.ndarray]]
    ) -> Mapping[str, np.ndarray]:
        if not keep:
            return compute()
        file = f".{name}-{checksum[:12]}" if checksum else f".{name}"
        elsewhere = cache_folder() / "shards" / digest([str(self._folder.resolve()), name, checksum])[:32]
        return stored_arrays([self._folder / file, elsewhere], digest([self._stamps, checksum]), compute)


class Ids(Sequence[str]):
    """The ids of some records, read from the shards' indexes when they are asked for."""

    def __init__(self, index: FolderIndex, records: np.ndarray):
        self._index, self._records = index, records  # ascending

    def __len__(self) -> int:
        return len(self._records)

    def __eq__(self, other: object) -> bool:
        """Whether the other is a list of the same ids."""
        return list(self) == list(other) if isinstance(other, Sequence) else NotImplemented

    __hash__ = None  # type: ignore[assignment]

    @overload
    def __getitem__(self, i: int) -> str: ...
    @overload
    def __getitem__(self, i: slice) -> list[str]: ...
    def __getitem__(self, i: int | slice) -> str | list[str]:
        if isinstance(i, slice):
            return list(Ids(self._index, self._records[i]))
        return self._index.id_of(int(self._records[i]))

    def __iter__(self) -> Iterator[str]:
        """All of them, opening each shard once."""
        starts = self._index.starts
        shards = np.searchsorted(starts, self._records, side="right") - 1
        for shard in np.unique(shards).tolist():
            names = self._index.shard_ids(shard)
            for record in (self._records[shards == shard] - starts[shard]).tolist():
                yield names[record]
