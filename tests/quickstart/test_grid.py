"""The grid of the comparison: its points, the choice of one, and who beats whom."""

import math

import pytest

from t5patches import losses
from t5patches.quickstart import grid, job, sweep


def scores(after, same, before=0.4):
    prevalence = {"before": before, "after": after}
    return {"prevalence": prevalence, "exact_match": {"clean": same}}


def test_every_method_has_the_same_points_and_a_name_of_its_own():
    points = grid.points(sweep.METHODS)
    assert len({point.name for point in points}) == len(points)
    for method in job.METHODS:
        found = [(p.alpha, p.learning_rate) for p in points if p.method == method]
        family = method in losses.METHODS
        assert found == list(grid.FAMILY if family else grid.BASELINES)


def test_the_whole_grid_takes_an_hour_and_a_half():
    # 100 seconds a point on two cores, and six minutes before the first.
    assert len(grid.points(sweep.METHODS)) * 100 + 360 < 90 * 60


def test_macros():
    rate = {"LEARNING_RATE": 0.001}
    assert grid.Point("ul", 4.0, 0.001).macros() == {"ALPHA": 4.0, **rate}
    assert grid.Point("filtered", None, 0.001).macros() == rate


@pytest.mark.parametrize(
    ("values", "distance"),
    [
        (scores(0.0, 1.0), 0.0),
        (scores(0.4, 1.0), 1.0),
        (scores(0.12, 0.6), 0.5),
        (scores(0.1, None, before=0.0), 0.1),
    ],
)
def test_distance(values, distance):
    assert math.isclose(grid.distance(values), distance, abs_tol=1e-12)


def test_the_choice_does_not_look_at_the_test_inputs():
    rows = [
        {"name": "a", "validation": scores(0.1, 0.99), "test": scores(0.0, 1.0)},
        {"name": "b", "validation": scores(0.01, 0.97), "test": scores(0.4, 0.1)},
    ]
    assert grid.choose(rows)["name"] == "b"


def test_beaten_by():
    # Name -> its scores, and the names that beat it.
    table = {
        "best": (scores(0.01, 0.99), []),
        "cleaner": (scores(0.0, 0.9), []),
        "worse": (scores(0.01, 0.98), ["best", "twin"]),
        "worst": (scores(0.3, 0.5), ["best", "cleaner", "worse", "twin"]),
        "twin": (scores(0.01, 0.99), []),
    }
    found = grid.beaten_by({name: row for name, (row, _) in table.items()})
    assert found == {name: beaten_by for name, (_, beaten_by) in table.items()}
