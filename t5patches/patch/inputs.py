"""What a patch is made from: texts to generate for, or outputs that are marked already.

Which split a text belongs to is a hash of it: equal texts never stand in two splits,
and a file that grows keeps its splits.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sized
from typing import Any

from t5patches.annotate.alignment import Span
from t5patches.annotate.phrases import PhraseAnnotator
from t5patches.errors import UserError
from t5patches.interchange import json_files, records, shards, tables
from t5patches.interchange.records import Prediction

# Fewer examples than this in a split are no evidence of anything.
FEWEST = {"train": 32, "validation": 1, "test": 1}
SPLITS = tuple(FEWEST)
KEYS = ("inputs", "text")

Rows = dict[str, list[shards.Row]]


def split_of(inputs: str) -> str:
    """Returns an example's split: 80 % train, 10 % validation, 10 % test, by a hash."""
    bucket = int(hashlib.sha256(inputs.encode()).hexdigest(), 16) % 10
    return {8: "validation", 9: "test"}.get(bucket, "train")


def check_sizes(splits: Mapping[str, Sized], path: str) -> None:
    """Raises a UserError if a split has too few examples."""
    count = sum(map(len, splits.values()))
    for name, fewest in FEWEST.items():
        if len(splits[name]) < fewest:
            raise UserError(
                f"{path}: {count} different examples leave {len(splits[name])} "
                f"for the {name} split; at least {fewest} are needed"
            )


def read(path: str, key: str | None = None) -> Rows:
    """Reads texts, by split.

    Args:
      path: JSON lines, CSV or Parquet; a row without an `id` is called by its number.
      key: the column of the text; None for `inputs`, or else `text`.

    Returns:
      split -> rows `{"id", "inputs"}`; of equal texts the first, empty ones left out.

    Raises:
      UserError: a row has no such text, an id occurs twice, there are too few texts.
    """
    found: Rows = {split: [] for split in SPLITS}
    ids, seen = tables.Ids(), set()
    for number, (where, row) in enumerate(tables.read_rows(path), start=1):
        key = key or next((name for name in KEYS if name in row), None)
        if key is None:
            raise UserError(
                f"{where}: expected a column {' or '.join(map(repr, KEYS))}; found "
                f"{', '.join(map(str, row)) or 'none'}; --inputs-key names another"
            )
        text = tables.text_field(row, key, where)
        name = tables.id_field(row, "id", where) or str(number)
        ids.add(name, where)
        if text.strip() and text not in seen:
            seen.add(text)
            found[split_of(text)].append({"id": name, "inputs": text})
    check_sizes(found, path)
    return found


def read_marked(path: str) -> Rows:
    """Reads outputs in which what is unwanted is marked, by the split of their inputs.

    Args:
      path: JSON lines, predictions with `annotations`.

    Returns:
      split -> predictions, with their `annotations`.

    Raises:
      UserError: a line is not what it should be, or there are too few; nothing is
        marked.
    """
    found: Rows = {split: [] for split in SPLITS}
    ids = tables.Ids()
    for number, row in json_files.read_jsonl(path):
        where = f"{path}:{number}"
        checked = {**records.check_prediction(row, where, number - 1)}
        ids.add(checked["id"], where)
        spans = tables.list_field(checked, "annotations", where, "spans")
        for index, span in enumerate(spans):
            place = f"{where}: annotations[{index}]"
            records.check_span(span, len(checked["prediction"]), place)
        found[split_of(checked["inputs"])].append(checked)
    check_sizes(found, path)
    if not any(row["annotations"] for row in found["train"]):
        raise UserError(
            f"{path}: nothing is marked in the {len(found['train'])} outputs for "
            "training: there is nothing to update"
        )
    return found


class MarkedBefore:
    """Finds what was marked in outputs; in other outputs for the same inputs its words.

    It knows no more than that: what is unwanted in other words counts as clean.
    """

    def __init__(self, rows: Iterable[Mapping[str, Any]]):
        """Takes the marked predictions."""
        self._said: dict[str, tuple[str, list[Span]]] = {}
        for row in rows:
            spans = [(s["start"], s["end"], s["label"]) for s in row["annotations"]]
            self._said[row["id"]] = row["prediction"], spans

    def __call__(self, text: str, inputs: str, row: Prediction) -> list[Span]:
        """Returns the marks of the output, or where their words stand in it."""
        before, spans = self._said[row["id"]]
        if text == before:
            return spans
        words = [before[start:end] for start, end, _ in spans]
        words = [word for word in words if word.strip()]
        return PhraseAnnotator(words)(text, inputs) if words else []
