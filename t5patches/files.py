"""Files as the steps pass them on: shards, whole or not there, each read by its lines.

Everything streams: a reader holds one line at a time, a writer writes under a temporary
name and renames, so that a file that exists is a whole file. Paths go through epath:
`gs://` works as local folders do.

This module imports no TensorFlow until a TFRecord is written or read.
"""

from __future__ import annotations

import contextlib
import glob as globlib
import gzip
import hashlib
import json
import os
import platform
import re
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

from etils import epath

from t5patches.errors import UserError

PathLike = str | os.PathLike
Row = dict[str, Any]
# What a reader does with a wrong line: raise the error, or note it and go on.
OnError = Callable[[UserError], None]

# This machine, in the names of temporary files.
_OWNER = re.sub(r"\W", "_", platform.node())
_SHARD = re.compile(r"^(?P<stem>.*)-(?P<index>\d{5,})-of-(?P<count>\d{5,})")

# --------------------------------------------------------------------------- paths


def shard_path(prefix: PathLike, index: int, count: int, suffix: str = ".jsonl") -> str:
    """Returns `prefix-00003-of-00016.jsonl` for shard 3 of 16."""
    if not 0 <= index < count:
        raise ValueError(f"shard {index} of {count} does not exist")
    return f"{os.fspath(prefix)}-{index:05d}-of-{count:05d}{suffix}"


def raise_error(error: UserError) -> None:
    """The `OnError` that stops at the first error."""
    raise error


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
    if any(mark in text for mark in "*?["):
        paths = _glob(text)
    elif epath.Path(text).is_file():
        return [text]
    else:
        shards, name = "-[0-9]*-of-[0-9]*", _escape(text)
        paths = _glob(f"{name}{shards}{suffix}") or _glob(f"{name}{shards}{suffix}.gz")
        if not paths:  # T5X's names have the suffix first.
            paths = _glob(f"{_escape(text.removesuffix(suffix))}{suffix}{shards}")
            paths = [path for path in paths if _SHARD.fullmatch(path)]
    if not paths:
        raise UserError(f"{text}: no such file; give a file, a pattern or a prefix")
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


# --------------------------------------------------------------------------- writing


def _rename_is_atomic(path: str) -> bool:
    return "://" not in path


def completion_marker(path: PathLike) -> str:
    """Returns the name of the marker that says a file on an object store is whole."""
    return f"{os.fspath(path)}.COMPLETED"


def is_complete(path: PathLike) -> bool:
    """Says whether `path` was wholly written by `atomic_write`."""
    text = os.fspath(path)
    wanted = [text] if _rename_is_atomic(text) else [text, completion_marker(text)]
    return all(epath.Path(part).is_file() for part in wanted)


@contextlib.contextmanager
def atomic_path(path: PathLike) -> Iterator[str]:
    """Yields a temporary name that becomes `path` if the block ends well.

    Readers never see a half-written file: on a local disk by rename; on an object
    store, where a rename is a copy, by a completion marker written last
    (`is_complete`). If the block raises, the temporary file goes and what stood at
    `path` stays.
    """
    text = os.fspath(path)
    target = epath.Path(text)
    target.parent.mkdir(parents=True, exist_ok=True)
    atomic = _rename_is_atomic(text)
    # Two processes may be at it, on several machines: each has a name of its own.
    temporary = target.parent / f".{target.name}.{_OWNER}-{os.getpid()}.tmp"
    if atomic:
        _remove_leftovers(target)
    if not atomic:
        epath.Path(completion_marker(text)).unlink(missing_ok=True)
    try:
        yield os.fspath(temporary)
        temporary.replace(target)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    if not atomic:
        epath.Path(completion_marker(text)).write_text("")


def _remove_leftovers(target: epath.Path) -> None:
    """Removes what processes of this machine that were killed have left of a file."""
    for path in target.parent.glob(f".{_escape(target.name)}.{_OWNER}-*.tmp"):
        process = path.name.removesuffix(".tmp").rpartition("-")[2]
        try:
            os.kill(int(process), 0)
        except ProcessLookupError:
            path.unlink(missing_ok=True)
        except (ValueError, PermissionError):  # Another's, who lives.
            pass


@contextlib.contextmanager
def atomic_write(path: PathLike, mode: str = "w") -> Iterator[Any]:
    """Opens a file for writing that appears under its name only when it is whole.

    Args:
      path: where the file shall stand; its folder is made.
      mode: 'w' (text, UTF-8) or 'wb'.
    """
    if mode not in ("w", "wb"):
        raise ValueError(f"mode must be 'w' or 'wb', not {mode!r}")
    with atomic_path(path) as temporary:
        # Always opened as bytes: epath has no encoding argument on every backend.
        with epath.Path(temporary).open("wb") as raw:
            yield raw if mode == "wb" else _Utf8Writer(raw)


class _Utf8Writer:
    """The text side of a binary file: `write` and `writelines`, always UTF-8."""

    def __init__(self, raw: Any):
        self._raw = raw

    def write(self, text: str) -> int:
        self._raw.write(text.encode("utf-8"))
        return len(text)

    def writelines(self, lines: Iterable[str]) -> None:
        for line in lines:
            self.write(line)


def write_json(path: PathLike, value: Any) -> None:
    """Writes one JSON document, indented, atomically."""
    with atomic_write(path) as file:
        file.write(json.dumps(value, ensure_ascii=False, indent=2) + "\n")


def write_jsonl(path: PathLike, rows: Iterable[Mapping[str, Any]]) -> int:
    """Writes one JSON object per line, atomically; returns how many."""
    count = 0
    with atomic_write(path) as file:
        for row in rows:
            file.write(json_line(row))
            count += 1
    return count


def json_line(row: Mapping[str, Any]) -> str:
    """Returns `row` as a line of JSON, newline included."""
    return json.dumps(row, ensure_ascii=False) + "\n"


def example_bytes(features: Mapping[str, Sequence[int]]) -> bytes:
    """Returns a serialized tf.train.Example with int64 `features`."""
    import tensorflow as tf

    int64s = {
        name: tf.train.Feature(int64_list=tf.train.Int64List(value=values))
        for name, values in features.items()
    }
    example = tf.train.Example(features=tf.train.Features(feature=int64s))
    return example.SerializeToString(deterministic=True)


def write_tfrecords(path: PathLike, rows: Iterable[Mapping[str, Sequence[int]]]) -> int:
    """Writes one tf.train.Example of int64 features per row, atomically.

    Args:
      path: the TFRecord file.
      rows: features by name, e.g. `inputs`, `targets`, `target_annotations`.

    Returns:
      The number of examples.
    """
    import tensorflow as tf

    count = 0
    with atomic_path(path) as temporary:
        with tf.io.TFRecordWriter(temporary) as writer:
            for row in rows:
                writer.write(example_bytes(row))
                count += 1
    return count


def read_tfrecords(path: PathLike) -> Iterator[dict[str, list[int]]]:
    """Yields the int64 features of each example of a TFRecord file."""
    import tensorflow as tf

    try:
        for raw in tf.data.TFRecordDataset(os.fspath(path)).as_numpy_iterator():
            features = tf.train.Example.FromString(raw).features.feature
            yield {name: list(f.int64_list.value) for name, f in features.items()}
    except tf.errors.OpError as error:
        raise UserError(
            f"{os.fspath(path)}: not a readable TFRecord: {error}"
        ) from error


# --------------------------------------------------------------------------- settings


def fingerprint(settings: Mapping[str, Any]) -> str:
    """Returns a short hash of JSON-able settings, the same in every process."""
    text = json.dumps(settings, sort_keys=True, ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def file_digest(paths: PathLike | Sequence[PathLike]) -> str:
    """Returns a short hash of the contents of one or several files, in order."""
    if isinstance(paths, str | os.PathLike):
        paths = [paths]
    digest = hashlib.sha256()
    for path in paths:
        with epath.Path(os.fspath(path)).open("rb") as file:
            while block := file.read(1 << 20):
                digest.update(block)
        digest.update(b"\0end of file\0")
    return digest.hexdigest()[:16]


def claim_folder(
    folder: PathLike, settings: Mapping[str, Any], has_results: bool = True
) -> epath.Path:
    """Makes an output folder this step's, or checks that it is so already.

    The settings are kept in `settings.json`. A step that is asked again with the same
    settings finds its complete shards and skips them; with others it must not mix.
    `has_results` is as for `claim`.

    Raises:
      UserError: the folder holds the results of other settings (which are named).
    """
    path = epath.Path(os.fspath(folder))
    claim(path / "settings.json", settings, str(path), has_results)
    return path


def claim(
    record: PathLike, settings: Mapping[str, Any], what: str, has_results: bool = True
) -> None:
    """Writes a step's settings to `record`, or checks that it has them already.

    Args:
      record: a JSON file beside the step's results.
      settings: what the results depend on.
      what: the results, for the message.
      has_results: whether there are some; without, what `record` has is of a step that
        failed before it had any, and is replaced.

    Raises:
      UserError: `record` has other settings (which are named).
    """
    record = epath.Path(os.fspath(record))
    wanted = json.loads(json.dumps(dict(settings)))
    if not has_results or not record.is_file():
        write_json(record, wanted)
        return
    try:
        found = json.loads(record.read_text())
    except json.JSONDecodeError as error:
        raise UserError(
            f"{record}: not JSON ({error}); remove {record.parent}"
        ) from error
    if not isinstance(found, dict):
        raise UserError(f"{record}: not a JSON object; remove {record.parent}")
    if found != wanted:
        keys = sorted(set(found) | set(wanted))
        differing = [key for key in keys if found.get(key) != wanted.get(key)]
        changes = "; ".join(
            f"{key} was {shorten(found.get(key))}, now {shorten(wanted.get(key))}"
            for key in differing
        )
        raise UserError(
            f"{what}: made with other settings ({changes}); give another output folder "
            "or remove this one"
        )


def shorten(value: Any, length: int = 60) -> str:
    """Returns a value as Python writes it, cut off where it is long, for messages."""
    try:
        text = repr(value)
    except Exception:  # A user's object.
        text = f"<{type(value).__name__}>"
    return text if len(text) <= length else text[:length] + "…"


# --------------------------------------------------------------------------- reading


def read_lines(
    path: PathLike, on_error: OnError = raise_error
) -> Iterator[tuple[int, str]]:
    """Yields (line number from 1, line) of a UTF-8 text file, gzipped if `*.gz`.

    Args:
      path: the file.
      on_error: takes the error of a line; if it returns, reading goes on after it.

    Raises:
      UserError: the file is missing, a line is not UTF-8, or the gzip file is broken.
    """
    text = os.fspath(path)
    for number, raw in raw_lines(text, on_error):
        try:
            line = raw.decode("utf-8-sig" if number == 1 else "utf-8")
        except UnicodeDecodeError as error:
            on_error(
                UserError(
                    f"{text}:{number}: not UTF-8 ({error.reason} at byte "
                    f"{error.start}); save the file as UTF-8"
                )
            )
        else:
            yield number, line


def raw_lines(path: str, on_error: OnError) -> Iterator[tuple[int, bytes]]:
    """Yields (line number from 1, bytes) of a file, gzipped if `*.gz`."""
    try:
        raw = epath.Path(path).open("rb")
    except (FileNotFoundError, IsADirectoryError) as error:
        raise UserError(f"{path}: no such file") from error
    number = 0
    with raw, gzip.open(raw) if path.endswith(".gz") else raw as file:
        try:
            for number, line in enumerate(file, start=1):
                yield number, line
        except (EOFError, gzip.BadGzipFile, zlib.error) as error:
            on_error(
                UserError(
                    f"{path}:{number + 1}: the gzip file is broken off or damaged "
                    f"here ({error}); make it or copy it again"
                )
            )


def read_json(path: PathLike) -> Row:
    """Returns the JSON object of a file.

    Raises:
      UserError: the file is missing, not UTF-8 or no JSON object.
    """
    text = "".join(line for _, line in read_lines(path))
    try:
        value = json.loads(text)
    except json.JSONDecodeError as error:
        raise UserError(f"{os.fspath(path)}: not valid JSON ({error})") from error
    if not isinstance(value, dict):
        raise UserError(f"{os.fspath(path)}: not a JSON object")
    return value


def read_jsonl(
    path: PathLike, on_error: OnError = raise_error
) -> Iterator[tuple[int, Row]]:
    """Yields (line number, object) of a JSON-lines file; blank lines are passed over.

    Args:
      path: the file.
      on_error: takes the error of a line; if it returns, reading goes on after it.

    Raises:
      UserError: naming file and line, if a line is not a JSON object.
    """
    for number, line in read_lines(path, on_error):
        if not line.strip():
            continue
        try:
            row = _json_object(line, f"{os.fspath(path)}:{number}")
        except UserError as error:
            on_error(error)
        else:
            yield number, row


def _json_object(line: str, where: str) -> Row:
    try:
        row = json.loads(line)
    except json.JSONDecodeError as error:
        raise UserError(
            f"{where}: not valid JSON ({error.msg} at column {error.colno}); "
            "each line must be one JSON object"
        ) from error
    except (RecursionError, ValueError) as error:  # Too deep; numbers too long.
        raise UserError(f"{where}: not readable JSON ({error})") from error
    if not isinstance(row, dict):
        raise UserError(
            f"{where}: a JSON {type(row).__name__}; each line must be one JSON object"
        )
    if "\\u" in line:  # Only an escape can make half of a surrogate pair.
        for field, value in row.items():
            check_encodes({field: value}, f"{where}: field {field!r}")
    return row


def check_encodes(value: Any, what: str) -> None:
    """Checks that what can be written as JSON can be written as UTF-8.

    Raises:
      UserError: about `what`, if it has half of a surrogate pair.
    """
    try:
        json.dumps(value, ensure_ascii=False).encode("utf-8")
    except UnicodeEncodeError as error:
        raise UserError(
            f"{what} has half of a surrogate pair, which is not text; remove it"
        ) from error
