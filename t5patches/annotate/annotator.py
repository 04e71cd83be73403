"""What an annotator is, how one runs over many texts, and what it may not return."""

from __future__ import annotations

import contextlib
import functools
import inspect
import itertools
import operator
import os
import threading
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

from t5patches.annotate.alignment import Span
from t5patches.errors import UserError, shorten
from t5patches.interchange.json_files import check_encodes
from t5patches.interchange.records import Prediction

# annotator(text, inputs) -> [(start, end, label)]: which characters of `text`, a
# model's output for `inputs`, are unwanted. One that has a parameter `row` gets the
# whole prediction as that. One that is quicker on many texts at once also has
# `pipe(pairs of text and inputs)`, which yields the list of each in order (each with
# its row, if that is asked for); and one that says what tells it from others has
# `settings`, a JSON-able mapping.
Annotator = Callable[..., Sequence[Span]]
Arguments = tuple[Any, ...]  # Text and inputs, and the row if that is asked for.
# What it found in one text, or what went wrong with it.
Found = list[Span] | UserError


@contextlib.contextmanager
def users_code(what: str, annotator: Any = None) -> Iterator[None]:
    """Makes what a user's code raises a UserError, that it ends the process, too.

    Its `sys.exit()` and `os._exit()` must not end the job as if all were well; Ctrl-C
    must end it.

    Args:
      what: the message's beginning, before what was raised.
      annotator: whose code it is, if the message is to say where it was raised.
    """
    own, end = os.getpid(), os._exit

    def exit_(status: int) -> None:
        main = threading.current_thread() is threading.main_thread()
        if not main or os.getpid() != own:  # Of a process that the code has forked.
            end(status)
        raise SystemExit(f"os._exit({status})")

    os._exit = exit_  # type: ignore[assignment]
    try:
        yield
    except (UserError, KeyboardInterrupt):
        raise
    except BaseException as error:  # Some libraries' are no `Exception`.
        place = f" ({_place(error, annotator)})" if annotator else ""
        raise UserError(f"{what} {_describe(error)}{place}") from error
    finally:
        os._exit = end


def settings_of(
    annotator: Annotator, more: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """Returns what tells an annotator from others; outputs with the same are alike.

    Args:
      annotator: any annotator.
      more: what it does not say itself. A plain function says nothing.

    Raises:
      UserError: nothing at all is said.
    """
    own = getattr(annotator, "settings", None)
    if own is None and more is None:
        raise UserError(
            f"the annotator {shorten(annotator)} does not say what tells it from "
            "others; give it an attribute `settings`, or give `settings` here: a "
            "dictionary with its name and version, for example"
        )
    return {**(own or {}), **(more or {})}


def arguments(annotator: Annotator) -> Callable[[Prediction], Arguments]:
    """Returns what makes the arguments that an annotator takes of a prediction."""
    try:
        takes_row = "row" in inspect.signature(annotator).parameters
    except (TypeError, ValueError):  # Some functions written in C.
        takes_row = False
    if takes_row:  # A copy, since what a function does to it must not be written.
        return lambda row: (row["prediction"], row["inputs"], {**row})
    return lambda row: (row["prediction"], row["inputs"])


def call(
    annotator: Annotator, text: str, inputs: str, row: Prediction | None = None
) -> Sequence[Span]:
    """Returns what an annotator finds, by what `arguments` makes."""
    return annotator(text, inputs) if row is None else annotator(text, inputs, row=row)


def annotate_texts(annotator: Annotator, pairs: Sequence[Arguments]) -> list[Found]:
    """Returns for each (text, inputs) its spans, or what went wrong with it.

    That is an error of the annotator, or something returned that is no list of spans of
    the text. An annotator that takes the row needs it beside the two (`arguments`).
    """
    finds = [functools.partial(call, annotator, *pair) for pair in pairs]
    if hasattr(annotator, "pipe") and len(pairs) > 1:
        # One by one, to find where it comes from.
        with contextlib.suppress(UserError), users_code("the annotator raised"):
            several = [*itertools.islice(annotator.pipe(pairs), len(pairs) + 1)]
            if len(several) == len(pairs):
                finds = [functools.partial(lambda spans: spans, s) for s in several]
    texts = (text for text, *_ in pairs)
    return [_check(annotator, *each) for each in zip(texts, finds, strict=True)]


def _check(annotator: Annotator, text: str, find: Callable[[], Any]) -> Found:
    try:
        with users_code("the annotator raised", annotator):
            found = find()
            if not isinstance(found, Iterable):
                what = "not a list of (start, end, label)"
                return UserError(f"the annotator returned {shorten(found)}, {what}")
            return [_check_span(span, text) for span in found]
    except UserError as error:
        return error


def _check_span(span: Any, text: str) -> Span:
    try:
        start, end, label = span
        # Whole numbers of any kind, NumPy's too, but no True.
        if isinstance(start, bool) or isinstance(end, bool):
            raise TypeError
        start, end = operator.index(start), operator.index(end)
    except Exception as error:  # Any, if the span is an object of the user's own.
        raise UserError(
            f"the annotator returned {shorten(span)}, not (start, end, label) with "
            "start and end whole numbers"
        ) from error
    what = f"the annotator returned the label {shorten(label)}, which"
    if not isinstance(label, str):
        raise UserError(f"{what} is no text")
    check_encodes(label, what)
    if not 0 <= start < end <= len(text):
        raise UserError(
            f"the annotator returned ({start}, {end}), which is no span of the "
            f"{len(text)} characters of 'prediction'"
        )
    return start, end, label


def _describe(error: BaseException) -> str:
    """Returns the type and the message of what a user's code raised, in one line."""
    try:
        return " ".join(f"{type(error).__name__}: {error}".split())
    except Exception:  # An exception of the user's own that cannot be printed.
        return type(error).__name__


def _place(error: BaseException, annotator: Any) -> str:
    """Returns `file:line` of the error, in the annotator's own file if it is there."""
    frames = traceback.extract_tb(error.__traceback__)
    own = [f for f in frames if f.filename == getattr(annotator, "file", None)]
    frame = (own or frames)[-1]
    return f"{frame.filename}:{frame.lineno}"
