"""Data sources over a user's text files: JSON lines, CSV, Parquet."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import seqio
import tensorflow as tf
from etils import epath

from t5patches.errors import UserError
from t5patches.interchange import claims, shards
from t5patches.interchange.tables import id_field, read_rows, text_field

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

    A subclass says what a row gives (`_columns_of`). Shuffling is complete: every epoch
    is another order of the whole split, fixed by the seed.

    Attributes:
      dtypes: the columns and their types; `id_pretokenized` is one of them. The id has
        that name since features so named pass through T5X's inference to what writes
        the results.
    """

    dtypes: Mapping[str, tf.DType]

    def __init__(self, files: Files):
        super().__init__(splits=tuple(files), performs_internal_shuffling=True)
        self._files = files
        self._held: dict[str, tuple[Any, dict[str, list[Any]]]] = {}

    @property
    def supports_arbitrary_sharding(self) -> bool:
        return True

    def list_shards(self, split: str) -> list[str]:
        return [split]

    def num_input_examples(self, split: str) -> int:
        return len(self.columns(split)["id_pretokenized"])

    def get_dataset(
        self,
        split: str = "train",
        shuffle: bool = True,
        seed: int | None = None,
        shard_info: seqio.ShardInfo | None = None,
        **unused: Any,
    ) -> tf.data.Dataset:
        columns = self.columns(split)
        ds = tf.data.Dataset.from_tensor_slices(
            {name: _tensor(columns[name], dtype) for name, dtype in self.dtypes.items()}
        )
        if shard_info and shard_info.num_shards > 1:
            ds = ds.shard(shard_info.num_shards, shard_info.index)
        if shuffle:
            size = self.num_input_examples(split)
            ds = ds.shuffle(size, seed, reshuffle_each_iteration=True)
        return ds

    def digest(self, split: str) -> str:
        """Returns a short hash of the split's files."""
        return claims.file_digest(split_files(self._files, split, ".jsonl"))

    def columns(self, split: str) -> dict[str, list[Any]]:
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
        columns: dict[str, list[Any]] = {name: [] for name in self.dtypes}
        for path in paths:
            for where, row in read_rows(path):
                values = self._columns_of(row, where)
                if not values["id_pretokenized"]:
                    index = len(columns["id_pretokenized"])
                    values["id_pretokenized"] = f"{split}:{index}"
                for name, column in columns.items():
                    column.append(values[name])
        if not columns["id_pretokenized"]:
            raise UserError(f"{', '.join(paths)}: no examples in it")
        return columns

    def _columns_of(self, row: shards.Row, where: str) -> dict[str, Any]:
        """Returns a value per column, the id "" where the row has none."""
        raise NotImplementedError


def _tensor(values: list[Any], dtype: tf.DType) -> tf.Tensor | tf.RaggedTensor:
    if values and isinstance(values[0], list):
        return tf.ragged.constant(values, dtype, ragged_rank=1)
    return tf.constant(values, dtype)


class TextSource(FileSource):
    """Text pairs: `inputs`, `targets` and `id_pretokenized`, scalar strings."""

    dtypes = dict.fromkeys(("inputs", "targets", "id_pretokenized"), tf.string)

    def __init__(
        self, files: Files, inputs_key: str, targets_key: str | None, id_key: str
    ):
        super().__init__(files)
        self._keys = (inputs_key, targets_key, id_key)

    def _columns_of(self, row: shards.Row, where: str) -> dict[str, Any]:
        inputs_key, targets_key, id_key = self._keys
        return {
            "inputs": text_field(row, inputs_key, where),
            "targets": text_field(row, targets_key, where) if targets_key else "",
            "id_pretokenized": id_field(row, id_key, where),
        }
