"""Where two sequences of tokens differ, and what packing does to values of zero."""

from __future__ import annotations

import tensorflow as tf


def get_first_diff_mask(seq1: tf.Tensor, seq2: tf.Tensor) -> tf.Tensor:
    """Marks the first position at which `seq1` is not `seq2`.

    Args:
      seq1: int [length].
      seq2: int [any length]; cut or continued with zeros to the length of `seq1`.

    Returns:
      int32 [length], 1 at that position, if there is one, and 0 elsewhere.
    """
    differs = _differs(seq1, seq2)
    return differs * tf.cast(tf.equal(tf.cumsum(differs), 1), tf.int32)


def get_diff_mask(seq1: tf.Tensor, seq2: tf.Tensor) -> tf.Tensor:
    """Marks every position at which `seq1` has a token that `seq2` has not there.

    Args:
      seq1: int [length], 0 where there is no token.
      seq2: int [any length]; cut or continued with zeros to the length of `seq1`.

    Returns:
      int32 [length], 0 or 1.
    """
    return _differs(seq1, seq2) * tf.cast(tf.not_equal(seq1, 0), tf.int32)


def _differs(seq1: tf.Tensor, seq2: tf.Tensor) -> tf.Tensor:
    length = tf.size(seq1)
    seq2 = seq2[:length]
    seq2 = tf.pad(seq2, [[0, length - tf.size(seq2)]])
    return tf.cast(tf.not_equal(seq1, seq2), tf.int32)


def content_length(tokens: tf.Tensor) -> tf.Tensor:
    """The number of tokens up to the last that is not 0; int32 scalar."""
    counts = tf.range(1, tf.size(tokens) + 1)
    return tf.maximum(tf.reduce_max(tf.where(tf.equal(tokens, 0), 0, counts)), 0)


def without_zeros(values: tf.Tensor) -> tf.Tensor:
    """Renames integers one to one so that none is 0; `with_zeros` undoes it.

    SeqIO's packing takes the zeros of a feature for its padding: a weight of 0 would
    shorten its feature and shift it against the others.
    """
    return tf.where(values >= 0, values + 1, values)


def with_zeros(values: tf.Tensor) -> tf.Tensor:
    """Undoes `without_zeros`; padding, which is 0, stays 0."""
    return tf.where(values > 0, values - 1, values)
