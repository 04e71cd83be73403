"""The three loops: what they write, and that a broken run goes on as if unbroken."""

import functools
import json
import shutil

import jax
import numpy as np
import pytest
import seqio

from t5x_embedded import checkpoints, infer, train, trainer, utils
from t5x_embedded import eval as t5x_eval
from tests.t5x_embedded import toy


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """8 steps, saved every 4, with both evaluations."""
    folder = tmp_path_factory.mktemp("run")
    step, state = train.train(
        **toy.train_arguments(
            folder,
            train_eval_dataset_cfg=toy.dataset("validation"),
            infer_eval_dataset_cfg=toy.dataset("validation"),
            inference_evaluator_cls=functools.partial(
                seqio.Evaluator, logger_cls=[seqio.TensorBoardLogger]
            ),
            concurrent_metrics=False,
            stats_period=3,
        )
    )
    assert step == int(state.step) == 8
    return folder


def test_checkpoints_and_events_are_where_t5x_puts_them(run):
    assert checkpoints.all_steps(run) == [0, 4, 8]
    assert list(run.glob("train/events.*"))
    assert list(run.glob(f"training_eval/{toy.TASK}/events.*"))
    assert "Total number of parameters" in (run / "model-info.txt").read_text()


def test_metrics_are_written_at_their_steps(run):
    losses = toy.scalars(run / "train")["loss"]
    assert sorted(losses) == [3, 4, 7, 8]
    assert losses[8] < losses[3]
    assert sorted(toy.scalars(run / "training_eval" / toy.TASK)["loss"]) == [4, 8]
    inferred = toy.scalars(run / "inference_eval" / toy.TASK)["eval/accuracy"]
    assert sorted(inferred) == [4, 8] and 0.0 <= inferred[8] <= 1.0


def test_nothing_is_done_twice(run):
    before = sorted(p.name for p in run.iterdir())
    step, state = train.train(**toy.train_arguments(run))
    assert step == int(state.step) == 8
    assert sorted(p.name for p in run.iterdir()) == before


def test_a_stopped_run_goes_on_and_ends_like_an_unbroken_one_bit_for_bit(run, tmp_path):
    class Stopping(trainer.Trainer):
        def train(self, batch_iter, num_steps, start_step=None):
            self.stop_training = start_step + num_steps >= 6
            return super().train(batch_iter, num_steps, start_step)

    start = utils.RestoreCheckpointConfig(str(run / "checkpoint_4"), mode="specific")
    arguments = toy.train_arguments(
        tmp_path,
        checkpoint_cfg=utils.CheckpointConfig(
            save=utils.SaveCheckpointConfig(period=8), restore=start
        ),
        trainer_cls=functools.partial(Stopping, **toy.trainer_cls().keywords),
        get_dataset_fn=toy.skipping(4),
        total_steps=12,
        stats_period=1,
    )
    step, _ = train.train(**arguments)
    assert step == 6
    assert checkpoints.all_steps(tmp_path) == [4, 6]
    # What a kill in the middle of a save leaves.
    leftover = tmp_path / "checkpoint_7.orbax-checkpoint-tmp-1"
    leftover.mkdir()
    train.train(**toy.train_arguments(tmp_path, get_dataset_fn=toy.skipping(6)))
    toy.assert_same(toy.arrays(run, 8), toy.arrays(tmp_path, 8))
    assert checkpoints.all_steps(tmp_path) == [4, 6, 8] and not leftover.exists()


def test_arguments_that_do_not_fit(run, tmp_path):
    arguments = dict(infer_eval_dataset_cfg=toy.dataset(), eval_period=3)
    with pytest.raises(ValueError, match="multiples"):
        train.train(**toy.train_arguments(tmp_path, **arguments))
    with pytest.raises(ValueError, match="at step 8 already"):
        train.train(**toy.train_arguments(run, total_steps=5))


def apply_arguments(checkpoint, mode, folder):
    """What `infer` and `evaluate` share."""
    restore = utils.RestoreCheckpointConfig(str(checkpoint), mode=mode)
    return dict(
        model=toy.model(),
        dataset_cfg=toy.dataset("validation"),
        restore_checkpoint_cfg=restore,
        partitioner=toy.partitioner(),
        output_dir=str(folder),
        summarize_config_fn=lambda **kw: None,
    )


def infer_(run, folder, mode="predict", **kwargs):
    """Infers 20 rows in batches of 4: chunks of 8, 8 and 4."""
    arguments = apply_arguments(run / "checkpoint_8", "specific", folder)
    infer.infer(mode=mode, checkpoint_period=2, **arguments, **kwargs)


def read(folder, mode="predict"):
    path = folder / f"{toy.TASK}-{mode}.jsonl-00000-of-00001"
    assert path.with_name(path.name + ".COMPLETED").exists()
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.fixture(scope="module")
def predictions(run, tmp_path_factory):
    folder = tmp_path_factory.mktemp("predictions")
    write = functools.partial(infer.write_inferences_to_file, output_ids=True)
    infer_(run, folder, write_fn=write)
    assert not list(folder.glob("tmp-*"))
    return read(folder)


def test_predictions_are_in_order_with_their_ids(predictions):
    inputs = [row["inputs"]["inputs_pretokenized"] for row in predictions]
    assert [text.split()[1] for text in inputs] == [str(i) for i in range(20)]
    for row in predictions:
        assert 0 not in row["prediction_tokens"]
        assert toy.VOCABULARY.decode(row["prediction_tokens"]) == row["prediction"]


def test_a_killed_inference_goes_on_after_its_last_chunk(run, predictions, tmp_path):
    written = []

    def write(path, *args, fail_at=None):
        written.append(path[-5:])
        if fail_at is not None and path.endswith(fail_at):
            with open(path, "w") as file:
                file.write("{half a li")
            raise KeyboardInterrupt
        infer.write_inferences_to_file(path, *args, output_ids=True)

    killed = functools.partial(write, fail_at="00001")
    with pytest.raises(KeyboardInterrupt):
        infer_(run, tmp_path, write_fn=killed)
    assert not list(tmp_path.glob("*.COMPLETED"))
    written.clear()
    infer_(run, tmp_path, write_fn=write)
    # The third may have been written before the second failed.
    assert written in (["00001"], ["00001", "00002"])
    assert read(tmp_path) == predictions
    written.clear()
    infer_(run, tmp_path, write_fn=write)
    assert written == []


def test_scores(run, tmp_path):
    infer_(run, tmp_path, mode="score")
    rows = read(tmp_path, "score")
    assert len(rows) == 20
    assert all(row["score"] < 0 for row in rows)


def test_merging_refuses_gaps(tmp_path):
    with pytest.raises(FileNotFoundError, match="any examples"):
        infer.merge_chunks_to_file(str(tmp_path), "x", str(tmp_path), None)
    (tmp_path / "x-chunk00001").touch()
    with pytest.raises(FileNotFoundError, match="missing"):
        infer.merge_chunks_to_file(str(tmp_path), "x", str(tmp_path), None)


def test_modes_and_choices_of_inputs(tmp_path):
    path = str(tmp_path / "x")
    with pytest.raises(ValueError, match="Invalid mode"):
        infer.write_inferences_to_file(path, ([], {}), None, "guess")
    with pytest.raises(ValueError, match="vocabulary"):
        infer.write_inferences_to_file(path, ([], {}), None, "predict")


def test_evaluation_skips_what_it_evaluated(run, tmp_path):
    steps = []

    class Watching(t5x_eval.seqio.Evaluator):
        def evaluate(self, *args, step, **kwargs):
            steps.append(step)
            return super().evaluate(*args, step=step, **kwargs)

    arguments = apply_arguments(tmp_path / "m", "all", tmp_path / "out")
    for step in (4, 8):
        name = f"checkpoint_{step}"
        shutil.copytree(run / name, tmp_path / "m" / name)
        t5x_eval.evaluate(inference_evaluator_cls=Watching, **arguments)
        assert steps[-1] == step
    assert steps == [4, 8]


def test_hardware_generators_are_seeded(monkeypatch):
    monkeypatch.setattr(utils, "set_hardware_rng_ops", lambda: None)
    keys = train._make_rngs(3, use_hardware_rng=True)
    np.testing.assert_array_equal(keys, jax.random.split(jax.random.PRNGKey(3)))
