"""The measure of SemEval-2021 Task 5: F1 of characters, mean over posts."""

from collections.abc import Sequence

import numpy as np


def character_f1(found: np.ndarray, gold: np.ndarray) -> np.ndarray:
    """Returns the F1 of marked characters in one post.

    Where neither marks any it is 1, where only one does it is 0.

    Args:
      found: bool [..., characters], which ones are marked; several tries at once.
      gold: bool [characters], which ones ought to be.

    Returns:
      float [...].

    References:
      Pavlopoulos et al. 2021, SemEval-2021 Task 5: Toxic Spans Detection, section 4.
    """
    both = found.sum(-1) + gold.sum()
    return np.where(both, 2 * (found & gold).sum(-1) / np.maximum(both, 1), 1.0)


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
    drawn = np.random.default_rng(seed)
    means = [drawn.choice(values, len(values)).mean() for _ in range(draws)]
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2]).tolist()
    return low, high
