"""What is unwanted among several samples for each input."""

from __future__ import annotations

import collections
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from t5patches.annotate.annotator import Annotator
from t5patches.errors import UserError
from t5patches.evaluate import intervals, pairs
from t5patches.evaluate.comparison import Comparison
from t5patches.interchange.records import Prediction


class Rejection:
    """Takes, of the original model's samples for each input, the first clean one.

    Memory grows with the inputs that there are samples for.
    """

    def __init__(self, samples: Iterable[Prediction], annotator: Annotator | None):
        """Reads samples: any number for some of the inputs, whose texts say which.

        Raises:
          UserError: there are no samples.
        """
        read = pairs.reader(annotator)
        self._ids: dict[str, str] = {}  # Inputs not met yet, and a sample of each.
        self._taken: dict[str, pairs.Output] = {}
        self._samples = self._clean = self._drawn = self._found = 0
        self._accepted = Comparison()
        for row in samples:
            output, key = read(row), row["inputs"]
            self._ids.setdefault(key, row["id"])
            self._samples += 1
            self._clean += not output.spans
            self._drawn += key not in self._taken
            if not output.spans:
                self._taken.setdefault(key, output)
        if not self._samples:
            raise UserError("there are no samples")
        self._inputs = len(self._ids)

    def add(self, old: pairs.Output, rows: Any) -> None:
        """Takes the next old prediction; of several with the same inputs the first."""
        key = old.row["inputs"]
        if self._ids.pop(key, None) is not None and key in self._taken:
            self._found += 1
            self._accepted.add(pairs.pair(old, self._taken.pop(key)))

    def results(self, clusters: Any, seed: int) -> dict[str, Any]:
        """Returns what came of it; there are no intervals.

        Returns:
          `inputs` and `samples`, how many there are; `acceptance_rate`, the share of
          clean samples; `inputs_accepted`, that of inputs with one; `drawn`, how many
          samples were needed; `accepted`, the `Comparison.results` of those taken, None
          without any.

        Raises:
          UserError: a sample has other inputs than the old predictions.
        """
        if self._ids:
            raise UserError(
                f"id {next(iter(self._ids.values()))!r} of the samples has inputs that "
                "no old prediction has; sample for inputs of the same split"
            )
        return {
            "inputs": self._inputs,
            "samples": self._samples,
            "acceptance_rate": self._clean / self._samples,
            "inputs_accepted": self._found / self._inputs,
            "drawn": self._drawn,
            "accepted": self._accepted.results() if self._found else None,
        }


def compare(
    old: Iterable[Prediction],
    new: Iterable[Prediction],
    annotator: Annotator | None,
    seed: int,
) -> dict[str, Any]:
    """Compares samples of both models, several for each input.

    Args:
      old: samples of the model before the update.
      new: as many of the model after it, for the same inputs, whose texts say which
        belong together.
      annotator: says what is unwanted; None takes the samples' `annotations`.
      seed: of the intervals.

    Returns:
      `number` of samples of each model, `inputs`, how many they are for, `prevalence`
      {before, after}, and `intervals` of it, clustered by input.

    Raises:
      UserError: an input has not as many samples of one model as of the other.
    """
    sides = [_counts(rows, annotator) for rows in (old, new)]
    _check_alike(*sides)
    counts = np.array([[*mine, sides[1][key][1]] for key, mine in sides[0].items()])
    clusters = np.arange(len(counts))
    number, before, after = counts.sum(axis=0).tolist()
    return {
        "number": number,
        "inputs": len(counts),
        "prevalence": {"before": before / number, "after": after / number},
        "intervals": intervals.intervals(counts.astype(np.float64), clusters, seed),
    }


def _counts(
    rows: Iterable[Prediction], annotator: Annotator | None
) -> dict[str, list[int]]:
    """Returns by inputs how many samples there are, and how many unwanted ones."""
    find = pairs.finder(annotator)
    counts: dict[str, list[int]] = collections.defaultdict(lambda: [0, 0])
    for row in rows:
        count = counts[row["inputs"]]
        count[0] += 1
        count[1] += bool(find(row))
    return counts


def _check_alike(
    old: Mapping[str, Sequence[int]], new: Mapping[str, Sequence[int]]
) -> None:
    for key in [*old, *(key for key in new if key not in old)]:
        mine, theirs = (side[key][0] if key in side else 0 for side in (old, new))
        if mine != theirs:
            raise UserError(
                f"the input {key[:60]!r} has {mine} old samples and {theirs} new ones; "
                "give as many of both, for the same inputs"
            )
