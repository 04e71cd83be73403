"""Finding and choosing checkpoints in model folders, by their names."""

from __future__ import annotations

import os
import re

from etils import epath

from t5patches.errors import UserError
from t5patches.interchange import json_files

STEP = re.compile(r"checkpoint_(\d+)")

BEST = "best.json"  # Names the checkpoint of the lowest validation loss.

KEPT = "best"  # The folder that keeps that checkpoint from being deleted.


def absolute(path: epath.PathLike) -> epath.Path:
    """Returns a path that does not begin at the working folder; URLs stay.

    Orbax takes no other.
    """
    text = os.fspath(path)
    return epath.Path(text if "://" in text else os.path.abspath(text))


def model_folder(path: epath.PathLike) -> epath.Path:
    """Returns the model folder of a checkpoint, also of one in `best`, or of itself."""
    path = epath.Path(path)
    folder = path.parent if STEP.fullmatch(path.name) else path
    return folder.parent if folder.name == KEPT else folder


def within(path: epath.PathLike, folder: epath.PathLike) -> str:
    """Returns a path relative to a folder that it is in, and moves with, or itself."""
    path = epath.Path(path)
    return str(path.relative_to(folder) if path.is_relative_to(folder) else path)


def joined(folder: epath.PathLike, path: str) -> str:
    """Returns where a path of `within` lies."""
    return path if "://" in path else str(epath.Path(folder) / path)


def steps(folder: epath.PathLike) -> list[int]:
    """Returns the steps of the complete checkpoints of a folder, ascending.

    One that is being written is not yet called `checkpoint_<step>`; on gs://, where
    there is no renaming, it lacks Orbax's commit marker.
    """
    folder = epath.Path(folder)
    if not folder.is_dir():
        return []
    found = {path: STEP.fullmatch(path.name) for path in folder.iterdir()}
    return sorted(
        int(match[1]) for path, match in found.items() if match and is_committed(path)
    )


def step_of(path: epath.PathLike) -> int:
    """Returns the step of a checkpoint by its path, or the latest of a model folder.

    Raises:
      UserError: `path` is neither.
    """
    match = STEP.fullmatch(epath.Path(path).name)
    if match:
        return int(match[1])
    saved = steps(path)
    if not saved:
        raise UserError(
            f"{path} is neither a checkpoint (…/checkpoint_<step>) nor a folder with"
            " checkpoints"
        )
    return saved[-1]


def one_checkpoint(path: epath.PathLike) -> str:
    """Returns the path of one checkpoint: itself, or the latest of a folder of them.

    Raises:
      UserError: it is neither.
    """
    path = absolute(path)
    name = f"checkpoint_{step_of(path)}"
    return os.fspath(path if path.name == name else path / name)


def choose_checkpoint(path: epath.PathLike | None, which: str | int = "best") -> str:
    """Returns the path of one checkpoint of a model folder. Also for gin files.

    Args:
      path: the model folder; None, an unset macro, is refused.
      which: 'best' (the lowest validation loss, by `best.json`), 'latest', or a step.

    Raises:
      UserError: there is no such checkpoint; the message says which there are.
    """
    if path is None:
        raise UserError(
            f"to choose the {which!r} checkpoint, name the model folder (in our gin"
            " files: INITIAL_MODEL_DIR)"
        )
    folder = absolute(path)
    if STEP.fullmatch(folder.name):
        raise UserError(
            f"{path} is one checkpoint already: to choose {which!r}, name its folder, "
            f"{folder.parent}"
        )
    saved, kept = steps(folder), steps(folder / KEPT)
    if not saved and not kept:
        missing = "has no checkpoints" if folder.is_dir() else "does not exist"
        raise UserError(f"the model folder {folder} {missing}")
    step = _chosen_step(which, folder, saved or kept)
    if step not in {*saved, *kept}:
        raise UserError(f"{folder} has no checkpoint_{step}{there_is(folder)}")
    place = folder if step in saved else folder / KEPT
    return str(place / f"checkpoint_{step}")


def _chosen_step(which: str | int, folder: epath.Path, saved: list[int]) -> int:
    if which == "latest":
        return saved[-1]
    if str(which).isdecimal():
        return int(which)
    if which != "best":
        raise UserError(f"checkpoint {which!r}: expected 'best', 'latest' or a step")
    record = folder / BEST
    if not record.exists():
        raise UserError(
            f"{folder} has no {BEST}: a run writes it when it evaluates a step that it"
            f" saves. Choose 'latest' or a step{there_is(folder)}"
        )
    remedy = "choose 'latest' or a step" + there_is(folder)
    return json_files.read_record(record, {"step": int}, remedy)["step"]


def is_committed(path: epath.Path) -> bool:
    """Says whether a checkpoint is whole; on gs:// the folder comes first."""
    on_gcs = str(path).startswith("gs://")
    return not on_gcs or is_legacy(path) or (path / "commit_success.txt").exists()


def is_legacy(path: epath.Path) -> bool:
    """Says whether it is of T5X's older format, whose msgpack file is written last."""
    return (path / "checkpoint").exists()


def there_is(folder: epath.Path) -> str:
    """Returns which checkpoints a folder has, as the end of a message."""
    saved = steps(folder)
    if not saved:
        return "" if folder.is_dir() else f" (nor a folder {folder})"
    return f"; in {folder} there is {', '.join(f'checkpoint_{s}' for s in saved)}"
