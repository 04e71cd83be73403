"""The learning rate and alpha of an update, by a sweep of short ones.

Its points are the defaults times FACTORS, the defaults first: where none is better on
the validation texts, as where all mend everything, it is they that are chosen.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from t5patches.annotate import Annotator
from t5patches.errors import UserError
from t5patches.interchange import json_files
from t5patches.patch.asked import Patch
from t5patches.run import gin_files, scripts
from t5patches.run.stages import Record
from t5patches.sweep import choice, plan, running

FACTORS = (1, 0.25, 4)
SHARE = 0.25  # Of the update's steps.
_SETTINGS = ("alpha", "learning_rate")


def count(patch: Patch) -> int:
    """Returns how many points there are."""
    return len(FACTORS) + (len(FACTORS) - 1 if patch.alpha is None else 0)


def write(patch: Patch, update: plan.Command, generate: plan.Command) -> str:
    """Writes the plan, as `t5patches sweep` takes it; returns its path.

    Args:
      patch: of an alpha that it has only the learning rate is tried.
      update: with as many steps as a point has, without the method.
      generate: for the validation and the test texts.
    """
    method = f"methods/{patch.method}.gin"
    bound = gin_files.read(
        [update.gin_files[0], method, *update.gin_files[1:]], [], scripts.gin_folders()
    )
    default = {binding.name: binding.value for binding in bound}
    rates = [factor * default["LEARNING_RATE"] for factor in FACTORS]
    alpha = default["ALPHA"] if patch.alpha is None else patch.alpha
    grid = [{"alphas": [alpha], "learning_rates": rates}]
    if patch.alpha is None:
        alphas = [factor * alpha for factor in FACTORS[1:]]
        grid.append({"alphas": alphas, "learning_rates": rates[:1]})
    path = patch.path("search.json")
    old = {split: patch.predictions("before", split) for split in plan.SPLITS}
    found = {
        "annotate": patch.words or f"spans --spans {patch.annotated}",
        "update": dataclasses.asdict(update),
        "generate": dataclasses.asdict(generate),
        "evaluate": {"old": old},
        "grid": [{"methods": [patch.method], **points} for points in grid],
    }
    json_files.write_json(path, found)
    return path


def run(patch: Patch, path: str, annotator: Annotator) -> Record:
    """Does the sweep, or what of it is not done yet.

    Args:
      patch: whose settings the sweep's report shows.
      path: of the plan.
      annotator: finds what is unwanted.

    Returns:
      `chosen`, the settings of the best point; by which `rule`; and of all `points`
      alpha, learning rate and `distance`, None of one that failed.

    Raises:
      UserError: every update failed, or another command is at the sweep.
    """
    sweep = running.Sweep(plan.read(path), annotator, patch.path("search"))
    results = running.run(sweep, patch.settings())
    if results is None:
        raise UserError(f"{sweep.folder}: another command is at it; type this again")
    rows = {row["name"]: row for row in [*results["points"], *results["failed"]]}
    found = {name: {key: row[key] for key in _SETTINGS} for name, row in rows.items()}
    near = {
        name: row.get("distance", {}).get("validation") for name, row in rows.items()
    }
    points = [{**found[name], "distance": near[name]} for name in rows]
    chosen = found[results["chosen"][patch.method]]
    return {"chosen": chosen, "rule": choice.RULE, "points": points}


def told(points: list[Mapping[str, Any]], steps: int) -> str:
    """Returns what the reader sees of the points, each of so many steps."""
    tried = "; ".join(
        f"{p['learning_rate']:g} with alpha {p['alpha']:g}: "
        + ("failed" if p["distance"] is None else f"{p['distance']:.3f}")
        for p in points
    )
    return f"{tried} (from the ideal on the validation texts, {steps:,} steps each)"
