"""What an annotator is, how one runs over many texts, and what it may not return."""

from __future__ import annotations

import contextlib
import functools
import itertools
import operator
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

from t5patches.annotate.alignment import Span
from t5patches.errors import UserError, shorten
from t5patches.interchange.json_files import check_encodes

# annotator(text, inputs) -> [(start, end, label)]: which characters of `text`, a
# model's output for `inputs`, are unwanted. One that is quicker on many texts at once
# also has `pipe(pairs of text and inputs)`, which yields the list of each in order; and
# one that says what tells it from others has `settings`, a JSON-able mapping.
Annotator = Callable[[str, str], Sequence[Span]]
# What it found in one text, or what went wrong with it.
Found = list[Span] | UserError
# What a user's code may raise. Its sys.exit() must not end the job as if all were well;
# Ctrl-C must end it.
RAISED = (Exception, SystemExit)


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


def annotate_texts(
    annotator: Annotator, pairs: Sequence[tuple[str, str]]
) -> list[Found]:
    """Returns for each (text, inputs) its spans, or what went wrong with it.

    That is an error of the annotator, or something returned that is no list of spans of
    the text.
    """
    finds = [functools.partial(annotator, *pair) for pair in pairs]
    if hasattr(annotator, "pipe") and len(pairs) > 1:
        with _suppressed():  # One by one, to find where it comes from.
            several = [*itertools.islice(annotator.pipe(pairs), len(pairs) + 1)]
            if len(several) == len(pairs):
                finds = [functools.partial(lambda spans: spans, s) for s in several]
    texts = (text for text, _ in pairs)
    return [_check(annotator, *each) for each in zip(texts, finds, strict=True)]


@contextlib.contextmanager
def _suppressed() -> Iterator[None]:
    try:
        yield
    except KeyboardInterrupt:
        raise
    except BaseException:
        pass


def _check(annotator: Annotator, text: str, find: Callable[[], Any]) -> Found:
    try:
        found = find()
        if not isinstance(found, Iterable):
            what = "not a list of (start, end, label)"
            return UserError(f"the annotator returned {shorten(found)}, {what}")
        return [_check_span(span, text) for span in found]
    except UserError as error:
        return error
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # Some libraries' are no `Exception`.
        raised = describe(error)
        return UserError(f"the annotator raised {raised} ({_place(error, annotator)})")


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


def describe(error: BaseException) -> str:
    """Returns the type and the message of what a user's code raised."""
    try:
        return f"{type(error).__name__}: {error}"
    except Exception:  # An exception of the user's own that cannot be printed.
        return type(error).__name__


def _place(error: BaseException, annotator: Any) -> str:
    """Returns `file:line` of the error, in the annotator's own file if it is there."""
    frames = traceback.extract_tb(error.__traceback__)
    own = [f for f in frames if f.filename == getattr(annotator, "file", None)]
    frame = (own or frames)[-1]
    return f"{frame.filename}:{frame.lineno}"
