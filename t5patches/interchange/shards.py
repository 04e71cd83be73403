"""Names of files and of their shards; files that are whole or not there.

A writer writes under a temporary name and renames, so that a file that exists is a
whole file. Paths go through epath: `gs://` works as local folders do.
"""

from __future__ import annotations

import codecs
import contextlib
import errno
import glob as globlib
import os
import pathlib
import platform
import re
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Literal

from etils import epath

from t5patches.errors import UserError

PathLike = str | os.PathLike

Row = dict[str, Any]

# What a reader does with a wrong line: raise the error, or note it and go on.
OnError = Callable[[UserError], None]


def raise_error(error: UserError) -> None:
    """The `OnError` that stops at the first error."""
    raise error


# This machine, in the names of temporary files.
_OWNER = re.sub(r"\W", "_", platform.node())

_SHARD = re.compile(r"^(?P<stem>.*)-(?P<index>\d{5,})-of-(?P<count>\d{5,})")


def shard_path(prefix: PathLike, index: int, count: int, suffix: str = ".jsonl") -> str:
    """Returns `prefix-00003-of-00016.jsonl` for shard 3 of 16."""
    if not 0 <= index < count:
        raise ValueError(f"shard {index} of {count} does not exist")
    return f"{os.fspath(prefix)}-{index:05d}-of-{count:05d}{suffix}"


def expand(
    spec: PathLike | Sequence[PathLike],
    suffix: str = ".jsonl",
    on_error: OnError = raise_error,
) -> list[str]:
    """Returns the files that `spec` names, in order, and checks shard sets.

    Args:
      spec: a file; a glob pattern; the prefix of a sharded set (`dir/name` for
        `dir/name-00000-of-00016.jsonl` and its siblings, or T5X's
        `dir/name.jsonl-00000-of-00016`); or a list of these.
      suffix: how the files of a prefix end; they may end in `.gz` besides.
      on_error: takes the error of a missing shard, then the others are returned.

    Raises:
      UserError: nothing matches, a shard of a set is missing, or there are two sets of
        one name.
    """
    if not isinstance(spec, str | os.PathLike):
        found = [path for part in spec for path in expand(part, suffix, on_error)]
        return list(dict.fromkeys(found))  # Patterns may overlap.
    text = os.fspath(spec)
    if epath.Path(text).is_file():  # Whatever characters its name has.
        return [text]
    paths = _glob(text) if any(mark in text for mark in "*?[") else []
    if not paths and text:
        shards, name = "-[0-9]*-of-[0-9]*", _escape(text)
        paths = _glob(f"{name}{shards}{suffix}") or _glob(f"{name}{shards}{suffix}.gz")
        if not paths:  # T5X's names have the suffix first.
            paths = _glob(f"{_escape(text.removesuffix(suffix))}{suffix}{shards}")
            paths = [path for path in paths if _SHARD.fullmatch(path)]
    if not paths:
        raise UserError(
            f"{text or repr(text)}: no such file; give a file, a pattern or a prefix"
        )
    _check_no_shard_missing(paths, on_error)
    return paths


def _escape(text: str) -> str:
    scheme, separator, rest = text.rpartition("://")
    return scheme + separator + globlib.escape(rest)


def _glob(pattern: str) -> list[str]:
    if "://" not in pattern:
        return sorted(path for path in globlib.glob(pattern) if os.path.isfile(path))
    # epath globs relative to a folder, so split at the first part with a wildcard.
    parts = pattern.split("/")
    fixed = next(i for i, part in enumerate(parts) if any(m in part for m in "*?["))
    folder = epath.Path("/".join(parts[:fixed]))
    return sorted(os.fspath(path) for path in folder.glob("/".join(parts[fixed:])))


def _check_no_shard_missing(paths: Sequence[str], on_error: OnError) -> None:
    sets: dict[tuple[str, str], dict[int, set[int]]] = {}
    for path in paths:
        if match := _SHARD.match(path):
            counts = sets.setdefault((match["stem"], path[match.end() :]), {})
            counts.setdefault(int(match["count"]), set()).add(int(match["index"]))
    for (stem, suffix), counts in sets.items():
        if len(counts) > 1:
            sizes = " and ".join(f"of-{count:05d}" for count in sorted(counts))
            raise UserError(
                f"{stem}-*{suffix}: there are two sets of shards, {sizes}; remove one, "
                "or name one by a pattern"
            )
        ((count, found),) = counts.items()
        for index in sorted(set(range(count)) - found):
            on_error(
                UserError(
                    f"{shard_path(stem, index, count, suffix)}: shard is missing "
                    f"({len(found)} of {count} are there); run the step that writes it"
                )
            )


def check_output(path: PathLike) -> None:
    """Checks that what a file is to be written to is a file, or not there yet.

    Raises:
      UserError: it is a folder, a device, a pipe or a standard stream.
    """
    text = os.fspath(path)
    if os.path.isdir(text):
        raise UserError(f"{text}: is a folder; give a file to write to")
    stream = os.path.abspath(text).startswith(("/dev/std", "/dev/fd/", "/proc/"))
    if stream or os.path.exists(text) and not os.path.isfile(text):
        raise UserError(
            f"{text}: is a device or a pipe, which cannot be replaced by a whole file; "
            "give a file to write to"
        )


@contextlib.contextmanager
def atomic_path(path: PathLike) -> Iterator[str]:
    """Yields a temporary name that becomes `path` if the block ends well.

    Readers never see a half-written file: a rename on a local disk is atomic, and an
    object store shows no object before it is whole. What is written is on the disk
    before it is renamed, for the power may fail. If the block raises, the temporary
    file goes and what stood at `path` stays. A link stays; where it leads is replaced.

    Args:
      path: of a file, or of a folder that is not there yet; its parent is made.

    Raises:
      UserError: `path` is a folder, a device, or another thing that is no file.
      OSError: it cannot be written; `path` is its `filename`.
    """
    check_output(path)
    target = epath.Path(os.fspath(path))
    if os.path.islink(target):
        target = epath.Path(os.path.realpath(target))
        if os.path.islink(target):  # To itself.
            raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), os.fspath(path))
    # Two processes may be at it, on several machines: each has a name of its own.
    temporary = target.parent / f".{target.name}.{_OWNER}-{os.getpid()}.tmp"
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        remove_leftovers(target.parent, f".{target.name}.{_OWNER}-")
        yield os.fspath(temporary)
        _sync(temporary)
        temporary.replace(target)
        _sync(target.parent, only=True)
    except BaseException as error:
        with contextlib.suppress(OSError):
            _remove(temporary)
        if isinstance(error, OSError) and error.errno is not None:
            if error.filename in (None, os.fspath(temporary)):
                error.filename, error.filename2 = os.fspath(path), None
        raise


def remove_leftovers(folder: PathLike, start: str) -> None:
    """Removes what processes of this machine that were killed have left in a folder.

    Args:
      folder: where.
      start: of the names, before the process's number and what is no digit.
    """
    for path in epath.Path(folder).glob(f"{_escape(start)}[0-9]*"):
        try:
            os.kill(int(re.sub(r"\D.*", "", path.name[len(start) :])), 0)
        except (ProcessLookupError, OverflowError):
            with contextlib.suppress(OSError):
                _remove(path)
        except PermissionError:  # Another's, who lives.
            pass


def _remove(path: epath.Path) -> None:
    if path.is_dir():
        path.rmtree()
    else:
        path.unlink(missing_ok=True)


def _sync(path: epath.Path, only: bool = False) -> None:
    """Has the disk keep a file, or a folder and (unless `only` it) what is in it."""
    if "://" in os.fspath(path):
        return
    inside = () if only else pathlib.Path(path).rglob("*")
    for part in (*inside, path):
        number = os.open(part, os.O_RDONLY)
        try:
            os.fsync(number)
        except OSError as error:  # Some file systems cannot, of folders.
            if error.errno != errno.EINVAL:
                raise
        finally:
            os.close(number)


@contextlib.contextmanager
def atomic_write(path: PathLike, mode: Literal["w", "wb"] = "w") -> Iterator[Any]:
    """Opens a file for writing that appears under its name only when it is whole.

    Args:
      path: where the file shall stand; its folder is made.
      mode: 'w' (text, UTF-8) or 'wb'.
    """
    with atomic_path(path) as temporary:
        # Always opened as bytes: epath has no encoding argument on every backend.
        with epath.Path(temporary).open("wb") as raw:
            yield raw if mode == "wb" else codecs.getwriter("utf-8")(raw)
