"""Alternatives beside the outputs, through the same annotator.

An alternative's text is the output up to its position and what the model would have
gone on with. Where the annotator marks its first token, that is unwanted there.
"""

from __future__ import annotations

import collections
from collections.abc import Iterator, Sequence
from typing import Any

from t5patches.errors import UserError
from t5patches.interchange import alternatives, claims, shards
from t5patches.interchange.alternatives import FEATURE, Alternative
from t5patches.interchange.records import AnnotatedPrediction, Prediction

_TRIAL = "trial"  # An `Alternative`, which no line of JSON can have.


class Trials:
    """The alternatives of a set of outputs.

    Attributes:
      settings: what tells them from others, and how many a position has at most.
    """

    def __init__(
        self, files: shards.PathLike | Sequence[shards.PathLike], vocabulary: Any
    ):
        """Reads them; see `alternatives.read`."""
        self._vocabulary = vocabulary
        self._of = {tried.id: tried for tried in alternatives.read(files)}
        counts = collections.Counter(
            (tried.id, each.position)
            for tried in self._of.values()
            for each in tried.alternatives
        )
        self.settings = {
            "digest": claims.file_digest(shards.expand(files)),
            "most": max(counts.values(), default=0),
        }

    def beside(
        self, rows: Iterator[tuple[str, Prediction]]
    ) -> Iterator[tuple[str, Prediction]]:
        """Yields each output, and behind it its alternatives as outputs.

        Raises:
          UserError: they were tried in another output.
        """
        for where, row in rows:
            yield where, row
            tried = self._of.get(row["id"])
            ids = row.get("target_tokens", [])
            for each in tried.alternatives if tried else ():
                if tried.prediction != row["prediction"] or each.position >= len(ids):
                    raise UserError(
                        f"{where}: the alternatives of {row['id']!r} were tried in "
                        "another output; try them in these"
                    )
                said = [*ids[: each.position], *each.tokens]
                text = self._vocabulary.decode(said)
                trial = {"prediction": text, "target_tokens": said, _TRIAL: each}
                yield where, {**row, **trial}  # type: ignore[typeddict-item]

    def gather(
        self, rows: Iterator[tuple[str, AnnotatedPrediction]]
    ) -> Iterator[tuple[str, AnnotatedPrediction]]:
        """Yields the outputs of `beside`, with what is unwanted of the others."""
        output: tuple[str, Any] | None = None
        for where, row in rows:
            each = row.get(_TRIAL)
            if not isinstance(each, Alternative):
                if output:
                    yield output
                output = where, {**row, FEATURE: []}
            # One that is left out, as it is wrong, leaves its alternatives.
            elif output and output[1]["id"] == row["id"]:
                if row["target_annotations"][each.position]:
                    found = each._asdict() | {"tokens": each.tokens[:1]}
                    output[1][FEATURE].append(found)
        if output:
            yield output

    def counts(self, row: Any) -> dict[str, int]:
        """Returns what statistics count of an annotated output."""
        tried, found = self._of.get(row["id"]), row[FEATURE]
        return {
            "alternatives_tried": len(tried.alternatives) if tried else 0,
            FEATURE: len(found),
            "positions_with_them": len({each["position"] for each in found}),
        }


def feature(row: Any) -> list[int]:
    """Returns the unwanted alternatives of an annotated output, for its TFRecord."""
    pairs = sorted((each["position"], each["tokens"][0]) for each in row[FEATURE])
    return [number for pair in pairs for number in pair]
