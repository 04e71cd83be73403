"""Tables: rows of JSON lines, CSV or Parquet files, and the checks of their fields.

Nothing here imports TensorFlow.
"""

from __future__ import annotations

import collections
import csv
import json
import re
from collections.abc import Iterator, Sequence
from typing import Any

from etils import epath

from t5patches.errors import UserError
from t5patches.interchange import json_files, shards

# The csv module stops at fields of 128 KiB by default; documents can be longer.
csv.field_size_limit(2**24)


def read_rows(path: str) -> Iterator[tuple[str, shards.Row]]:
    """Yields (`file:line`, row) of a JSON-lines, CSV or Parquet file, by its suffix.

    The text files may be gzipped (`.csv.gz`).
    """
    reader = {".csv": _read_csv, ".parquet": _read_parquet}.get(
        epath.Path(path.removesuffix(".gz")).suffix, json_files.read_jsonl
    )
    for number, row in reader(path):
        yield f"{path}:{number}", row


def _read_csv(path: str) -> Iterator[tuple[int, shards.Row]]:
    lines = (line for _, line in json_files.read_lines(path))
    reader = csv.DictReader(lines, strict=True)
    start = 2
    try:
        _check_columns(reader.fieldnames or (), path)
        for row in reader:
            if None in row or None in row.values():
                raise UserError(
                    f"{path}:{start}: the line has not as many fields as the header "
                    f"({len(reader.fieldnames or ())}: "
                    f"{', '.join(reader.fieldnames or ())})"
                )
            yield start, row
            start = reader.line_num + 1
    except csv.Error as error:
        raise UserError(f"{path}:{start}: not valid CSV ({error})") from error


def _read_parquet(path: str) -> Iterator[tuple[int, shards.Row]]:
    import pyarrow
    from pyarrow import parquet

    number = 1
    try:
        with epath.Path(path).open("rb") as file:
            table = parquet.ParquetFile(file)
            _check_columns(table.schema_arrow.names, path)
            for batch in table.iter_batches(batch_size=1024):
                for row in batch.to_pylist():
                    yield number, row
                    number += 1
    # Arrow has errors of its own, but not for all that can be wrong.
    except (pyarrow.ArrowException, OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: not a readable Parquet file ({error})") from error


def _check_columns(names: Sequence[str], path: str) -> None:
    for name, count in collections.Counter(names).items():
        if name and count > 1:
            raise UserError(
                f"{path}:1: there are {count} columns {name!r}; rename or remove one"
            )


def id_field(row: shards.Row, key: str, where: str) -> str:
    """Returns the id of a row as text, "" where it has none.

    Raises:
      UserError: naming `where` and the field, if it is neither text nor whole number.
    """
    value = row.get(key)
    if isinstance(value, bool) or not isinstance(value, str | int | None):
        raise UserError(f"{where}: field {key!r} must be a text or a whole number")
    return "" if value is None else str(value)


class Ids:
    """The ids of a set: each may occur once. Kept as hashes, 70 bytes for each id."""

    def __init__(self):
        self._seen: set[int] = set()

    def __contains__(self, name: str) -> bool:
        return hash(name) in self._seen

    def add(self, name: str, where: str) -> None:
        """Takes the next id.

        Raises:
          UserError: naming `where`, if there was one like it before.
        """
        count = len(self._seen)
        self._seen.add(hash(name))
        if len(self._seen) == count:
            raise UserError(
                f"{where}: id {name!r} occurs twice; ids must be unique, since they "
                "say which outputs belong together"
            )


def _field(row: shards.Row, key: str, where: str) -> Any:
    if key not in row:
        raise UserError(
            f"{where}: field {key!r} is missing; the line has {', '.join(row)}"
        )
    return row[key]


def text_field(row: shards.Row, key: str, where: str) -> str:
    """Returns a text of a row.

    Raises:
      UserError: naming `where` and the field, if it is missing or no text.
    """
    value = _field(row, key, where)
    if not isinstance(value, str):
        raise UserError(
            f"{where}: field {key!r} must be text, not {type(value).__name__}"
        )
    return value


def number_field(row: shards.Row, key: str, where: str) -> int:
    """Returns a whole number, 0 or more, of a row; a CSV cell has its digits.

    Raises:
      UserError: naming `where` and the field, if it is missing or no such number.
    """
    value = _field(row, key, where)
    if isinstance(value, str) and re.fullmatch("[0-9]{1,18}", value.strip()):
        value = int(value)
    if type(value) is not int or value < 0:
        raise UserError(
            f"{where}: field {key!r} must be a whole number from 0, not {value!r}"
        )
    return value


def list_field(row: shards.Row, key: str, where: str, what: str) -> list[Any]:
    """Returns a list of a row; a CSV cell has it as JSON.

    Raises:
      UserError: naming `where`, the field and `what`, if it is missing or no list.
    """
    value = _field(row, key, where)
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except (ValueError, RecursionError):  # No JSON; too long a number; too deep.
            value = None
    if not isinstance(value, list):
        raise UserError(f"{where}: field {key!r} must be a list of {what}")
    return value


def offsets_field(row: shards.Row, key: str, text: str, where: str) -> list[int]:
    """Returns a field of character offsets into `text`.

    In a CSV cell they stand as "[8, 9, 10]", which is how Python and JSON write a list
    of numbers (SemEval-2021 Task 5's files, TFDS's civil_comments).

    Raises:
      UserError: naming `where` and the field, if it is missing, no such list, or has an
        offset outside the text.
    """
    offsets = list_field(row, key, where, what := "character offsets, [8, 9, 10]")
    if not all(type(place) is int for place in offsets):
        raise UserError(f"{where}: field {key!r} must be a list of {what}")
    outside = [place for place in offsets if not 0 <= place < len(text)]
    if outside:
        raise UserError(
            f"{where}: field {key!r} has offset {outside[0]}, outside the {len(text)} "
            "characters of the text"
        )
    return offsets
