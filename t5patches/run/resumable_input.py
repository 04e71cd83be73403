"""Training input that a resumed run takes up where it stopped.

T5X's saved data iterators are not exact at the start of a run and break when an
update starts from a fine-tuned checkpoint. `get_dataset` needs none: with a fixed
data seed the input is a function of the step, so a resumed run skips forward to it.
It is a `get_dataset_fn` for T5X's `train`, on either engine.
"""

from __future__ import annotations

import dataclasses
import functools
import math

import seqio
import tensorflow as tf
from absl import logging
from t5x import utils

from t5patches.checkpoints import finding
from t5patches.errors import UserError
from t5patches.tasks import registry

# Examples that take no more are made once and held.
HELD_BYTES = 1 << 27


def _start(initial_checkpoint_path: str | None) -> int:
    """The step at which a run starts: its initial checkpoint's, or 0 from scratch."""
    return finding.step_of(initial_checkpoint_path) if initial_checkpoint_path else 0


def first_step(initial_checkpoint_path: str | None) -> int:
    """The step from which a run's learning rate falls, the run's first.

    It is at least 1, since T5X's 'linear_decay' divides by it: a run from step 0, as of
    a converted checkpoint, has a rate of 0 for one step.
    """
    return max(1, _start(initial_checkpoint_path))


def total_steps(initial_checkpoint_path: str | None, relative_steps: int) -> int:
    """The step at which a run of `relative_steps` steps ends.

    T5X's own `relative_steps` counts from the checkpoint that a run was resumed
    from, so that an interrupted run would be longer than an unbroken one.
    """
    return _start(initial_checkpoint_path) + relative_steps


def decay_factor(relative_steps: int, last: float) -> float:
    """What T5X's 'linear_decay' takes off the rate per step, so that `last` is left.

    Args:
      relative_steps: steps of the run.
      last: share of the learning rate at its end.
    """
    return (1 - last) / relative_steps


def get_dataset(
    cfg: utils.DatasetConfig,
    shard_id: int,
    num_shards: int,
    feature_converter_cls,
    *,
    model_dir: str,
    initial_checkpoint_path: str | None = None,
):
    """T5X's `get_dataset`, skipped forward to the step where the run goes on.

    Args:
      cfg: the data set; `seed` must be fixed, or the input cannot be repeated.
      shard_id: this host's shard.
      num_shards: of so many.
      feature_converter_cls: the model's.
      model_dir: the run's folder; its latest checkpoint says how far the run is.
      initial_checkpoint_path: the checkpoint that the run started from, whose step
        is the run's first; None for a run from scratch.

    Returns:
      A tf.data.Dataset of batches. Examples of our own tasks are made once and held, if
      they are not packed and fit into `HELD_BYTES`, and shuffled anew in every epoch.

    Raises:
      ValueError: if `cfg.seed` is None.
      UserError: the folder is another run's.
    """
    if cfg.seed is None:
        raise ValueError(
            f"{cfg.mixture_or_task_name}: train/utils.DatasetConfig.seed must be a"
            " number, so that a resumed run sees the input that it would have seen"
        )
    cfg, feature_converter_cls = _with_ids(cfg, feature_converter_cls)
    # Of what SeqIO has trimmed; to look at it again is a fifth of the input's time.
    converter = functools.partial(feature_converter_cls, apply_length_check=False)
    shard = (shard_id, num_shards, converter)
    dataset = _held(cfg, *shard)
    if dataset is None:
        dataset = utils.get_dataset(cfg, *shard)
    # The thread that tunes the input sleeps for up to a minute, and who closes the
    # input, at the end of a run, waits until it wakes.
    options = tf.data.Options()
    options.autotune.enabled = False
    dataset = dataset.with_options(options)
    steps = finding.steps(model_dir)
    done = steps[-1] - _start(initial_checkpoint_path) if steps else 0
    if done < 0:
        raise UserError(
            f"{model_dir} is at step {steps[-1]}, before its initial checkpoint "
            f"({initial_checkpoint_path}): it is another run's; give another MODEL_DIR"
        )
    if done:
        logging.info("Resuming at step %d: skipping %d batches.", steps[-1], done)
    return dataset.skip(done).prefetch(2)


def _held(
    cfg: utils.DatasetConfig, shard_id: int, num_shards: int, feature_converter_cls
) -> tf.data.Dataset | None:
    """Returns batches of examples that are made once; None: make them every epoch.

    Making them takes a quarter of the time of a small model's training. Those of our
    own tasks are the same in every epoch, unless they are packed with others.
    """
    task = seqio.maybe_get_mixture_or_task(cfg.mixture_or_task_name)
    rows, rest = divmod(cfg.batch_size, num_shards)
    ours = isinstance(task, registry.CheckedTask)
    if not ours or cfg.pack or cfg.use_cached or rest:  # T5X refuses a rest.
        return None
    once = dataclasses.replace(cfg, shuffle=False, batch_size=num_shards)
    dataset = utils.get_dataset(
        once, shard_id, num_shards, feature_converter_cls, num_epochs=1
    ).unbatch()
    count = task.num_input_examples(cfg.split)
    size = sum(
        (spec.shape.num_elements() or math.inf) * spec.dtype.size
        for spec in dataset.element_spec.values()
    )
    if not count or count * size > HELD_BYTES * num_shards:
        return None
    logging.info("Making %d examples, once for all epochs.", count)
    dataset = dataset.cache()
    if cfg.shuffle:
        dataset = dataset.shuffle(count, cfg.seed)
    return dataset.repeat().batch(rows, drop_remainder=True)


def _with_ids(cfg: utils.DatasetConfig, feature_converter_cls):
    """Lets the task's feature `id` through to the batches, which models ignore.

    It must be one integer, an output feature of rank 1; of packed rows there is none.
    A trainer that stops at a bad batch reports these ids.

    Returns:
      A configuration and a feature converter's class.
    """
    if cfg.module:
        utils.import_module(cfg.module)
    provider = seqio.maybe_get_mixture_or_task(cfg.mixture_or_task_name)
    feature = provider.output_features.get("id")
    if cfg.pack or feature is None or not feature.dtype.is_integer or feature.rank != 1:
        return cfg, feature_converter_cls
    spec = seqio.FeatureConverter.FeatureSpec(dtype=feature.dtype)
    lengths = {**cfg.task_feature_lengths, "id": 1}
    return (
        dataclasses.replace(cfg, task_feature_lengths=lengths),
        functools.partial(feature_converter_cls, passthrough_features={"id": spec}),
    )
