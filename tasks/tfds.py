"""Data sets of TensorFlow Datasets, with ids."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import seqio
import tensorflow as tf
import tensorflow_datasets as tfds
from absl import logging

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
        self._tfds_splits = dict(splits)

    def get_dataset(
        self,
        split: str = "train",
        shuffle: bool = True,
        seed: int | None = None,
        shard_info: seqio.ShardInfo | None = None,
        **unused: Any,
    ) -> tf.data.Dataset:
        builder = self._prepared()
        context = None
        if shard_info:
            context = tf.distribute.InputContext(
                num_input_pipelines=shard_info.num_shards,
                input_pipeline_id=shard_info.index,
            )
        try:
            ds = builder.as_dataset(
                split=self._tfds_splits[split],
                shuffle_files=shuffle,
                read_config=tfds.ReadConfig(
                    add_tfds_id=True,
                    shuffle_seed=seed,
                    skip_prefetch=True,
                    input_context=context,
                ),
            )
        except ValueError as error:  # An unknown split.
            raise UserError(f"{self.tfds_dataset.name}: {error}") from error
        if "id" in builder.info.features:
            with_id = lambda example: {**example, "id_pretokenized": example["id"]}
        else:
            with_id = _numbered(split, builder.info.splits[self._tfds_splits[split]])
        return ds.map(with_id, num_parallel_calls=tf.data.AUTOTUNE)

    def list_shards(self, split: str) -> list[str]:
        self._prepared()
        return super().list_shards(split)

    def num_input_examples(self, split: str) -> int | None:
        self._prepared()
        return super().num_input_examples(split)

    def _prepared(self) -> tfds.core.DatasetBuilder:
        """Returns the builder of data that are there, perhaps after a download.

        Raises:
          UserError: they are not, and cannot be had.
        """
        name = self.tfds_dataset.name
        try:
            builder = self.tfds_dataset.builder
            if not builder.is_prepared():
                logging.info("Preparing %s in %s", name, builder.data_dir)
                builder.download_and_prepare(
                    # Its copies of prepared data are looked for minutes long offline.
                    download_config=tfds.download.DownloadConfig(try_download_gcs=False)
                )
        except Exception as error:  # Of many libraries: network, archives, TFDS's own.
            reason = (str(error).strip() or type(error).__name__).splitlines()[0]
            raise UserError(
                f"TensorFlow Datasets has no {name} here and could not make it "
                f"({reason}); say where its copy is with --tfds_data_dir, make one "
                f"with `tfds build {name}`, or give files of your own"
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
        index = first[shard] + place
        text = tf.strings.join([split, ":", tf.strings.as_string(index)])
        return {**example, "id_pretokenized": text}

    return with_id
