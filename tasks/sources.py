"""A data source over a user's files: JSON lines, CSV, Parquet."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import seqio
import tensorflow as tf
from etils import epath

from t5patches.errors import UserError
from t5patches.interchange import claims, shards
from t5patches.interchange.tables import read_rows

Files = Mapping[str, str | Sequence[str]]


def split_files(files: Files, split: str, suffix: str) -> list[str]:
    """Returns the files of a split.

    Raises:
      UserError: there is no such split, or no such file.
    """
    if split not in files:
        raise UserError(
            f"no files for split {split!r}; the task has {', '.join(files) or 'none'}"
        )
    return shards.expand(files[split], suffix)


class FileSource(seqio.DataSource):
    """Columns of JSON-lines, CSV or Parquet files, checked when read, kept in memory.

    Shuffling is complete: every epoch is another order of the whole split, fixed by the
    seed.

    Args:
      files: by split.
      dtypes: the columns and their types. One of them is `id_pretokenized`; the id has
        that name since features so named pass through T5X's inference to what writes
        the results.
      columns_of: takes a row and `file:line`; returns a value for each column, the id
        "" where the row has none.
    """

    def __init__(
        self,
        files: Files,
        dtypes: Mapping[str, tf.DType],
        columns_of: Callable[[shards.Row, str], dict[str, Any]],
    ):
        super().__init__(splits=tuple(files), performs_internal_shuffling=True)
        self._files, self._dtypes, self._columns_of = files, dtypes, columns_of
        self._held: dict[str, tuple[Any, dict[str, list[Any]]]] = {}

    @property
    def supports_arbitrary_sharding(self) -> bool:
        return True

    def list_shards(self, split: str) -> list[str]:
        return [split]

    def num_input_examples(self, split: str) -> int:
        return len(self._columns(split)["id_pretokenized"])

    def get_dataset(
        self,
        split: str = "train",
        shuffle: bool = True,
        seed: int | None = None,
        shard_info: seqio.ShardInfo | None = None,
        **unused: Any,
    ) -> tf.data.Dataset:
        columns = self._columns(split)
        tensors = {}
        for name, dtype in self._dtypes.items():
            is_list = isinstance(columns[name][0], list)
            make = tf.ragged.constant if is_list else tf.constant
            tensors[name] = make(columns[name], dtype)
        ds = tf.data.Dataset.from_tensor_slices(tensors)
        if shard_info and shard_info.num_shards > 1:
            ds = ds.shard(shard_info.num_shards, shard_info.index)
        if shuffle:
            size = self.num_input_examples(split)
            ds = ds.shuffle(size, seed, reshuffle_each_iteration=True)
        return ds

    def digest(self, split: str) -> str:
        """Returns a short hash of the split's files."""
        return claims.file_digest(split_files(self._files, split, ".jsonl"))

    def _columns(self, split: str) -> dict[str, list[Any]]:
        """Returns the split's columns, read anew only if a file has changed.

        Raises:
          UserError: naming file, line and field; or if there is no line.
        """
        paths = split_files(self._files, split, ".jsonl")
        stats = [(path, epath.Path(path).stat()) for path in paths]
        state = [(path, stat.length, stat.mtime) for path, stat in stats]
        if split not in self._held or self._held[split][0] != state:
            self._held[split] = (state, self._read(paths, split))
        return self._held[split][1]

    def _read(self, paths: Sequence[str], split: str) -> dict[str, list[Any]]:
        columns: dict[str, list[Any]] = {name: [] for name in self._dtypes}
        rows = (pair for path in paths for pair in read_rows(path))
        for index, (where, row) in enumerate(rows):
            values = self._columns_of(row, where)
            values["id_pretokenized"] = values["id_pretokenized"] or f"{split}:{index}"
            for name, column in columns.items():
                column.append(values[name])
        if not columns["id_pretokenized"]:
            raise UserError(f"{', '.join(paths)}: no examples in it")
        return columns
