"""The outputs of two models for one input."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Iterator, Sequence, Set
from typing import Any, cast

from t5patches.annotate.alignment import Span
from t5patches.annotate.annotator import Annotator, arguments, call
from t5patches.errors import UserError
from t5patches.evaluate import faults
from t5patches.interchange.records import AnnotatedPrediction, Prediction

OLD, NEW, REFERENCES = "old predictions", "new predictions", "references"
SPLIT = "generate both from the same split"
ANNOTATED = f"{SPLIT}, and annotate both without --only-annotated"


@dataclasses.dataclass(frozen=True)
class Pair:
    """The outputs of both models for one input, with what is unwanted or wrong."""

    id: str
    inputs: str
    old: str
    new: str
    old_spans: list[Span]
    new_spans: list[Span]
    old_tokens: int | None
    new_tokens: int | None
    reference: str | None = None
    old_faults: Set[str] = frozenset()
    new_faults: Set[str] = frozenset()

    @property
    def kind(self) -> str:
        """What happened: 'fixed', 'remaining', 'broken', 'changed' or 'unchanged'."""
        if self.old_spans:
            return "remaining" if self.new_spans else "fixed"
        if self.new_spans:
            return "broken"
        return "unchanged" if self.old == self.new else "changed"

    def example(self) -> dict[str, Any]:
        """Returns a JSON-able line of the examples, with what is newly wrong."""
        fields = {**self.__dict__, "kind": self.kind}
        old, new = fields.pop("old_faults"), fields.pop("new_faults")
        return {**fields, "faults": [f for f in faults.NAMES if f in new - old]}


@dataclasses.dataclass(frozen=True)
class Output:
    """A model's output, read once however many it is compared with."""

    row: Prediction
    spans: list[Span]
    faults: Set[str]

    @property
    def ids(self) -> Sequence[int] | None:
        """The ids as generated, if they are known."""
        return self.row.get("target_tokens")

    @property
    def tokens(self) -> int | None:
        """How many ids there are, if they are known."""
        return None if self.ids is None else len(self.ids)


def reader(annotator: Annotator | None) -> Callable[[Prediction], Output]:
    """Returns what reads a prediction; without an annotator by its `annotations`."""
    find = finder(annotator)

    def read(row: Prediction) -> Output:
        spans, ids = find(row), row.get("target_tokens")
        return Output(row, spans, faults.of_output(row["prediction"], bool(spans), ids))

    return read


def finder(annotator: Annotator | None) -> Callable[[Prediction], list[Span]]:
    """Returns what finds the unwanted spans of a prediction."""
    if annotator is not None:
        of = arguments(annotator)
        return lambda row: list(call(annotator, *of(row)))
    return lambda row: [
        (span["start"], span["end"], span["label"])
        for span in cast(AnnotatedPrediction, row)["annotations"]
    ]


def pair(
    old: Output,
    new: Output,
    reference: str | None = None,
    seen: Set[int] | None = None,
    names: Sequence[str] = (OLD, NEW),
) -> Pair:
    """Puts two outputs side by side.

    Args:
      old: of the model before the update.
      new: of the model after it.
      reference: the right output.
      seen: the ids of all old outputs.
      names: what the old and the new ones are called in messages.

    Raises:
      UserError: they are for other inputs.
    """
    row, other = old.row, new.row
    if row["inputs"] != other["inputs"]:
        raise UserError(
            f"id {row['id']!r} has other inputs in the {names[1]} than in the "
            f"{names[0]}; {SPLIT}"
        )
    texts = row["prediction"], other["prediction"]
    return Pair(
        id=row["id"],
        inputs=row["inputs"],
        old=texts[0],
        new=texts[1],
        old_spans=old.spans,
        new_spans=new.spans,
        old_tokens=old.tokens,
        new_tokens=new.tokens,
        reference=reference,
        old_faults=old.faults,
        new_faults=new.faults | faults.beside(*texts, new.ids, seen),
    )


class Seen:
    """The ids of all rows that pass through; None if one has none."""

    def __init__(self):
        self.ids: set[int] | None = set()

    def through(self, rows: Iterable[Prediction]) -> Iterator[Prediction]:
        """Yields the rows."""
        for row in rows:
            if self.ids is not None and "target_tokens" in row:
                self.ids.update(row["target_tokens"])
            else:
                self.ids = None
            yield row
