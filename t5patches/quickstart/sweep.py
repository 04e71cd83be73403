"""Several methods on one job: an update for each point of the grid, and who is better.

The corpus, the fine-tuned model, its generations and their annotations are made once.
Beside the files that `run_folder.py` lists:

    RUN/points/POINT/model/          the updated model
    RUN/points/POINT/SPLIT/          its generations, validation and test
    RUN/points/POINT.done.json       a point that is done: its scores

All in one process, so that programs that points share (all but the training step, in
which alpha and the learning rate are constants: four seconds of a point) are compiled
once. A run that was stopped goes on with the point it was in, and a folder made for
some methods takes more of them later.
"""

import dataclasses
import functools
import gc
from collections.abc import Sequence
from typing import Any

import jax
from etils import epath

from t5patches.errors import UserError
from t5patches.interchange import json_files
from t5patches.quickstart import grid, job, run_folder, use_cases
from t5patches.quickstart.run_folder import Record, Run

SPLITS = ("validation", "test")
METHODS = (*job.METHODS, job.WHOLE_SETS)
# A point is done again from its start: one checkpoint, of the end, is enough.
_MACROS = {"SAVE_PERIOD": 400, "EVAL_PERIOD": 400, "KEEP_CHECKPOINTS": 1}


def methods_of(text: str) -> list[str]:
    """Returns the methods that `--methods` names: 'all', or some, separated by commas.

    Raises:
      UserError: one of them is none, or none is given.
    """
    if text == "all":
        return list(METHODS)
    names = [name.strip() for name in text.split(",") if name.strip()]
    for name in names or [text]:
        if name not in METHODS:
            raise UserError(
                f"--methods {text}: no method {name!r}; there is "
                f"{', '.join(METHODS)}, or all"
            )
    return list(dict.fromkeys(names))


def do_point(run: Run, point: grid.Point) -> dict[str, Any]:
    """Updates, generates and evaluates.

    Returns:
      The point, and its scores by split, or `failed`, in words, where the loss became
      infinite (some settings are too much for a method) or a baseline has no data.
    """
    folder = f"points/{point.name}"
    found: dict[str, Any] = {"name": point.name, **dataclasses.asdict(point)}
    whole = point.method == job.WHOLE_SETS
    method = "tnff" if whole else point.method
    try:
        job.update_model(_with_macros(run, point), method, f"{folder}/model", whole)
    except UserError as error:
        # The trainer leaves the batch; any other mistake is not the point's own.
        model = epath.Path(run.path(folder, "model"))
        diverged = any(model.glob("bad_batch_*"))
        if not diverged and not isinstance(error, job.NothingLeftError):
            raise
        return {**found, "failed": str(error).splitlines()[0]}
    for split in SPLITS:
        job.generate(run, f"{folder}/model", folder, split)
        found[split], _ = job.compare(run, folder, split)
    # Programs and data sets of this point; what others share is cached on disk.
    jax.clear_caches()
    gc.collect()
    return found


def _with_macros(run: Run, point: grid.Point) -> Run:
    """Returns the run whose updates are at a point of the grid."""
    own = run.macros.get("update", {})
    if point.method != job.WHOLE_SETS:
        # The paper's methods learn of the tokens that were said.
        own = {"UNWANTED_SETS": None, **own}
    macros = {**_MACROS, **own, **point.macros()}
    return dataclasses.replace(run, macros={**run.macros, "update": macros})


def _do_points(run: Run, points: Sequence[grid.Point]) -> list[Record]:
    done: list[Record] = []
    for number, point in enumerate(points, start=1):
        record = run_folder.do_stage(
            run.path("points", point.name),
            f"[{number}/{len(points)}] {point.label}",
            functools.partial(do_point, run, point),
            functools.partial(_to_go, done, left=len(points) - number),
        )
        done.append(record)
    return done


def _to_go(done: Sequence[Record], seconds: float, left: int) -> str:
    """Says how long the points that are left will take, by the mean of those done."""
    if not left:
        return ""
    known = [record["seconds"] for record in done] + [seconds]
    return f", about {sum(known) / len(known) * left / 60:.0f} min to go"


def results_of(
    run: Run, shared: dict[str, Record], points: Sequence[Record]
) -> dict[str, Any]:
    """Returns what `results.json` says, from the stages' records.

    `points` has every point with its scores and its distance from the ideal by split,
    but for the `failed`; `chosen` each method's point by
    name; `beaten_by` the methods that beat a method, chosen points on the test inputs;
    `front` those that none beats, the nearest to the ideal first.
    """
    done = [
        {**point, "distance": {split: grid.distance(point[split]) for split in SPLITS}}
        for point in points
        if "failed" not in point
    ]
    if not done:
        raise UserError(f"every update failed; the first: {points[0]['failed']}")
    methods = list(dict.fromkeys(point["method"] for point in done))
    chosen = {
        method: grid.choose([point for point in done if point["method"] == method])
        for method in methods
    }
    test = {method: point["test"] for method, point in chosen.items()}
    beaten_by = grid.beaten_by(test)
    front = [method for method in methods if not beaten_by[method]]
    return {
        "use_case": use_cases.find(run.use_case, run.data).name,
        "seed": run.seed,
        "methods": methods,
        "rule": grid.RULE,
        "chosen": {method: point["name"] for method, point in chosen.items()},
        "front": sorted(front, key=lambda method: grid.distance(test[method])),
        "beaten_by": beaten_by,
        "points": done,
        "failed": [point for point in points if "failed" in point],
        **run_folder.total_costs([*shared.values(), *points]),
        "stage_seconds": {name: record["seconds"] for name, record in shared.items()},
        "share_with_unwanted": shared["annotate"]["share_with_unwanted"],
    }


def run_all(run: Run, methods: Sequence[str]) -> dict[str, Any]:
    """Compares methods, or does what of it is not done yet.

    Args:
      run: the run; its `method` does not matter.
      methods: some of METHODS; whole sets are left out where nobody knows them.

    Returns:
      The results, as in `results.json`.

    Raises:
      UserError: the folder was made with other settings, the data are wrong, or every
        update failed.
    """
    from t5patches import report

    if use_cases.find(run.use_case, run.data).phrases is None:
        methods = [method for method in methods if method != job.WHOLE_SETS]
    if not methods:
        raise UserError(
            f"--methods {job.WHOLE_SETS}: only a list of phrases says what is in them"
        )
    asked = job.settings(run, methods="*")
    job.claim(run, asked)
    with run_folder.quiet():
        names = job.stages(run, [*job.SHARED_STAGES, job.EXACT])
        shared = job.do_stages(run, names, "{what}")
        points = _do_points(run, grid.points(methods))
        results = results_of(run, shared, points)
        json_files.write_json(run.path("results.json"), results)
        titles = {method: grid.title(method) for method in METHODS}
        table = report.write_comparison(run.folder, results, titles, asked)
    print(f"\n{table}\n\nThe report is {run.path('report.html')}", flush=True)
    return results
