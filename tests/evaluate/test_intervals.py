"""Intervals of the measures and tests of two updates, against plain loops."""

import itertools

import numpy as np
import pytest
import sacrebleu
from evaluate_toy import compare, join
from scipy import stats

from t5patches.annotate import PhraseAnnotator
from t5patches.evaluate import intervals, similarity, uncertainty, verdict
from t5patches.evaluate.comparison import Comparison

ANNOTATOR = PhraseAnnotator(["fool"])


def texts(seed, number=40):
    random = np.random.default_rng(seed)
    words = [*"abcdefg", "fool"]
    return [
        " ".join(random.choice(words, random.integers(4, 9))) for _ in range(number)
    ]


def rows_for(outputs):
    return [
        {"inputs": f"input {i}", "prediction": text, "id": str(i)}
        for i, text in enumerate(outputs)
    ]


def joined(old, new):
    return join(rows_for(old), rows_for(new), ANNOTATOR)


def columns_of(pairs):
    comparison = Comparison()
    for pair in pairs:
        comparison.add(pair)
    return intervals.columns(comparison.table()), comparison.results()


OLD = texts(0)
NEW = [
    new if i % 3 else old
    for i, (old, new) in enumerate(zip(OLD, texts(1), strict=True))
]
PAIRS = joined(OLD, NEW)
COLUMNS, RESULTS = columns_of(PAIRS)


def flat(results):
    """The numbers, or the intervals, in the order of the measures."""
    prevalence, exact = results["prevalence"], results["exact_match"]
    before, after, *difference = prevalence.values()
    return [
        *(before, after, *(difference or [after - before])),
        *(exact[name] for name in ("all", "clean", "marked")),
        *(results["bleu"], results["rougeL"]),
    ]


def test_measures_of_all_are_the_results():
    found = intervals.measures(COLUMNS.sum(axis=0))
    assert found.tolist() == pytest.approx(flat(RESULTS))


def test_measures_of_a_resample_are_the_results_of_its_pairs():
    """Of pairs that were drawn, compared from their texts anew."""
    drawn = np.random.default_rng(9).integers(0, len(PAIRS), len(PAIRS))
    (sums,) = uncertainty.resample(COLUMNS, 1, seed=9)
    expected = compare([PAIRS[i] for i in drawn])
    assert intervals.measures(sums).tolist() == pytest.approx(flat(expected))
    new, old = ([getattr(PAIRS[i], side) for i in drawn] for side in ("new", "old"))
    metric = sacrebleu.BLEU(effective_order=True)
    bleu = metric.corpus_score(new, [old]).score
    assert intervals.measures(sums)[6] == pytest.approx(bleu)


def test_intervals():
    found = intervals.intervals(COLUMNS, None, seed=4)
    assert (found["confidence"], found["resamples"], found["seed"]) == (0.95, 1000, 4)
    assert found["clusters"] is None
    before = np.array([bool(pair.old_spans) for pair in PAIRS])
    expected = stats.bootstrap(
        (before,),
        np.mean,
        n_resamples=1000,
        method="percentile",
        vectorized=False,
        rng=np.random.default_rng(4),
    ).confidence_interval
    assert found["prevalence"]["before"] == pytest.approx([*expected])
    for (low, high), value in zip(flat(found), flat(RESULTS), strict=True):
        assert low < value < high
    assert found == intervals.intervals(COLUMNS, None, seed=4)
    assert found != intervals.intervals(COLUMNS, None, seed=5)


def test_shares_of_nothing_and_of_everything_have_their_exact_bounds():
    columns, _ = columns_of(joined(["a b"] * 30, ["a b"] * 30))
    found = intervals.intervals(columns, None, seed=0)
    bound = stats.binomtest(0, 30, alternative="less").proportion_ci(0.95).high
    assert found["prevalence"]["after"] == pytest.approx([0, bound])
    assert found["prevalence"]["difference"] == pytest.approx([-bound, bound])
    assert found["exact_match"]["clean"] == pytest.approx([1 - bound, 1])
    assert found["exact_match"]["marked"] is None
    # Thirty pairs of five clusters are five.
    found = intervals.intervals(columns, np.arange(30) % 5, seed=0)
    assert found["clusters"] == 5
    assert found["prevalence"]["after"] == pytest.approx([0, 1 - 0.05 ** (1 / 5)])


def test_the_verdict_says_what_the_intervals_leave_open():
    def said(old, new):
        columns, results = columns_of(joined(old, new))
        found = intervals.intervals(columns, None, 0)
        return verdict.in_words({**results, "intervals": found})

    fools, nice = ["fool"] * 30, ["nice"] * 70
    assert "includes no effect" in said(fools[:2] + nice, [*fools[:1], *nice, "a"])
    text = said(fools + nice, ["nice"] * 100)
    assert "changed by -39.0 to -22.0 points (95 % interval)" in text
    assert "None of 100 is unwanted now; a share of up to 2.95 % would" in text


def test_against_another_update():
    other = joined(OLD, texts(7))
    found = intervals.against(COLUMNS, columns_of(other)[0], None, seed=1)
    assert (found["resamples"], found["permutations"], found["seed"]) == (
        1000,
        10_000,
        1,
    )
    theirs = compare(other)
    for name, mine, others in (
        ("prevalence", RESULTS["prevalence"]["after"], theirs["prevalence"]["after"]),
        (
            "exact_match",
            RESULTS["exact_match"]["clean"],
            theirs["exact_match"]["clean"],
        ),
        ("bleu", RESULTS["bleu"], theirs["bleu"]),
        ("rougeL", RESULTS["rougeL"], theirs["rougeL"]),
    ):
        part = found[name]
        assert (part["ours"], part["theirs"]) == pytest.approx((mine, others))
        assert part["difference"] == pytest.approx(mine - others)
        assert part["interval"][0] < part["difference"] < part["interval"][1]
    # A third of ours is as it was, of theirs next to nothing.
    assert found["bleu"]["p"] < 0.01 < found["prevalence"]["p"]
    same = intervals.against(COLUMNS, COLUMNS, None, seed=1)
    assert same["bleu"]["p"] == 1 and same["bleu"]["interval"] == [0, 0]
    reach = 1 - 0.05 ** (1 / len(PAIRS))
    assert same["prevalence"]["interval"] == pytest.approx([-reach, reach])


def test_p_of_bleu_is_that_of_all_swaps_of_texts():
    old, ours, theirs = texts(3, 7), texts(4, 7), texts(5, 7)
    theirs[:2] = old[:2]
    sides = [columns_of(joined(old, new))[0] for new in (ours, theirs)]
    found = intervals.against(*sides, None, seed=0)["bleu"]

    def bleu(new):
        return similarity.scores(similarity.table(zip(old, new, strict=True)))["bleu"]

    there, count = abs(bleu(ours) - bleu(theirs)), 0
    for swap in itertools.product([False, True], repeat=7):
        pairs = zip(swap, ours, theirs, strict=True)
        both = [(b, a) if swapped else (a, b) for swapped, a, b in pairs]
        one, other = zip(*both, strict=True)
        count += abs(bleu(one) - bleu(other)) >= there - 1e-9
    assert found["p"] == pytest.approx(count / 2**7, abs=0.02)
