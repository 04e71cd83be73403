"""The one exception that means "the user can put this right", and what is as good.

`explained` knows the faults of the machine (a full disk, a folder that is read-only),
which libraries raise as whatever they like.
"""

from __future__ import annotations

import errno
import os
import re
import traceback
from collections.abc import Iterator
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


# What the system says when it cannot. TensorFlow, TensorStore, SentencePiece and Beam
# quote it in errors of other types.
_REASONS = [
    os.strerror(getattr(errno, name))
    for name in (
        "ENOSPC EDQUOT EFBIG EIO EROFS EACCES EPERM EMFILE ENFILE ENOMEM ENOENT ENOTDIR"
        " EISDIR EEXIST ENAMETOOLONG ELOOP ENXIO ESTALE ENOTEMPTY EBUSY"
    ).split()
]
_OUT_OF_MEMORY = re.compile("(?s:RESOURCE_EXHAUSTED.*)out of memory|bad_alloc", re.I)
# TensorFlow's errors, by name, so that it need not be imported here.
_TENSORFLOW = re.compile(
    "(ResourceExhausted|PermissionDenied|NotFound|FailedPrecondition|AlreadyExists|"
    "DataLoss|OutOfRange|Unavailable|Unauthenticated|Unimplemented)Error"
)


def explained(error: BaseException) -> UserError | None:
    """Returns what the machine, or the place of a file, did to make an error come up.

    Args:
      error: any; also one that was raised because of another that says it.

    Returns:
      None if it is neither; then it may be a fault of ours.
    """
    if isinstance(error, UserError):
        return error
    chain = list(_chain(error))
    for say in (_of_the_system, _of_memory, _quoted, _of_a_name, _of_a_library):
        for link in chain:
            if said := say(link):
                return UserError(said)
    return None


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _of_the_system(error: BaseException) -> str | None:
    if not isinstance(error, OSError) or error.errno is None:
        return None
    names = [os.fsdecode(n) for n in (error.filename, error.filename2) if n]
    names = names or _paths_at_work(error)[-1:]
    said = ": ".join([*names, error.strerror or os.strerror(error.errno)])
    return said + (", but no folder" if isinstance(error, FileExistsError) else "")


def _paths_at_work(error: BaseException) -> list[str]:
    """Returns the paths in the frames of an error, the innermost last.

    A file that is full does not say its name: who was writing has it.
    """
    frames = [frame.f_locals for frame, _ in traceback.walk_tb(error.__traceback__)]
    values = [local.get(name) for local in frames for name in ("self", "path")]
    return [os.fspath(value) for value in values if isinstance(value, os.PathLike)]


def _of_memory(error: BaseException) -> str | None:
    if isinstance(error, MemoryError) or _OUT_OF_MEMORY.search(str(error)):
        return "out of memory; a smaller batch, or shorter lengths, need less"
    return None


def _quoted(error: BaseException) -> str | None:
    for line in str(error).splitlines():
        reason = next((reason for reason in _REASONS if reason in line), None)
        if reason and len(line) < 200:
            return line.strip()
        if reason:  # TensorStore says it at length, a part in the other.
            path = re.search(r'(?<!\w)/[^\s"\';,]+', line)
            return f"{path[0]}: {reason}" if path else f"{line[:200]}… {reason}"
    return None


def _of_a_name(error: BaseException) -> str | None:
    if isinstance(error, UnicodeEncodeError) and "surrogates" in error.reason:
        return f"{shorten(error.object)}: not UTF-8, in a file's name or a text"
    if isinstance(error, ValueError) and "embedded null" in str(error):
        return "a file's name has a NUL character (\\0) in it"
    if isinstance(error, KeyError) and str(error).endswith("://'"):  # epath's.
        return f"paths that begin with {error} cannot be read or written"
    return None


def _of_a_library(error: BaseException) -> str | None:
    by_tensorflow = _TENSORFLOW.fullmatch(type(error).__name__) is not None
    if not by_tensorflow and (not isinstance(error, OSError) or type(error) is OSError):
        return None
    return str(error).strip().partition("\n")[0][:400] or type(error).__name__
