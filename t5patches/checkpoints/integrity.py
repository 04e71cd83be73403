"""A checkpoint's own record: step, run and vocabulary, the digests of its files.

Whoever saves a checkpoint seals it when it is complete; hard links and copies take the
record along. One that was not sealed (by an older version, or by T5X alone) is read
without being checked.
"""

from __future__ import annotations

import concurrent.futures
import functools
import os
import pathlib
from collections.abc import Iterable

from etils import epath

from t5patches.checkpoints import finding
from t5patches.errors import UserError
from t5patches.interchange import claims, json_files

RECORD = "t5patches.json"


def seal(path: epath.PathLike, vocabulary: str, run: str | None = None) -> None:
    """Writes the record of a complete checkpoint, unless it has one.

    An object store looks after its contents itself: there it is without digests.

    Args:
      path: the checkpoint.
      vocabulary: the fingerprint of the model's (`vocabularies.of_model`).
      run: that of the settings of the run that saves it, if it has any.
    """
    path = epath.Path(path)
    if (path / RECORD).exists():
        return
    record = {"step": finding.step_of(path), "run": run, "vocabulary": vocabulary}
    json_files.write_json(path / RECORD, {**record, "digests": digests(path)})


def digests(path: epath.PathLike) -> dict[str, str | None]:
    """Returns the digest of each file of a checkpoint: by its record, or by reading.

    Of one that is no local folder there are none.
    """
    path = epath.Path(path)
    if found := _read(path).get("digests"):
        return found
    files = [] if "://" in os.fspath(path) else pathlib.Path(path).rglob("*")
    return _digests(
        path, sorted(str(p.relative_to(path)) for p in files if p.is_file())
    )


def run_of(path: epath.PathLike) -> str | None:
    """Returns which run saved a checkpoint, if that is on record; see `seal`."""
    return _read(epath.Path(path)).get("run")


def check(path: epath.PathLike) -> None:
    """Checks that a checkpoint's files are as they were when it was sealed.

    Several processes share the reading, and all of them learn of what one has found.

    Raises:
      UserError: a file was changed, cut off or lost since.
    """
    import jax

    path = epath.Path(path)
    record = _read(path)
    step, stored = record.get("step"), record.get("digests", {})
    if finding.STEP.fullmatch(path.name) and step not in (None, finding.step_of(path)):
        raise UserError(
            f"checkpoint {path} is another: it was saved as checkpoint_{step}; "
            "give it its name, or put the right one there"
        )
    share = sorted(stored)[jax.process_index() :: jax.process_count()]
    found = _digests(path, share)
    wrong = [name for name in share if found[name] != stored[name]]
    if jax.process_count() > 1:
        from jax.experimental import multihost_utils

        counts = multihost_utils.process_allgather(len(wrong))
        wrong = wrong or ["a file that another process has read"] * int(sum(counts))
    if wrong:
        raise UserError(
            f"checkpoint {path} cannot be read: {wrong[0]} is not as it was written; "
            "put the checkpoint back from a copy, or remove it and take another"
            f"{finding.there_is(path.parent)}"
        )


def check_vocabulary(path: epath.PathLike, vocabulary: str) -> None:
    """Raises a UserError if a checkpoint's model had another vocabulary.

    Args:
      path: the checkpoint.
      vocabulary: the fingerprint of the one in use.
    """
    trained = _read(epath.Path(path)).get("vocabulary", vocabulary)
    if trained != vocabulary:
        raise UserError(
            f"checkpoint {os.fspath(path)} was trained with the vocabulary {trained}, "
            f"not with {vocabulary}: set VOCABULARY_PATH to the file of that one"
        )


def _read(path: epath.Path) -> dict:
    record = path / RECORD
    if not record.exists():
        return {}
    fields = {"vocabulary": str, "digests": dict}
    remedy = f"put {path} back from a copy; without the file it is not checked"
    return json_files.read_record(record, fields, remedy)


@functools.cache
def _digest(path: str, state: tuple[int, int] | None) -> str:
    """Returns a file's digest; several of a run's steps look at the same checkpoint."""
    del state
    return claims.file_digest(path)


def _digests(folder: epath.Path, names: Iterable[str]) -> dict[str, str | None]:
    def digest(name):
        path = os.fspath(folder / name)
        if not epath.Path(path).is_file():
            return name, None
        stat = None if "://" in path else os.stat(path)
        return name, _digest(path, stat and (stat.st_size, stat.st_mtime_ns))

    with concurrent.futures.ThreadPoolExecutor() as pool:
        return dict(pool.map(digest, names))
