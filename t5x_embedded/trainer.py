"""The trainer: compiled train and eval steps, and their metrics.

A trainer holds the train state. Its two steps are partitioned functions of (train
state, batch), made of the model's `loss_fn` and `eval_fn`; a subclass may give others
(`_partitioned_train_step`, `_partitioned_eval_step`). Metrics stay on the device until
a summary is written, in a thread, so that the steps of one summary do not wait for the
last one's numbers.
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import functools
import threading
import time
from collections.abc import Iterator, Mapping, MutableMapping, Sequence
from typing import Any

import clu.metrics
import clu.values
import jax
import jax.numpy as jnp
from absl import logging
from clu import metric_writers
from etils import epath

from t5x_embedded import _absent, models, partitioning, utils
from t5x_embedded import metrics as metrics_lib
from t5x_embedded import train_state as train_state_lib

BatchType = Mapping[str, jax.Array]
MetricMapType = MutableMapping[str, clu.metrics.Metric]
MetricValueMapType = Mapping[str, clu.values.Value]
LearningRateCallable = utils.LearningRateCallable
PartitionSpec = partitioning.PartitionSpec

__getattr__ = _absent.module_getattr(__name__)


# ---- Metrics ----


@jax.jit
def _merge(metrics: MetricMapType, update: MetricMapType) -> MetricMapType:
    merged = lambda old, new: old.merge(new)
    return jax.tree.map(merged, metrics, update, is_leaf=metrics_lib.is_metric_obj)


def merge_metrics(a: MetricMapType, b: MetricMapType) -> MetricMapType:
    """Merges two dicts of metrics, on the device."""
    # One process has no use for it, and it takes twice as long as the merging itself.
    if jax.process_count() > 1:
        a, b = jax.tree.map(utils.get_local_data, (a, b))
    return _merge(a, b)


class MetricsManager:
    """Writes summaries of metrics to the log, on process 0 to TensorBoard too."""

    def __init__(self, name: str, summary_dir: str | None = None):
        """Opens the writer.

        Args:
            name: of the collection and of its folder in `summary_dir`.
            summary_dir: where the events go; None writes to the log only.
        """
        self.summary_dir = str(epath.Path(summary_dir) / name) if summary_dir else None
        self._writer = metric_writers.create_default_writer(
            summary_dir,
            just_logging=jax.process_index() > 0,
            collection=name,
            asynchronous=True,
        )
        self._writer_lock = threading.Lock()
        # One worker: summaries are written in the order they were asked for.
        self._pool = concurrent.futures.ThreadPoolExecutor(1, f"metrics-{name}")
        self._pending: list[concurrent.futures.Future] = []
        self._started: float | None = None
        self._last_ready = 0.0

    __getattr__ = _absent.instance_getattr("trainer.MetricsManager")

    @property
    def summary_writer(self) -> metric_writers.MetricWriter:
        return self._writer

    def write_scalar(self, key: str, val, step: int) -> None:
        with self._writer_lock:
            self._writer.write_scalars(int(utils.get_local_data(step)), {key: val})

    def start_duration_timer(self, block_on=()) -> None:
        """Starts the clock of the next summary.

        Args:
            block_on: ignored; work that was queued before counts for the summary
                before, since its metrics' readiness is what ends it.
        """
        del block_on
        self._started = time.time()

    def write_metrics_summary(
        self, metrics: MetricMapType, step: int, num_steps: int
    ) -> concurrent.futures.Future[MetricValueMapType]:
        """Writes the values of `metrics` once they are computed.

        Args:
            metrics: merged over `num_steps` steps.
            step: the step to write them for.
            num_steps: what the metrics per step are divided by.

        Returns:
            A future of name -> value; its `result()` raises what the writing raised.
        """
        if self._started is None:
            raise ValueError("Call start_duration_timer first.")
        started, self._started = self._started, None
        step = int(utils.get_local_data(step))

        def summarize():
            host = jax.device_get(jax.tree.map(utils.get_local_data, metrics))
            now = time.time()
            duration = now - max(started, self._last_ready)
            self._last_ready = now
            host = metrics_lib.set_time_metrics_duration(host, duration)
            host = metrics_lib.set_step_metrics_num_steps(host, num_steps)
            values = {name: metric.compute_value() for name, metric in host.items()}
            with self._writer_lock:
                metric_writers.write_values(self._writer, step, values)
            return values

        future = self._pool.submit(summarize)
        self._pending = [f for f in self._pending if not f.done()] + [future]
        return future

    def close(self) -> None:
        """Waits for what is being written, closes the writer; may be called again."""
        if self._writer is None:
            return
        self._pool.shutdown(wait=True)
        writer, self._writer = self._writer, None
        writer.close()
        for future in self._pending:
            future.result()


# ---- Steps ----


def accumulate_grads_microbatched(
    model: models.BaseTransformerModel,
    train_state: train_state_lib.TrainState,
    batch: BatchType,
    dropout_rng: jax.Array,
    num_microbatches: int | None,
    data_partition_spec: PartitionSpec = PartitionSpec("data"),  # noqa: B008
):
    """Gradients and metrics of a batch, summed over microbatches of its rows.

    Args:
        model: has `loss_fn(params, batch, rng)`.
        train_state: the state.
        batch: arrays of the same number of rows.
        dropout_rng: of the step; as in T5X, all microbatches use the same key.
        num_microbatches: how many; None, 0 or 1 for the batch in one piece.
        data_partition_spec: sharding of a (micro)batch.

    Returns:
        (gradients, metrics, None: T5X has the module's mutable variables here)
    """
    grad_fn = jax.value_and_grad(model.loss_fn, has_aux=True)
    count = num_microbatches or 1
    if count <= 1:
        (_, metrics), grads = grad_fn(train_state.params, batch, dropout_rng)
        return grads, metrics, None

    size = next(iter(batch.values())).shape[0]
    if size % count:
        raise AssertionError(f"{size} rows do not make {count} microbatches.")
    stacked = jax.tree.map(lambda x: x.reshape(count, -1, *x.shape[1:]), batch)
    rng = jax.random.split(dropout_rng)[1]

    def add(total, rows):
        rows = jax.tree.map(
            lambda x: partitioning.with_sharding_constraint(x, data_partition_spec),
            rows,
        )
        (_, metrics), grads = grad_fn(train_state.params, rows, rng)
        return jax.tree.map(jnp.add, total, grads), metrics

    zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, jnp.float32), train_state.params)
    grads, history = jax.lax.scan(add, zeros, stacked)
    pieces = (jax.tree.map(lambda x, i=i: x[i], history) for i in range(count))
    return grads, functools.reduce(_merge, pieces), None


def apply_grads(
    train_state: train_state_lib.TrainState,
    grad_accum: Any,
    metrics: MetricMapType,
    learning_rate: jax.Array,
    weight_metrics_computer: Any | None,
    other_state_variables: Mapping[str, Any] | None = None,
):
    """Updates a state by its gradients.

    Args:
        train_state: the state.
        grad_accum: gradients of all parameters.
        metrics: gets the learning rate and the weights' metrics in addition.
        learning_rate: float32 scalar.
        weight_metrics_computer: see `Trainer`.
        other_state_variables: must be None or empty; T5X has mutable variables here.

    Returns:
        (new train state, metrics)
    """
    _absent.refuse("trainer.apply_grads", locals(), "other_state_variables")
    new_state = train_state.apply_gradient(grad_accum, learning_rate=learning_rate)
    rate = jnp.asarray([learning_rate])
    metrics["learning_rate"] = clu.metrics.Average.from_model_output(rate)
    metrics["learning_rate/current"] = clu.metrics.LastValue.from_model_output(rate)
    if weight_metrics_computer is not None:
        metrics |= weight_metrics_computer.compute_metrics(
            grad_accum, train_state, new_state
        )
    return new_state, metrics


def train_with_lr(
    train_state: train_state_lib.TrainState,
    batch: BatchType,
    learning_rate: jax.Array,
    dropout_rng: jax.Array,
    model: models.BaseTransformerModel,
    num_microbatches: int | None,
    weight_metrics_computer: Any | None = None,
    data_partition_spec: PartitionSpec = PartitionSpec("data"),  # noqa: B008
):
    """One train step: gradients, then the update.

    Args:
        train_state: the state.
        batch: see `accumulate_grads_microbatched`, also for the arguments below.
        learning_rate: float32 scalar; it is added to the metrics.
        dropout_rng: of the step.
        model: gives the loss.
        num_microbatches: how many.
        weight_metrics_computer: see `Trainer`.
        data_partition_spec: sharding of a batch.

    Returns:
        (new train state, metrics)
    """
    grads, metrics, _ = accumulate_grads_microbatched(
        model, train_state, batch, dropout_rng, num_microbatches, data_partition_spec
    )
    return apply_grads(
        train_state, grads, metrics, learning_rate, weight_metrics_computer
    )


def eval_step(
    model: models.BaseTransformerModel, train_state, batch: BatchType
) -> MetricMapType:
    """The metrics of the model's `eval_fn` on a batch."""
    return model.eval_fn(train_state.params, batch)[1]


# ---- Trainers ----


class PreemptionError(Exception):
    """A trainer's `train` was interrupted; the train loop saves its state and ends."""


class Trainer:
    """Holds a train state and steps it; close it to end its threads."""

    __getattr__ = _absent.instance_getattr("trainer.Trainer")

    def __init__(
        self,
        model: models.BaseTransformerModel,
        train_state: train_state_lib.TrainState,
        partitioner: partitioning.BasePartitioner,
        eval_names: Sequence[str],
        summary_dir: str | None,
        train_state_axes: Any,
        rng: jax.Array,
        learning_rate_fn: LearningRateCallable,
        num_microbatches: int | None,
        weight_metrics_computer: Any | None = None,
    ):
        """Compiles nothing yet.

        Args:
            model: gives losses and metrics.
            train_state: to start from; donated to the first step.
            partitioner: compiles the steps.
            eval_names: names of the data sets that `eval` will get.
            summary_dir: where TensorBoard events go, or None.
            train_state_axes: partition specs of the train state.
            rng: base key; a step's key is this one with the step folded in.
            learning_rate_fn: step -> learning rate.
            num_microbatches: see `accumulate_grads_microbatched`.
            weight_metrics_computer: its `compute_metrics(gradients, old state, new
                state)` gives more metrics; or None.
        """
        self._model = model
        self._partitioner = partitioner
        self._train_state_axes = train_state_axes
        self._base_rng = rng
        self._learning_rate_fn = learning_rate_fn
        self._num_microbatches = num_microbatches
        self._weight_metrics_computer = weight_metrics_computer
        self._compiled_train_step = None
        self._compiled_eval_steps: dict[str, Any] = {}
        self._compiled_eval_step_cache: dict[Any, Any] = {}
        self.train_state = train_state
        self._trainer_init_time = time.time()
        self.stop_training = False
        self.train_metrics_manager = MetricsManager("train", summary_dir)
        self.eval_metrics_managers = {
            # A file name has at most 255 bytes, of which clu uses some.
            name: MetricsManager(f"training_eval/{name[:113]}", summary_dir)
            for name in eval_names
        }

    def close(self) -> None:
        """Waits for what is being written and ends the threads."""
        with contextlib.ExitStack() as stack:
            for manager in self.eval_metrics_managers.values():
                stack.callback(manager.close)
            stack.callback(self.train_metrics_manager.close)

    def _get_step_rng(self, step) -> jax.Array:
        return jax.random.fold_in(self._base_rng, step)

    def train(
        self,
        batch_iter: Iterator[BatchType],
        num_steps: int,
        start_step: int | None = None,
    ):
        """Trains for `num_steps` batches.

        Args:
            batch_iter: yields batches sharded as the step wants them.
            num_steps: how many to take.
            start_step: the state's step, to save asking the device for it.

        Returns:
            A future of name -> value of the metrics.
        """
        step_fn = self._compiled_train_step or self._partitioned_train_step
        state, metrics = self.train_state, None
        start = int(state.step if start_step is None else start_step)
        self.train_metrics_manager.start_duration_timer(block_on=state)
        for step in range(start, start + num_steps):
            logging.log_every_n_seconds(logging.INFO, "Training: step %d", 10, step)
            with jax.profiler.StepTraceAnnotation("train", step_num=step):
                state, update = step_fn(state, next(batch_iter))
                metrics = merge_metrics(metrics, update) if metrics else update
        self.train_state = state
        if metrics is not None:
            uptime = jnp.asarray([time.time() - self._trainer_init_time])
            metrics["timing/uptime"] = clu.metrics.LastValue.from_model_output(uptime)
        return self.train_metrics_manager.write_metrics_summary(
            metrics, start + num_steps, num_steps
        )

    def compile_train(self, batch: BatchType) -> None:
        """Compiles the train step for batches like `batch` before the first one."""
        start = time.time()
        self._compiled_train_step = self._partitioner.compile(
            self._partitioned_train_step, self.train_state, batch
        )
        self._note_compilation(self.train_metrics_manager, start)

    def _note_compilation(self, manager: MetricsManager, start: float) -> None:
        seconds = time.time() - start
        manager.write_scalar(
            "timing/compilation_seconds", seconds, self.train_state.step
        )

    def eval(
        self, batch_iters: Mapping[str, Iterator[BatchType]]
    ) -> dict[str, MetricValueMapType]:
        """Runs through each data set and writes its metrics.

        Args:
            batch_iters: name of the data set -> this process's batches.

        Returns:
            name of the data set -> name of the metric -> value.
        """
        uneven = "The processes have different numbers of evaluation batches"
        futures = {}
        state = self.train_state
        for name, batches in batch_iters.items():
            logging.info("Evaluating: %s.", name)
            manager = self.eval_metrics_managers[name]
            step_fn = self._compiled_eval_steps.get(name, self._partitioned_eval_step)
            manager.start_duration_timer(block_on=state)
            metrics, count = None, 0
            for count, batch in enumerate(batches, start=1):
                utils.multihost_assert_equal(jnp.array(count), uneven)
                update = step_fn(state, self._partitioner.to_global(batch))
                metrics = merge_metrics(metrics, update) if metrics else update
            utils.multihost_assert_equal(jnp.array(-1), uneven)
            futures[name] = manager.write_metrics_summary(metrics, state.step, count)
        return {name: future.result() for name, future in futures.items()}

    def compile_eval(self, batches: Mapping[str, BatchType]) -> None:
        """Compiles the eval step, once for all data sets of the same shapes.

        Args:
            batches: name of the data set -> a batch like this process's.
        """
        for name, batch in batches.items():
            start = time.time()
            key = tuple(sorted((k, x.shape, str(x.dtype)) for k, x in batch.items()))
            if key not in self._compiled_eval_step_cache:
                self._compiled_eval_step_cache[key] = self._partitioner.compile(
                    self._partitioned_eval_step,
                    self.train_state,
                    self._partitioner.to_global(batch),
                )
            self._compiled_eval_steps[name] = self._compiled_eval_step_cache[key]
            self._note_compilation(self.eval_metrics_managers[name], start)

    @functools.cached_property
    def _partitioned_train_step(self):
        data_spec = self._partitioner.data_partition_spec

        def step(train_state, batch):
            return train_with_lr(
                train_state,
                batch,
                self._learning_rate_fn(train_state.step),
                self._get_step_rng(train_state.step),
                self._model,
                self._num_microbatches,
                self._weight_metrics_computer,
                data_spec,
            )

        axes = self._train_state_axes
        return self._partitioner.partition(
            step,
            in_axis_resources=(axes, data_spec),
            out_axis_resources=(axes, None),
            donate_argnums=(0,),
        )

    @functools.cached_property
    def _partitioned_eval_step(self):
        def step(train_state, batch):
            return eval_step(self._model, train_state, batch)

        specs = (self._train_state_axes, self._partitioner.data_partition_spec)
        return self._partitioner.partition(
            step, in_axis_resources=specs, out_axis_resources=None
        )
