"""Runs of both engines: same numbers, and each goes on where the other stopped.

This process runs T5X; the embedded engine runs in another, where T5PATCHES_ENGINE asks
for it. `python -m t5x.train`, the script itself, runs in a third.
"""

import numpy as np
import pytest

from t5patches import _engine
from t5patches.run import scripts
from tests import engine_toy
from tests.t5x_embedded.toy import arrays, assert_same, scalars
from tests.t5x_parity import processes

GIN = processes.ROOT / "tests" / "testdata" / "engine"


def train_arguments(folder, *more, gin_file=GIN / "train.gin"):
    return [f"--gin_file={gin_file}", f"--gin.MODEL_DIR='{folder}'", *more]


def infer_arguments(checkpoint, folder):
    return [
        f"--gin_file={GIN}/infer.gin",
        f"--gin.CHECKPOINT_PATH='{checkpoint}'",
        f"--gin.INFER_OUTPUT_DIR='{folder}'",
    ]


def go_on_from(checkpoint):
    return "--gin.TRAIN_STEPS=4", f"--gin.INITIAL_CHECKPOINT_PATH='{checkpoint}'"


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Folders `t5x` and `embedded`, of a run and of what goes on from the other's."""
    folder = tmp_path_factory.mktemp("runs")
    t5x, embedded = folder / "t5x", folder / "embedded"
    assert _engine.name() == "t5x"
    replay = train_arguments(
        embedded / "replayed",
        "--gin.TRAIN_STEPS=1",
        gin_file=t5x / "run" / "config.gin",
    )
    start = t5x / "run" / "checkpoint_3"
    processes.python(["-m", "t5x.train", *train_arguments(t5x / "run")])
    processes.embedded(
        ("train", train_arguments(embedded / "run")),
        ("train", train_arguments(embedded / "resumed", *go_on_from(start))),
        ("train", replay),
        ("infer", infer_arguments(start, embedded / "infer")),
    )
    return t5x, embedded


def losses(folder):
    return scalars(folder / "train")["loss"]


def test_losses_and_states_agree(runs):
    t5x, embedded = (folder / "run" for folder in runs)
    theirs, ours = losses(t5x), losses(embedded)
    assert sorted(theirs) == sorted(ours) == [1, 2, 3]
    np.testing.assert_allclose(
        [ours[step] for step in (1, 2, 3)],
        [theirs[step] for step in (1, 2, 3)],
        rtol=1e-5,
    )
    # The same initialisation to the bit; after three steps, up to rounding.
    assert_same(arrays(embedded, 0), arrays(t5x, 0))
    mine, other = arrays(embedded, 3), arrays(t5x, 3)
    for name in other:
        np.testing.assert_allclose(
            mine[name], other[name], rtol=1e-4, atol=2e-5, err_msg=name
        )


def test_written_configurations_are_the_same_text(runs):
    t5x, embedded = runs
    ours = (embedded / "run" / "config.gin").read_text()
    theirs = (t5x / "run" / "config.gin").read_text()
    assert ours.replace(str(embedded), "") == theirs.replace(str(t5x), "")


def test_embedded_goes_on_from_a_checkpoint_of_t5x(runs):
    t5x, embedded = runs
    # Saved before the first step: what was restored.
    assert_same(arrays(embedded / "resumed", 3), arrays(t5x / "run", 3))
    assert (embedded / "resumed" / "checkpoint_4").is_dir()


def test_t5x_goes_on_from_a_checkpoint_of_the_embedded(runs, tmp_path):
    _, embedded = runs
    checkpoint = embedded / "run" / "checkpoint_3"
    scripts.run("train", train_arguments(tmp_path, *go_on_from(checkpoint)))
    assert_same(arrays(tmp_path, 3), arrays(embedded / "run", 3))
    assert (tmp_path / "checkpoint_4").is_dir()


def test_each_replays_the_configuration_of_the_other(runs, tmp_path):
    t5x, embedded = runs
    assert (embedded / "replayed" / "checkpoint_1").is_dir()
    scripts.run(
        "train",
        train_arguments(
            tmp_path, "--gin.TRAIN_STEPS=1", gin_file=embedded / "run" / "config.gin"
        ),
    )
    ours, theirs = losses(tmp_path), losses(embedded / "replayed")
    np.testing.assert_allclose(ours[1], theirs[1], rtol=1e-5)


def test_predictions_agree(runs, tmp_path):
    t5x, embedded = runs
    checkpoint = t5x / "run" / "checkpoint_3"
    scripts.run("infer", infer_arguments(checkpoint, tmp_path))
    name = f"{engine_toy.TASK}-predict.jsonl-00000-of-00001"
    ours = (embedded / "infer" / name).read_text()
    assert ours == (tmp_path / name).read_text()
    assert (embedded / "infer" / f"{name}.COMPLETED").exists()
