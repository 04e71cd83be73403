"""Training curves: what the engine's writer wrote comes back, drawn and as CSV."""

import csv

import numpy as np
import pytest
from clu import metric_writers

from t5patches import report
from t5patches.report import training_curves
from tests.report.test_numbers import PLAIN

TRAIN = {100: 0.5, 200: 0.25, 300: 0.125}


@pytest.fixture
def model(tmp_path):
    """A model folder; its training was stopped once, after it had written step 200."""
    for name, some in (("train", TRAIN), ("training_eval/annotated", {300: 0.0625})):
        for steps in ([100, 200], [200, 300]) if name == "train" else ([300],):
            writer = metric_writers.SummaryWriter(str(tmp_path / "updated" / name))
            for step in steps:
                values = {"unwanted/probability": some[step], "accuracy": 1.0}
                writer.write_scalars(step, values)
            writer.close()
    return tmp_path / "updated"


def test_curves_of_a_run_that_went_on(model):
    curves = training_curves.read(model)
    assert curves == {
        ("train", "unwanted/probability"): TRAIN,
        ("validation", "unwanted/probability"): {300: 0.0625},
    }
    panels = training_curves.draw([training_curves.Run("x", "red", curves)]).axes
    train, validation = panels[3].lines
    assert np.array_equal(train.get_xydata(), [*TRAIN.items()])
    assert np.array_equal(validation.get_xydata(), [(300, 0.0625)])
    assert not any(axes.lines for axes in panels[:3])


def test_the_report_has_them(model, tmp_path):
    report.write_report(tmp_path, {**PLAIN, "model": "updated"}, [])
    page = (tmp_path / "report.html").read_text()
    assert page.count("<img ") == 2 and "<h2>Training</h2>" in page
    assert (tmp_path / "training.png").read_bytes().startswith(b"\x89PNG")
    found = list(csv.DictReader((tmp_path / "training.csv").open()))
    values = {int(row["step"]): float(row["value"]) for row in found[:3]}
    assert values == TRAIN and len(found) == 4
    assert {row["split"] for row in found} == {"train", "validation"}


def test_a_folder_without_any(tmp_path):
    (tmp_path / "updated/train").mkdir(parents=True)
    assert training_curves.read(tmp_path / "updated") == {}
    report.write_report(tmp_path, {**PLAIN, "model": "elsewhere"}, [])
    assert "Training" not in (tmp_path / "report.html").read_text()
    assert not (tmp_path / "training.png").exists()
