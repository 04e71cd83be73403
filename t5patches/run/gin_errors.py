"""Errors of gin, and of TensorFlow for storage, in words that name file and line."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Iterator, Mapping

from t5patches.checkpoints import contents
from t5patches.errors import UserError

# What gin appends to an error: where the call was bound, which can be long.
_CALL = re.compile(
    r"\n\s*In call to configurable '([^']+)' \(.*?\)(?: in scope '([^']*)')?"
)
_PLACE = re.compile(
    r'\n\s*In (?:file "(?P<file>[^"]+)",|bindings string) line (?P<line>\d+)\n?'
    r"(?P<text>.*)",
    re.DOTALL,
)
# What the configuration can make gin raise while it parses.
_PARSE_ERRORS = (OSError, NameError, AttributeError, ValueError, ImportError, TypeError)


@contextlib.contextmanager
def in_our_words(find: Callable[[Exception], UserError | None]) -> Iterator[None]:
    """Raises, for what the block raises, the error that `find` has for it, if any.

    An error of ours is raised without what gin has appended to it.
    """
    try:
        yield
    except UserError as error:
        raise UserError(_without_calls(error)) from error
    except Exception as error:
        known = find(error)
        if known is None:
            raise
        raise known from error


def parse_error(error: Exception) -> UserError | None:
    """Returns what was wrong with the gin files or bindings that did not parse.

    The message has the file and the line where gin knows them. None if the fault is not
    in the configuration.
    """
    message = _without_calls(error)
    if isinstance(error, SyntaxError):
        place = error.filename and f"{error.filename}, line {error.lineno}"
        message = re.sub(
            "malformed node.*", "not a value (texts take quotes)", error.msg
        )
        return UserError(
            _with_line(f"{place or 'command line'}: {message}", error.text)
        )
    if not isinstance(error, _PARSE_ERRORS):  # Of a module that is imported.
        what = f"{type(error).__name__}: {message}"
        return UserError(_located(what)) if _PLACE.search(message) else None
    unset = re.match(
        r"No bindings specified for '(.*)/gin\.macro'"
        r"|(\S+?)(?:/macro\.value)? set to `%gin.REQUIRED`",
        message,
    )
    if unset:
        return unset_macro(unset[1] or unset[2])
    message = re.sub(
        r"(?:Couldn't resolve )?selector (\S+?); "
        r"<module 't5x_embedded\.(\w+)'.*?> has no attribute (\w+)\.",
        r"the embedded engine does not have \2.\3; T5X does",
        message,
    )
    return UserError(_located(message))


def unset_macro(name: str, place: str = "") -> UserError:
    """Returns the error that a macro has no value."""
    return UserError(
        f"{place}{name} is not set: add `{name} = …` to a gin file or --gin.{name}=… "
        "to the command"
    )


def _without_calls(error: Exception) -> str:
    return _CALL.sub("", str(error)).strip()


def _located(message: str) -> str:
    """Puts the place that gin appended in front, as compilers do."""
    place = _PLACE.search(message)
    if place is None:
        return message
    where = (
        f"{place['file']}, line {place['line']}" if place["file"] else "command line"
    )
    what = message[: place.start()].strip().strip('"')
    return _with_line(f"{where}: {what}", place["text"])


def _with_line(message: str, line: str | None) -> str:
    text = (line or "").strip()
    return f"{message}\n  {text}" if text else message


def evaluation_error(error: Exception) -> UserError | None:
    """Returns what was wrong with a configuration that could not be evaluated, or None.

    It has been parsed; what it names is called, and its macros are looked up.
    """
    message = str(error)
    calls = _CALL.findall(message)
    if "not provided in config" in message or "No values supplied by Gin" in message:
        names = re.findall(r"\[([^\]]*)\]", message)
        configurable, scope = calls[0] if calls else ("", "")
        if configurable == "macro" or scope and names and "value" in names[0]:
            return unset_macro(scope)
        missing = names[0].replace("'", "") if names else "an argument"
        first_line = message.splitlines()[0]
        at = f"{scope}/{configurable}" if scope else configurable
        where = f" of {at}" if at and at not in first_line else ""
        return UserError(f"not set in the gin files: {missing}{where}\n  {first_line}")
    if calls and isinstance(error, ValueError | TypeError):
        return UserError(f"{calls[0][0]}: {_without_calls(error)}")
    if calls and isinstance(error, OSError | ImportError):
        return UserError(_without_calls(error))
    return None


def run_error(error: Exception, bindings: Mapping[str, str]) -> UserError | None:
    """Returns what a user can put right of what a run raised, or None.

    It is a checkpoint that Orbax cannot read, or an error of TensorFlow's about a file
    or a bucket that cannot be read or written.
    """
    import tensorflow as tf

    if unreadable := contents.read_error(error):
        return unreadable
    if not isinstance(
        error,
        tf.errors.FailedPreconditionError
        | tf.errors.NotFoundError
        | tf.errors.PermissionDeniedError
        | tf.errors.UnauthenticatedError
        | tf.errors.UnavailableError,
    ):
        return None
    places = [f"{name} = {text}" for name, text in bindings.items() if "://" in text]
    where = f". Remote paths: {'; '.join(places)}" if places else ""
    return UserError(f"{error.message.splitlines()[0][:300]}{where}")
