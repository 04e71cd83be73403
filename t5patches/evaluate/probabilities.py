"""How far an update is from the exact one, by both models' probabilities."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from t5patches.errors import UserError
from t5patches.evaluate import pairs, uncertainty
from t5patches.evaluate.comparison import Table
from t5patches.interchange import json_files, shards, tables

NAME = "distances"
_COLUMNS = (
    *("fine_tokens", "unwanted_positions", "kl_original", "kl_exact"),
    *("total_variation", "unwanted_before", "unwanted_after"),
)
_HINT = "give what `t5patches generate` with runs/distances.gin wrote"


def read(paths: Sequence[str]) -> Iterator[shards.Row]:
    """Yields the lines of files of distances.

    Raises:
      UserError: naming file, line and field.
    """
    for path in paths:
        for number, row in json_files.read_jsonl(path):
            where = f"{path}:{number}"
            json_files.check_fields(row, dict.fromkeys(_COLUMNS, float), where, _HINT)
            for name in _COLUMNS:
                if not math.isfinite(row[name]):
                    raise UserError(f"{where}: {name!r} is {row[name]}; {_HINT}")
            yield {**row, "id": tables.id_field(row, "id", where)}


class Distances:
    """Means over the tokens of all outputs, and their intervals (a `besides.Part`)."""

    def __init__(self):
        self._sums = Table([(name, "f8") for name in _COLUMNS])

    def add(self, old: pairs.Output, rows: Mapping[str, Any]) -> None:
        """Takes the next rows, one of which is of `read`."""
        self._sums.append(tuple(rows[NAME][name] for name in _COLUMNS))

    def results(self, clusters: np.ndarray | None, seed: int) -> dict[str, Any]:
        """Returns the means, in nats and shares.

        Returns:
          `fine_tokens` and `unwanted_positions`, how many there are; `kl_original` over
          the former, `total_variation` and `unwanted_probability` {before, after} over
          the latter, `kl_exact` over both; and their `intervals`, by resamples of
          outputs. None where there is nothing to measure.
        """
        sums = np.array(self._sums.array().tolist()).reshape(-1, len(_COLUMNS))
        units = uncertainty.by_cluster(sums, clusters)
        drawn = uncertainty.resample(units, uncertainty.RESAMPLES, seed)
        total = sums.sum(axis=0)
        fine, unwanted = (int(round(count)) for count in total[:2].tolist())
        return {
            "fine_tokens": fine,
            "unwanted_positions": unwanted,
            **_named(_means(total)),
            "intervals": {
                "confidence": uncertainty.CONFIDENCE,
                "resamples": uncertainty.RESAMPLES,
                "seed": seed,
                "clusters": None if clusters is None else len(units),
                **_named(uncertainty.intervals(_means(drawn))),
            },
        }


def _means(sums: np.ndarray) -> np.ndarray:
    """Float64 [..., 5] of sums [..., 7]; NaN where there is nothing to measure."""
    fine, unwanted, kl_original, kl_exact, *others = np.moveaxis(sums, -1, 0)
    parts = [(kl_original, fine), (kl_exact, fine + unwanted)]
    parts += [(other, unwanted) for other in others]
    with np.errstate(invalid="ignore"):
        return np.stack([total / count for total, count in parts], axis=-1)


def _named(values: np.ndarray) -> dict[str, Any]:
    """Returns the means, or their intervals [5, 2], by name."""
    kl_original, kl_exact, variation, before, after = (
        None if np.isnan(value).any() else value.tolist() for value in values
    )
    return {
        "kl_original": kl_original,
        "kl_exact": kl_exact,
        "total_variation": variation,
        "unwanted_probability": {"before": before, "after": after},
    }
