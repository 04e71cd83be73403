"""The train loop.

Everything happens at steps that are known beforehand: a run from step `first` to
`total` is cut into segments that end where a summary, a checkpoint or an evaluation
is due (periods count from `first`), and each segment is one call of the trainer.
What a run computes does not depend on how it is cut.
"""

from __future__ import annotations

import contextlib
import itertools
import time
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
import seqio
from absl import logging
from etils import epath
from jax.experimental import multihost_utils

from t5x_embedded import _absent, checkpoints, models, partitioning, utils
from t5x_embedded import eval as eval_lib
from t5x_embedded import train_state as train_state_lib
from t5x_embedded import trainer as trainer_lib

__getattr__ = _absent.module_getattr(__name__)


def _segments(
    first: int, total: int, periods: Sequence[int], stats_period: int | None
) -> list[tuple[int, int]]:
    """The (start, end) of every segment of a run.

    Args:
        first: the step that the run starts at; periods count from here.
        total: the step that it ends at.
        periods: of what is done between segments, 0 for never.
        stats_period: steps between summaries, or None for as often as the rest.

    Raises:
        ValueError: the periods do not fit, or the run would end before it starts.
    """
    epoch = min(filter(None, periods), default=max(total, 1))
    if any(period % epoch for period in periods):
        raise ValueError(
            f"The checkpoint and the eval period ({sorted(periods)}) must be multiples "
            "of the smaller one."
        )
    if total < first:
        raise ValueError(
            f"total_steps is {total}, but the checkpoint is at step {first} already."
        )
    stops = {total}
    for start in range(first, total, epoch):
        stops |= {
            start,
            *range(start, min(start + epoch, total), stats_period or epoch),
        }
    return list(itertools.pairwise(sorted(stops)))


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
    save = cfg.save
    own = utils.RestoreCheckpointConfig(
        path=model_dir, mode="latest", dtype=save.dtype if save else "float32"
    )
    given = cfg.restore
    if given is None or not given.path:
        return [own]
    if given.mode == "all" or not isinstance(given.path, str):
        raise ValueError("Training starts from one checkpoint: one path, not mode all.")
    return [own, given]


def train(
    *,
    model: models.BaseTransformerModel,
    train_dataset_cfg: utils.DatasetConfig,
    train_eval_dataset_cfg: utils.DatasetConfig | None,
    infer_eval_dataset_cfg: utils.DatasetConfig | None,
    checkpoint_cfg: utils.CheckpointConfig,
    partitioner: partitioning.BasePartitioner,
    trainer_cls: Callable[..., trainer_lib.Trainer],
    model_dir: str,
    total_steps: int,
    eval_steps: int,
    eval_period: int,
    relative_steps: int | None = None,
    stats_period: int | None = None,
    random_seed: int | None,
    use_hardware_rng: bool = False,
    summarize_config_fn: Callable[[str, Any, int], None],
    inference_evaluator_cls: Callable[..., seqio.Evaluator] = seqio.Evaluator,
    get_dataset_fn: Callable = utils.get_dataset,
    concurrent_metrics: bool = True,
    train_state_initializer_cls: Callable = utils.TrainStateInitializer,
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
        concurrent_metrics: write metrics while training goes on.
        train_state_initializer_cls: makes train states.

    Returns:
        (last step, last train state)

    Raises:
        trainer.PreemptionError: the trainer raised it; its state is saved.
        ValueError: periods that do not fit, `total_steps` before the start, a
            checkpoint that does not fit the model.
    """
    epath.Path(model_dir).mkdir(parents=True, exist_ok=True)
    init_rng, trainer_rng = _make_rngs(random_seed, use_hardware_rng)
    save_cfg = checkpoint_cfg.save

    # Data.
    layout = partitioner.get_data_layout(train_dataset_cfg.batch_size)
    shard = (layout.shard_id, layout.num_shards)
    for cfg in filter(None, (train_dataset_cfg, train_eval_dataset_cfg)):
        utils.verify_matching_vocabs(cfg, model)
    converter = model.FEATURE_CONVERTER_CLS
    train_iter = utils.prepare_train_iter(
        get_dataset_fn(train_dataset_cfg, *shard, converter), partitioner=partitioner
    )
    spec = train_iter.element_spec
    train_eval_datasets = {}
    if train_eval_dataset_cfg:
        train_eval_datasets = utils.get_training_eval_datasets(
            train_eval_dataset_cfg, *shard, eval_steps, converter
        )

    # The state to start from.
    start = time.time()
    initializer = utils.initializer_for(
        model,
        {name: (layout.batch_size, *x.shape[1:]) for name, x in spec.items()},
        {name: x.dtype for name, x in spec.items()},
        partitioner,
        model_dir,
        train_state_initializer_cls,
        with_optimizer=True,
    )
    shape = initializer.global_train_state_shape
    restore_cfg, paths = utils.get_first_valid_restore_config_and_paths(
        _restore_configs(model_dir, checkpoint_cfg)
    )
    state, manager = None, None
    if restore_cfg:
        state = initializer.restore(paths[0], restore_cfg.dtype)
    save_period = (save_cfg.period or 0) if save_cfg else 0
    if save_period:
        manager = checkpoints.OrbaxCheckpointManagerInterface(
            model_dir, shape, partitioner, save_dtype=save_cfg.dtype, keep=save_cfg.keep
        )
    first_batch = train_iter.peek_async()
    state = state or initializer.from_scratch(init_rng)
    first_step = int(utils.get_local_data(state.step))
    init_seconds = time.time() - start
    if not (train_eval_dataset_cfg or infer_eval_dataset_cfg):
        eval_period = 0
    total = first_step + relative_steps if relative_steps else total_steps
    segments = _segments(first_step, total, (save_period, eval_period), stats_period)

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
            )
            stack.callback(evaluator.close)

        @contextlib.contextmanager
        def timed(name: str, step: int):
            start = time.time()
            yield
            metrics.write_scalar(f"timing/{name}", time.time() - start, step)

        def save(step: int, wait: bool = True) -> None:
            with timed("checkpoint_seconds", step):
                manager.save(trainer.train_state)
                if wait:
                    manager.wait_until_finished()

        def evaluate(step: int) -> None:
            """Writes metrics with teacher forcing, then SeqIO's of predictions."""
            datasets = train_eval_datasets
            if datasets and not trainer._compiled_eval_steps:
                zeros = utils.get_zeros_batch_like_dataset
                trainer.compile_eval({n: zeros(ds) for n, ds in datasets.items()})
            if datasets:
                untuned = {n: utils.untuned(ds) for n, ds in datasets.items()}
                trainer.eval({n: ds.as_numpy_iterator() for n, ds in untuned.items()})
            if evaluator is not None and evaluator.eval_tasks:
                with timed("evaluate_seconds", step):
                    found = evaluator.evaluate(
                        trainer.train_state, initializer.train_state_axes
                    )
                    if not concurrent_metrics:
                        found.result()

        if manager and first_step not in manager.all_steps():
            manager.save(trainer.train_state)
        if not segments:
            logging.warning("Nothing to train: step %d is the last.", first_step)
            return first_step, trainer.train_state

        with timed("train_iter_warmup", first_step):
            batch = first_batch.result()
        trainer.compile_train(batch)
        last_step = first_step
        for start, end in segments:
            if trainer.stop_training:
                logging.info("Stopping at step %d, as requested.", start)
                if manager:
                    save(start)
                break
            try:
                summary = trainer.train(train_iter, end - start, start_step=start)
            except trainer_lib.PreemptionError:
                if manager:
                    logging.info("Interrupted: saving before the end.")
                    save(int(utils.get_local_data(trainer.train_state.step)))
                raise
            saves, evaluates = (
                period and (end == total or (end - first_step) % period == 0)
                for period in (save_period, eval_period)
            )
            if saves or not concurrent_metrics:
                summary.result()
            if saves:  # It is written while training goes on, unless that deletes one.
                save(end, wait=end == total or save_cfg.keep is not None)
            if evaluates:
                evaluate(end)
            last_step = end
        utils.sync_global_devices("complete")
        return last_step, trainer.train_state
