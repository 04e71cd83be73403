"""Progress of long work: a bar on a terminal, a line now and then elsewhere."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Iterable, Iterator
from typing import TypeVar

from absl import logging

T = TypeVar("T")
_SECONDS_BETWEEN_LINES = 10.0


class Bar:
    """Shows how far a piece of work is that says itself when it gets on."""

    def __init__(self, what: str, total: int | None = None):
        """Begins to show it.

        Args:
          what: a word or two for the reader, e.g. 'annotate'.
          total: how many items there are, if known.
        """
        self._what = what
        self._total = total
        self._count = 0
        self._start = self._last = time.monotonic()
        self._terminal = None
        if sys.stderr.isatty():
            import tqdm

            self._terminal = tqdm.tqdm(desc=what, total=total, dynamic_ncols=True)

    def add(self, count: int = 1) -> None:
        """Shows that so many more items are done."""
        self._count += count
        if self._terminal is not None:
            self._terminal.update(count)
            return
        now = time.monotonic()
        if now - self._last >= _SECONDS_BETWEEN_LINES:
            of = f" of {self._total}" if self._total else ""
            rate = self._count / (now - self._start)
            done = f"{self._count}{of}"
            logging.info("%s: %s, %.1f a second", self._what, done, rate)
            self._last = now

    def close(self) -> None:
        """Says what was done at the end."""
        if self._terminal is not None:
            self._terminal.close()
            return
        seconds = time.monotonic() - self._start
        logging.info("%s: %d done in %.1f s", self._what, self._count, seconds)


def track(items: Iterable[T], what: str, total: int | None = None) -> Iterator[T]:
    """Yields `items` and shows how far it is; the arguments are `Bar`'s."""
    with contextlib.closing(Bar(what, total)) as bar:
        for item in items:
            yield item
            bar.add()
