"""SIGTERM, losses that are no numbers, and the best checkpoint, without an engine."""

import json
import os
import shutil
import signal
import threading
from unittest import mock

import clu.values
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny
from clu import metrics as clu_metrics

from t5patches import progress, watch
from t5patches import trainer as trainer_lib
from t5patches.errors import UserError

NAME = "loss_per_nonpadding_target_token"


def make_trainer(learning_rate_fn=lambda step: jnp.asarray(1e-2)):
    model = tiny.make_model()
    partitioner, state, axes = tiny.make_state(model)
    return trainer_lib.SelfDistillationTrainer(
        model=model,
        train_state=state,
        partitioner=partitioner,
        eval_names=["validation"],
        summary_dir=None,
        train_state_axes=axes,
        rng=jax.random.PRNGKey(7),
        learning_rate_fn=learning_rate_fn,
        num_microbatches=None,
    )


# ---- SIGTERM ----


def test_sigterm_stops_after_the_step_it_came_in(monkeypatch):
    """Of the steps that its progress bar counts."""
    trainer = make_trainer()
    shown = []
    monkeypatch.setattr(
        progress, "track", lambda steps, *what: shown.append(what) or steps
    )

    def batches():
        for number in range(10):
            if number == 2:
                os.kill(os.getpid(), signal.SIGTERM)
            yield tiny.make_batch()

    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(watch.Preempted) as stopped:
        trainer.train(batches(), 10, start_step=0)
    assert isinstance(stopped.value, SystemExit) and not stopped.value.code
    assert int(trainer.train_state.step) == 3
    assert shown == [("train", 10)]
    trainer.close()
    assert signal.getsignal(signal.SIGTERM) is before


def test_only_the_main_thread_can_listen():
    before = signal.getsignal(signal.SIGTERM)
    stop = watch.StopSignal()
    thread = threading.Thread(target=stop.listen)
    thread.start()
    thread.join()
    assert signal.getsignal(signal.SIGTERM) is before
    assert not stop.received(1)
    stop.close()


# ---- The loss ----


def guard_metrics(loss):
    return {"loss": clu_metrics.Average(total=jnp.float32(loss), count=jnp.int32(1))}


@pytest.mark.parametrize("loss", [np.nan, np.inf, -np.inf])
def test_a_loss_is_looked_at_some_steps_later_or_at_the_end(tmp_path, loss):
    batch, params = tiny.make_batch(), {"w": jnp.ones(2)}
    guard = watch.LossGuard(tiny.make_model(), None)
    guard.note(1, batch, guard_metrics(3.0))
    guard.note(2, batch, guard_metrics(loss))
    for step in range(3, 2 + guard.LAG):
        guard.note(step, batch, guard_metrics(3.0))
    with pytest.raises(UserError, match="the loss is NaN or infinite at step 2;"):
        guard.note(2 + guard.LAG, batch, guard_metrics(3.0))
    guard = watch.LossGuard(tiny.make_model(), str(tmp_path))
    guard.note(7, batch, guard_metrics(loss))
    guard.note(8, batch, guard_metrics(3.0))
    (tmp_path / "checkpoint_5").mkdir()
    with pytest.raises(UserError, match=f"good checkpoint: {tmp_path}/checkpoint_5"):
        guard.finish(params)
    assert (tmp_path / "bad_batch_7-00000-of-00001.jsonl").exists()


def test_parameters_are_looked_at_before_they_can_be_saved():
    """The last step's rate is infinite: its loss is a number, its result is not."""
    trainer = make_trainer(
        learning_rate_fn=lambda step: jnp.where(step == 2, jnp.inf, 1e-2)
    )
    with pytest.raises(UserError, match="a parameter is NaN or infinite after step 3"):
        trainer.train(iter([tiny.make_batch()] * 3), 3, start_step=0)
    trainer.close()


def test_rows_of_a_packed_batch_are_its_examples():
    batch = {
        "encoder_input_tokens": np.array([[5, 6, 7, 1, 0], [8, 0, 0, 0, 0]]),
        "encoder_segment_ids": np.array([[1, 1, 2, 2, 0], [1, 0, 0, 0, 0]]),
        "decoder_target_tokens": np.array([[9, 1, 3, 0], [4, 1, 0, 0]]),
        "decoder_segment_ids": np.array([[1, 1, 2, 0], [1, 1, 0, 0]]),
        "decoder_loss_weights": np.array([[1, -1, 1, 0], [1, 1, 0, 0]]),
    }
    rows = list(watch.batch_rows(batch, tiny.make_model()))
    assert [row["row"] for row in rows] == [0, 0, 1]
    assert [row["target_tokens"] for row in rows] == [[9, 1], [3], [4, 1]]
    assert [row["weights"] for row in rows] == [[1, -1], [1], [1, 1]]
    assert rows[1]["inputs"] == tiny.make_model().input_vocabulary.decode([7, 1])
    assert "id" not in rows[0]


def test_rows_of_a_decoder_only_batch_have_no_inputs():
    batch = {"decoder_target_tokens": jnp.array([[9, 1, 0]]), "id": jnp.array([[4]])}
    [row] = watch.batch_rows(batch, tiny.make_model())
    assert row["id"] == 4 and row["target_tokens"] == [9, 1]
    assert "inputs" not in row and "weights" not in row


# ---- The best checkpoint ----


def save(folder, step):
    (folder / f"checkpoint_{step}" / "state").mkdir(parents=True)
    (folder / f"checkpoint_{step}" / "state" / "array").write_text(str(step))


def evaluate(validation, step, value, name=NAME):
    summaries = {
        "part": {name: clu.values.Scalar(-1.0)},
        "mixture": {name: clu.values.Scalar(value), "other": clu.values.Scalar(0.0)},
    }
    validation.record(step, summaries)


def run(folder, values, name=NAME):
    """Saves and evaluates steps."""
    validation = watch.Validation(str(folder))
    for step, value in values.items():
        save(folder, step)
        evaluate(validation, step, value, name)


def best(folder):
    return json.loads((folder / "best.json").read_text())


def test_the_best_is_the_lowest_loss_among_the_saved_steps(tmp_path):
    evaluate(watch.Validation(str(tmp_path)), 5, 0.1)
    assert not (tmp_path / "best.json").exists()
    run(tmp_path, {10: 3.0, 20: 1.0, 30: 2.0})
    assert best(tmp_path) == {"step": 20, "metric": f"mixture/{NAME}", "value": 1.0}


def test_a_checkpoint_that_is_written_late_can_be_the_best(tmp_path):
    validation = watch.Validation(str(tmp_path))
    save(tmp_path, 10)
    evaluate(validation, 10, 2.0)
    evaluate(validation, 20, 1.0)
    assert best(tmp_path)["step"] == 10
    save(tmp_path, 20)
    validation.choose()
    assert best(tmp_path)["step"] == 20 and (tmp_path / "best/checkpoint_20").is_dir()


def test_the_best_outlives_its_deletion_until_there_is_a_better(tmp_path):
    validation = watch.Validation(str(tmp_path))
    for step, value in ((10, 1.0), (20, 2.0), (30, 0.5)):
        save(tmp_path, step)
        for older in tmp_path.glob("checkpoint_*"):
            if older.name != f"checkpoint_{step}":
                shutil.rmtree(older)
        evaluate(validation, step, value)
        kept = 10 if step < 30 else 30
        assert best(tmp_path)["step"] == kept
        [copy] = (tmp_path / "best").iterdir()
        assert (copy / "state" / "array").read_text() == str(kept)


def test_a_resumed_run_keeps_the_history_up_to_where_it_goes_on(tmp_path):
    validation = watch.Validation(str(tmp_path))
    for step, value in ((10, 1.0), (20, 2.0), (30, 0.5)):
        evaluate(validation, step, value)
    save(tmp_path, 10)
    save(tmp_path, 20)  # Of 30 there is no checkpoint: the run goes on from 20.
    resumed = watch.Validation(str(tmp_path))
    evaluate(resumed, 25, 3.0)
    history = json.loads((tmp_path / "validation.json").read_text())
    assert [row["step"] for row in history["steps"]] == [10, 20, 25]
    assert best(tmp_path)["step"] == 10


def test_a_validation_loss_that_is_no_number_is_never_the_best(tmp_path):
    run(tmp_path, {10: 4.0, 20: np.nan, 30: -np.inf})
    assert best(tmp_path)["step"] == 10


def test_the_loss_stands_in_where_there_is_none_per_token(tmp_path):
    run(tmp_path, {10: 4.0}, name="loss")
    assert best(tmp_path)["metric"] == "mixture/loss"
    watch.Validation(str(tmp_path)).record(20, {"mixture": {"other": 1.0}})
    watch.Validation(None).record(20, {"mixture": {"loss": 1.0}})
    assert best(tmp_path)["step"] == 10


def test_a_broken_history_is_named(tmp_path):
    (tmp_path / "validation.json").write_text("[]")
    with pytest.raises(
        UserError, match=r"validation\.json: not a JSON object; delete it"
    ):
        evaluate(watch.Validation(str(tmp_path)), 10, 1.0)


def test_a_checkpoint_that_cannot_be_linked_is_only_warned_of(tmp_path, monkeypatch):
    refuse = mock.Mock(side_effect=OSError("no links here"))
    monkeypatch.setattr(os, "link", refuse)
    run(tmp_path, {10: 1.0})
    assert best(tmp_path)["step"] == 10
    assert not list((tmp_path / "best").glob("checkpoint_*"))
