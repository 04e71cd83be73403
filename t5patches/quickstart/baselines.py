"""What the methods are compared with: plain training on other texts.

    filtered            the model's own outputs in which nothing is unwanted
    filtered_original   the original data, left out where its target is unwanted
    corrective          the model's own outputs, corrected where something is unwanted

All are cross entropy on inputs and targets; nothing is frozen.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from t5patches.errors import UserError
from t5patches.interchange import json_files, records, shards

if TYPE_CHECKING:
    from t5patches.quickstart.pipeline import Run

BASELINES = ("filtered", "filtered_original", "corrective")
# Files of gin/methods that are not called as their method is here.
METHOD_FILES = {"filtered_original": "filtered"}

_SPLITS = ("train", "validation")


class NothingLeftError(UserError):
    """A baseline has nothing to be trained on."""


def write(run: Run, method: str) -> dict[str, str]:
    """Writes what a baseline is trained on, unless it is there.

    Args:
      run: a run whose generations are annotated.
      method: one of BASELINES.

    Returns:
      Split -> a JSON-lines file of `inputs`, `targets`, `id`.

    Raises:
      NothingLeftError: every text has something unwanted.
    """
    files = {s: run.path("baselines", method, f"{s}.jsonl") for s in _SPLITS}
    for split, path in files.items():
        if not shards.is_complete(path):
            rows = (row for row in _rows(run, method, split) if row["targets"])
            if not json_files.write_jsonl(path, rows):
                raise NothingLeftError(
                    f"{path}: {method} leaves nothing of the {split} split; there is "
                    "too little without anything unwanted"
                )
    return files


def _rows(run: Run, method: str, split: str) -> Iterator[shards.Row]:
    if method == "filtered_original":
        annotator = run.job.annotator(run)
        for _, row in json_files.read_jsonl(run.corpus_files()[split]):
            if not annotator(row["targets"], row["inputs"]):
                yield row
        return
    for row in records.read_annotated(run.annotated(split)):
        spans = [(s["start"], s["end"], s["label"]) for s in row["annotations"]]
        if spans and method == "filtered":
            continue
        targets = row["prediction"]
        if spans:
            targets = run.job.correct(run, targets, spans)
        yield {"inputs": row["inputs"], "targets": targets, "id": row["id"]}
