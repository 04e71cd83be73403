"""What is found out about pairs of outputs besides comparing them."""

from __future__ import annotations

import array
import json
from collections.abc import Mapping
from typing import Any, Protocol

import numpy as np

from t5patches.annotate.annotator import Annotator
from t5patches.errors import UserError
from t5patches.evaluate import intervals, pairs
from t5patches.evaluate.comparison import Table
from t5patches.interchange.records import Prediction

SECOND = (
    "old predictions of the second detector",
    "new predictions of the second detector",
)
Rows = Mapping[str, Prediction]  # By the name of their set.


class Part(Protocol):
    """Something that is found out as the pairs pass."""

    def add(self, old: pairs.Output, rows: Rows) -> None:
        """Takes the next rows, of which the old one was read."""
        ...

    def results(self, clusters: np.ndarray | None, seed: int) -> dict[str, Any]:
        """Returns what came of it, JSON-able."""
        ...


class SecondDetector:
    """Prevalence by an annotator that had no part in the update."""

    def __init__(
        self, annotator: Annotator | None, name: str, names: Mapping[str, str]
    ):
        """Takes an annotator.

        Args:
          annotator: None if the rows of SECOND have its annotations.
          name: what it is called in the results.
          names: what sets are called in messages.
        """
        self._names = names
        self._sides = (pairs.OLD, pairs.NEW) if annotator else SECOND
        self._find, self._name = pairs.finder(annotator), name
        self._found = Table([("before", "?"), ("after", "?")])

    def add(self, old: pairs.Output, rows: Rows) -> None:
        """Takes the next rows.

        Raises:
          UserError: the second detector's have another text.
        """
        for side, name in zip((pairs.OLD, pairs.NEW), self._sides, strict=True):
            if rows[side]["prediction"] != rows[name]["prediction"]:
                raise UserError(
                    f"id {rows[side]['id']!r} has another text in the "
                    f"{self._names[name]} than in the {self._names[side]}; "
                    "annotate the same predictions"
                )
        self._found.append(tuple(bool(self._find(rows[n])) for n in self._sides))

    def results(self, clusters: np.ndarray | None, seed: int) -> dict[str, Any]:
        """Returns `name`, `prevalence` {before, after} and its `intervals`."""
        found = self._found.array()
        columns = intervals.prevalence_columns(found["before"], found["after"])
        return {
            "name": self._name,
            "prevalence": {
                side: float(found[side].mean()) for side in ("before", "after")
            },
            "intervals": intervals.intervals(columns, clusters, seed),
        }


def name_of(annotator: Annotator) -> str:
    """Returns what an annotator calls itself."""
    named = getattr(annotator, "settings", {}).get("annotator")
    return named or getattr(annotator, "__name__", type(annotator).__name__)


class Clusters:
    """Which pairs have the same value of a field of the old predictions."""

    def __init__(self, field: str, name: str):
        """Takes the field, and what the old predictions are called in messages."""
        self._field, self._name = field, name
        self._known: dict[int, int] = {}  # Hash of a value -> its number.
        self._numbers = array.array("q")

    def add(self, row: Prediction) -> None:
        """Takes the next old prediction.

        Raises:
          UserError: it has no such field.
        """
        if self._field not in row:
            raise UserError(
                f"id {row['id']!r} of the {self._name} has no field {self._field!r}, "
                f"by which pairs are to be clustered; it has {', '.join(row)}"
            )
        value = hash(json.dumps(row[self._field], sort_keys=True))
        self._numbers.append(self._known.setdefault(value, len(self._known)))

    def array(self) -> np.ndarray:
        """Returns the number of each pair's cluster, int64 [pairs]."""
        return np.array(self._numbers)
