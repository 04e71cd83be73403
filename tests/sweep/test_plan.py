"""The plan's file: the points that it has, and what is wrong in it."""

import copy
import json
import pathlib
import re

import pytest

from t5patches.errors import UserError
from t5patches.sweep import plan

ROOT = pathlib.Path(__file__).resolve().parents[2]
PLAN = {
    "annotate": "phrases --phrases rude.txt",
    "update": {
        "gin_files": ["models/t5_1_1_tiny.gin", "runs/update.gin", "job.gin"],
        "macros": {"TRAIN_STEPS_RELATIVE": 10, "ALPHA": 8.0},
    },
    "generate": {"gin_files": ["models/t5_1_1_tiny.gin", "runs/generate.gin"]},
    "evaluate": {"old": {"validation": "before/validation", "test": "before/test"}},
    "grid": [{"methods": ["tnff"]}],
}


def points(*grids):
    return plan.make({**PLAN, "grid": [*grids]}, "sweep.toml").points


def test_the_example_of_the_text_is_a_plan(tmp_path):
    text = plan.__doc__.split("\n\n", 1)[1].rpartition("\n\n")[0]
    path = tmp_path / "sweep.toml"
    path.write_text(text)
    found = plan.read(str(path))
    # NL has an alpha, too; a seed, sets, an alpha and a rate each.
    assert len(found.points) == 3 * 3 * 2 * 2 * 2
    assert len({point.name for point in found.points}) == len(found.points)
    (tmp_path / "sweep.json").write_text(json.dumps(PLAN))
    assert plan.read(str(tmp_path / "sweep.json")).points[0].name == "tnff"


def test_a_point_is_a_command():
    grid = {"methods": ["ul"], "alphas": [2], "learning_rates": [1e-4], "seeds": [3]}
    (point,) = points({**grid, "macros": {"Z_LOSS": 0}, "gin_files": ["mine.gin"]})
    assert point.name == "ul-alpha2-lr0.0001-seed3"
    assert point.label == "UL, alpha 2, learning rate 0.0001, seed 3"
    command = plan.make(PLAN, "").update.at(point)
    assert command.gin_files == [
        *("models/t5_1_1_tiny.gin", "methods/ul.gin", "runs/update.gin"),
        *("job.gin", "mine.gin"),
    ]
    assert command.macros == {
        **{"TRAIN_STEPS_RELATIVE": 10, "ALPHA": 2.0, "Z_LOSS": 0},
        **{"LEARNING_RATE": 1e-4, "RANDOM_SEED": 3, "DATA_SEED": 3},
    }


def test_the_method_of_an_experiment():
    (point,) = points({"methods": ["nl"]})
    command = plan.Command(["experiments/xsum/update.gin", "job.gin"], {})
    files = ["experiments/xsum/update.gin", "methods/nl.gin", "job.gin"]
    assert command.at(point).gin_files == files


def test_the_plan_of_the_docs(tmp_path):
    text = (ROOT / "docs" / "methods.md").read_text()
    (tmp_path / "sweep.toml").write_text(re.search("```toml\n(.*?)```", text, re.S)[1])
    found = plan.read(str(tmp_path / "sweep.toml"))
    names = [point.name for point in found.points]
    assert len(names) == 3 * 2 * 2 + 2 + 3 + 1 and "mended-lr0.0001" in names
    assert found.relearn and found.exact_update


def test_baselines_have_no_alpha_and_sets_a_name():
    several = {"alphas": [1, 4], "sets": ["seen", "whole"]}
    found = points({"methods": ["tnff", "filtered"], **several})
    names = [point.name for point in found]
    assert names == [
        *("tnff-alpha1", "tnff-alpha4", "tnff_whole_sets-alpha1"),
        *("tnff_whole_sets-alpha4", "filtered", "filtered_whole_sets"),
    ]
    assert found[0].own.macros["UNWANTED_SETS"] is None
    assert "UNWANTED_SETS" not in found[2].own.macros
    assert found[2].title == "TNFF on whole sets"


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("a/b", "'a/b'"),
        ("%OTHER", "%OTHER"),
        ("@tasks.mine()", "@tasks.mine()"),
        ("None", "None"),
        (None, "None"),
        ({"train": ["a"]}, "{'train': ['a']}"),
    ],
)
def test_how_gin_reads_a_macro(value, text):
    assert plan._gin(value) == text


@pytest.mark.parametrize(
    ("place", "value", "says"),
    [
        (["upadte"], {}, r"sweep.toml: no field 'upadte'; there is annotate"),
        (["update", "gin_file"], [], r"\[update\]: no field 'gin_file'"),
        (["update", "gin_files"], "a.gin", "must be a list of texts, not .*a.gin"),
        (["evaluate", "old"], {"test": "x"}, "no predictions of the validation inputs"),
        (["grid"], {}, r"a list of tables, \[\[grid\]\]"),
        (["grid"], [], r"a list of tables, \[\[grid\]\]"),
        (["grid"], [{"methods": ["tnf"]}], r"\[\[grid\]\] 1: no method 'tnf'; .*tnff"),
        (["grid"], [{"methods": ["ul"], "sets": ["all"]}], "no sets 'all'"),
        (["grid"], [{"methods": ["ul"], "alphas": [True]}], "must be a list of num"),
        (["grid"], [{"methods": ["ul"], "seeds": [0.5]}], "whole numbers"),
        (["grid"], [{"methods": ["ul"]}] * 2, "two of the .* have UL; give one a 'na"),
        (["grid"], [{"methods": ["ul", "nl"], "name": "a"}], "'name' is for one"),
        (["grid"], [{"methods": ["ul"], "control": True}], "anything to compare"),
    ],
)
def test_what_is_wrong(place, value, says):
    found = copy.deepcopy(PLAN)
    table = found
    for name in place[:-1]:
        table = table[name]
    table[place[-1]] = value
    with pytest.raises(UserError, match=says):
        plan.make(found, "sweep.toml")


def test_wrong_files(tmp_path):
    with pytest.raises(UserError, match="no such file"):
        plan.read(str(tmp_path / "none.toml"))
    path = tmp_path / "sweep.toml"
    path.write_text("a = [}")
    with pytest.raises(UserError, match="sweep.toml: .*line 1"):
        plan.read(str(path))
    del (missing := {**PLAN})["annotate"]
    with pytest.raises(UserError, match="'annotate' is missing"):
        plan.make(missing, "sweep.toml")
