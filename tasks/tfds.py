"""Data sets of TensorFlow Datasets, with ids."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import seqio
import tensorflow as tf
import tensorflow_datasets as tfds
from absl import logging
from tensorflow_datasets.core.download import downloader

from t5patches.errors import UserError


class TfdsSource(seqio.TfdsDataSource):
    """A data set of TFDS whose examples have an `id_pretokenized`.

    That is the data set's own `id`, or `split:index`, the place of the example in the
    split as TFDS has it: the same in every order and every shard.

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
        self,
        split: str = "train",
        shuffle: bool = True,
        seed: int | None = None,
        shard_info: seqio.ShardInfo | None = None,
        **unused: Any,
    ) -> tf.data.Dataset:
        loader = self._tfds_dataset
        try:
            ds = loader.load(split, shuffle, seed, shard_info)
        except ValueError as error:  # An unknown split.
            raise UserError(f"{loader.name}: {error}") from error
        if "id" in loader.info.features:
            with_id = lambda example: {**example, "id_pretokenized": example["id"]}
        else:
            with_id = _numbered(split, loader.info.splits[loader._map_split(split)])
        return ds.map(with_id, num_parallel_calls=tf.data.AUTOTUNE)


class _Loader(seqio.utils.LazyTfdsLoader):
    """Prepares data when they are first needed, and gives examples their place."""

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


def _numbered(split: str, info: Any):
    """Adds ids from TFDS's, `name.tfrecord-00003-of-00016__45`: shard 3, place 45."""
    first = tf.constant(np.cumsum([0, *info.shard_lengths])[:-1], tf.int64)

    def with_id(example):
        parts = tf.strings.regex_replace(
            example["tfds_id"], r"^.*-(\d+)-of-\d+.*__(\d+)$", r"\1 \2"
        )
        shard, place = tf.unstack(
            tf.strings.to_number(tf.strings.split(parts), tf.int64), num=2
        )
        text = tf.strings.join([split, ":", tf.strings.as_string(first[shard] + place)])
        return {**example, "id_pretokenized": text}

    return with_id
