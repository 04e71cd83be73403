"""Running an annotator over many predictions, in this process or in several."""

from __future__ import annotations

import collections
import contextlib
import itertools
import multiprocessing
import os
import pickle
import signal
import threading
from collections.abc import Callable, Iterator
from concurrent import futures
from concurrent.futures import process
from typing import NamedTuple

from t5patches.annotate.annotator import (
    Annotator,
    Arguments,
    Found,
    annotate_texts,
    arguments,
    users_code,
)
from t5patches.errors import UserError
from t5patches.interchange.records import Prediction

# Predictions that an annotator gets, or a process is sent, at a time.
CHUNK = 256

Located = tuple[str, Prediction]  # `file:line` and what stands there.


class Workers(NamedTuple):
    """Those who run the annotator.

    Attributes:
      start: gives them predictions; returns a function that waits for what is found
        there.
      ahead: how many chunks they get before the first is waited for: some, but not the
        whole file.
    """

    start: Callable[[list[Prediction]], Callable[[], list[Found]]]
    ahead: int


def alone(annotator: Annotator) -> Workers:
    """Returns the one worker that this process is."""
    of = arguments(annotator)
    return Workers(lambda rows: lambda: annotate_texts(annotator, [*map(of, rows)]), 0)


@contextlib.contextmanager
def several(annotator: Annotator, processes: int) -> Iterator[Workers]:
    """Yields workers in processes of their own; this process if it is but one.

    Raises:
      UserError: a process dies, or the annotator does not load there.
    """
    if processes <= 1:
        yield alone(annotator)
        return
    others = multiprocessing.active_children()
    pool = futures.ProcessPoolExecutor(
        processes,
        # Not forked: TensorFlow's threads do not live through a fork. The annotator
        # alone goes there, so that no process but this one imports TensorFlow.
        multiprocessing.get_context("spawn"),
        _load,
        # As bytes, since a process that failed to unpickle its arguments would be gone
        # without a word.
        (pickle.dumps(annotator),),
    )

    of = arguments(annotator)

    def start(rows: list[Prediction]) -> Callable[[], list[Found]]:
        with _no_interrupts():  # A process that begins here has none, ever.
            return pool.submit(_find, [*map(of, rows)]).result

    try:
        yield Workers(start, 2 * processes)
        pool.shutdown()
    except process.BrokenProcessPool as error:
        raise UserError(
            f"one of the {processes} processes was killed or ended by what it ran; if "
            "the memory was full, use fewer"
        ) from error
    finally:  # What they are at, perhaps for ever, is of no use now.
        for child in {*multiprocessing.active_children()} - {*others}:
            child.kill()
        pool.shutdown(cancel_futures=True)


@contextlib.contextmanager
def _no_interrupts() -> Iterator[None]:
    """Holds Ctrl-C back; a process that is started inherits this.

    The terminal sends it to all processes. This one alone shall end the others.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


_annotator: list[Annotator | UserError] = []  # Of a process that is a worker.


def _load(pickled: bytes) -> None:
    threading.Thread(target=_end_with_parent, daemon=True).start()
    try:
        with users_code("the annotator does not load in a process of its own:"):
            _annotator[:] = [pickle.loads(pickled)]
    except UserError as error:
        _annotator[:] = [error]


def _end_with_parent() -> None:
    """Ends this process when the one that started it has ended, killed perhaps."""
    if parent := multiprocessing.parent_process():
        parent.join()
    os._exit(1)


def _find(pairs: list[Arguments]) -> list[Found]:
    (annotator,) = _annotator
    if isinstance(annotator, UserError):
        raise annotator
    return annotate_texts(annotator, pairs)


def find(rows: Iterator[Located], workers: Workers) -> Iterator[tuple[Located, Found]]:
    """Yields every prediction, in order, with what is found in it."""
    pending: collections.deque[tuple[list[Located], Callable[[], list[Found]]]]
    pending = collections.deque()
    while chunk := list(itertools.islice(rows, CHUNK)):
        pending.append((chunk, workers.start([row for _, row in chunk])))
        if len(pending) > workers.ahead:
            first, result = pending.popleft()
            yield from zip(first, result(), strict=True)
    for first, result in pending:
        yield from zip(first, result(), strict=True)
