"""What a trainer looks after while it trains: SIGTERM, the loss, its checkpoints.

T5X's train loop is not ours to change, so all of it happens inside the trainer's
`train` and `eval`, which either engine calls. Nothing here adds to the compiled step.
"""

from __future__ import annotations

import collections
import contextlib
import functools
import math
import os
import shutil
import signal
import threading
import time
from collections.abc import Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from absl import logging
from jax.experimental import multihost_utils
from t5x import trainer as t5x_trainer
from t5x import utils

from t5patches.checkpoints import contents, finding, integrity
from t5patches.errors import UserError
from t5patches.interchange import claims, json_files, shards, vocabularies

PyTree = Any
Batch = Mapping[str, jax.Array]

HISTORY = "validation.json"
# The first of these that an evaluation reports; lower is better.
VALIDATION_METRICS = ("loss_per_nonpadding_target_token", "loss")


# ---- SIGTERM ----


class Preempted(t5x_trainer.PreemptionError, SystemExit):
    """A run was asked to stop and did so after a whole step.

    The train loop takes it as T5X's `PreemptionError`: it saves a checkpoint and
    raises it again. Whoever does not catch it ends as by `SystemExit`, with status 0.
    """


class StopSignal:
    """Whether the run has been asked to stop; all processes agree on the step."""

    def __init__(self):
        self._received = False
        self._before: Any = None
        self._listening = False

    def listen(self) -> None:
        """Takes over SIGTERM; may be called again.

        With several processes JAX's preemption service listens: any one of them may
        be signalled, and it finds a step that all of them have yet to come to.
        """
        main = threading.current_thread() is threading.main_thread()
        if self._listening or jax.process_count() > 1 or not main:
            return
        self._before = signal.signal(signal.SIGTERM, self._receive)
        self._listening = True

    def _receive(self, number, frame) -> None:
        del number, frame
        self._received = True

    def received(self, step: int) -> bool:
        """Whether to stop after `step`; with several processes, call it every step."""
        if jax.process_count() > 1:
            return multihost_utils.reached_preemption_sync_point(step)
        return self._received

    def close(self) -> None:
        """Gives SIGTERM back."""
        if self._listening:
            signal.signal(signal.SIGTERM, self._before)
            self._listening = False


# ---- The loss ----


@jax.jit
def _all_finite(tree: PyTree) -> jax.Array:
    return jnp.all(jnp.stack([jnp.all(jnp.isfinite(x)) for x in jax.tree.leaves(tree)]))


class LossGuard:
    """Stops a run whose loss is no number, before such a state can be saved.

    A step's loss is looked at when `LAG` more steps have been queued: it has been
    computed by then, and the accelerator does not wait for the host. The last ones,
    and the parameters, are looked at before `train` returns to the loop, which may
    save them. The lag is a number of steps, so that all processes stop at the same one.
    """

    LAG = 4
    WRITING_SECONDS = 60.0

    def __init__(self, model: Any, model_dir: str | None):
        self._model = model
        self._model_dir = model_dir
        self._queued: collections.deque[tuple[int, Batch, Any]] = collections.deque()

    def note(self, step: int, batch: Batch, metrics: Mapping[str, Any]) -> None:
        """Keeps what step number `step` was trained on; checks an earlier one.

        Raises:
          UserError: its loss is NaN or infinite.
        """
        self._queued.append((step, batch, metrics.get("loss")))
        if len(self._queued) > self.LAG:
            self._check(*self._queued.popleft())

    def finish(self, params: PyTree) -> None:
        """Checks the steps that are left, and the parameters that they led to.

        Raises:
          UserError: a loss or a parameter is NaN or infinite.
        """
        last = self._queued[-1] if self._queued else None
        while self._queued:
            self._check(*self._queued.popleft())
        if last and not bool(utils.get_local_data(_all_finite(params))):
            self._fail("a parameter is NaN or infinite after", *last[:2])

    def _check(self, step: int, batch: Batch, loss: Any) -> None:
        local = jax.tree.map(utils.get_local_data, loss)
        if not all(np.all(np.isfinite(x)) for x in jax.tree.leaves(local)):
            self._fail("the loss is NaN or infinite at", step, batch)

    def _fail(self, what: str, step: int, batch: Batch) -> None:
        message = f"{what} step {step}; nothing of it is saved."
        if self._model_dir is not None:
            folder = finding.absolute(self._model_dir)
            path = shards.shard_path(
                folder / f"bad_batch_{step}", jax.process_index(), jax.process_count()
            )
            json_files.write_jsonl(path, batch_rows(batch, self._model))
            # The last one is written while training goes on.
            writing = lambda: any(folder.glob(f"*{contents.TEMPORARY}*"))
            until = time.monotonic() + self.WRITING_SECONDS
            while writing() and time.monotonic() < until:
                time.sleep(0.1)
            steps = finding.steps(folder)
            good = folder / f"checkpoint_{steps[-1]}" if steps else "none"
            message += f" Its batch: {path}. The last good checkpoint: {good}."
        raise UserError(
            f"{message} A smaller learning rate or alpha may help, or leaving out an"
            " example; the same command goes on from that checkpoint"
        )


def batch_rows(batch: Batch, model: Any) -> Iterator[dict[str, Any]]:
    """Yields the examples of this process's part of a batch, as text.

    Args:
      batch: model features [batch, length], as the train step takes them.
      model: has `input_vocabulary` and `output_vocabulary`.

    Yields:
      `row` (in this process's part), `id` if the batch has that feature, `inputs` (not
      for a decoder-only model), `targets`, `target_tokens` and `weights`; of a packed
      row, one of these for each of its examples.
    """
    local = {name: _local_rows(values) for name, values in batch.items()}
    sides = {
        "inputs": ("encoder", "encoder_input_tokens", model.input_vocabulary),
        "targets": ("decoder", "decoder_target_tokens", model.output_vocabulary),
    }
    sides = {name: side for name, side in sides.items() if side[1] in local}
    for row in range(len(next(iter(local.values())))):
        segments = {}
        for name, (side, tokens, _) in sides.items():
            packed = local.get(f"{side}_segment_ids")
            segments[name] = (
                (local[tokens][row] != 0).astype(int) if packed is None else packed[row]
            )
        last = max((int(s.max(initial=0)) for s in segments.values()), default=0)
        for segment in range(1, last + 1):
            example: dict[str, Any] = {"row": row}
            if "id" in local:
                example["id"] = int(np.ravel(local["id"][row])[0])
            for name, (_, tokens, vocabulary) in sides.items():
                mine = segments[name] == segment
                ids = local[tokens][row][mine].tolist()
                example[name] = vocabulary.decode(ids)
                if name == "targets":
                    example["target_tokens"] = ids
                    weights = local.get("decoder_loss_weights")
                    if weights is not None:
                        example["weights"] = weights[row][mine].tolist()
            yield example


def _local_rows(values: Any) -> np.ndarray:
    """This process's rows of an array that is sharded along the batch."""
    if not isinstance(values, jax.Array):
        return np.asarray(values)
    parts = {
        (shard.index[0].start or 0): shard.data
        for shard in values.addressable_shards
        if shard.replica_id == 0
    }
    if not parts:
        return np.zeros((0, *values.shape[1:]), values.dtype)
    return np.concatenate([np.asarray(parts[start]) for start in sorted(parts)])


# ---- Checkpoints: the seal of each, and the best ----


class Seals:
    """Seals what a run saves: see `integrity`."""

    def __init__(self, model_dir: str | None, model: Any):
        self._folder = None if model_dir is None else finding.absolute(model_dir)
        self._model = model
        self._seen: set[int] | None = None

    @functools.cached_property
    def _run(self) -> str | None:
        """What `t5patches train` has put on record when it made the trainer."""
        record = self._folder and self._folder / claims.SETTINGS
        there = record and record.is_file()
        return claims.fingerprint(json_files.read_json(record)) if there else None

    def seal(self) -> None:
        """Seals what is complete by now: the latest, and what comes after it."""
        if self._folder is None or jax.process_index() != 0:
            return
        saved = finding.steps(self._folder)
        seen = set(saved[:-1]) if self._seen is None else self._seen
        for step in sorted(set(saved) - seen):
            with contextlib.suppress(FileNotFoundError):  # `keep` has just deleted it.
                checkpoint = self._folder / f"checkpoint_{step}"
                vocabulary = vocabularies.of_model(self._model)
                integrity.seal(checkpoint, vocabulary, self._run)
        self._seen = {*seen, *saved}


class Validation:
    """The history of a run's validation loss, and the best of its checkpoints.

    `validation.json` in the model folder has the value of every step that was
    evaluated; `best.json` the lowest of those whose checkpoint exists. That one is kept
    from being deleted (`keep`) by hard links in the folder `best`; on an object store,
    which has none, it is not, and `keep` should be None.
    """

    def __init__(self, model_dir: str | None):
        self._folder = None if model_dir is None else finding.absolute(model_dir)
        self._history: dict[int, float] | None = None
        self._metric: str | None = None
        self._best: int | None = None

    def record(self, step: int, summaries: Mapping[str, Mapping[str, Any]]) -> None:
        """Adds an evaluation.

        Args:
          step: of the state that was evaluated.
          summaries: name of the data set -> metric -> value. Of several the last
            counts: T5X puts a mixture after its tasks.
        """
        if self._folder is None or jax.process_index() != 0 or not summaries:
            return
        name, values = list(summaries.items())[-1]
        metric = next((m for m in VALIDATION_METRICS if m in values), None)
        if metric is None:
            return
        value = float(np.asarray(getattr(values[metric], "value", values[metric])))
        metric = f"{name}/{metric}"
        # What a run that was cut off evaluated after its last checkpoint comes again.
        history = {s: v for s, v in self._read(metric).items() if s < step}
        if math.isfinite(value):
            history[step] = value
        else:
            logging.warning("The validation loss of step %d is %s.", step, value)
        self._history = history
        rows = [{"step": s, "value": history[s]} for s in sorted(history)]
        json_files.write_json(self._folder / HISTORY, {"metric": metric, "steps": rows})
        self._metric = metric
        self.choose()

    def _read(self, metric: str) -> dict[int, float]:
        path = self._folder / HISTORY
        if self._history is None and path.exists():
            remedy = "delete it: the best is chosen from what is evaluated from now on"
            fields = {"metric": str, "steps": list}
            stored = json_files.read_record(path, fields, remedy)
            try:
                history = {row["step"]: float(row["value"]) for row in stored["steps"]}
            except (ValueError, KeyError, TypeError) as error:
                what = f"{path}: 'steps' is not a list of steps and values"
                raise UserError(f"{what}; {remedy}") from error
            self._history = history if stored["metric"] == metric else None
        return self._history or {}

    def choose(self) -> None:
        """Chooses again: what was evaluated may have been saved since."""
        history, metric = self._history, self._metric
        if self._folder is None or not history or metric is None:
            return
        kept = self._folder / finding.KEPT
        saved = {*finding.steps(self._folder), *finding.steps(kept)}
        candidates = sorted(history.keys() & saved)
        if not candidates:
            return
        best = min(candidates, key=history.__getitem__)
        if best == self._best:
            return
        if self._keep(best):
            self._best = best
        json_files.write_json(
            self._folder / finding.BEST,
            {"step": best, "metric": metric, "value": history[best]},
        )

    def _keep(self, step: int) -> bool:
        """Links the checkpoint's files, so that deleting it leaves them there.

        Returns:
          False where another attempt may do what this one could not.
        """
        name = f"checkpoint_{step}"
        kept = self._folder / finding.KEPT
        if "://" in os.fspath(kept):
            return True
        if not (kept / name).exists():
            temporary = kept / f".{name}.tmp"
            for left in kept.glob(".*.tmp"):  # Of runs that were killed.
                shutil.rmtree(left, ignore_errors=True)
            try:
                shutil.copytree(self._folder / name, temporary, copy_function=os.link)
            except (OSError, shutil.Error) as error:
                logging.warning("%s may be deleted by `keep`: %s", name, error)
                return False
            temporary.rename(kept / name)
        for other in finding.steps(kept):
            if other != step:
                shutil.rmtree(kept / f"checkpoint_{other}")
        return True
