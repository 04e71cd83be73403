"""One claim and one 'done' mark for every folder that a command writes.

`claim` says beside the results what they depend on, and refuses other settings;
`mark_done` and `findings` say which pieces of the work are done. A command that was
stopped goes on when it is typed again; `lock` keeps two of them from being at it at
once.
"""

from __future__ import annotations

import contextlib
import datetime
import fcntl
import hashlib
import json
import os
import platform
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from etils import epath

from t5patches.errors import UserError, shorten
from t5patches.interchange import json_files
from t5patches.interchange.shards import PathLike

SETTINGS = "settings.json"


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


def claim(
    folder: PathLike,
    settings: Mapping[str, Any],
    *,
    results: Sequence[str] = ("*",),
    name: str = SETTINGS,
) -> None:
    """Makes an output folder this step's, or checks that it is so already.

    Every command that writes a folder claims it: the settings are kept beside the
    results. Asked again with the same settings, it finds what is done (`findings`) and
    does the rest; with others it must not mix.

    Args:
      folder: the output folder; it is made.
      settings: what the results depend on, JSON-able.
      results: patterns of the results in the folder. While there are none, the record
        is of a step that failed before it had any, and is replaced, unless it names
        another `step`.
      name: of the record, where steps share the folder (`<step>.settings.json`).

    Raises:
      UserError: the folder has results of other settings (which are named), or results
        and no record.
    """
    path = epath.Path(os.fspath(folder))
    record = path / name
    globs = [path.glob(pattern) for pattern in results] if path.is_dir() else []
    names = {found.name for glob in globs for found in glob} - {name}
    made = sorted(found for found in names if found[0] != ".")  # Not hidden.
    if not record.is_file():
        if made:
            raise UserError(
                f"{path}: has {made[0]}, but no {name} that says what it was made "
                "with; give another output folder or remove this one"
            )
    elif made or json_files.read_json(record).get("step") != settings.get("step"):
        check(folder, settings, name)
        return
    json_files.write_json(record, dict(settings))


@contextlib.contextmanager
def lock(unit: PathLike) -> Iterator[None]:
    """Keeps a second command from working on the same while the block runs.

    The lock is of the system's (`flock`): it ends with its process, however that ends.
    The file beside the unit, `.<unit>.lock`, says whose it is. There is none on object
    stores, and where the file system has no locks, as some network ones.

    Args:
      unit: the path of what is made, or of a name in its folder, which is made.

    Raises:
      UserError: another process is at it.
    """
    path = epath.Path(os.fspath(unit))
    if "://" in os.fspath(unit):
        yield
        return
    folder = path.parent
    new = not folder.exists()
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / f".{path.name}.lock"
    number = _locked(file)
    try:
        yield
    finally:
        file.unlink(missing_ok=True)
        os.close(number)
        if new:  # Of a command that failed before it made anything.
            with contextlib.suppress(OSError):
                os.rmdir(folder)


def _locked(file: epath.Path) -> int:
    """Returns a descriptor of a lock file that is ours now."""
    while True:
        number = os.open(file, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            fcntl.flock(number, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            owner = os.read(number, 200).decode(errors="replace")
            os.close(number)
            raise UserError(
                f"{file.parent}: another command is writing here ({owner}); wait for "
                "its end, or give another output"
            ) from error
        except OSError:  # No locks here.
            return number
        # Whoever had it may have removed the file meanwhile: then it locks nothing.
        with contextlib.suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(number), os.stat(file)):
                break
        os.close(number)
    now = datetime.datetime.now().isoformat(" ", "seconds")
    with contextlib.suppress(OSError):  # It holds also where the disk is full.
        os.ftruncate(number, 0)
        text = f"process {os.getpid()} of {platform.node()}, since {now}"
        os.write(number, text.encode())
    return number


def check(folder: PathLike, settings: Mapping[str, Any], name: str = SETTINGS) -> None:
    """Checks that a folder is still claimed with these settings.

    Raises:
      UserError: another command has claimed it with other settings (which are named).
    """
    path = epath.Path(os.fspath(folder))
    if changes := differences(json_files.read_json(path / name), settings):
        raise UserError(
            f"{path}: made with other settings ({changes}); give another output folder "
            "or remove this one"
        )


def differences(found: Mapping[str, Any], wanted: Mapping[str, Any]) -> str:
    """Returns which settings are others now than on record, as part of a message."""
    wanted = _as_json(wanted)
    return "; ".join(
        f"{key} was {shorten(found.get(key))}, now {shorten(wanted.get(key))}"
        for key in sorted(found.keys() | wanted.keys())
        if found.get(key) != wanted.get(key)
    )


def mark_done(
    unit: PathLike, findings: Mapping[str, Any], source: Mapping[str, Any] | None = None
) -> None:
    """Marks a piece of a folder's work (a shard, a stage, a point) as done.

    The mark is the file `<unit>.done.json`; it is written last, when all that the
    piece makes is there.

    Args:
      unit: the path of what was made, or a name in the folder, without suffix.
      findings: what is to be known of it, JSON-able.
      source: what it was made from that the claim does not say, e.g. the digest of its
        input.
    """
    json_files.write_json(
        _mark(unit), {"source": dict(source or {}), "findings": dict(findings)}
    )


def findings(
    unit: PathLike,
    source: Mapping[str, Any] | None = None,
    fields: Mapping[str, type] | None = None,
) -> dict[str, Any] | None:
    """Returns the findings of a piece of work that is done.

    Args:
      unit: as `mark_done` takes it.
      source: what it would be made from now; None for whatever it was.
      fields: what the findings must have, as `json_files.read_record` takes it.

    Returns:
      None if it is not done, or was made from something else.

    Raises:
      UserError: the mark is none of ours.
    """
    mark = _mark(unit)
    if not mark.is_file():
        return None
    remedy = "it does not say what is done; remove it"
    found = json_files.read_record(mark, {"source": dict, "findings": dict}, remedy)
    json_files.check_fields(found["findings"], fields or {}, mark, remedy)
    same = source is None or found["source"] == _as_json(source)
    return found["findings"] if same else None


def unmark(unit: PathLike) -> None:
    """Takes a mark away, if there is one: the piece is about to be made anew."""
    _mark(unit).unlink(missing_ok=True)


def _mark(unit: PathLike) -> epath.Path:
    return epath.Path(f"{os.fspath(unit)}.done.json")


def _as_json(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Returns settings as they are read again: tuples become lists."""
    return json.loads(json.dumps(dict(settings)))
