"""Which point stands for a method."""

import math

import pytest

from t5patches.sweep import choice


def scores(after, same, before=0.4):
    prevalence = {"before": before, "after": after}
    return {"prevalence": prevalence, "exact_match": {"clean": same}}


def row(name, validation, test=(0.4, 0.1), alpha=1.0):
    splits = {"validation": scores(*validation), "test": scores(*test)}
    return {
        "name": name,
        "method": "ul",
        "alpha": alpha,
        "learning_rate": 0.001,
        **splits,
    }


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
    assert math.isclose(choice.distance(values), distance, abs_tol=1e-12)


def test_the_choice_does_not_look_at_the_test_inputs():
    rows = [row("a", (0.1, 0.99), (0.0, 1.0)), row("b", (0.01, 0.97), alpha=4.0)]
    assert choice.choose(rows) == [rows[1]]


def test_the_choice_is_by_the_mean_of_the_seeds():
    lucky = [row("a-seed0", (0.0, 1.0)), row("a-seed1", (0.4, 0.5))]
    steady = [row(f"b-seed{n}", (0.02, 0.98), alpha=4.0) for n in range(2)]
    assert choice.choose([*lucky, *steady]) == steady
