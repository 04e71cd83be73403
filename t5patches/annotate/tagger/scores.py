"""The measure of SemEval-2021 Task 5: F1 of characters, mean over posts."""

from collections.abc import Sequence

import numpy as np


def character_f1(found: np.ndarray, gold: np.ndarray) -> float:
    """Returns the F1 of marked characters in one post.

    Where neither marks any it is 1, where only one does it is 0.

    Args:
      found: bool [characters], which ones are marked.
      gold: bool [characters], which ones ought to be.

    References:
      Pavlopoulos et al. 2021, SemEval-2021 Task 5: Toxic Spans Detection, section 4.
    """
    both = found.sum() + gold.sum()
    return float(2 * (found & gold).sum() / both) if both else 1.0


def bootstrap_interval(
    values: Sequence[float] | np.ndarray, draws: int = 10_000
) -> tuple[float, float]:
    """Returns the 95 % percentile interval of the mean over posts drawn anew.

    Args:
      values: one per post, at least one.
      draws: how many samples of posts are drawn, with replacement.
    """
    array, generator = np.asarray(values, float), np.random.default_rng(0)
    means = [generator.choice(array, len(array)).mean() for _ in range(draws)]
    low, high = np.quantile(means, [0.025, 0.975]).tolist()
    return low, high
