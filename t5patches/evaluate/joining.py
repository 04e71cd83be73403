"""Rows of several sets, joined by id on disk: memory does not grow with them."""

from __future__ import annotations

import contextlib
import json
import sqlite3
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from t5patches.errors import UserError


class Joined:
    """Sets of rows with an `id` each, in the order of the first one.

    They stand in a temporary database without a name, which goes with this object.
    """

    def __init__(self):
        self._rows = sqlite3.connect("")
        self._rows.execute("PRAGMA journal_mode = OFF")
        self.names: list[str] = []

    def add(self, name: str, rows: Iterable[Mapping[str, Any]]) -> None:
        """Adds a set.

        Args:
          name: what it is called in messages.
          rows: JSON-able, each with a text `id`.

        Raises:
          UserError: an id occurs twice.
        """
        table = f"set_{len(self.names)}"
        self.names.append(name)
        last = ""

        def lines() -> Iterator[tuple[str, str]]:
            nonlocal last
            for row in rows:
                last = row["id"]
                yield last, json.dumps(row)

        with _full_disk():
            self._rows.execute(f"CREATE TABLE {table} (id TEXT UNIQUE, row TEXT)")
            try:
                self._rows.executemany(f"INSERT INTO {table} VALUES (?, ?)", lines())
            except sqlite3.IntegrityError as error:
                raise UserError(
                    f"id {last!r} occurs twice in the {name}; ids must be unique, "
                    "since they say which outputs belong together"
                ) from error

    def check(self, one: int, other: int, hint: str) -> None:
        """Checks that the ids of set number `one` are in set number `other`, too.

        Raises:
          UserError: naming the first that are missing; `hint` says what to do.
        """
        with _full_disk():
            found = self._rows.execute(
                f"SELECT id FROM set_{one} WHERE id NOT IN (SELECT id FROM set_{other})"
                " ORDER BY rowid LIMIT 4"
            )
            missing = [repr(name) for (name,) in found]
        if missing:
            listed = ", ".join(missing[:3]) + ("…" if missing[3:] else "")
            raise UserError(
                f"ids of the {self.names[one]} are missing in the "
                f"{self.names[other]}: {listed}; {hint}"
            )

    def __len__(self) -> int:
        """Returns how many rows the first set has."""
        return self._rows.execute("SELECT COUNT(*) FROM set_0").fetchone()[0]

    def __iter__(self) -> Iterator[tuple[Any, ...]]:
        """Yields the rows of each id, one of every set."""
        numbers = range(len(self.names))
        columns = ", ".join(f"set_{number}.row" for number in numbers)
        # A cross join keeps SQLite from choosing another set for the outer loop.
        rest = "".join(f" CROSS JOIN set_{number} USING (id)" for number in numbers[1:])
        with _full_disk():
            for rows in self._rows.execute(
                f"SELECT {columns} FROM set_0{rest} ORDER BY set_0.rowid"
            ):
                yield tuple(map(json.loads, rows))


@contextlib.contextmanager
def _full_disk() -> Iterator[None]:
    try:
        yield
    except sqlite3.OperationalError as error:
        raise UserError(
            f"the temporary database of the predictions: {error}; it needs as much "
            "room as their files: SQLITE_TMPDIR names a folder that has it"
        ) from error
