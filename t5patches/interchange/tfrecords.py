"""TFRecord files of tf.train.Examples with int64 features.

TensorFlow is imported when one is written or read.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence

from t5patches.errors import UserError
from t5patches.interchange.shards import PathLike, atomic_path


def example_bytes(features: Mapping[str, Sequence[int]]) -> bytes:
    """Returns a serialized tf.train.Example with int64 `features`."""
    import tensorflow as tf

    int64s = {
        name: tf.train.Feature(int64_list=tf.train.Int64List(value=values))
        for name, values in features.items()
    }
    example = tf.train.Example(features=tf.train.Features(feature=int64s))
    return example.SerializeToString(deterministic=True)


def write(path: PathLike, rows: Iterable[Mapping[str, Sequence[int]]]) -> int:
    """Writes one tf.train.Example of int64 features per row, atomically.

    Args:
      path: the TFRecord file.
      rows: features by name, e.g. `inputs`, `targets`, `target_annotations`.

    Returns:
      The number of examples.
    """
    import tensorflow as tf

    count = 0
    with atomic_path(path) as temporary:
        with tf.io.TFRecordWriter(temporary) as writer:
            for row in rows:
                writer.write(example_bytes(row))
                count += 1
    return count


def read(path: PathLike) -> Iterator[dict[str, list[int]]]:
    """Yields the int64 features of each example of a TFRecord file."""
    import tensorflow as tf

    try:
        for raw in tf.data.TFRecordDataset(os.fspath(path)).as_numpy_iterator():
            features = tf.train.Example.FromString(raw).features.feature
            yield {name: list(f.int64_list.value) for name, f in features.items()}
    except tf.errors.OpError as error:
        raise UserError(
            f"{os.fspath(path)}: not a readable TFRecord: {error}"
        ) from error
