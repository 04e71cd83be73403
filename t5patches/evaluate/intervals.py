"""How sure the numbers of a comparison are, and whether two updates differ."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from t5patches.evaluate import similarity, uncertainty

# What each pair adds to the sums that `measures` takes; then BLEU's ten counts.
_COLUMNS = ("pairs", "before", "after", "clean", "same", "same_clean", "rouge")
# Of which of these each of the first measures is a share.
_SHARES_OF = ("pairs", "pairs", "pairs", "pairs", "clean", "before")
_DIFFERENCE = 2  # Of the measures: the one that may be negative.
# What two updates are compared by -> its place: after; of the clean.
_COMPARED = {"prevalence": 1, "exact_match": 4, "bleu": 6, "rougeL": 7}


def columns(table: np.ndarray) -> np.ndarray:
    """Returns what each pair adds to the sums that `measures` takes.

    Args:
      table: of `Comparison.table`.

    Returns:
      float64 [pairs, 17].
    """
    scores, before = table["scores"], table["old"]["spans"] > 0
    some = (
        *prevalence_columns(before, table["new"]["spans"] > 0).T,
        ~before,
        scores["same"],
        scores["same"] & ~before,
        scores["rouge"][:, similarity.ROUGE.index("rougeL")],
        scores["bleu"],
    )
    return np.column_stack(some).astype(np.float64, copy=False)


def prevalence_columns(before: np.ndarray, after: np.ndarray) -> np.ndarray:
    """Returns the first three of `columns`, float64 [pairs, 3]."""
    return np.column_stack([np.ones(len(before)), before, after]).astype(np.float64)


def measures(sums: np.ndarray) -> np.ndarray:
    """Returns the measures of sums of `columns`.

    Args:
      sums: float64 [..., 17], or [..., 3] for prevalence alone.

    Returns:
      float64 [..., 8]: prevalence before, after and their difference; exact match of
      all, clean and marked; BLEU; ROUGE-L. NaN where there is nothing to measure. Of
      three columns the first three.
    """
    pairs, before, after, *others = np.moveaxis(sums, -1, 0)
    found = [before / pairs, after / pairs, (after - before) / pairs]
    if others:
        clean, same, same_clean, rouge, *_ = others
        counts = np.rint(sums[..., len(_COLUMNS) :])
        with np.errstate(invalid="ignore", divide="ignore"):
            found += [same / pairs, same_clean / clean, (same - same_clean) / before]
        found += [np.apply_along_axis(similarity.bleu_of_sums, -1, counts)]
        found += [rouge / pairs]
    return np.stack(found, axis=-1)


def intervals(
    pairs: np.ndarray, clusters: np.ndarray | None, seed: int
) -> dict[str, Any]:
    """Returns 95 % intervals of `measures`, by a paired bootstrap.

    A share of which nothing or everything was found has its exact bound
    (`uncertainty.bound`). If there are clusters they are the units, there, too.

    Args:
      pairs: of `columns`, or of `prevalence_columns`.
      clusters: int [pairs], those that are drawn together; None if each is alone.
      seed: of the resamples.
    """
    units = uncertainty.by_cluster(pairs, clusters)
    sums = uncertainty.resample(units, uncertainty.RESAMPLES, seed)
    found = uncertainty.intervals(measures(sums))
    _widen(found, units, [-1 if place == _DIFFERENCE else 0 for place in range(6)])
    before, after, difference, *others = (
        None if np.isnan(pair).any() else pair.tolist() for pair in found
    )
    results: dict[str, Any] = {
        "confidence": uncertainty.CONFIDENCE,
        "resamples": uncertainty.RESAMPLES,
        "seed": seed,
        "clusters": None if clusters is None else len(units),
        "prevalence": {"before": before, "after": after, "difference": difference},
    }
    if others:
        *exact, results["bleu"], results["rougeL"] = others
        names = ("all", "clean", "marked")
        results["exact_match"] = dict(zip(names, exact, strict=True))
    return results


def _widen(found: np.ndarray, units: np.ndarray, least: Sequence[int]) -> None:
    """Widens empty intervals of shares by their exact bound, down to the `least`."""
    for place, name in enumerate(_SHARES_OF[: len(found)]):
        low, high = found[place]
        if low == high:
            number = int(np.count_nonzero(units[:, _COLUMNS.index(name)]))
            reach = uncertainty.bound(number)
            found[place] = max(low - reach, least[place]), min(high + reach, 1)


def against(
    ours: np.ndarray, theirs: np.ndarray, clusters: np.ndarray | None, seed: int
) -> dict[str, Any]:
    """Compares two updates of one model for the same inputs.

    Args:
      ours: `columns` of one.
      theirs: those of the other.
      clusters: as `intervals` takes them.
      seed: of the resamples and the permutations.

    Returns:
      `resamples`, `permutations` and `seed`; and for `prevalence` (after),
      `exact_match` (of the clean), `bleu` and `rougeL` each `ours`, `theirs`, their
      `difference`, its 95 % `interval` by a paired bootstrap, and `p` by approximate
      randomisation; None where there is nothing to measure.
    """
    one, other = (uncertainty.by_cluster(side, clusters) for side in (ours, theirs))
    number, permutations = uncertainty.RESAMPLES, uncertainty.PERMUTATIONS
    sums = uncertainty.resample(np.hstack([one, other]), number, seed)
    drawn = [measures(side) for side in np.split(sums, 2, axis=1)]
    found = uncertainty.intervals(drawn[0] - drawn[1])
    _widen(found, one, [-1] * 6)
    values = [measures(side.sum(axis=0)) for side in (one, other)]
    p = uncertainty.randomise(one, other, measures, permutations, seed)
    results: dict[str, Any] = {
        "resamples": number,
        "permutations": permutations,
        "seed": seed,
    }
    for name, place in _COMPARED.items():
        mine, others = (float(side[place]) for side in values)
        known = not np.isnan(mine)
        results[name] = {
            "ours": mine if known else None,
            "theirs": others if known else None,
            "difference": mine - others if known else None,
            "interval": found[place].tolist() if known else None,
            "p": float(p[place]) if known else None,
        }
    return results


def tests(
    columns: Mapping[str, np.ndarray], clusters: np.ndarray | None = None, seed: int = 0
) -> list[dict[str, Any]]:
    """Compares the best update by each measure with every other one.

    Args:
      columns: name -> `columns` of an update, all for the same inputs.
      clusters: as `intervals` takes them.
      seed: of the resamples and the permutations.

    Returns:
      Each `methods`, the two names, and what `against` returns.
    """
    values = {name: measures(each.sum(axis=0)) for name, each in columns.items()}
    pairs: dict[tuple[str, str], None] = {}  # In order.
    for name, place in _COMPARED.items():
        sign = -1 if name == "prevalence" else 1
        known = {
            who: sign * each[place]
            for who, each in values.items()
            if not np.isnan(each[place])
        }
        best = max(known, key=known.__getitem__, default="")
        pairs |= {
            (min(best, who), max(best, who)): None for who in known if who != best
        }
    return [
        {
            "methods": [one, other],
            **against(columns[one], columns[other], clusters, seed),
        }
        for one, other in pairs
    ]
