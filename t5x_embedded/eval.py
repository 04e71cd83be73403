"""Evaluation with SeqIO's metrics: within a training run, or of checkpoints."""

from __future__ import annotations

import functools
from collections.abc import Callable, Collection, Mapping

import jax
import seqio
import tensorflow as tf
from absl import logging
from etils import epath

from t5x_embedded import (
    _absent,
    checkpoints,
    gin_utils,
    models,
    partitioning,
    utils,
)
from t5x_embedded import train_state as train_state_lib
from t5x_embedded import trainer as trainer_lib


class InferenceEvaluator:
    """Computes a task's SeqIO metrics from a model's predictions and scores."""

    def __init__(
        self,
        infer_eval_dataset_cfg: utils.DatasetConfig,
        inference_evaluator_cls: utils.EvaluatorConstructor,
        model: models.BaseModel,
        partitioner: partitioning.BasePartitioner,
        log_dir: str | None = None,
        verify_matching_vocabs_fn: Callable | None = utils.verify_matching_vocabs,
    ):
        """Loads the data; compiles nothing yet.

        Args:
            infer_eval_dataset_cfg: the task and split.
            inference_evaluator_cls: `seqio.Evaluator`, perhaps with bound arguments.
            model: predicts and scores.
            partitioner: compiles.
            log_dir: results go to `<log_dir>/inference_eval`; None logs none.
            verify_matching_vocabs_fn: raises if task and model do not match.
        """
        cfg = infer_eval_dataset_cfg
        if verify_matching_vocabs_fn and isinstance(model, models.BaseTransformerModel):
            verify_matching_vocabs_fn(cfg, model)
        if log_dir:
            logs = {"log_dir": str(epath.Path(log_dir) / "inference_eval")}
        else:
            logs = {"logger_cls": ()}
        self._model = model
        self._partitioner = partitioner
        self._batch_size = cfg.batch_size
        self._compiled: dict[str, Callable] = {}
        self._evaluator = inference_evaluator_cls(
            mixture_or_task_name=cfg.mixture_or_task_name,
            feature_converter=model.FEATURE_CONVERTER_CLS(pack=False),
            eval_split=cfg.split,
            use_cached=cfg.use_cached,
            seed=cfg.seed,
            sequence_length=cfg.task_feature_lengths,
            use_memory_cache=cfg.use_memory_cache,
            **logs,
        )

    @property
    def model_feature_shapes(self) -> Mapping[str, tuple[int, ...]]:
        return self._evaluator.model_feature_shapes

    @property
    def eval_tasks(self):
        return self._evaluator.eval_tasks

    def close(self) -> None:
        self._evaluator.close()

    def evaluate(self, train_state, train_state_axes):
        """Evaluates a train state.

        Args:
            train_state: its parameters are used.
            train_state_axes: its partition specs.

        Returns:
            A future of task -> metric -> value.
        """
        steps = {
            "predict_fn": self._model.predict_batch,
            "predict_with_aux_fn": self._model.predict_batch_with_aux,
            "score_fn": self._model.score_batch,
        }
        if not self._compiled:
            self._compiled = {
                name: utils.get_infer_fn(
                    step, self._batch_size, train_state_axes, self._partitioner
                )
                for name, step in steps.items()
            }
        bound = {}
        for name, fn in self._compiled.items():
            key = {} if name == "score_fn" else {"rng": jax.random.PRNGKey(0)}
            bound[name] = functools.partial(fn, train_state=train_state, **key)
        metrics, _ = self._evaluator.evaluate(
            compute_metrics=jax.process_index() == 0,
            step=int(utils.get_local_data(train_state.step)),
            **bound,
        )
        return metrics


class _Record:
    """Which checkpoints were evaluated before: a file of their paths."""

    def __init__(self, path: epath.Path):
        self._path = path

    def read(self) -> set[str]:
        return set(self._path.read_text().split()) if self._path.exists() else set()

    def add(self, checkpoint: str) -> None:
        if jax.process_index() == 0:
            self._path.write_text("\n".join(_by_step(self.read() | {checkpoint})))


def _by_step(paths: Collection[str]) -> list[str]:
    def step(path):
        try:
            return checkpoints.get_step_from_checkpoint_dir(path)[1]
        except ValueError:
            return -1

    return sorted(paths, key=lambda path: (step(path), path))


def _checkpoints_to_evaluate(cfg: utils.RestoreCheckpointConfig, record: _Record):
    """Paths to evaluate; of mode 'all', those that were not evaluated before."""
    valid, paths = utils.get_first_valid_restore_config_and_paths([cfg])
    if valid is not None and cfg.mode == "all":
        folders = [cfg.path] if isinstance(cfg.path, str) else cfg.path
        paths = [
            checkpoints.get_checkpoint_dir(folder, step)
            for folder in folders
            for step in checkpoints.all_steps(folder)
        ]
        done = record.read() & set(paths)
        logging.info("Skipping evaluated checkpoints: %s", _by_step(done))
        paths = _by_step(set(paths) - done)
    return paths


def evaluate(
    *,
    model: models.BaseTransformerModel,
    dataset_cfg: utils.DatasetConfig,
    restore_checkpoint_cfg: utils.RestoreCheckpointConfig,
    partitioner: partitioning.BasePartitioner,
    output_dir: str,
    inference_evaluator_cls: utils.EvaluatorConstructor = seqio.Evaluator,
    training_evaluator_cls: type[trainer_lib.Trainer] | None = None,
    summarize_config_fn: Callable[..., None] = gin_utils.summarize_gin_config,
    train_state_initializer_cls: type[
        utils.TrainStateInitializer
    ] = utils.TrainStateInitializer,
    train_eval_get_dataset_fn: utils.GetEvalDatasetCallable = (
        utils.get_training_eval_datasets
    ),
    fallback_init_rng: int | None = None,
    use_orbax: bool = True,
) -> None:
    """Evaluates checkpoints on a task with its SeqIO metrics.

    Args:
        model: predicts and scores.
        dataset_cfg: the task and split.
        restore_checkpoint_cfg: which checkpoints; of mode 'all', those evaluated
            before are skipped.
        partitioner: compiles.
        output_dir: results go to `<output_dir>/inference_eval`.
        inference_evaluator_cls: `seqio.Evaluator`, perhaps with bound arguments.
        training_evaluator_cls: a trainer, to write teacher-forced metrics too.
        summarize_config_fn: writes the configuration.
        train_state_initializer_cls: makes train states.
        train_eval_get_dataset_fn: the data of `training_evaluator_cls`.
        fallback_init_rng: seed for what a checkpoint lacks.
        use_orbax: must be True.

    Raises:
        ValueError: the task has no metrics or not the split, or there is no
            checkpoint.
    """
    if not use_orbax:
        _absent.option("eval.evaluate", "use_orbax", use_orbax)
    if dataset_cfg.module:
        utils.import_module(dataset_cfg.module)
    summarize_config_fn(model_dir=output_dir, summary_writer=None, step=0)
    evaluator = InferenceEvaluator(
        dataset_cfg, inference_evaluator_cls, model, partitioner, log_dir=output_dir
    )
    if not evaluator.eval_tasks:
        raise ValueError(
            f"{dataset_cfg.mixture_or_task_name!r} has no metrics, or no split "
            f"{dataset_cfg.split!r}"
        )
    initializer = train_state_initializer_cls(
        optimizer_def=None,
        init_fn=model.get_initial_variables,
        input_shapes={
            name: (dataset_cfg.batch_size, *shape)
            for name, shape in evaluator.model_feature_shapes.items()
        },
        partitioner=partitioner,
    )
    axes = initializer.train_state_axes
    folder = epath.Path(output_dir)
    utils.log_model_info(
        str(folder / "model-info.txt"),
        initializer.global_train_state_shape,
        partitioner,
    )
    teacher_forced = _teacher_forced_eval(
        model, dataset_cfg, partitioner, axes, output_dir,
        training_evaluator_cls, train_eval_get_dataset_fn,
    )  # fmt: skip

    record = _Record(folder / f"eval.{dataset_cfg.mixture_or_task_name}.ckpt")
    for path in _checkpoints_to_evaluate(restore_checkpoint_cfg, record):
        state, _ = utils.create_checkpoint_manager_and_restore(
            initializer,
            partitioner,
            restore_checkpoint_cfg,
            path,
            None
            if fallback_init_rng is None
            else jax.random.PRNGKey(fallback_init_rng),
        )
        teacher_forced(state)
        evaluator.evaluate(state, axes).result()
        utils.sync_global_devices(f"evaluated:{path}")
        record.add(path)
    evaluator.close()
    logging.info("Finished.")


def _teacher_forced_eval(
    model, cfg, partitioner, axes, output_dir, trainer_cls, get_datasets
) -> Callable[[train_state_lib.TrainState], None]:
    """A function that writes a trainer's evaluation metrics of a state, or nothing."""
    if trainer_cls is None:
        return lambda state: None
    layout = partitioner.get_data_layout(cfg.batch_size)
    datasets = get_datasets(
        cfg,
        layout.shard_id,
        layout.num_shards,
        feature_converter_cls=model.FEATURE_CONVERTER_CLS,
    )
    trainer = trainer_cls(
        model=model,
        train_state=None,
        partitioner=partitioner,
        train_state_axes=axes,
        eval_names=datasets.keys(),
        summary_dir=output_dir,
        rng=jax.random.PRNGKey(0),
        learning_rate_fn=None,
        num_microbatches=None,
    )

    def run(state):
        trainer.train_state = state
        trainer.eval(
            {
                name: ds.as_numpy_iterator() if isinstance(ds, tf.data.Dataset) else ds
                for name, ds in datasets.items()
            }
        )

    return run
