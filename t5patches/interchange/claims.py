"""What a step's results depend on: said beside them, and checked."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from typing import Any

from etils import epath

from t5patches.errors import UserError, shorten
from t5patches.interchange.json_files import write_json
from t5patches.interchange.shards import PathLike


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
