"""T5X trainers that carry the frozen original model, and that watch over a run.

T5X's train loop gives a trainer a train state and batches, nothing else; the frozen
parameters are the trainer's own: an explicit, sharded argument of the compiled step,
never differentiated, without optimizer state, never the train state's own buffers
(the step donates those).

`WatchedTrainer` is T5X's `Trainer` and, on either engine:

* SIGTERM stops the run after the step that it came in, a checkpoint is saved, the
  exit status is 0, and the same command goes on;
* a NaN or infinite loss stops it, names step and last good checkpoint and writes the
  batch aside;
* each checkpoint has a record of its own: its vocabulary, its files' digests;
* `best.json` names the checkpoint with the lowest validation loss.

`SelfDistillationTrainer` adds the frozen model. Fine-tuning with T5X's own trainer
gets none of this.
"""

from __future__ import annotations

import copy
import functools
import inspect
import os
import time
import types
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import clu.metrics
import jax
import jax.numpy as jnp
from absl import logging
from t5x import partitioning, utils
from t5x import train_state as train_state_lib
from t5x import trainer as t5x_trainer
from t5x.trainer import apply_grads

from t5patches import frozen, models, progress, watch
from t5patches.interchange import vocabularies

PyTree = Any
Batch = Mapping[str, jax.Array]
Metrics = dict[str, clu.metrics.Metric]
PartitionSpec = partitioning.PartitionSpec


# ---- Steps ----


def accumulate_grads_microbatched(
    model: models.NegativeTrainingTransformer,
    train_state: train_state_lib.TrainState,
    batch: Batch,
    dropout_rng: jax.Array,
    num_microbatches: int | None,
    data_partition_spec: PartitionSpec = PartitionSpec("data"),  # noqa: B008
    orig_train_state: train_state_lib.TrainState | None = None,
) -> tuple[PyTree, Metrics, PyTree]:
    """Computes gradients and metrics of a batch, as T5X's function of this name does.

    Args:
      model: gives the loss.
      train_state: has the trainable parameters.
      batch: model features [batch, ...].
      dropout_rng: key of the step.
      num_microbatches: None, 0 or 1 for a single pass.
      data_partition_spec: sharding of a (micro)batch.
      orig_train_state: has the frozen parameters; None for a loss without.

    Returns:
      Gradients, metrics, and the module's mutable variables or None.
    """
    return t5x_trainer.accumulate_grads_microbatched(
        _with_frozen_params(model, orig_train_state),
        train_state,
        batch,
        dropout_rng,
        num_microbatches,
        data_partition_spec,
    )


def train_with_lr(
    train_state: train_state_lib.TrainState,
    batch: Batch,
    learning_rate: jax.Array,
    dropout_rng: jax.Array,
    model: models.NegativeTrainingTransformer,
    num_microbatches: int | None,
    weight_metrics_computer: Any = None,
    data_partition_spec: PartitionSpec = PartitionSpec("data"),  # noqa: B008
    orig_train_state: train_state_lib.TrainState | None = None,
) -> tuple[train_state_lib.TrainState, Metrics]:
    """Takes one train step; see `accumulate_grads_microbatched` for the arguments.

    Returns:
      The new train state and the metrics, with the learning rate.
    """
    gradients, metrics, mutables = accumulate_grads_microbatched(
        model,
        train_state,
        batch,
        dropout_rng,
        num_microbatches,
        data_partition_spec,
        orig_train_state=orig_train_state,
    )
    return apply_grads(
        train_state,
        gradients,
        metrics,
        learning_rate,
        weight_metrics_computer,
        other_state_variables={"flax_mutables": mutables} if mutables else None,
    )


def eval_step(
    model: models.NegativeTrainingTransformer,
    train_state: train_state_lib.TrainState,
    batch: Batch,
    orig_train_state: train_state_lib.TrainState | None = None,
) -> Metrics:
    """Returns the metrics of the model's `eval_fn` on a batch."""
    bound = _with_frozen_params(model, orig_train_state)
    return t5x_trainer.eval_step(bound, train_state, batch)


def _with_frozen_params(model, orig_train_state) -> Any:
    """Returns the model as T5X's steps call it: its losses without `orig_params`."""
    if orig_train_state is None:
        return model
    frozen_params = orig_train_state.params
    return types.SimpleNamespace(
        loss_fn=lambda params, batch, rng, *mutables: model.loss_fn(
            params, batch, rng, frozen_params, *mutables
        ),
        eval_fn=lambda params, batch, *mutables: model.eval_fn(
            params, batch, frozen_params, *mutables
        ),
    )


# ---- Trainers ----


class WatchedTrainer(t5x_trainer.Trainer):
    """T5X's Trainer, for any of its models, and what the module's text lists.

    The validation loss that `best.json` goes by is the train-eval metric
    `loss_per_nonpadding_target_token` (`loss` if a model has none) of
    `train_eval_dataset_cfg`. Only steps that are both evaluated and saved can be the
    best: EVAL_PERIOD and SAVE_PERIOD should be the same.
    """

    @functools.cached_property
    def _model_dir(self) -> str | None:
        folder = self.train_metrics_manager.summary_dir
        return folder and os.path.dirname(folder)

    @functools.cached_property
    def _stop_signal(self) -> watch.StopSignal:
        return watch.StopSignal()

    @functools.cached_property
    def _loss_guard(self) -> watch.LossGuard:
        return watch.LossGuard(self._model, self._model_dir)

    @functools.cached_property
    def _validation(self) -> watch.Validation:
        return watch.Validation(self._model_dir)

    @functools.cached_property
    def _seals(self) -> watch.Seals:
        return watch.Seals(self._model_dir, self._model)

    def _note_checkpoints(self) -> None:
        """Takes note of what has been written while training went on."""
        self._seals.seal()
        self._validation.choose()

    def train(
        self, batch_iter: Iterator[Batch], num_steps: int, start_step: int | None = None
    ):
        """Trains for `num_steps` batches, or until SIGTERM.

        Args:
          batch_iter: yields batches sharded as the step wants them.
          num_steps: how many to take.
          start_step: the state's step, to save asking the device for it.

        Returns:
          A future of name -> value of the metrics.

        Raises:
          UserError: the loss is NaN or infinite.
          watch.Preempted: SIGTERM came; `train_state` is that of the last step.
        """
        self._note_checkpoints()
        step_fn = self._compiled_train_step or self._partitioned_train_step
        state, metrics = self.train_state, None
        if start_step is None:
            start_step = int(utils.get_local_data(state.step))
        step, stopping = start_step, False
        steps: Iterable[int] = range(start_step, start_step + num_steps)
        if jax.process_index() == 0:
            steps = progress.track(steps, "train", num_steps)
        self._stop_signal.listen()
        self.train_metrics_manager.start_duration_timer(block_on=state)
        for number in steps:
            with jax.profiler.StepTraceAnnotation("train", step_num=number):
                batch = next(batch_iter)
                state, update = step_fn(state, batch)
                merge = t5x_trainer.merge_metrics
                metrics = merge(metrics, update) if metrics else update
            step = number + 1
            self._loss_guard.note(step, batch, update)
            if stopping := self._stop_signal.received(step):
                break
        self._loss_guard.finish(state.params)
        self.train_state = state
        if metrics is not None:
            uptime = jnp.asarray([time.time() - self._trainer_init_time])
            metrics["timing/uptime"] = clu.metrics.LastValue.from_model_output(uptime)
        summary = self.train_metrics_manager.write_metrics_summary(
            metrics, step, step - start_step
        )
        if stopping:
            summary.result()
            logging.warning(
                "SIGTERM: stopping after step %d. Its checkpoint is saved now; the same"
                " command goes on from there.",
                step,
            )
            raise watch.Preempted
        return summary

    def eval(self, batch_iters: Mapping[str, Iterator[Batch]]):
        """Evaluates as T5X does and keeps `best.json` up to date."""
        self._note_checkpoints()
        summaries = super().eval(batch_iters)
        step = int(utils.get_local_data(self.train_state.step))
        self._validation.record(step, summaries)
        return summaries

    def close(self) -> None:
        """Seals the last checkpoint, ends the threads and gives SIGTERM back."""
        self._note_checkpoints()
        self._stop_signal.close()
        super().close()


class SelfDistillationTrainer(WatchedTrainer):
    """The trainer for losses that compare with the frozen original model.

    Where the frozen parameters come from, in this order:

    1. `orig_train_state`, if given;
    2. `frozen_checkpoint`, if given;
    3. in a fresh run, the parameters that it starts with: they are copied, and the
       copy is saved in the model folder;
    4. in a resumed run (its model folder has a checkpoint), the checkpoint that
       `frozen.json` names.

    A run records in `frozen.json` in its model folder the checkpoint that its
    frozen parameters come from, and which one that is. A resumed run does not start
    without that record, nor when the record names another checkpoint than
    `frozen_checkpoint`, or another one lies at its path: a preempted run must not
    take its own half-trained weights, or anything else, for the original.

    A model whose `loss_fn` takes no `orig_params` (NL, UL, T5X's own models) has no
    frozen parameters and no record.

    Attributes:
      frozen_params: the frozen parameters, or None.
    """

    def __init__(
        self,
        model: models.NegativeTrainingTransformer,
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
        frozen_dtype: str | None = None,
        initial_checkpoint: str | None = None,
    ):
        """Makes a trainer. The arguments are T5X's and:

        Args:
          model: its `loss_fn` and `eval_fn` take `orig_params`, or neither does.
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
          frozen_dtype: what the frozen parameters are kept in, e.g. 'bfloat16', half
            the memory; None for the dtype of the trainable ones.
          initial_checkpoint: what the run starts from. Where that is the frozen model a
            step does less: see `NegativeTrainingTransformer.starts_frozen`.

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
        cache = getattr(model, "frozen_cache", None)
        if cache and orig_train_state is None:
            paths = frozen_checkpoint, initial_checkpoint
            self._model = copy.copy(model)
            self._model.starts_frozen = not frozen_checkpoint or frozen.same(*paths)
        # With a cache the rest of the frozen model has been run before.
        self._frozen_part = models.head_alone if cache else lambda params: params
        if not takes_frozen_params(model):
            self.frozen_params = None
        elif orig_train_state is not None:
            params = self._frozen_part(orig_train_state.params)
            self.frozen_params = frozen.copy(params, frozen_dtype)
        else:
            self.frozen_params = frozen.find_params(
                train_state,
                partitioner,
                summary_dir,
                frozen_checkpoint,
                frozen_dtype,
                vocabularies.of_model(model),
                self._frozen_part,
                cache,
            )

    @property
    def orig_train_state(self) -> train_state_lib.InferenceState | None:
        """The frozen parameters as a state without optimizer, or None."""
        return _as_state(self.frozen_params)

    @functools.cached_property
    def _partitioned_train_step(self) -> _WithMoreArguments:
        def step(train_state, batch, frozen_params, numbers):
            alpha, learning_rate, rng = numbers
            return train_with_lr(
                train_state,
                batch,
                learning_rate,
                rng,
                _with_alpha(self._model, alpha),
                self._num_microbatches,
                self._weight_metrics_computer,
                self._partitioner.data_partition_spec,
                orig_train_state=_as_state(frozen_params),
            )

        @jax.jit
        def numbers(step):
            return self._alpha, self._learning_rate_fn(step), self._get_step_rng(step)

        return self._partition(
            step, numbers, out_axes=(self._train_state_axes, None), donate_argnums=(0,)
        )

    @functools.cached_property
    def _partitioned_eval_step(self) -> _WithMoreArguments:
        def step(train_state, batch, frozen_params, alpha):
            return eval_step(
                _with_alpha(self._model, alpha),
                train_state,
                batch,
                orig_train_state=_as_state(frozen_params),
            )

        return self._partition(step, lambda step: self._alpha, out_axes=None)

    @property
    def _alpha(self) -> jax.Array | None:
        alpha = getattr(self._model, "alpha", None)
        return None if alpha is None else jnp.float32(alpha)

    def _partition(
        self, step, numbers, out_axes, donate_argnums=()
    ) -> _WithMoreArguments:
        axes = self._train_state_axes
        partitioned = self._partitioner.partition(
            step,
            in_axis_resources=(
                axes,
                self._partitioner.data_partition_spec,
                None if self.frozen_params is None else self._frozen_part(axes.params),
                None,
            ),
            out_axis_resources=out_axes,
            donate_argnums=donate_argnums,
        )
        return _WithMoreArguments(partitioned, self.frozen_params, numbers)


def takes_frozen_params(model: Any) -> bool:
    """Whether a model's loss has the argument `orig_params`."""
    parameters = inspect.signature(model.loss_fn).parameters.values()
    return any(p.name == "orig_params" or p.kind is p.VAR_KEYWORD for p in parameters)


def _as_state(params: PyTree) -> train_state_lib.InferenceState | None:
    if params is None:
        return None
    return train_state_lib.InferenceState(step=None, params=params)


def _with_alpha(model: Any, alpha: jax.Array | None) -> Any:
    """Returns the model with an alpha that may be traced."""
    if alpha is not None:
        model = copy.copy(model)
        model.alpha = alpha
    return model


class _WithMoreArguments:
    """A step of (train_state, batch) for T5X, of two arguments more for XLA.

    T5X calls its steps, or lowers and compiles them, with a train state and a batch.
    The frozen parameters, and numbers that differ from run to run, are no constants of
    the program: where alpha, learning rate or seed are others it is compiled already.
    """

    def __init__(self, step: Any, frozen_params: PyTree, numbers: Callable[[Any], Any]):
        self._step = step
        self._frozen_params = frozen_params
        self._numbers = numbers

    def __call__(self, train_state, batch):
        numbers = self._numbers(train_state.step)
        return self._step(train_state, batch, self._frozen_params, numbers)

    def lower(self, train_state, batch) -> _WithMoreArguments:
        numbers = self._numbers(train_state.step)
        lowered = self._step.lower(train_state, batch, self._frozen_params, numbers)
        return _WithMoreArguments(lowered, self._frozen_params, self._numbers)

    def compile(self) -> _WithMoreArguments:
        compiled = self._step.compile()
        return _WithMoreArguments(compiled, self._frozen_params, self._numbers)
