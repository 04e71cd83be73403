"""The one exception that means "the user can put this right"."""

from typing import Any


class UserError(Exception):
    """Wrong use or wrong input.

    The message names what was wrong (file, line, field) and what to do about it.
    The `t5patches` command prints it after `error: ` and exits with status 2, without
    a traceback; in a library it is an ordinary exception.
    """


def shorten(value: Any, length: int = 60) -> str:
    """Returns a value as Python writes it, cut off where it is long, for messages."""
    try:
        text = repr(value)
    except Exception:  # A user's object.
        text = f"<{type(value).__name__}>"
    return text if len(text) <= length else text[:length] + "…"
