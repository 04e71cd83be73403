"""Reads back the TFRecords that the steps write."""

import os

import tensorflow as tf


def read(path):
    """Yields the int64 features of each example of a TFRecord file."""
    for raw in tf.data.TFRecordDataset(os.fspath(path)).as_numpy_iterator():
        features = tf.train.Example.FromString(raw).features.feature
        yield {name: list(f.int64_list.value) for name, f in features.items()}
