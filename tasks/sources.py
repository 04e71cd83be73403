"""Data sources: a user's files (JSON lines, CSV, Parquet), and TFDS's, with ids."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import seqio
import tensorflow as tf
import tensorflow_datasets as tfds
from absl import logging
from etils import epath
from tensorflow_datasets.core.download import downloader

from t5patches.errors import UserError
from t5patches.interchange import claims, shards
from t5patches.interchange.tables import Ids, read_rows

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
        self, split="train", shuffle=True, seed=None, shard_info=None, **unused
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
        ids = Ids()
        for index, (where, row) in enumerate(rows):
            values = self._columns_of(row, where)
            values["id_pretokenized"] = values["id_pretokenized"] or f"{split}:{index}"
            ids.add(values["id_pretokenized"], where)
            for name, column in columns.items():
                column.append(values[name])
        if not columns["id_pretokenized"]:
            raise UserError(f"{', '.join(paths)}: no examples in it")
        return columns


class TfdsSource(seqio.TfdsDataSource):
    """A data set of TFDS whose examples have an `id_pretokenized`.

    That is the data set's own `id`, or TFDS's, its file and its place there: the same
    in every order and every shard.

    Args:
      tfds_name: of the data set, perhaps with a config, and with a version.
      splits: our names and what TFDS calls them.

    Raises:
      UserError: the name has no version.
    """

    def __init__(self, tfds_name: str, splits: Mapping[str, str]):
        if ":" not in tfds_name:
            raise UserError(
                f"{tfds_name}: a version is missing, as in {tfds_name}:1.0.0"
            )
        super().__init__(tfds_name, splits=dict(splits))
        self._tfds_dataset = _Loader(tfds_name, split_map=dict(splits), read_only=True)

    def get_dataset(
        self, split="train", shuffle=True, seed=None, shard_info=None, **unused
    ) -> tf.data.Dataset:
        loader = self._tfds_dataset
        try:
            ds = loader.load(split, shuffle, seed, shard_info)
        except ValueError as error:  # An unknown split.
            raise UserError(f"{loader.name}: {error}") from error
        name = "id" if "id" in loader.info.features else "tfds_id"
        with_id = lambda example: {**example, "id_pretokenized": example[name]}
        return ds.map(with_id, num_parallel_calls=tf.data.AUTOTUNE)


class _Loader(seqio.utils.LazyTfdsLoader):
    """Prepares data when they are first needed, and names examples."""

    @property
    def read_config(self) -> tfds.ReadConfig:
        return tfds.ReadConfig(add_tfds_id=True)

    def _get_builder(self, split: str | None = None) -> tfds.core.DatasetBuilder:
        """Returns the builder of data that are there, perhaps after a download.

        Raises:
          UserError: they are not, and cannot be had.
        """
        try:
            builder = super()._get_builder(split)
            if not builder.is_prepared():
                logging.info("Preparing %s in %s", self.name, builder.data_dir)
                # With TFDS's ten it takes minutes to say that there is no network, and
                # its bucket of prepared data sets is looked for as long.
                downloader.MAX_RETRIES = 3
                config = tfds.download.DownloadConfig(try_download_gcs=False)
                builder.download_and_prepare(download_config=config)
        except Exception as error:  # Of many libraries: network, archives, TFDS's own.
            reason = (str(error).strip() or type(error).__name__).splitlines()[0]
            raise UserError(
                f"TensorFlow Datasets has no {self.name} here and could not make it "
                f"({reason}). Say where its copy is (in a command with "
                "--tfds_data_dir FOLDER, in Python with "
                "seqio.set_tfds_data_dir_override(FOLDER)), make one with `tfds build "
                f"{self.name}`, or give files of your own"
            ) from error
        return builder
