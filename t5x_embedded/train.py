"""The train loop.

Everything happens at steps that are known beforehand: a run from step `first` to
`total` is cut into segments that end where a summary, a checkpoint or an evaluation
is due (periods count from `first`), and each segment is one call of the trainer.
What a run computes does not depend on how it is cut.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import gc
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import seqio
import tensorflow as tf
from absl import logging
from etils import epath
from jax.experimental import multihost_utils

from t5x_embedded import (
    _absent,
    checkpoints,
    models,
    partitioning,
    utils,
)
from t5x_embedded import eval as eval_lib
from t5x_embedded import train_state as train_state_lib
from t5x_embedded import trainer as trainer_lib

# Under which name actions find the metrics of training.
TRAIN_METRIC_KEY = "train"


def run_actions(
    mode: trainer_lib.ActionMode,
    actions: trainer_lib.ActionMapType,
    train_state: train_state_lib.TrainState,
    metrics_by_task: Mapping[str, trainer_lib.MetricValueMapType],
) -> bool:
    """Runs the actions of a mode on process 0; all processes get its verdict.

    Returns:
        Whether training should end.

    Raises:
        RuntimeError: process 0 has no metrics.
    """
    stop = False
    if jax.process_index() == 0:
        if not metrics_by_task:
            raise RuntimeError("There are no metrics to run actions on.")
        for action in actions.get(mode, []):
            stop |= bool(action.run(train_state, metrics_by_task=metrics_by_task))
    return bool(multihost_utils.broadcast_one_to_all(jnp.array(stop)))


@dataclasses.dataclass(frozen=True)
class _Plan:
    """When what is due; periods are in steps from `first`, 0 for never."""

    first: int
    total: int
    eval_period: int
    save_period: int
    gc_period: int
    stats_period: int | None
    save_steps: Sequence[int]

    def __post_init__(self):
        periods = [p for p in (self.eval_period, self.save_period, self.gc_period) if p]
        if any(p % min(periods) for p in periods):
            raise ValueError(
                f"The checkpoint period ({self.save_period}), the eval period "
                f"({self.eval_period}) and the GC period ({self.gc_period}) must be "
                "multiples of the smallest of them."
            )
        if self.total < self.first:
            raise ValueError(
                f"total_steps is {self.total}, but the checkpoint is at step "
                f"{self.first} already."
            )

    @property
    def _epoch(self) -> int:
        periods = [p for p in (self.eval_period, self.save_period, self.gc_period) if p]
        return min(periods, default=self.total)

    def due(self, period: int, step: int) -> bool:
        """Whether something of this period is due after `step`."""
        return bool(period) and (
            step == self.total or (step - self.first) % period == 0
        )

    def segments(self) -> Iterator[tuple[int, int, bool]]:
        """Yields (start, end, whether `end` is one of `save_steps` only)."""
        epoch = self._epoch
        stats = self.stats_period or epoch
        extra = [
            step
            for step in self.save_steps
            if step < self.total and not self.due(self.save_period, step)
        ]
        start = self.first
        while start < self.total:
            epoch_end = start + epoch - (start - self.first) % epoch
            end = min(self.total, epoch_end, start + stats)
            end = min((s for s in extra if start < s <= end), default=end)
            yield start, end, end in extra
            start = end


def _make_rngs(random_seed: int | None, use_hardware_rng: bool):
    """(key of the initialisation, key of the trainer)."""
    if random_seed is None:
        random_seed = multihost_utils.broadcast_one_to_all(np.int32(time.time()))
        use_hardware_rng = True
    if use_hardware_rng:
        utils.set_hardware_rng_ops()
    logging.info("Seed of initialization and dropout: %d", random_seed)
    return jax.random.split(jax.random.PRNGKey(random_seed), 2)


def _restore_configs(model_dir: str, cfg: utils.CheckpointConfig):
    """Where a run may start from: its own latest checkpoint, then the given one."""
    own = utils.RestoreCheckpointConfig(
        path=model_dir,
        mode="latest",
        dtype=cfg.save.dtype if cfg.save else "float32",
        checkpointer_cls=(
            cfg.save.checkpointer_cls if cfg.save else checkpoints.Checkpointer
        ),
        restore_dataset=bool(cfg.save and cfg.save.save_dataset),
        state_transformation_fns=[
            functools.partial(fn, is_resuming=True)
            for fn in (cfg.restore.state_transformation_fns if cfg.restore else ())
        ],
    )
    if cfg.save:
        own.checkpoint_manager_cls = cfg.save.checkpoint_manager_cls
    given = cfg.restore
    if given is None or not given.path:
        return [own]
    if given.mode == "all" or not isinstance(given.path, str):
        raise ValueError("Training starts from one checkpoint: one path, not mode all.")
    return [own, given]


def _dummy_batch(element_spec, data_layout, partitioner):
    """A sharded batch of ones, to compile with."""
    sharding = jax.sharding.NamedSharding(
        partitioner.mesh, partitioner.data_partition_spec
    )

    def ones(spec):
        rows = np.ones((data_layout.batch_size, *spec.shape[1:]), spec.dtype)
        return jax.make_array_from_callback(rows.shape, sharding, lambda at: rows[at])

    return {name: ones(spec) for name, spec in element_spec.items()}


@dataclasses.dataclass
class _Run:
    """A run that is ready to go: what the parts of the loop share."""

    trainer: trainer_lib.BaseTrainer
    plan: _Plan
    actions: trainer_lib.ActionMapType
    concurrent_metrics: bool
    manager: Any
    save_transforms: Sequence[Callable]
    train_eval_datasets: Mapping[str, tf.data.Dataset]
    evaluator: eval_lib.InferenceEvaluator | None
    train_state_axes: Any
    compiled_eval: bool = False

    def act(self, mode: trainer_lib.ActionMode, metrics) -> None:
        self.trainer.stop_training = run_actions(
            mode, self.actions, self.trainer.train_state, metrics
        )

    def save(self) -> None:
        if self.manager is not None:
            self.manager.save(self.trainer.train_state, self.save_transforms)

    def save_in_time(self, step: int) -> None:
        """Saves, waits for it to be complete and writes how long that took."""
        start = time.time()
        self.save()
        self.manager.wait_until_finished()
        self.trainer.train_metrics_manager.write_scalar(
            "timing/checkpoint_seconds", time.time() - start, step
        )

    def training_eval(self) -> None:
        """Metrics with teacher forcing."""
        if not self.train_eval_datasets:
            return
        if not self.compiled_eval:
            self.trainer.compile_eval(
                {
                    name: utils.get_zeros_batch_like_dataset(ds)
                    for name, ds in self.train_eval_datasets.items()
                }
            )
            self.compiled_eval = True
        summaries = self.trainer.eval(
            {
                name: ds.as_numpy_iterator() if isinstance(ds, tf.data.Dataset) else ds
                for name, ds in self.train_eval_datasets.items()
            }
        )
        self.act(trainer_lib.ActionMode.TRAIN_EVAL, summaries)

    def inference_eval(self, step: int) -> None:
        """SeqIO's metrics of predictions."""
        if self.evaluator is None:
            return
        start = time.time()
        metrics = self.evaluator.evaluate(
            self.trainer.train_state, self.train_state_axes
        )
        if not self.concurrent_metrics:
            self.act(trainer_lib.ActionMode.INFER_EVAL, metrics.result() or {})
        self.trainer.train_metrics_manager.write_scalar(
            "timing/evaluate_seconds", time.time() - start, step
        )

    def loop(self, train_iter) -> int:
        """Trains to the end or to a stop; returns the step it came to."""
        step = self.plan.first
        for start, end, only_saves in self.plan.segments():
            if self.trainer.stop_training:
                logging.info("Stopping at step %d, as requested.", step)
                self.save()
                break
            try:
                summary = self.trainer.train(train_iter, end - start, start_step=start)
            except trainer_lib.PreemptionError:
                self.save()
                if self.manager is not None:
                    self.manager.wait_until_finished()
                raise
            step = end
            if not self.concurrent_metrics:
                metrics = {TRAIN_METRIC_KEY: summary.result()}
                self.act(trainer_lib.ActionMode.TRAIN, metrics)
            if only_saves:
                self.save()
                continue
            if self.plan.due(self.plan.gc_period, step):
                gc.collect()
            if self.manager is not None and self.plan.due(self.plan.save_period, step):
                summary.result()
                self.save_in_time(step)
            if self.plan.due(self.plan.eval_period, step):
                self.training_eval()
                self.inference_eval(step)
        return step


def train(
    *,
    model: models.BaseModel,
    train_dataset_cfg: utils.DatasetConfig,
    train_eval_dataset_cfg: utils.DatasetConfig | None,
    infer_eval_dataset_cfg: utils.DatasetConfig | None,
    checkpoint_cfg: utils.CheckpointConfig,
    partitioner: partitioning.BasePartitioner,
    trainer_cls: trainer_lib.BaseTrainerConstructor,
    model_dir: str,
    total_steps: int,
    eval_steps: int,
    eval_period: int,
    relative_steps: int | None = None,
    stats_period: int | None = None,
    random_seed: int | None,
    use_hardware_rng: bool = False,
    summarize_config_fn: Callable[[str, Any, int], None],
    inference_evaluator_cls: utils.EvaluatorConstructor = seqio.Evaluator,
    get_dataset_fn: utils.GetDatasetCallable = utils.get_dataset,
    concurrent_metrics: bool = True,
    actions: Mapping[str, Sequence[trainer_lib.BaseAction]] | None = None,
    train_eval_get_dataset_fn: utils.GetEvalDatasetCallable = (
        utils.get_training_eval_datasets
    ),
    run_eval_before_training: bool = False,
    train_state_initializer_cls: type[
        utils.TrainStateInitializer
    ] = utils.TrainStateInitializer,
    use_orbax: bool = True,
    verify_matching_vocabs_fn: Callable | None = utils.verify_matching_vocabs,
    gc_period: int = 0,
) -> tuple[int, train_state_lib.TrainState]:
    """Trains a model.

    It starts from the latest checkpoint in `model_dir`, or else from
    `checkpoint_cfg.restore`, or else from scratch.

    Args:
        model: gives losses, predictions and the optimizer.
        train_dataset_cfg: data to train on.
        train_eval_dataset_cfg: data for metrics with teacher forcing, or None.
        infer_eval_dataset_cfg: data for SeqIO's metrics, or None.
        checkpoint_cfg: what to save and to start from.
        partitioner: shards everything.
        trainer_cls: makes the trainer.
        model_dir: folder of checkpoints, events and the configuration.
        total_steps: the step to end at.
        eval_steps: batches per evaluation with teacher forcing.
        eval_period: steps between evaluations.
        relative_steps: steps from the start of this process; overrides total_steps.
        stats_period: steps between summaries; as often as the rest if None.
        random_seed: of initialisation and dropout; None takes the clock.
        use_hardware_rng: use the accelerator's generator.
        summarize_config_fn: called with model_dir, a metric writer and the step.
        inference_evaluator_cls: `seqio.Evaluator`, perhaps with bound arguments.
        get_dataset_fn: makes the training data.
        concurrent_metrics: write metrics while training goes on; actions on the
            metrics of training and of inference then do not run.
        actions: name of an `ActionMode` -> actions.
        train_eval_get_dataset_fn: makes the data of `train_eval_dataset_cfg`.
        run_eval_before_training: evaluate once before the first step.
        train_state_initializer_cls: makes train states.
        use_orbax: must be True.
        verify_matching_vocabs_fn: raises if task and model do not match.
        gc_period: collect garbage every so many steps only; 0 leaves it to Python.

    Returns:
        (last step, last train state)

    Raises:
        ValueError: periods that do not fit, `total_steps` before the start, unknown
            actions, a checkpoint that does not fit the model.
    """
    if not use_orbax:
        _absent.option("train.train", "use_orbax", use_orbax)
    modes = trainer_lib.ActionMode.__members__
    if set(actions or {}) - set(modes):
        raise ValueError(f"actions are of {sorted(modes)}, not {sorted(actions)}")
    epath.Path(model_dir).mkdir(parents=True, exist_ok=True)
    init_rng, trainer_rng = _make_rngs(random_seed, use_hardware_rng)
    save_cfg = checkpoint_cfg.save

    # Data.
    layout = partitioner.get_data_layout(train_dataset_cfg.batch_size)
    shard = (layout.shard_id, layout.num_shards)
    if verify_matching_vocabs_fn and isinstance(model, models.BaseTransformerModel):
        for cfg in filter(None, (train_dataset_cfg, train_eval_dataset_cfg)):
            verify_matching_vocabs_fn(cfg, model)
    converter = model.FEATURE_CONVERTER_CLS
    train_iter = utils.prepare_train_iter(
        get_dataset_fn(train_dataset_cfg, *shard, converter),
        checkpoint_cfg=checkpoint_cfg,
        partitioner=partitioner,
        data_layout=layout,
    )
    spec = train_iter.element_spec
    train_eval_datasets = {}
    if train_eval_dataset_cfg:
        train_eval_datasets = train_eval_get_dataset_fn(
            train_eval_dataset_cfg, *shard, eval_steps, converter
        )

    # The state to start from.
    start = time.time()
    initializer = train_state_initializer_cls(
        optimizer_def=model.optimizer_def,
        init_fn=model.get_initial_variables,
        input_shapes={k: (layout.batch_size, *v.shape[1:]) for k, v in spec.items()},
        input_types={k: v.dtype for k, v in spec.items()},
        partitioner=partitioner,
    )
    restore_cfg, paths = utils.get_first_valid_restore_config_and_paths(
        _restore_configs(model_dir, checkpoint_cfg)
    )
    state, manager = None, None
    saves = bool(save_cfg and (save_cfg.period or save_cfg.checkpoint_steps))
    if restore_cfg or saves:
        state, manager = utils.create_checkpoint_manager_and_restore(
            initializer,
            partitioner,
            restore_cfg,
            paths[0] if paths else None,
            init_rng,
            save_checkpoint_cfg=save_cfg,
            model_dir=model_dir,
            ds_iter=train_iter,
        )
    first_batch = train_iter.peek_async()
    state = state or initializer.from_scratch(init_rng)
    first_step = int(utils.get_local_data(state.step))
    init_seconds = time.time() - start
    utils.log_model_info(
        str(epath.Path(model_dir) / "model-info.txt"),
        initializer.global_train_state_shape,
        partitioner,
    )

    plan = _Plan(
        first=first_step,
        total=first_step + relative_steps if relative_steps else total_steps,
        eval_period=(
            eval_period if train_eval_dataset_cfg or infer_eval_dataset_cfg else 0
        ),
        save_period=(save_cfg.period or 0) if save_cfg else 0,
        gc_period=gc_period,
        stats_period=stats_period,
        save_steps=(save_cfg.checkpoint_steps or ()) if save_cfg else (),
    )

    with contextlib.ExitStack() as stack:
        if manager is not None:
            stack.callback(manager.close)
        trainer = trainer_cls(
            model=model,
            train_state=state,
            partitioner=partitioner,
            train_state_axes=initializer.train_state_axes,
            eval_names=train_eval_datasets.keys(),
            summary_dir=model_dir,
            rng=trainer_rng,
        )
        del state  # The first step donates its buffers.
        stack.callback(trainer.close)
        metrics = trainer.train_metrics_manager
        summarize_config_fn(model_dir, metrics.summary_writer, first_step)
        metrics.write_scalar("timing/init_or_restore_seconds", init_seconds, first_step)

        evaluator = None
        if infer_eval_dataset_cfg is not None:
            evaluator = eval_lib.InferenceEvaluator(
                infer_eval_dataset_cfg,
                inference_evaluator_cls,
                model,
                partitioner,
                model_dir,
                verify_matching_vocabs_fn,
            )
            stack.callback(evaluator.close)
        run = _Run(
            trainer=trainer,
            plan=plan,
            actions={modes[name]: todo for name, todo in (actions or {}).items()},
            concurrent_metrics=concurrent_metrics,
            manager=manager if saves else None,
            save_transforms=save_cfg.state_transformation_fns if save_cfg else (),
            train_eval_datasets=train_eval_datasets,
            evaluator=evaluator if evaluator and evaluator.eval_tasks else None,
            train_state_axes=initializer.train_state_axes,
        )
        if run_eval_before_training:
            run.training_eval()
            run.inference_eval(first_step)
        if plan.save_period and first_step not in manager.all_steps():
            run.save()
        if plan.total == first_step:
            logging.warning("Nothing to train: step %d is the last.", first_step)
            return first_step, trainer.train_state

        trainer.compile_train(_dummy_batch(spec, layout, partitioner))
        waiting = time.time()
        first_batch.result()
        metrics.write_scalar(
            "timing/train_iter_warmup", time.time() - waiting, first_step
        )
        if gc_period:
            gc.disable()
            stack.callback(gc.enable)
        last_step = run.loop(train_iter)
        utils.sync_global_devices("complete")
        return last_step, trainer.train_state
