"""The measure of SemEval-2021 Task 5: F1 of characters, mean over posts."""

from __future__ import annotations

from collections.abc import Collection, Sequence

import numpy as np


def character_f1(predicted: Collection[int], gold: Collection[int]) -> float:
    """Returns the F1 of two sets of character offsets in one post.

    Two empty sets give 1, one empty set gives 0.

    References:
      Pavlopoulos et al. 2021, SemEval-2021 Task 5: Toxic Spans Detection, section 4.
    """
    predicted, gold = set(predicted), set(gold)
    if not predicted and not gold:
        return 1.0
    return 2 * len(predicted & gold) / (len(predicted) + len(gold))


def bootstrap_interval(
    values: Sequence[float], level: float = 0.95, draws: int = 10_000, seed: int = 0
) -> tuple[float, float]:
    """Returns the percentile interval of the mean over posts drawn with replacement.

    Args:
      values: one per post, at least one.
      level: the share of bootstrap means within the interval.
      draws: how many samples of posts are drawn.
      seed: of the draws.
    """
    array = np.asarray(values, np.float64)
    generator = np.random.default_rng(seed)
    means = [
        generator.choice(array, len(array), replace=True).mean() for _ in range(draws)
    ]
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)
