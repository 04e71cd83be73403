"""Progress of long work: a bar on a terminal, a line now and then elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Iterator
from typing import TypeVar

from absl import logging

T = TypeVar("T")


def track(
    items: Iterable[T],
    what: str,
    total: int | None = None,
    every: float = 10.0,
    since: float | None = None,
) -> Iterator[T]:
    """Yields `items` and shows how far it is.

    Args:
      items: what to go through.
      what: a word or two for the reader, e.g. 'annotate'.
      total: how many there are, if known.
      every: seconds between log lines where there is no terminal.
      since: `time.monotonic()` when the work began; None is when the first item is
        asked for.
    """
    if sys.stderr.isatty():
        import tqdm

        yield from tqdm.tqdm(items, desc=what, total=total, dynamic_ncols=True)
        return
    last = time.monotonic()
    start = last if since is None else since
    count = 0
    for count, item in enumerate(items, start=1):
        yield item
        now = time.monotonic()
        if now - last >= every:
            of = f" of {total}" if total else ""
            rate = count / (now - start)
            logging.info("%s: %d%s, %.0f a second", what, count, of, rate)
            last = now
    logging.info("%s: %d done in %.1f s", what, count, time.monotonic() - start)
