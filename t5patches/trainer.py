"""The T5X trainer that carries the frozen original model.

T5X's train loop gives a trainer a train state and batches, nothing else; the frozen
parameters are the trainer's own: an explicit, sharded argument of the compiled step,
never differentiated, without optimizer state, never the train state's own buffers
(the step donates those).
"""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Sequence
from typing import Any

import clu.metrics
import jax
import jax.numpy as jnp
from absl import logging
from etils import epath
from t5x import checkpoints, partitioning, utils
from t5x import metrics as t5x_metrics
from t5x import train_state as train_state_lib
from t5x import trainer as t5x_trainer

from t5patches import checks, models, records, train_step
from t5patches.errors import UserError

PyTree = Any
RECORD = "frozen.json"
COPY = "frozen"


class SelfDistillationTrainer(t5x_trainer.Trainer):
    """T5X's Trainer for the models whose loss needs the frozen original model.

    Where the frozen parameters come from, in this order:

    1. `orig_train_state`, if given;
    2. `frozen_checkpoint`, if given;
    3. in a fresh run, the parameters that it starts with: they are copied, and the
       copy is saved in the model folder;
    4. in a resumed run (its model folder has a checkpoint), the checkpoint that
       `frozen.json` names.

    A run records in `frozen.json` in its model folder the checkpoint that its
    frozen parameters come from. A resumed run does not start without that record,
    nor when the record names another checkpoint than `frozen_checkpoint`: a
    preempted run must not take its own half-trained weights for the original.
    """

    def __init__(
        self,
        model: models.SelfDistillationModel,
        train_state: train_state_lib.TrainState,
        partitioner: partitioning.BasePartitioner,
        eval_names: Sequence[str],
        summary_dir: str | None,
        train_state_axes: Any,
        rng: jax.Array,
        learning_rate_fn: Callable[[jax.Array], jax.Array],
        num_microbatches: int | None,
        weight_metrics_computer: Any = None,
        orig_train_state: train_state_lib.TrainState | None = None,
        frozen_checkpoint: str | None = None,
    ):
        """Makes a trainer. The arguments are T5X's and:

        Args:
          model: a model whose `loss_fn` and `eval_fn` take `orig_params`.
          train_state: the state to start from.
          partitioner: shards the state, the frozen parameters and the batches.
          eval_names: names of the evaluation data sets.
          summary_dir: the model folder, or None for neither summaries nor record.
          train_state_axes: partition specs of the train state.
          rng: key for dropout, folded with the step.
          learning_rate_fn: step -> learning rate.
          num_microbatches: None, 0 or 1 for a single pass.
          weight_metrics_computer: T5X's `WeightMetricsComputer`, optional.
          orig_train_state: a train state with the frozen parameters.
          frozen_checkpoint: a checkpoint with the frozen parameters, or a folder of
            checkpoints, of which the latest is taken.

        Raises:
          UserError: if a resumed run's original model is not known, or contradicts
            `frozen_checkpoint`.
        """
        super().__init__(
            model=model,
            train_state=train_state,
            partitioner=partitioner,
            eval_names=eval_names,
            summary_dir=summary_dir,
            train_state_axes=train_state_axes,
            rng=rng,
            learning_rate_fn=learning_rate_fn,
            num_microbatches=num_microbatches,
            weight_metrics_computer=weight_metrics_computer,
        )
        if orig_train_state is not None:
            self.frozen_params = _copy(orig_train_state.params)
        else:
            self.frozen_params = find_frozen_params(
                train_state, partitioner, summary_dir, frozen_checkpoint
            )

    @functools.cached_property
    def _partitioned_train_step(self) -> _WithFrozenParams:
        def step(train_state, batch, frozen_params):
            learning_rate = self._learning_rate_fn(train_state.step)
            new_state, metrics, gradients = train_step.train_step(
                train_state,
                batch,
                self._get_step_rng(train_state.step),
                loss_fn=functools.partial(
                    self._model.loss_fn, orig_params=frozen_params
                ),
                learning_rate=learning_rate,
                num_microbatches=self._num_microbatches,
                merge_metrics=_merge_metrics,
                constrain_batch=self._constrain_batch,
            )
            metrics |= _learning_rate_metrics(learning_rate)
            if self._weight_metrics_computer is not None:
                metrics |= self._weight_metrics_computer.compute_metrics(
                    gradients, train_state, new_state
                )
            return new_state, metrics

        return self._partition(
            step, out_axes=(self._train_state_axes, None), donate_argnums=(0,)
        )

    @functools.cached_property
    def _partitioned_eval_step(self) -> _WithFrozenParams:
        def step(train_state, batch, frozen_params):
            return self._model.eval_fn(train_state.params, batch, frozen_params)[1]

        return self._partition(step, out_axes=None)

    def _partition(self, step, out_axes, donate_argnums=()) -> _WithFrozenParams:
        partitioned = self._partitioner.partition(
            step,
            in_axis_resources=(
                self._train_state_axes,
                self._partitioner.data_partition_spec,
                self._train_state_axes.params,
            ),
            out_axis_resources=out_axes,
            donate_argnums=donate_argnums,
        )
        return _WithFrozenParams(partitioned, self.frozen_params)

    def _constrain_batch(self, batch):
        spec = self._partitioner.data_partition_spec
        return jax.tree.map(
            lambda x: partitioning.with_sharding_constraint(x, spec), batch
        )


class _WithFrozenParams:
    """A step of (train_state, batch) for T5X, of one argument more for XLA.

    T5X calls its steps, or lowers and compiles them, with a train state and a batch.
    """

    def __init__(self, step: Any, frozen_params: PyTree):
        self._step = step
        self._frozen_params = frozen_params

    def __call__(self, train_state, batch):
        return self._step(train_state, batch, self._frozen_params)

    def lower(self, train_state, batch) -> _WithFrozenParams:
        lowered = self._step.lower(train_state, batch, self._frozen_params)
        return _WithFrozenParams(lowered, self._frozen_params)

    def compile(self) -> _WithFrozenParams:
        return _WithFrozenParams(self._step.compile(), self._frozen_params)


def _merge_metrics(metrics, update):
    return jax.tree.map(
        lambda a, b: a.merge(b), metrics, update, is_leaf=t5x_metrics.is_metric_obj
    )


def _learning_rate_metrics(learning_rate) -> dict[str, clu.metrics.Metric]:
    """The learning rate under the names that T5X's trainer gives it."""
    values = jnp.asarray([learning_rate])
    return {
        "learning_rate": clu.metrics.Average.from_model_output(values),
        "learning_rate/current": clu.metrics.LastValue.from_model_output(values),
    }


def _copy(params: PyTree) -> PyTree:
    """A copy with buffers of its own, sharded alike."""
    return jax.jit(lambda tree: jax.tree.map(jnp.copy, tree))(params)


def find_frozen_params(
    train_state: train_state_lib.TrainState,
    partitioner: partitioning.BasePartitioner,
    model_dir: str | None,
    frozen_checkpoint: str | None = None,
) -> PyTree:
    """The frozen parameters of a run, and its record of where they come from.

    Args:
      train_state: the state that the run starts or goes on with.
      partitioner: shards the parameters.
      model_dir: the run's folder, or None for no record.
      frozen_checkpoint: see `SelfDistillationTrainer`.

    Returns:
      A tree like `train_state.params`, sharded alike, of other buffers.

    Raises:
      UserError: see `SelfDistillationTrainer`.
    """
    if model_dir is None:
        if frozen_checkpoint is None:
            return _copy(train_state.params)
        return _restore(_resolve(frozen_checkpoint), train_state, partitioner)

    folder = checks.absolute(model_dir)
    resumed = bool(checks.checkpoint_steps(folder))
    record = _read_record(folder) if resumed else None
    checkpoint = _resolve(frozen_checkpoint) if frozen_checkpoint else None
    if resumed and record is None and checkpoint is None:
        raise UserError(
            f"{folder} has checkpoints but no {RECORD}: which model they were trained"
            " from is not known, and their own weights must not stand for it. Set"
            " SelfDistillationTrainer.frozen_checkpoint to that model's checkpoint, or"
            " use an empty MODEL_DIR"
        )
    if record and checkpoint and checkpoint != record:
        raise UserError(
            f"{folder / RECORD} says that this run's frozen model is {record}, but"
            f" frozen_checkpoint is {checkpoint}: use another MODEL_DIR, or the same"
            " checkpoint"
        )
    # Every process has read the folder before one of them writes to it.
    utils.sync_global_devices("t5patches:frozen_params")
    if record or checkpoint:
        params = _restore(record or checkpoint, train_state, partitioner)
    else:
        params = _copy(train_state.params)
        checkpoint = _save_copy(folder, train_state, partitioner)
    if record is None:
        _write_record(folder, checkpoint)
    return params


def _resolve(path: str) -> str:
    """The path of one checkpoint: itself, or the latest of a folder of them."""
    path = checks.absolute(path)
    try:
        step = checks.checkpoint_step(path)
    except UserError as error:
        raise UserError(f"frozen_checkpoint: {error}") from None
    name = f"checkpoint_{step}"
    return str(path if path.name == name else path / name)


def _read_record(folder: epath.Path) -> str | None:
    record = folder / RECORD
    if not record.exists():
        return None
    try:
        checkpoint = json.loads(record.read_text())["checkpoint"]
    except (ValueError, KeyError, TypeError):
        raise UserError(
            f"{record} is not a record of a frozen model: expected"
            ' {"checkpoint": PATH, "step": STEP}'
        ) from None
    # A copy within the model folder moves with it.
    return str(folder / checkpoint)


def _write_record(folder: epath.Path, checkpoint: str) -> None:
    if jax.process_index() != 0:
        return
    path = epath.Path(checkpoint)
    inside = path.is_relative_to(folder)
    record = {
        "checkpoint": str(path.relative_to(folder) if inside else path),
        "step": checks.checkpoint_step(path),
    }
    records.write_json(folder / RECORD, record)


def _parameters_only(train_state) -> train_state_lib.InferenceState:
    """The train state without its optimizer: what of a checkpoint is frozen."""
    return train_state_lib.InferenceState(
        step=train_state.step,
        params=train_state.params,
        params_axes=train_state.params_axes,
    )


def _manager(folder, state, partitioner):
    return checkpoints.OrbaxCheckpointManagerInterface(
        str(folder), state, partitioner, period=1
    )


def _restore(path: str, train_state, partitioner) -> PyTree:
    checks.checkpoint(path)
    checks.architecture(path, train_state.params)
    logging.info("The frozen model is %s.", path)
    state = jax.eval_shape(lambda: _parameters_only(train_state))
    manager = _manager(epath.Path(path).parent, state, partitioner)
    restored = manager.restore(path=path)
    manager.close()
    return restored.params


def _save_copy(folder: epath.Path, train_state, partitioner) -> str:
    """Saves the starting parameters in the model folder; returns the checkpoint."""
    copies = folder / COPY
    checkpoint = copies / f"checkpoint_{int(train_state.step)}"
    if jax.process_index() == 0:
        # A run that was killed before its first checkpoint starts afresh.
        if copies.exists():
            copies.rmtree()
        copies.mkdir(parents=True)
    utils.sync_global_devices("t5patches:frozen_copy")
    manager = _manager(copies, _parameters_only(train_state), partitioner)
    manager.save(_parameters_only(train_state))
    manager.wait_until_finished()
    manager.close()
    return str(checkpoint)
