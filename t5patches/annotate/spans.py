"""The span annotator: what people have marked, by the ids of the predictions."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from t5patches.annotate.alignment import Span
from t5patches.errors import UserError
from t5patches.interchange import claims, shards, tables
from t5patches.interchange.records import Prediction

LABEL = "unwanted"
# Raised by one whenever the same file comes to mark other characters.
RULES = 1


class _Mark(NamedTuple):
    """A row of the file: the characters, what stands there if it says so, its place."""

    start: int
    end: int
    label: str
    marked: str | None
    where: str


class SpanAnnotator:
    """Marks the spans of a file in the predictions whose ids they have.

    A row of JSON lines, CSV or Parquet has `id`, `start`, `end` (characters of the
    prediction, from 0, the end exclusive) and may have `label` and `marked` (these
    characters, which are compared); or `id` and `spans`, a list of [start, end] or of
    objects with these fields. A prediction without rows has nothing unwanted.

    Of a prediction whose text changed when it was encoded (`given`), spans are of the
    text before.
    """

    def __init__(self, files: shards.PathLike | Sequence[shards.PathLike]):
        """Reads the files, as `shards.expand` takes them.

        Raises:
          UserError: naming file, line and field of a wrong row.
        """
        paths = shards.expand(files)
        digest = claims.file_digest(paths)
        self.settings = {"annotator": "spans", "spans": digest, "rules": RULES}
        self._marks: dict[str, list[_Mark]] = {}
        self._first: dict[str, str] = {}  # Where an id stands.
        for path in paths:
            for where, row in tables.read_rows(path):
                name = tables.id_field(row, "id", where)
                if not name:
                    raise UserError(f"{where}: field 'id' is missing or empty")
                self._first.setdefault(name, where)
                self._marks.setdefault(name, []).extend(_marks(row, where))
        if not self._first:
            raise UserError(f"{', '.join(paths)}: no spans in it")

    def check_ids(self, ids: tables.Ids, on_error: shards.OnError) -> None:
        """Gives `on_error` an error for each id that is not among `ids`."""
        for name, where in self._first.items():
            if name not in ids:
                on_error(
                    UserError(f"{where}: field 'id': no prediction has the id {name!r}")
                )

    def __call__(self, text: str, inputs: str, row: Prediction) -> list[Span]:
        """Returns the marked spans of a prediction."""
        del inputs
        seen = row.get("given", text)
        found = []
        for start, end, label, marked, where in self._marks.get(row["id"], ()):
            if end > len(seen):
                raise UserError(
                    f"{where}: field 'end' is {end}, outside the {len(seen)} "
                    f"characters of prediction {row['id']!r}"
                )
            if marked not in (None, seen[start:end]):
                raise UserError(
                    f"{where}: field 'marked' is {marked!r}, but characters {start} to "
                    f"{end} of prediction {row['id']!r} are {seen[start:end]!r}; "
                    "offsets count from 0, the end exclusive"
                )
            found.append((start, end, label))
        if seen != text:
            found = _moved(found, seen, text)
        return sorted(set(found))


def _marks(row: shards.Row, where: str) -> Iterator[_Mark]:
    if "spans" not in row:
        yield _mark(row, where)
        return
    what = "[start, end] or {start, end, label}"
    for number, span in enumerate(tables.list_field(row, "spans", where, what)):
        place = f"{where}: spans[{number}]"
        if isinstance(span, list) and len(span) == 2:
            span = dict(zip(("start", "end"), span, strict=True))
        if not isinstance(span, dict):
            raise UserError(f"{place} must be {what}, not {span!r}")
        yield _mark(span, place)


def _mark(row: shards.Row, where: str) -> _Mark:
    start, end = (tables.number_field(row, key, where) for key in ("start", "end"))
    if end <= start:
        raise UserError(f"{where}: field 'end' is {end}, not after 'start', {start}")
    label, marked = (
        # Rows that have none may have an empty cell.
        None if row.get(key) in (None, "") else tables.text_field(row, key, where)
        for key in ("label", "marked")
    )
    return _Mark(start, end, label or LABEL, marked, where)


def _moved(spans: Sequence[Span], before: str, after: str) -> list[Span]:
    """Returns where spans of a text are after changes to it; some may be gone."""
    matcher = difflib.SequenceMatcher(None, before, after, autojunk=False)
    # Of each character before: where what it became begins and ends.
    places: list[tuple[int, int]] = []
    for kind, start, end, low, high in matcher.get_opcodes():
        same = kind == "equal"
        places += [
            (low + i, low + i + 1) if same else (low, high) for i in range(end - start)
        ]
    moved = ((places[s][0], places[e - 1][1], label) for s, e, label in spans)
    return [span for span in moved if span[0] < span[1]]
