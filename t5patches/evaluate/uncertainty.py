"""How sure a number of a test set is: the bootstrap, exact bounds, randomisation.

Everything works on *columns*, float64 [units, columns]: what each unit (a pair of
outputs, or a cluster of them) adds to the sums that a measure is made of. A measure is
a function of such sums, [..., columns] to [..., measures], so that a resample costs a
product of matrices.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

CONFIDENCE = 0.95
RESAMPLES = 1000
PERMUTATIONS = 10_000
_BLOCK = 1 << 22  # Weights held at a time: 32 MB.
Measure = Callable[[np.ndarray], np.ndarray]


def by_cluster(columns: np.ndarray, clusters: np.ndarray | None) -> np.ndarray:
    """Returns the columns of clusters: the sums over their members.

    Args:
      columns: [units, columns].
      clusters: int [units], the cluster of each from 0; None if each is its own.
    """
    if clusters is None:
        return columns
    added = [np.bincount(clusters, weights=column) for column in columns.T]
    return np.stack(added, axis=1)


def resample(columns: np.ndarray, number: int, seed: int) -> np.ndarray:
    """Returns the sums of resamples: as many units, drawn with replacement.

    Source: Efron and Tibshirani, "An Introduction to the Bootstrap", 1993, chapter 6.
    The units drawn are those that `scipy.stats.bootstrap` draws with the same seed.

    Args:
      columns: [units, columns].
      number: of resamples.
      seed: of `numpy.random.default_rng`.

    Returns:
      float64 [number, columns].
    """
    random, units = np.random.default_rng(seed), len(columns)

    def weights(count: int) -> np.ndarray:
        drawn = (random.integers(0, units, units) for _ in range(count))
        return np.stack([np.bincount(some, minlength=units) for some in drawn])

    return _in_blocks(weights, columns, number)


def _in_blocks(
    weights: Callable[[int], np.ndarray], columns: np.ndarray, number: int
) -> np.ndarray:
    """Returns `weights(number) @ columns` without holding all weights at a time."""
    step = max(_BLOCK // max(len(columns), 1), 1)
    parts = [
        weights(min(step, number - done)).astype(np.float64) @ columns
        for done in range(0, number, step)
    ]
    return np.concatenate(parts)


def intervals(values: np.ndarray) -> np.ndarray:
    """Returns percentile intervals, float64 [measures, 2].

    Args:
      values: float [resamples, measures]; NaN where a resample has nothing to measure,
        which is left out.
    """
    tail = 50 * (1 - CONFIDENCE)
    found = np.full((values.shape[1], 2), np.nan)
    for place, column in enumerate(values.T):
        if (known := column[~np.isnan(column)]).size:
            found[place] = np.percentile(known, [tail, 100 - tail])
    return found


def bound(units: int) -> float:
    """Returns the most that a share can be, of which none of `units` was found.

    The one-sided exact bound, nearly 3 / units. Source: Clopper and Pearson, "The Use
    of Confidence or Fiducial Limits", Biometrika 1934.
    """
    return 1 - (1 - CONFIDENCE) ** (1 / units)


def randomise(
    ours: np.ndarray, theirs: np.ndarray, measure: Measure, number: int, seed: int
) -> np.ndarray:
    """Returns the p-values of the differences between two systems.

    Approximate randomisation, two-sided: of each unit the two systems' outputs are
    swapped or not; p = (c + 1) / (number + 1) with c the swaps whose difference is at
    least as large as the one that is there. Source: Noreen, "Computer-Intensive Methods
    for Testing Hypotheses", 1989.

    Args:
      ours: columns of one system.
      theirs: those of the other, of the same units.
      measure: [..., columns] -> [..., measures].
      number: of swaps drawn.
      seed: of `numpy.random.default_rng`.

    Returns:
      float64 [measures]; NaN where there is nothing to measure.
    """
    random, sums = np.random.default_rng(seed), (ours.sum(axis=0), theirs.sum(axis=0))
    moved = theirs - ours
    moved = moved[moved.any(axis=1)]  # To swap what is alike changes nothing.

    def swaps(count: int) -> np.ndarray:
        return random.integers(0, 2, (count, len(moved)), dtype=np.int8)

    delta = _in_blocks(swaps, moved, number)
    there = np.abs(measure(sums[0]) - measure(sums[1]))
    drawn = np.abs(measure(sums[0] + delta) - measure(sums[1] - delta))
    # Sums in another order differ in their last digits.
    counts = np.sum(drawn >= there - 1e-9 * np.maximum(there, 1), axis=0)
    return np.where(np.isnan(there), np.nan, (counts + 1) / (number + 1))


def holm(p: Sequence[float]) -> np.ndarray:
    """Returns p-values corrected for being several, float64 [tests].

    Source: Holm, "A Simple Sequentially Rejective Multiple Test Procedure",
    Scandinavian Journal of Statistics 1979.
    """
    order, corrected = np.argsort(p), np.empty(len(p))
    ranked = np.sort(p) * np.arange(len(p), 0, -1)
    corrected[order] = np.minimum(np.maximum.accumulate(ranked), 1)
    return corrected
