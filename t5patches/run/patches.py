"""The updates that made a model, in order, on record in its folder: `patches.json`.

    {"original": {"checkpoint": …, "identity": …},
     "updates": [{"method": "tnff", "alpha": 1.0, "learning_rate": 0.04,
                  "data": {"files": …, "training data": …, "validation data": …},
                  "initial": {"checkpoint": …, "identity": …}, "frozen": …,
                  "run": …, "t5patches": …}, …]}

An update has the chain of the checkpoint that it starts from, and itself. `run` is what
its checkpoints are sealed with, so that another's in their place is not taken for them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from etils import epath

import t5patches
from t5patches import frozen, trainer
from t5patches.checkpoints import contents, finding, integrity
from t5patches.errors import UserError
from t5patches.interchange import claims, json_files

RECORD = "patches.json"


def of_checkpoint(checkpoint: epath.PathLike | None) -> json_files.Row:
    """Returns the chain of a checkpoint: its first `original` and the `updates` since.

    Where none is on record the checkpoint is an original itself; `original` is empty if
    an update made it that wrote none (an older version's, T5X's own script's), and
    where there is no checkpoint.

    Raises:
      UserError: the record is none of ours, or the checkpoint is not of its runs.
    """
    if checkpoint is None:
        return {"original": {}, "updates": []}
    folder = finding.model_folder(finding.absolute(checkpoint))
    record = folder / RECORD
    if not record.is_file():
        unknown = (folder / frozen.RECORD).is_file()
        return {"original": {} if unknown else _named(checkpoint), "updates": []}
    remedy = "put it back from a copy"
    chain = json_files.read_record(record, {"original": dict, "updates": list}, remedy)
    for update in chain["updates"]:
        update = update if isinstance(update, dict) else {}
        json_files.check_fields(update, {"run": str}, record, remedy)
    chain = _placed(chain, lambda path: finding.joined(folder, path))
    run = integrity.run_of(checkpoint)
    runs = [update["run"] for update in chain["updates"]]
    if run is None:  # It was not sealed.
        return chain
    if run not in runs:
        raise UserError(
            f"checkpoint {checkpoint} is of none of the updates that {record} lists: "
            "another was put in its place; put the right one back, or move this one to "
            "a folder of its own"
        )
    # Behind it a branch may have gone on.
    return {**chain, "updates": chain["updates"][: runs.index(run) + 1]}


def original(checkpoint: str | None) -> str:
    """Returns the first original of a checkpoint. For gin files.

    Args:
      checkpoint: one that an update starts from, perhaps made by updates itself.

    Raises:
      UserError: which one it is, is not on record, or it is not there as it was.
    """
    found = of_checkpoint(checkpoint)["original"]
    if not found:
        raise UserError(
            f"the first original of {checkpoint} is not on record in a {RECORD}; name "
            "its checkpoint with FROZEN_CHECKPOINT_PATH"
        )
    path = found["checkpoint"]
    if contents.content(path) != found["identity"]:
        there = "another one lies there" if epath.Path(path).exists() else "it is gone"
        raise UserError(
            f"the first original of {checkpoint} was {path}, and {there} now; put it "
            "back, or name its place with FROZEN_CHECKPOINT_PATH"
        )
    return path


def write(
    folder: epath.PathLike,
    chain: json_files.Row,
    start: str | None,
    arguments: Mapping[str, Any],
    settings: Mapping[str, Any],
    files: Any,
) -> None:
    """Writes the chain of an update that has found its frozen model.

    Args:
      folder: the model folder.
      chain: of the checkpoint that it starts from.
      start: this checkpoint; None from scratch: then the frozen copy is the original.
      arguments: of T5X's `train`.
      settings: of the run, as they are on record.
      files: the annotated records, by split.
    """
    folder, model = finding.absolute(folder), arguments["model"]
    record = frozen.read_record(folder) if trainer.takes_frozen_params(model) else None
    kept = record and _named(record["checkpoint"])
    initial = _named(start) if start else kept
    # Filtered and corrected outputs are trained on by T5X's own model.
    kinds = (v for name, v in settings.items() if name.endswith("annotated_task.kind"))
    method = getattr(model, "METHOD", None)
    update = {
        "method": method.name if method else next(kinds, None),
        "alpha": getattr(model, "alpha", None),
        "learning_rate": settings.get("LEARNING_RATE"),
        "data": {"files": files, **{k: v for k, v in settings.items() if " data" in k}},
        "initial": initial,
        "frozen": kept,
        "run": claims.fingerprint(settings),
        "t5patches": t5patches.__version__,
    }
    first = chain["original"] if start else kept or {}
    chain = {"original": first, "updates": [*chain["updates"], update]}
    chain = _placed(chain, lambda path: finding.within(path, folder))
    json_files.write_json(folder / RECORD, chain)


def _named(checkpoint: epath.PathLike) -> dict[str, str]:
    path = finding.absolute(checkpoint)
    return {"checkpoint": str(path), "identity": contents.content(path)}


def _placed(found: Any, place: Callable[[str], str]) -> Any:
    """Returns a chain, or a part of it, with other paths of its checkpoints."""
    if isinstance(found, list):
        return [_placed(part, place) for part in found]
    if not isinstance(found, dict):
        return found
    return {
        key: place(part) if key == "checkpoint" else _placed(part, place)
        for key, part in found.items()
    }
