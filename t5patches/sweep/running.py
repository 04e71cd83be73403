"""A sweep: an update for each point of a plan, evaluated; and what comes of them all.

    SWEEP/points/POINT/model/       the updated model
    SWEEP/points/POINT/SPLIT/       its generations, validation and test
    SWEEP/points/POINT/distances/   distances from the exact update, if asked for
    SWEEP/points/POINT/results.json what `evaluate` says of the test inputs, with
                                    every example beside it, for `t5patches report`
    SWEEP/points/POINT/relearned/   the model fine-tuned again, if that was asked for
    SWEEP/points/POINT.done.json    a point that is done: its scores, or why it failed
    SWEEP/results.json, report.html, report.png, report.csv

A sweep that was stopped goes on with the point it was in, and takes more points later.
Commands that are typed at the same time, in one folder, share the points between them.
In one process, programs that points share are compiled once: alpha, learning rate and
seed are no constants of the step.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import gc
import inspect
import itertools
import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from etils import epath

from t5patches import errors
from t5patches import evaluate as evaluation
from t5patches.annotate.annotator import Annotator
from t5patches.checkpoints import finding
from t5patches.errors import UserError
from t5patches.evaluate import intervals
from t5patches.interchange import claims, json_files, results_files, shards
from t5patches.report import points, reading
from t5patches.run import stages
from t5patches.run.stages import Record
from t5patches.sweep import choice
from t5patches.sweep.plan import SPLITS, Command, Plan, Point, title

Row = Mapping[str, Any]


class Sweep:
    """The points of a plan in a folder.

    Attributes:
      plan: what is swept.
      folder: where it is, absolute.
      annotator: finds what is unwanted in outputs.
    """

    def __init__(self, plan: Plan, annotator: Annotator, folder: str):
        """Claims the folder.

        Raises:
          UserError: it is of another plan, or the plan of a point that is done has
            changed.
        """
        self.plan = plan
        self.folder = os.path.abspath(folder)
        # Old outputs, and new ones that are as they were, are judged once.
        several = "row" in inspect.signature(annotator).parameters
        self.annotator = annotator if several else functools.cache(annotator)
        claim = {"step": "sweep", **self._portable(plan.shared())}
        name = f"sweep.{claims.SETTINGS}"
        claims.claim(self.folder, claim, results=("points",), name=name)
        for point in plan.points:
            unit, own = self._path(point), self._own(point)
            found = claims.findings(unit)
            if found and found.get("again"):  # It failed for a reason that may be gone.
                claims.unmark(unit)
            elif found and claims.findings(unit, own) is None:
                raise UserError(
                    f"{unit}.done.json: this point was made with other gin files or "
                    "macros of its [[grid]]; give the grid a 'name', or remove the mark"
                    f" and {unit}"
                )

    def _path(self, point: Point, *parts: str) -> str:
        return os.path.join(self.folder, "points", point.name, *parts)

    def _portable(self, value: Any) -> Any:
        """Returns a value whose paths in the folder do not say where that is."""
        if isinstance(value, Mapping):
            return {key: self._portable(part) for key, part in value.items()}
        if isinstance(value, list | tuple):
            return [self._portable(part) for part in value]
        return value.replace(self.folder, ".") if isinstance(value, str) else value

    def _own(self, point: Point) -> dict[str, Any]:
        own = point.own
        found = {"method": point.file, "files": own.gin_files, "macros": own.macros}
        return self._portable(found)

    def do_points(self) -> None:
        """Does the points that are left and that nobody else is at.

        Raises:
          UserError: the first of all points failed, as the others would.
        """
        done, count = [], len(self.plan.points)
        for number, point in enumerate(self.plan.points, start=1):
            unit = self._path(point)
            label = f"[{number}/{count}] {point.label}"
            with contextlib.ExitStack() as stack:
                try:
                    stack.enter_context(claims.lock(unit))
                except UserError:  # Another command is at it.
                    print(f"{label}: done by another command", flush=True)
                    continue
                record = stages.do_stage(
                    unit,
                    label,
                    functools.partial(self._do_point, point),
                    functools.partial(_to_go, done, left=count - number),
                    self._own(point),
                )
            done.append(record)

    def left(self) -> int:
        """Returns how many points are not done."""
        return sum(claims.findings(self._path(p)) is None for p in self.plan.points)

    def _do_point(self, point: Point) -> Record:
        model = self._path(point, "model")
        try:
            self._update(self.plan.update.at(point), point, "model")
            found = {split: self._compare(point, "model", split) for split in SPLITS}
        except Exception as error:
            known = errors.explained(error)
            if known is None:
                raise
            failed = {"failed": str(known).splitlines()[0]}
            # The trainer leaves the batch of a loss that is infinite or NaN.
            if any(epath.Path(model).glob("bad_batch_*")):
                return failed
            others = (claims.findings(self._path(p)) for p in self.plan.points)
            if not any(others):
                raise
            return {**failed, "again": True}
        # Programs and data sets of this point; what others share is cached on disk.
        jax.clear_caches()
        gc.collect()
        return found

    def _update(self, command: Command, point: Point, name: str) -> None:
        folder = self._path(point, name)
        command.plus(MODEL_DIR=folder).run("train", point.label)

    def _compare(self, point: Point, model: str, split: str) -> dict[str, Any]:
        """Generates with a model of a point and compares with the original."""
        folder = split if model == "model" else f"{model}_{split}"
        output, distances = self._path(point, folder), None
        macros = {"CHECKPOINT_PATH": _best(self._path(point, model)), "SPLIT": split}
        generate = self.plan.generate.plus(INFER_OUTPUT_DIR=output, **macros)
        generate.run("infer", f"{point.label}, {split}")
        if self.plan.distances and folder == "test":
            place = self._path(point, "distances")
            measure = self.plan.distances.plus(INFER_OUTPUT_DIR=place, **macros)
            measure.run("infer", f"{point.label}, distances")
            distances = shards.expand(os.path.join(place, "*-score-*.jsonl"))
        results, examples = evaluation.evaluate_files(
            self.plan.old[split],
            predictions(output),
            self.annotator,
            references=self.plan.references.get(split),
            exact_update=self.plan.exact_update.get(split),
            distances=distances,
        )
        if folder == "test":
            path = self._path(point, "results.json")
            method = {"method": point.method}
            results_files.write(path, {**method, **results}, examples)
        return results

    def relearn(self, point: Point) -> Record:
        """Fine-tunes a point's model on the original data again, and compares."""
        command = self.plan.relearn
        assert command is not None
        best = _best(self._path(point, "model"))
        self._update(command.plus(INITIAL_CHECKPOINT_PATH=best), point, "relearned")
        steps = finding.step_of(_best(self._path(point, "relearned")))
        scores = self._compare(point, "relearned", "test")
        return {"steps": steps - finding.step_of(best), "test": scores}

    def results(self) -> dict[str, Any]:
        """Returns what `results.json` says.

        `points` has every point with its scores and its distance from the ideal by
        split, but for the `failed`; `chosen` each method's point by name, that of its
        first seed; `beaten_by` the methods that beat a method, chosen points on the
        test inputs; `front` those that none beats, the nearest to the ideal first;
        `comparisons` tests of the best method of each column against the others.

        Raises:
          UserError: all points have failed.
        """
        rows, failed = [], []
        by_name = {point.name: point for point in self.plan.points}
        for point in self.plan.points:
            record = claims.findings(self._path(point))
            assert record is not None  # See `left`.
            row = {**point.fields(), "model": f"points/{point.name}/model", **record}
            if "failed" in row:
                failed.append(row)
                continue
            near = {split: choice.distance(row[split]) for split in SPLITS}
            rows.append({**row, "distance": near})
        methods = list(dict.fromkeys(r["method"] for r in rows if not r["control"]))
        if not methods:
            raise UserError(f"every update failed; the first: {failed[0]['failed']}")
        chosen = {
            method: choice.choose([row for row in rows if row["method"] == method])
            for method in methods
        }
        if self.plan.relearn:
            for row in itertools.chain(*chosen.values()):
                point = by_name[row["name"]]
                unit = self._path(point, "relearned")
                label = f"{point.label}: fine-tune again"
                work = functools.partial(self.relearn, point)
                source = self._portable(dataclasses.asdict(self.plan.relearn))
                found = stages.do_stage(unit, label, work, source=source)
                row["relearned"] = found
        tests = {m: [row["test"] for row in some] for m, some in chosen.items()}
        beaten_by = points.beaten_by(tests)
        front = [method for method in methods if not beaten_by[method]]
        names = {method: rows[0]["name"] for method, rows in chosen.items()}
        return {
            "methods": methods,
            "titles": {p.method: p.title for p in self.plan.points},
            "rule": choice.RULE,
            "chosen": names,
            "front": sorted(front, key=lambda m: chosen[m][0]["distance"]["test"]),
            "beaten_by": beaten_by,
            "comparisons": self._tests(chosen),
            "points": rows,
            "failed": failed,
        }

    def _tests(self, chosen: Mapping[str, Sequence[Row]]) -> list[dict[str, Any]]:
        """Tests the best chosen updates against the others, on the test inputs.

        Seeds are pooled: what they say to an input is drawn together.
        """
        fewest = min(map(len, chosen.values()))
        paths, scores = {}, {}
        for row in itertools.chain(*(rows[:fewest] for rows in chosen.values())):
            name = row["name"]
            scores[name] = row["test"]
            paths[name] = os.path.join(self.folder, "points", name, "results.json")
        columns = reading.columns(paths, scores)
        if not columns:
            return []
        pooled = {
            method: np.vstack([columns[row["name"]] for row in rows[:fewest]])
            for method, rows in chosen.items()
        }
        inputs = np.arange(len(next(iter(columns.values()))))
        clusters = np.tile(inputs, fewest) if fewest > 1 else None
        return intervals.tests(pooled, clusters)


def predictions(folder: str) -> list[str]:
    """Returns the files of the generations in a folder."""
    return shards.expand(os.path.join(folder, "*-predict-*.jsonl"))


def _best(model: str) -> str:
    return finding.choose_checkpoint(model, "best")


def _to_go(done: Sequence[Record], seconds: float, left: int) -> str:
    """Says how long the points that are left will take, by the mean of those done."""
    if not left:
        return ""
    known = [record["seconds"] for record in done] + [seconds]
    return f", about {sum(known) / len(known) * left / 60:.0f} min to go"


def run(
    sweep: Sweep,
    made: Mapping[str, Any],
    about: Mapping[str, Any] | None = None,
    before: Mapping[str, Record] | None = None,
    failed: Sequence[Mapping[str, Any]] = (),
    wait: Callable[[], None] = lambda: None,
) -> dict[str, Any] | None:
    """Does what is left of a sweep; writes its results and its report.

    Args:
      sweep: what to do.
      made: names and values for the page's section on how it was made.
      about: more fields of the results.
      before: the records of the stages that came before, by name.
      failed: points that could not even be planned, as the results have them.
      wait: waits for other processes that are at points, before the results.

    Returns:
      The results, as in `results.json`; None if other commands are at points.

    Raises:
      UserError: every update failed.
    """
    from t5patches import report

    sweep.do_points()
    wait()
    if left := sweep.left():
        print(
            f"{left} points are not done: other commands are at them, or have failed. "
            "Typed again, this one goes on"
        )
        return None
    results = {**sweep.results(), **(about or {})}
    results["failed"] += failed
    results["titles"] |= {row["method"]: title(row["method"]) for row in failed}
    before = before or {}
    records = [*before.values(), *results["points"], *results["failed"]]
    results |= stages.total_costs([r for r in records if "seconds" in r])
    if before:
        spent = {name: record["seconds"] for name, record in before.items()}
        results["stage_seconds"] = spent
    json_files.write_json(os.path.join(sweep.folder, "results.json"), results)
    titles = results["titles"]
    table = report.write_comparison(sweep.folder, results, titles, made)
    page = os.path.join(sweep.folder, "report.html")
    print(f"\n{table}\n\nThe report is {page}", flush=True)
    return results
