"""The plan of a sweep: the file that says what is swept, and the points that it has.

    annotate = "phrases --phrases unwanted.txt"     # as behind `t5patches annotate`

    [update]                                        # `t5patches train`, but the method
    gin_files = ["models/t5_1_1_small.gin", "runs/update.gin", "tasks/annotated.gin",
                 "job.gin"]
    [update.macros]
    INITIAL_CHECKPOINT_PATH = "finetuned/checkpoint_10000"
    TRAIN_STEPS_RELATIVE = 1000
    FILES = {train = "annotated/train/*.tfrecord", validation = "…"}

    [generate]                                      # `t5patches generate`
    gin_files = ["models/t5_1_1_small.gin", "runs/generate.gin", "tasks/text.gin",
                 "job.gin"]

    [evaluate]
    old = {validation = "before/validation/text-predict", test = "…"}

    [[grid]]
    methods = ["tnff", "tnrr", "nl"]
    alphas = [0.25, 1, 4]
    learning_rates = [1e-3, 1e-4]
    seeds = [0, 1]
    sets = ["seen", "whole"]

TOML, or JSON of the same shape. Paths are relative to where the command is typed.
"""

from __future__ import annotations

import dataclasses
import itertools
import json
import os
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from t5patches import losses
from t5patches.errors import UserError
from t5patches.interchange import json_files, shards
from t5patches.run import scripts

SPLITS = ("validation", "test")
SETS = ("seen", "whole")
# What keeps an update to the tokens that were said.
_SEEN = {"UNWANTED_SETS": None, "UNWANTED_ALTERNATIVES": 0}

_TEXTS, _NUMBERS = (list, str), (list, (int, float))
_COMMAND = {"gin_files": _TEXTS, "macros": dict}
_EVALUATE = {"old": dict, "references": dict, "exact_update": dict}
_GRID = {
    "name": str, "title": str, "methods": _TEXTS, "alphas": _NUMBERS,
    "learning_rates": _NUMBERS, "seeds": (list, int), "sets": _TEXTS,
    "gin_files": _TEXTS, "macros": dict, "control": bool,
}  # fmt: skip
_PLAN = {
    "annotate": str, "update": dict, "generate": dict, "evaluate": dict,
    "distances": dict, "relearn": dict, "grid": (list, dict),
}  # fmt: skip
_KINDS = {
    str: "a text", dict: "a table", bool: "true or false", _TEXTS: "a list of texts",
    _NUMBERS: "a list of numbers", (list, int): "a list of whole numbers",
    (list, dict): "a list of tables, [[grid]]",
}  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Command:
    """Gin files and macros for one of T5X's scripts; later ones override."""

    gin_files: Sequence[str]
    macros: Mapping[str, Any]

    def plus(self, gin_files: Sequence[str] = (), **macros: Any) -> Command:
        """Returns the command with more of both."""
        return Command([*self.gin_files, *gin_files], {**self.macros, **macros})

    def at(self, point: Point) -> Command:
        """Returns the update at a point.

        The method's file comes behind those of gin/models, or else behind the first,
        an experiment's that includes one; the grid's come at the end.
        """
        models = [i for i, file in enumerate(self.gin_files) if "models/" in file]
        files = [*self.gin_files]
        files.insert(max(models, default=0) + 1, f"methods/{point.file}.gin")
        own = point.own
        return Command([*files, *own.gin_files], {**self.macros, **own.macros})

    def run(self, script: str, description: str) -> None:
        """Runs 'train' or 'infer' with it, as `scripts.run` does."""
        argv = [f"--gin_file={file}" for file in self.gin_files]
        argv += [f"--gin.{name}={_gin(v)}" for name, v in self.macros.items()]
        scripts.run(script, argv, description=description)

    def write(self, path: str) -> None:
        """Writes it as a gin file, which says the same alone."""
        lines = ["from __gin__ import dynamic_registration\n"]
        lines += [f"include {file!r}" for file in self.gin_files]
        lines += ["", *(f"{name} = {_gin(v)}" for name, v in self.macros.items())]
        with shards.atomic_write(path) as file:
            file.writelines(f"{line}\n" for line in lines)


def _gin(value: Any) -> str:
    """Returns a macro's value as gin reads it; texts may be references, or None."""
    refers = isinstance(value, str) and (value[:1] in ("@", "%") or value == "None")
    return value if refers else repr(value)


@dataclasses.dataclass(frozen=True)
class Point:
    """An update: a method with its settings.

    Attributes:
      method: what it is compared as: its file of gin/methods, or the grid's `name`.
      title: what the reader sees of that.
      alpha: None where a method has none.
      learning_rate: None for that of the gin files.
      seed: None for that of the gin files.
      control: whether it is no method but the no-op control, which shows the noise.
      file: of gin/methods, without its suffix.
      own: of the update's command, what not all points share.
    """

    method: str
    title: str
    alpha: float | None
    learning_rate: float | None
    seed: int | None
    control: bool
    file: str
    own: Command

    @property
    def name(self) -> str:
        """The name of its folder and its mark."""
        return self.method + self._settings("-alpha{:g}", "-lr{:g}", "-seed{}")

    @property
    def label(self) -> str:
        """What the reader sees of it all."""
        form = ", alpha {:g}", ", learning rate {:g}", ", seed {}"
        return self.title + self._settings(*form)

    def _settings(self, *forms: str) -> str:
        values = (self.alpha, self.learning_rate, self.seed)
        found = zip(forms, values, strict=True)
        return "".join(form.format(v) for form, v in found if v is not None)

    def fields(self) -> dict[str, Any]:
        """Returns what `results.json` says of it, besides its scores."""
        names = ("name", "method", "alpha", "learning_rate", "control")
        seed = {} if self.seed is None else {"seed": self.seed}
        return {name: getattr(self, name) for name in names} | seed


@dataclasses.dataclass(frozen=True)
class Plan:
    """What a sweep does; see the module's text.

    Attributes:
      annotate: what finds what is unwanted, in words of `t5patches annotate`.
      update: what the updates share.
      generate: of the outputs before and after.
      old: split -> the original's predictions.
      references: split -> file of the right outputs.
      exact_update: split -> predictions of the exact update.
      distances: of the probabilities from the exact update's, or None.
      relearn: fine-tuning on the original data that may bring back what was unwanted,
        or None.
      points: the grid's, in order.
    """

    annotate: str
    update: Command
    generate: Command
    old: Mapping[str, Any]
    references: Mapping[str, Any]
    exact_update: Mapping[str, Any]
    distances: Command | None
    relearn: Command | None
    points: Sequence[Point]

    def shared(self) -> dict[str, Any]:
        """Returns what all points depend on, JSON-able."""
        found = dataclasses.asdict(self)
        del found["points"], found["relearn"]
        return found


def read(path: str) -> Plan:
    """Reads the file of a plan.

    Raises:
      UserError: naming the file and what is missing, misspelt or wrong in it.
    """
    if not os.path.isfile(path):
        raise UserError(f"{path}: no such file")
    if path.endswith(".json"):
        return make(json_files.read_json(path), path)
    try:
        with open(path, "rb") as file:
            return make(tomllib.load(file), path)
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: {error}") from error


def make(found: Mapping[str, Any], path: str) -> Plan:
    """Makes a plan of what its file says.

    Args:
      found: as the module's text has it.
      path: of the file, for messages.

    Raises:
      UserError: see `read`.
    """
    _check(found, _PLAN, path, ("annotate", "update", "generate", "evaluate", "grid"))
    commands = {}
    for name in ("update", "generate", "distances", "relearn"):
        if name in found:
            _check(found[name], _COMMAND, f"{path}: [{name}]", ("gin_files",))
            commands[name] = _command(found[name])
    where = f"{path}: [evaluate]"
    evaluate = found["evaluate"]
    _check(evaluate, _EVALUATE, where, ("old",))
    for split in SPLITS:
        if split not in evaluate["old"]:
            raise UserError(
                f"{where} old: names no predictions of the {split} inputs; a method's "
                "point is chosen on 'validation' and reported on 'test'"
            )
    points = []
    for number, grid in enumerate(found["grid"], start=1):
        points += _points(grid, f"{path}: [[grid]] {number}")
    names = [point.name for point in points]
    for point in points:
        if names.count(point.name) > 1:
            raise UserError(
                f"{path}: two of the [[grid]] have {point.label}; give one a 'name'"
            )
    if all(point.control for point in points):
        raise UserError(f"{path}: no [[grid]] has anything to compare")
    return Plan(
        found["annotate"],
        commands["update"],
        commands["generate"],
        evaluate["old"],
        evaluate.get("references", {}),
        evaluate.get("exact_update", {}),
        commands.get("distances"),
        commands.get("relearn"),
        points,
    )


def title(method: str) -> str:
    """Returns a method's name for the reader: the paper's abbreviation, or words."""
    known = method in losses.METHODS
    return method.upper() if known else method.replace("_", " ")


def _points(grid: Mapping[str, Any], where: str) -> Iterator[Point]:
    _check(grid, _GRID, where, ("methods",))
    methods, sets = grid["methods"], grid.get("sets", [None])
    known = _methods()
    for value, allowed, what in ((methods, known, "method"), (sets, SETS, "sets")):
        for name in value:
            if name is not None and name not in allowed:
                raise UserError(
                    f"{where}: no {what} {name!r}; there is {', '.join(allowed)}"
                )
    if "name" in grid and (len(methods) > 1 or len(sets) > 1):
        raise UserError(f"{where}: a 'name' is for one method, and one of the sets")
    for method, kind in itertools.product(methods, sets):
        whole = kind == "whole" and len(sets) > 1
        key = grid.get("name", f"{method}_whole_sets" if whole else method)
        said = f"{title(method)}{' on whole sets' * whole}"
        said = grid.get("title", title(key) if "name" in grid else said)
        # Plain fine-tuning has no alpha.
        alphas = grid.get("alphas") if method in losses.METHODS else None
        rates, seeds = grid.get("learning_rates"), grid.get("seeds")
        for alpha, rate, seed in itertools.product(
            alphas or [None], rates or [None], seeds or [None]
        ):
            macros = {
                **(_SEEN if kind == "seen" else {}),
                **grid.get("macros", {}),
                **({} if alpha is None else {"ALPHA": float(alpha)}),
                **({} if rate is None else {"LEARNING_RATE": float(rate)}),
                **({} if seed is None else {"RANDOM_SEED": seed, "DATA_SEED": seed}),
            }
            own = Command(grid.get("gin_files", ()), macros)
            control = grid.get("control", False)
            yield Point(key, said, alpha, rate, seed, control, method, own)


def _methods() -> list[str]:
    folder = os.path.join(scripts.gin_root(), "methods")
    return sorted(file.removesuffix(".gin") for file in os.listdir(folder))


def _command(found: Mapping[str, Any]) -> Command:
    return Command(found["gin_files"], found.get("macros", {}))


def _check(
    found: Mapping[str, Any],
    fields: Mapping[str, Any],
    where: str,
    required: Sequence[str],
) -> None:
    """Checks that a table has the fields that it must have, and no others."""
    for name in required:
        if name not in found:
            raise UserError(f"{where}: {name!r} is missing")
    for name, value in found.items():
        if name not in fields:
            raise UserError(f"{where}: no field {name!r}; there is {', '.join(fields)}")
        kind = fields[name]
        whole, parts = kind if isinstance(kind, tuple) else (kind, None)
        right = isinstance(value, whole)
        if right and parts:
            right = bool(value) and all(isinstance(part, parts) for part in value)
            right &= parts is str or not any(isinstance(p, bool) for p in value)
        if not right:
            text = json.dumps(value, default=str)[:60]
            raise UserError(f"{where}: {name!r} must be {_KINDS[kind]}, not {text}")
