"""Distances to the exact update: means over tokens, and their intervals."""

import json

import numpy as np
import pytest
from scipy import stats

from t5patches import evaluate
from t5patches.annotate import PhraseAnnotator
from t5patches.errors import UserError
from t5patches.evaluate import probabilities
from t5patches.interchange import json_files

NAMES = probabilities._COLUMNS
NUMBER = 30


@pytest.fixture
def files(tmp_path):
    """Predictions before and after, and distances in another order, of two shards."""
    random = np.random.default_rng(0)
    sums = random.random((NUMBER, len(NAMES)))
    sums[:, :2] = random.integers(0, 9, (NUMBER, 2))
    sums[sums[:, 1] == 0, 4:] = 0
    rows = [
        {"id": str(i), "inputs": "x", "prediction": "a fool", "source": str(i // 3)}
        for i in range(NUMBER)
    ]
    lines = [
        {"id": str(i), **dict(zip(NAMES, map(float, sums[i]), strict=True))}
        for i in random.permutation(NUMBER)
    ]
    for name, some in {
        "old": rows,
        "new": rows,
        "distances-00000-of-00002": lines[:7],
        "distances-00001-of-00002": lines[7:],
    }.items():
        json_files.write_jsonl(tmp_path / f"{name}.jsonl", some)
    return tmp_path, sums


def results_of(folder, **options):
    old, new = folder / "old.jsonl", folder / "new.jsonl"
    options.setdefault("distances", folder / "distances")
    made = evaluate.evaluate_files(old, new, PhraseAnnotator(["fool"]), **options)
    return made[0]["distances"]


def flat(found):
    names = ("kl_original", "kl_exact", "total_variation")
    return [*map(found.get, names), *found["unwanted_probability"].values()]


def means(fine, unwanted, kl_original, kl_exact, *others):
    total = fine.sum(-1) + unwanted.sum(-1)
    found = [kl_original.sum(-1) / fine.sum(-1), kl_exact.sum(-1) / total]
    return [*found, *(other.sum(-1) / unwanted.sum(-1) for other in others)]


@pytest.mark.parametrize("cluster", [None, "source"])
def test_means_and_their_intervals(files, cluster):
    folder, sums = files
    found = results_of(folder, cluster=cluster, seed=3)
    assert found["fine_tokens"] == sums[:, 0].sum()
    assert found["unwanted_positions"] == sums[:, 1].sum()
    np.testing.assert_allclose(flat(found), means(*sums.T))
    units = sums.reshape(-1, 3, len(NAMES)).sum(1) if cluster else sums
    sure = found["intervals"]
    assert sure["clusters"] == (len(units) if cluster else None)
    expected = stats.bootstrap(
        *(units.T, means),
        **dict(paired=True, method="percentile", n_resamples=1000, batch=1),
        rng=np.random.default_rng(3),
    ).confidence_interval
    np.testing.assert_allclose(np.transpose(flat(sure)), expected)
    assert (sure["confidence"], sure["seed"]) == (0.95, 3)


def test_without_anything_unwanted_there_is_no_mean(files):
    folder, _ = files
    line = dict.fromkeys(NAMES, 0) | {"fine_tokens": 4, "kl_original": 2}
    lines = [{"id": str(i), **line} for i in range(NUMBER)]
    json_files.write_jsonl(folder / "fine.jsonl", lines)
    found = results_of(folder, distances=folder / "fine.jsonl")
    assert flat(found) == [0.5, 0.0, None, None, None]
    assert flat(found["intervals"]) == [[0.5, 0.5], [0.0, 0.0], None, None, None]
    json.dumps(found, allow_nan=False)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"kl_exact": None}, "d.jsonl:30: 'kl_exact' is None, expected"),
        ({"kl_exact": float("nan")}, "d.jsonl:30: 'kl_exact' is nan"),
        ({"id": ["x"]}, "d.jsonl:30: field 'id'"),
        ({"id": "0"}, "id '0' occurs twice in the distances"),
        ({"id": "30"}, "ids of the old predictions .* missing in the distances"),
    ],
)
def test_wrong_lines(files, change, message):
    folder, _ = files
    line = dict.fromkeys(NAMES, 1.0)
    lines = [{"id": str(i), **line} for i in range(NUMBER)]
    lines[-1] |= change
    text = "".join(f"{json.dumps(each)}\n" for each in lines)
    (folder / "d.jsonl").write_text(text)
    with pytest.raises(UserError, match=message):
        results_of(folder, distances=folder / "d.jsonl")
