"""Evaluation with SeqIO's metrics: within a training run, or of checkpoints."""

from __future__ import annotations

import functools
from collections.abc import Callable

import jax
import seqio
from absl import logging
from etils import epath

from t5x_embedded import _absent, gin_utils, models, partitioning, utils

__getattr__ = _absent.module_getattr(__name__)


class InferenceEvaluator:
    """Computes a task's SeqIO metrics from a model's predictions and scores."""

    def __init__(
        self,
        infer_eval_dataset_cfg: utils.DatasetConfig,
        inference_evaluator_cls: Callable[..., seqio.Evaluator],
        model: models.BaseTransformerModel,
        partitioner: partitioning.BasePartitioner,
        log_dir: str,
    ):
        """Loads the data; compiles nothing yet.

        Args:
            infer_eval_dataset_cfg: the task and split.
            inference_evaluator_cls: `seqio.Evaluator`, perhaps with bound arguments.
            model: predicts and scores.
            partitioner: compiles.
            log_dir: results go to `<log_dir>/inference_eval`.
        """
        cfg = infer_eval_dataset_cfg
        utils.verify_matching_vocabs(cfg, model)
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
            log_dir=str(epath.Path(log_dir) / "inference_eval"),
        )
        self.model_feature_shapes = self._evaluator.model_feature_shapes
        self.eval_tasks = self._evaluator.eval_tasks

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
        if not self._compiled:
            steps = {
                "predict_fn": self._model.predict_batch,
                "predict_with_aux_fn": self._model.predict_batch_with_aux,
                "score_fn": self._model.score_batch,
            }
            settings = self._batch_size, train_state_axes, self._partitioner
            self._compiled = {
                name: utils.get_infer_fn(step, *settings)
                for name, step in steps.items()
            }
        now = dict(train_state=train_state, rng=jax.random.PRNGKey(0))
        metrics, _ = self._evaluator.evaluate(
            compute_metrics=jax.process_index() == 0,
            step=int(utils.get_local_data(train_state.step)),
            **{n: functools.partial(fn, **now) for n, fn in self._compiled.items()},
        )
        return metrics


def evaluate(
    *,
    model: models.BaseTransformerModel,
    dataset_cfg: utils.DatasetConfig,
    restore_checkpoint_cfg: utils.RestoreCheckpointConfig,
    partitioner: partitioning.BasePartitioner,
    output_dir: str,
    inference_evaluator_cls: Callable[..., seqio.Evaluator] = seqio.Evaluator,
    summarize_config_fn: Callable[..., None] = gin_utils.summarize_gin_config,
    train_state_initializer_cls: Callable = utils.TrainStateInitializer,
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
        summarize_config_fn: writes the configuration.
        train_state_initializer_cls: makes train states.

    Raises:
        ValueError: the task has no metrics or not the split, or there is no
            checkpoint.
    """
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
    shapes = evaluator.model_feature_shapes
    initializer = utils.initializer_for(
        model,
        {name: (dataset_cfg.batch_size, *shape) for name, shape in shapes.items()},
        None,
        partitioner,
        output_dir,
        train_state_initializer_cls,
    )
    # The checkpoints that were evaluated before, by an earlier call too.
    record = epath.Path(output_dir) / f"eval.{dataset_cfg.mixture_or_task_name}.ckpt"
    cfg = restore_checkpoint_cfg
    _, paths = utils.get_first_valid_restore_config_and_paths([cfg])
    for path in paths:
        done = record.read_text().splitlines() if record.exists() else []
        if cfg.mode == "all" and path in done:
            logging.info("%s was evaluated before; skipping it.", path)
            continue
        state = initializer.restore(path, cfg.dtype)
        evaluator.evaluate(state, initializer.train_state_axes).result()
        utils.sync_global_devices(f"evaluated:{path}")
        if jax.process_index() == 0:
            record.write_text("\n".join(dict.fromkeys([*done, path])))
    evaluator.close()
    logging.info("Finished.")
