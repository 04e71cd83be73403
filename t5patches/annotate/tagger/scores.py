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
    values: Sequence[float], draws: int = 10_000
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
