"""Errors of gin, and of TensorFlow for storage, in words that name file and line."""

from __future__ import annotations

import re
import tokenize
import traceback
from collections.abc import Mapping

from t5patches.errors import UserError

# What gin appends to an error: where the call was bound, which can be long.
_GIN_CALL = re.compile(
    r"\n\s*In call to configurable '([^']+)' \(.*?\)(?: in scope '([^']*)')?"
)

_GIN_PLACE = re.compile(
    r'\n\s*In file "(?P<file>[^"]+)", line (?P<line>\d+)\n?(?P<text>.*)', re.S
)

_GIN_BINDINGS = re.compile(
    r"\n\s*In bindings string line (?P<line>\d+)\n?(?P<text>.*)", re.S
)


def parse_error(error: Exception) -> UserError | None:
    """What was wrong with the gin files or bindings whose parsing raised `error`.

    Returns:
        An error with the file and the line where gin knows them, or None if the
        fault is not in the configuration.
    """
    if isinstance(error, UserError):
        return UserError(_without_calls(error))
    if isinstance(error, SyntaxError):
        place = f"{error.filename or 'a binding'}, line {error.lineno}"
        text = (error.text or "").strip()
        return UserError(f"{place}: {error.msg}" + (f"\n  {text}" if text else ""))
    if isinstance(error, tokenize.TokenError):
        message, (line, _) = error.args
        return UserError(f"{_file_being_parsed(error)}, line {line}: {message}")
    kinds = (OSError, NameError, AttributeError, ValueError, ImportError, TypeError)
    if not isinstance(error, kinds):
        return None
    message = _without_calls(error)
    unbound = re.match(r"No bindings specified for '(.*)/gin\.macro'", message)
    if unbound:
        return _unset_macro(unbound[1])
    required = re.match(r"(\S+) set to `%gin.REQUIRED`", message)
    if required:
        return _unset_macro(required[1].removesuffix("/macro.value"))
    absent = re.search(
        r"selector (\S+?); <module 't5x_embedded\.(\w+)'.*?> has no attribute (\w+)\.",
        message,
    )
    if absent:
        reason = f"the embedded engine does not have {absent[2]}.{absent[3]}; T5X does"
        message = message[: absent.start()] + reason + message[absent.end() :]
        message = message.removeprefix("Couldn't resolve ")
    return UserError(_located(message))


def _unset_macro(name: str) -> UserError:
    return UserError(
        f"{name} is not set: add `{name} = …` to a gin file or --gin.{name}=… to the "
        "command"
    )


def _file_being_parsed(error: Exception) -> str:
    """Gin does not say in which file its tokenizer stumbled; its frames do."""
    found = "a gin file"
    for frame, _ in traceback.walk_tb(error.__traceback__):
        found = frame.f_locals.get("config_file_with_prefix", found)
    return found


def _without_calls(error: Exception) -> str:
    return _GIN_CALL.sub("", str(error)).strip()


def _located(message: str) -> str:
    """Puts the place that gin appended in front, as compilers do."""
    for pattern in (_GIN_PLACE, _GIN_BINDINGS):
        found = pattern.search(message)
        if found is None:
            continue
        place = found.groupdict()
        before = message[: found.start()].strip().strip('"')
        where = "command line"
        if "file" in place:
            where = f"{place['file']}, line {place['line']}"
        text = (place["text"] or "").strip()
        return f"{where}: {before}" + (f"\n  {text}" if text else "")
    return message


def config_error(error: Exception) -> UserError | None:
    """What was wrong with a configuration that parsed, but could not be evaluated.

    Returns:
        An error, or None if the fault is not in the configuration.
    """
    if isinstance(error, UserError):
        return UserError(_without_calls(error))
    message = str(error)
    calls = _GIN_CALL.findall(message)
    if "not provided in config" in message or "No values supplied by Gin" in message:
        names = re.findall(r"\[([^\]]*)\]", message)
        configurable, scope = calls[0] if calls else ("", "")
        if configurable == "macro" or scope and names and "value" in names[0]:
            return _unset_macro(scope)
        missing = names[0].replace("'", "") if names else "an argument"
        at = f"{scope}/{configurable}" if scope else configurable
        where = f" of {at}" if at and at not in message.split("\n")[0] else ""
        return UserError(
            f"not set in the gin files: {missing}{where}\n  {message.splitlines()[0]}"
        )
    if calls and isinstance(error, OSError | ImportError):
        return UserError(_without_calls(error))
    return None


# What TensorFlow raises where a file or a bucket cannot be read or written.
_STORAGE_ERRORS = (
    "FailedPreconditionError",
    "NotFoundError",
    "PermissionDeniedError",
    "UnauthenticatedError",
    "UnavailableError",
)


def storage_error(error: Exception, bindings: Mapping[str, str]) -> UserError | None:
    """What was wrong with a path that TensorFlow was to read, or None."""
    import tensorflow as tf

    if not isinstance(error, tf.errors.OpError):
        return None
    if type(error).__name__ not in _STORAGE_ERRORS:
        return None
    places = [f"{name} = {text}" for name, text in bindings.items() if "://" in text]
    where = f". Remote paths: {'; '.join(places)}" if places else ""
    return UserError(f"{error.message.splitlines()[0][:300]}{where}")
