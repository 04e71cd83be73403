"""JSON and text files, read by lines with their numbers and written whole.

Everything streams: a reader holds one line at a time.
"""

from __future__ import annotations

import gzip
import json
import os
import zlib
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from etils import epath

from t5patches.errors import UserError, shorten
from t5patches.interchange import shards
from t5patches.interchange.shards import OnError, PathLike, Row

KINDS = {
    str: "a text",
    int: "a whole number",
    float: "a number",
    list: "a list",
    dict: "an object",
}


def write_json(path: PathLike, value: Any) -> None:
    """Writes one JSON document, indented, atomically."""
    with shards.atomic_write(path) as file:
        file.write(json.dumps(value, ensure_ascii=False, indent=2) + "\n")


def write_jsonl(path: PathLike, rows: Iterable[Mapping[str, Any]]) -> int:
    """Writes one JSON object per line, atomically; returns how many."""
    count = 0
    with shards.atomic_write(path) as file:
        for row in rows:
            file.write(json_line(row))
            count += 1
    return count


def json_line(row: Mapping[str, Any]) -> str:
    """Returns `row` as a line of JSON, newline included."""
    return json.dumps(row, ensure_ascii=False) + "\n"


def read_lines(
    path: PathLike, on_error: OnError = shards.raise_error
) -> Iterator[tuple[int, str]]:
    """Yields (line number from 1, line) of a UTF-8 text file, gzipped if `*.gz`.

    Args:
      path: the file.
      on_error: takes the error of a line; if it returns, reading goes on after it.

    Raises:
      UserError: the file is missing, a line is not UTF-8, or the gzip file is broken.
    """
    text = os.fspath(path)
    for number, raw in raw_lines(text, on_error):
        try:
            line = raw.decode("utf-8-sig" if number == 1 else "utf-8")
        except UnicodeDecodeError as error:
            on_error(
                UserError(
                    f"{text}:{number}: not UTF-8 ({error.reason} at byte "
                    f"{error.start}); save the file as UTF-8"
                )
            )
        else:
            yield number, line


def raw_lines(path: str, on_error: OnError) -> Iterator[tuple[int, bytes]]:
    """Yields (line number from 1, bytes) of a file, gzipped if `*.gz`."""
    try:
        raw = epath.Path(path).open("rb")
    except (FileNotFoundError, IsADirectoryError) as error:
        raise UserError(f"{path}: no such file") from error
    number = 0
    with raw, gzip.open(raw) if path.endswith(".gz") else raw as file:
        try:
            for number, line in enumerate(file, start=1):
                yield number, line
        except (EOFError, gzip.BadGzipFile, zlib.error) as error:
            on_error(
                UserError(
                    f"{path}:{number + 1}: the gzip file is broken off or damaged "
                    f"here ({error}); make it or copy it again"
                )
            )
        except OSError as error:  # As of a broken disk; it does not say where.
            error.filename = error.filename or path
            raise


def read_json(path: PathLike) -> Row:
    """Returns the JSON object of a file.

    Raises:
      UserError: the file is missing, not UTF-8 or no JSON object.
    """
    text = "".join(line for _, line in read_lines(path))
    try:
        value = json.loads(text, object_pairs_hook=_unique)
    except (RecursionError, ValueError) as error:  # Too deep; numbers too long.
        raise UserError(f"{os.fspath(path)}: not valid JSON ({error})") from error
    if not isinstance(value, dict):
        raise UserError(f"{os.fspath(path)}: not a JSON object")
    return value


def read_record(path: PathLike, fields: Mapping[str, type], remedy: str) -> Row:
    """Returns a small record that a command of ours has kept beside its results.

    Args:
      path: the file.
      fields: those it must have, and what Python reads each as; float takes whole
        numbers, too.
      remedy: what to do if it is not such a record; the end of the message.

    Raises:
      UserError: naming the file and the field.
    """
    try:
        found = read_json(path)
    except UserError as error:
        raise UserError(f"{error}; {remedy}") from error
    check_fields(found, fields, path, remedy)
    return found


def check_fields(
    found: Row, fields: Mapping[str, type], path: PathLike, remedy: str
) -> None:
    """Checks the fields of a record, as `read_record` does those of a file."""
    for name, kind in fields.items():
        value = found.get(name)
        fits = type(value) is kind or (kind is float and type(value) is int)
        if not fits:
            what = f"is {shorten(value)}" if name in found else "is missing"
            raise UserError(
                f"{os.fspath(path)}: {name!r} {what}, expected {KINDS[kind]}; {remedy}"
            )


def read_jsonl(
    path: PathLike, on_error: OnError = shards.raise_error
) -> Iterator[tuple[int, Row]]:
    """Yields (line number, object) of a JSON-lines file; blank lines are passed over.

    Args:
      path: the file.
      on_error: takes the error of a line; if it returns, reading goes on after it.

    Raises:
      UserError: naming file and line, if a line is not a JSON object.
    """
    for number, line in read_lines(path, on_error):
        if not line.strip():
            continue
        try:
            row = _json_object(line, f"{os.fspath(path)}:{number}")
        except UserError as error:
            on_error(error)
        else:
            yield number, row


def _unique(pairs: list[tuple[str, Any]]) -> Row:
    """Makes an object of its pairs; of a key that occurs twice, Python drops one."""
    row = dict(pairs)
    if len(row) < len(pairs):
        keys = [key for key, _ in pairs]
        twice = next(key for key in row if keys.count(key) > 1)
        raise ValueError(f"the key {twice!r} occurs twice in an object")
    return row


def _json_object(line: str, where: str) -> Row:
    try:
        row = json.loads(line, object_pairs_hook=_unique)
    except json.JSONDecodeError as error:
        raise UserError(
            f"{where}: not valid JSON ({error.msg} at column {error.colno}); "
            "each line must be one JSON object"
        ) from error
    except (RecursionError, ValueError) as error:  # Too deep; numbers too long.
        raise UserError(f"{where}: not readable JSON ({error})") from error
    if not isinstance(row, dict):
        raise UserError(
            f"{where}: a JSON {type(row).__name__}; each line must be one JSON object"
        )
    if "\\u" in line:  # Only an escape can make half of a surrogate pair.
        for field, value in row.items():
            check_encodes({field: value}, f"{where}: field {field!r}")
    return row


def check_encodes(value: Any, what: str) -> None:
    """Checks that what can be written as JSON can be written as UTF-8.

    Raises:
      UserError: about `what`, if it has half of a surrogate pair.
    """
    try:
        json.dumps(value, ensure_ascii=False).encode("utf-8")
    except UnicodeEncodeError as error:
        raise UserError(
            f"{what} has half of a surrogate pair, which is not text; remove it"
        ) from error
