"""Several methods on one job: an update for each point of the grid, and who is better.

The corpus, the fine-tuned model, its generations and their annotations are made once.
Beside the files of `pipeline.py`:

    RUN/points/POINT/model/          the updated model
    RUN/points/POINT/SPLIT/          its generations, validation and test
    RUN/stages/points/POINT.json     a point that is done: its scores
    RUN/results.json, report.html, report.png

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
from t5patches.interchange import claims, json_files
from t5patches.quickstart import baselines, grid, pipeline, stages
from t5patches.quickstart.pipeline import Run

SPLITS = ("validation", "test")
# A point is done again from its start: one checkpoint, of the end, is enough.
_MACROS = {"SAVE_PERIOD": 400, "EVAL_PERIOD": 400, "KEEP_CHECKPOINTS": 1}


def methods_of(text: str) -> list[str]:
    """The methods that `--methods` names: 'all', or some, separated by commas.

    Raises:
      UserError: one of them is none, or none is given.
    """
    if text == "all":
        return list(pipeline.METHODS)
    names = [name.strip() for name in text.split(",") if name.strip()]
    for name in names or [text]:
        if name not in pipeline.METHODS:
            raise UserError(
                f"--methods {text}: no method {name!r}; there is "
                f"{', '.join(pipeline.METHODS)}, or all"
            )
    return list(dict.fromkeys(names))


def settings(run: Run) -> dict[str, Any]:
    """What decides the results, for the plan: not which methods were asked for."""
    return {
        **run.settings(),
        "method": "several",
        "gin files": claims.file_digest(run.gin_files("*")),
    }


def do_point(run: Run, point: grid.Point) -> dict[str, Any]:
    """Updates, generates and evaluates.

    Returns:
      The point, and its scores by split, or `failed`, in words, where the loss became
      infinite (some settings are too much for a method) or a baseline has no data.
    """
    folder = f"points/{point.name}"
    found: dict[str, Any] = {"name": point.name, **dataclasses.asdict(point)}
    try:
        pipeline.update_model(_with_macros(run, point), point.method, f"{folder}/model")
    except UserError as error:
        # The trainer leaves the batch; any other mistake is not the point's own.
        model = epath.Path(run.path(folder, "model"))
        diverged = any(model.glob("bad_batch_*"))
        if not diverged and not isinstance(error, baselines.NothingLeftError):
            raise
        return {**found, "failed": str(error).splitlines()[0]}
    for split in SPLITS:
        pipeline.generate(run, f"{folder}/model", folder, split)
        found[split], _ = pipeline.compare(run, folder, split)
    # Programs and data sets of this point; what others share is cached on disk.
    jax.clear_caches()
    gc.collect()
    return found


def _with_macros(run: Run, point: grid.Point) -> Run:
    """The run whose updates are at a point of the grid."""
    own = run.macros.get("update", {})
    macros = {**_MACROS, **own, **point.macros()}
    return dataclasses.replace(run, macros={**run.macros, "update": macros})


def _do_points(run: Run, points: Sequence[grid.Point]) -> list[stages.Record]:
    done: list[stages.Record] = []
    for number, point in enumerate(points, start=1):
        left = len(points) - number
        record = stages.do(
            run.folder,
            f"points/{point.name}",
            f"[{number}/{len(points)}] {point.label}",
            functools.partial(do_point, run, point),
            hint=lambda seconds, left=left: _to_go(done, seconds, left),
        )
        done.append(record)
    return done


def _to_go(done: Sequence[stages.Record], seconds: float, left: int) -> str:
    """How long the points that are left will take, by the mean of those done."""
    if not left:
        return ""
    known = [record["seconds"] for record in done] + [seconds]
    return f", about {sum(known) / len(known) * left / 60:.0f} min to go"


def results_of(
    run: Run, shared: dict[str, stages.Record], points: Sequence[stages.Record]
) -> dict[str, Any]:
    """What `results.json` says, from the stages' records.

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
    everything = [*shared.values(), *points]
    return {
        "use_case": run.job.name,
        "seed": run.seed,
        "methods": methods,
        "rule": grid.RULE,
        "chosen": {method: point["name"] for method, point in chosen.items()},
        "front": sorted(front, key=lambda method: grid.distance(test[method])),
        "beaten_by": beaten_by,
        "points": done,
        "failed": [point for point in points if "failed" in point],
        "seconds": sum(record["seconds"] for record in everything),
        "cpu_seconds": sum(record["cpu_seconds"] for record in everything),
        "peak_memory_gb": max(record["peak_memory_gb"] for record in everything),
        "stage_seconds": {name: record["seconds"] for name, record in shared.items()},
        "share_with_unwanted": shared["annotate"]["share_with_unwanted"],
    }


def run_all(run: Run, methods: Sequence[str]) -> dict[str, Any]:
    """Compares methods, or does what of it is not done yet.

    Args:
      run: the run; its `method` does not matter.
      methods: some of `pipeline.METHODS`.

    Returns:
      The results, as in `results.json`.

    Raises:
      UserError: the folder was made with other settings, the data are wrong, or every
        update failed.
    """
    from t5patches import report

    stages.claim(run.folder, settings(run))
    with stages.quiet():
        shared = {}
        for stage in pipeline.SHARED_STAGES:
            work = functools.partial(stage.work, run)
            shared[stage.name] = stages.do(run.folder, stage.name, stage.what, work)
        points = _do_points(run, grid.points(methods))
        results = results_of(run, shared, points)
        json_files.write_json(run.path("results.json"), results)
        table = report.write_comparison(
            run.folder,
            results,
            titles={method: grid.title(method) for method in pipeline.METHODS},
            settings=settings(run),
        )
    print(f"\n{table}\n\nThe report is {run.path('report.html')}", flush=True)
    return results
