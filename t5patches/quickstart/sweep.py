"""Several methods on the quickstart's job: the plan of a sweep, written and done.

The corpus, the fine-tuned model, its generations and their annotations are made once;
RUN/sweep.json is the plan, as `t5patches sweep` takes it, and RUN is the sweep's
folder, too. A folder made for some methods takes more of them later.

Every method of the family gets the same points: alpha over almost two decades. The
baselines have no alpha; they get three learning rates. Whole sets are learned by a few
parameters, at a larger rate.
"""

import shlex
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from t5patches.errors import UserError
from t5patches.interchange import json_files
from t5patches.quickstart import job, use_cases
from t5patches.quickstart.run_folder import Run
from t5patches.run.stages import quiet
from t5patches.sweep import plan, running

# TNFF as the quickstart's own update has it, where a list of phrases says all.
WHOLE_SETS = "whole_sets"
METHODS = (*job.METHODS, WHOLE_SETS)
FAMILY = {"alphas": [0.25, 1.0, 4.0, 16.0], "learning_rates": [0.001]}
BASELINES = {"learning_rates": [0.0003, 0.001, 0.003]}
ROWS = ({"alphas": [0.25, 1.0, 4.0], "learning_rates": [0.04]},
        {"alphas": [1.0], "learning_rates": [0.01]})  # fmt: skip
# As many steps on the model's own clean outputs, at the family's rate.
CONTROL = {
    "name": "control",
    "title": "no-op control",
    "methods": ["filtered"],
    "learning_rates": FAMILY["learning_rates"],
    "control": True,
}
Points = Sequence[Mapping[str, Any]]
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


def points(method: str) -> Points:
    """Returns the alphas and learning rates of a method, or of the control."""
    if method == CONTROL["name"]:
        return [CONTROL]
    if method == WHOLE_SETS:
        return ROWS
    return [BASELINES if method in job.BASELINES else FAMILY]


def grid(
    files: Mapping[str, Any], points: Callable[[str], Points] = points
) -> list[dict[str, Any]]:
    """Returns the plan's grid.

    Args:
      files: what is trained on by method, some of METHODS, and the control.
      points: returns a method's alphas and learning rates.
    """
    found = []
    for method in files:
        own = {"methods": [job.BASELINES.get(method, method)], "sets": ["seen"]}
        if method == WHOLE_SETS:
            title = "TNFF on whole sets"
            own = {"title": title, "methods": ["tnff"], "gin_files": [job.ROWS]}
        elif method == CONTROL["name"]:
            own |= CONTROL
        macros = {"macros": {"FILES": files[method]}}
        found += [{"name": method, **own, **macros, **one} for one in points(method)]
    return found


def _plan(
    run: Run,
    files: Mapping[str, Any],
    points: Callable[[str], Points],
    relearn: int | None,
) -> dict[str, Any]:
    """Returns the plan, as its file has it."""
    use_case, corpus = use_cases.find(run.use_case, run.data), run.corpus_files()
    seeds = {"RANDOM_SEED": run.seed, "DATA_SEED": run.seed}
    start = {"INITIAL_CHECKPOINT_PATH": run.checkpoint("finetuned"), **seeds}
    cache = {"FROZEN_CACHE": run.path("frozen_states")}
    evaluate: dict[str, Any] = {
        "old": {split: run.predictions("before", split) for split in plan.SPLITS},
        "references": {split: corpus[split] for split in plan.SPLITS},
    }
    if use_case.phrases is not None:
        evaluate["exact_update"] = {"test": run.predictions("exact")}
    found: dict[str, Any] = {
        "annotate": shlex.join(use_case.annotate(run)),
        "update": {
            "gin_files": [job.MODEL, f"{job.GIN}/update.gin"],
            "macros": job.macros_of(run, "update", **_MACROS, **start, **cache),
        },
        "generate": {
            "gin_files": [f"{job.GIN}/generate.gin"],
            "macros": job.macros_of(run, "generate", FILES=corpus),
        },
        "evaluate": evaluate,
        "distances": {
            "gin_files": [job.MODEL, "runs/distances.gin", f"{job.GIN}/_shared.gin"],
            "macros": job.macros_of(
                run,
                "distances",
                FILES={"test": run.annotated("test")},
                ORIGINAL_CHECKPOINT_PATH=start["INITIAL_CHECKPOINT_PATH"],
                BATCH_SIZE=128,
            ),
        },
        "grid": grid(files, points),
    }
    if relearn:
        steps = {"TRAIN_STEPS_RELATIVE": relearn, "LEARNING_RATE": 0.001}
        files_of = ("runs/finetune.gin", "tasks/text.gin", f"{job.GIN}/_shared.gin")
        macros = {**_MACROS, **steps, **seeds, "BATCH_SIZE": 64, "EVAL_STEPS": 4}
        macros |= {name: relearn for name in ("SAVE_PERIOD", "EVAL_PERIOD")}
        found["relearn"] = {
            "gin_files": [job.MODEL, *files_of],
            "macros": {**job.macros_of(run, "relearn", FILES=corpus), **macros},
        }
    return found


def run_all(
    run: Run,
    methods: Sequence[str],
    relearn: int | None = None,
    points: Callable[[str], Points] = points,
) -> dict[str, Any]:
    """Compares methods, or does what of it is not done yet.

    Args:
      run: the run; its `method` does not matter.
      methods: some of METHODS; whole sets are left out where nobody knows them.
      relearn: steps on the original data that the chosen models are trained for again.
      points: returns a method's alphas and learning rates.

    Returns:
      The results, as in `results.json`.

    Raises:
      UserError: the folder was made with other settings, the data are wrong, or every
        update failed.
    """
    use_case = use_cases.find(run.use_case, run.data)
    if use_case.phrases is None:
        methods = [method for method in methods if method != WHOLE_SETS]
    if not methods:
        raise UserError(
            f"--methods {WHOLE_SETS}: only a list of phrases says what is in them"
        )
    asked = job.settings(run, methods="*")
    job.claim(run, asked)
    with quiet():
        names = job.stages(run, [*job.SHARED_STAGES, job.EXACT])
        shared = job.do_stages(run, names, "{what}")
        files, failed = {}, []
        for method in (*methods, CONTROL["name"]):
            trained = {WHOLE_SETS: "tnff", CONTROL["name"]: "filtered"}
            whole, kind = method == WHOLE_SETS, trained.get(method, method)
            try:
                files[method] = job.update_files(run, kind, whole)
            except job.NothingLeftError as error:
                failed.append({**_nothing(method), "failed": str(error)})
        if not files.keys() - {CONTROL["name"]}:
            raise UserError(f"every update failed; the first: {failed[0]['failed']}")
        path = run.path("sweep.json")
        json_files.write_json(path, _plan(run, files, points, relearn))
        sweep = running.Sweep(plan.read(path), use_case.annotator(run), run.folder)
        about = {
            "use_case": use_case.name,
            "seed": run.seed,
            "share_with_unwanted": shared["annotate"]["share_with_unwanted"],
        }
        return running.run(sweep, asked, about, shared, failed)


def _nothing(method: str) -> dict[str, Any]:
    """Returns the fields of a point that there is not."""
    settings = dict.fromkeys(("alpha", "learning_rate"))
    return {"name": method, "method": method, "control": False, **settings}
