"""TFRecord files of tf.train.Examples with int64 features.

TensorFlow is imported when one is written.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

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
