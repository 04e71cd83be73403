"""The bootstrap and the tests: against SciPy's and against plain loops."""

import itertools

import numpy as np
import pytest
from scipy import stats

from t5patches.evaluate import uncertainty

RANDOM = np.random.default_rng(5)
COLUMNS = RANDOM.integers(0, 3, (23, 3)).astype(float)


@pytest.fixture(params=["all at once", "in blocks"])
def blocks(request, monkeypatch):
    if request.param == "in blocks":
        monkeypatch.setattr(uncertainty, "_BLOCK", 50)


def ratio(sums):
    return np.stack([sums[..., 0] / sums[..., 1]], axis=-1)


def test_intervals_are_scipys(blocks):
    """To the last resample: it draws the same units."""
    drawn = uncertainty.resample(COLUMNS, 200, seed=3)
    found = uncertainty.intervals(ratio(drawn))
    expected = stats.bootstrap(
        (COLUMNS[:, 0], COLUMNS[:, 1]),
        lambda one, other: one.sum() / other.sum(),
        paired=True,
        vectorized=False,
        n_resamples=200,
        method="percentile",
        rng=np.random.default_rng(3),
    ).confidence_interval
    assert found[0] == pytest.approx([*expected])


@pytest.mark.parametrize("count", range(5))
def test_holm_is_the_closed_test_of_bonferroni(count):
    """Source: Marcus, Peritz and Gabriel, Biometrika 1976."""
    p = np.random.default_rng(count).random(count) ** 3
    sets = [
        some
        for size in range(1, count + 1)
        for some in itertools.combinations(range(count), size)
    ]
    expected = [
        max(min(len(some) * min(p[[*some]]), 1) for some in sets if place in some)
        for place in range(count)
    ]
    assert uncertainty.holm([*p]) == pytest.approx(np.array(expected))


def test_resamples_are_those_of_a_loop(blocks):
    random = np.random.default_rng(3)
    expected = []
    for _ in range(9):
        drawn = [COLUMNS[unit] for unit in random.integers(0, len(COLUMNS), 23)]
        expected.append(sum(drawn))
    assert np.array_equal(uncertainty.resample(COLUMNS, 9, seed=3), expected)


def test_clusters_are_drawn_whole():
    clusters = np.array([0, 1, 2] * 7 + [0, 1])
    units = uncertainty.by_cluster(COLUMNS, clusters)
    expected = [COLUMNS[clusters == number].sum(axis=0) for number in range(3)]
    assert np.array_equal(units, expected)
    assert uncertainty.by_cluster(COLUMNS, None) is COLUMNS
    # 23 units that are all alike within their cluster are as sure as three.
    alike = np.where(clusters == 0, 1.0, 0.0)
    one = np.column_stack([alike, np.ones(23)])
    widths = [
        np.ptp(uncertainty.intervals(ratio(uncertainty.resample(some, 500, 0)))[0])
        for some in (one, uncertainty.by_cluster(one, clusters))
    ]
    assert widths[1] > 1.5 * widths[0]


@pytest.mark.parametrize("units", [1, 8, 500])
def test_bounds_are_clopper_and_pearsons(units):
    none = stats.binomtest(0, units, alternative="less").proportion_ci(0.95)
    every = stats.binomtest(units, units, alternative="greater").proportion_ci(0.95)
    assert uncertainty.bound(units) == pytest.approx(none.high)
    assert 1 - uncertainty.bound(units) == pytest.approx(every.low)


def test_resamples_without_anything_to_measure():
    values = np.array([[1.0, np.nan], [np.nan, np.nan], [3.0, np.nan]])
    found = uncertainty.intervals(values)
    assert found[0].tolist() == pytest.approx([1.05, 2.95])
    assert np.isnan(found[1]).all()


def test_p_is_that_of_all_swaps(blocks):
    """Of 2⁹ swaps; SciPy's permutation test tries each."""
    ours, theirs = RANDOM.integers(0, 9, (2, 9, 1)).astype(float)
    drawn = uncertainty.randomise(ours, theirs, lambda sums: sums, 20_000, seed=1)
    exact = stats.permutation_test(
        (ours[:, 0], theirs[:, 0]),
        lambda one, other: abs(one.sum() - other.sum()),
        permutation_type="samples",
        alternative="greater",
        n_resamples=np.inf,
    ).pvalue
    assert 0.05 < exact < 0.95
    assert drawn[0] == pytest.approx(exact, abs=0.015)


def test_p_of_what_is_no_sum():
    """A ratio, against a loop over all swaps; unlike a sum it is not linear."""
    ours, theirs = RANDOM.integers(1, 9, (2, 8, 2)).astype(float)
    there = abs(ratio(ours.sum(axis=0)) - ratio(theirs.sum(axis=0)))
    swaps = itertools.product([False, True], repeat=8)
    count = 0
    for swap in swaps:
        chosen = np.array(swap)[:, None]
        one, other = np.where(chosen, theirs, ours), np.where(chosen, ours, theirs)
        count += abs(ratio(one.sum(axis=0)) - ratio(other.sum(axis=0))) >= there - 1e-9
    (p,) = uncertainty.randomise(ours, theirs, ratio, 20_000, seed=1)
    assert p == pytest.approx(count[0] / 2**8, abs=0.015)


def test_p_of_systems_that_are_alike_and_the_least_there_is():
    same = uncertainty.randomise(COLUMNS, COLUMNS, lambda sums: sums, 99, seed=0)
    assert (same == 1).all()
    ones = np.ones((40, 1))
    (p,) = uncertainty.randomise(ones, 0 * ones, lambda sums: sums, 99, seed=0)
    assert p == 1 / 100
