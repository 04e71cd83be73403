"""The frozen model run over an update's examples, once, before the update.

It never changes and neither does its input: what its logits are made of is kept
(`interchange.frozen_states`), and a step then costs its output layer alone. It runs
without dropout.
"""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
import seqio
from absl import logging
from t5x import models as t5x_models
from t5x import utils

from t5patches import frozen, progress
from t5patches.checkpoints import contents
from t5patches.errors import UserError
from t5patches.interchange import claims, frozen_states, vocabularies

# Examples of a file: what a run that is stopped loses at most.
FILE_EXAMPLES = 4096


class _Example(NamedTuple):
    """An example that is not kept yet: its key, model features, which targets count."""

    key: bytes
    features: Mapping[str, np.ndarray]
    counts: np.ndarray


def fill(
    model: t5x_models.BaseTransformerModel,
    cfgs: Sequence[utils.DatasetConfig],
    partitioner: Any,
    checkpoint: str,
    dtype: str = "bfloat16",
    shard_id: int = 0,
    num_shards: int = 1,
) -> None:
    """Adds what a model's `frozen_cache` does not have yet.

    Args:
      model: of the update.
      cfgs: what it trains on and is validated with.
      partitioner: shards parameters and batches; every process calls this.
      checkpoint: of the frozen model, or a folder of them (the latest).
      dtype: 'bfloat16' or 'float32', of what is kept.
      shard_id: which part of the examples; several jobs may share one folder.
      num_shards: of so many.

    Raises:
      UserError: what is kept there is another model's, or of another dtype.
      ValueError: the network does not say what it makes its logits of.
    """
    if dtype not in frozen_states.DTYPES:
        raise UserError(
            f"FROZEN_CACHE_DTYPE = {dtype!r}: expected 'bfloat16' or 'float32'"
        )
    folder, checkpoint = model.frozen_cache, frozen.resolve(checkpoint)
    store = frozen_states.Store(folder)
    settings = {
        "step": "cache",
        "checkpoint": contents.content(checkpoint),
        "vocabulary": vocabularies.of_model(model),
        "dtype": dtype,
        "network": repr(model.module.config.replace(dropout_rate=0.0)),
    }
    if jax.process_index() == 0:
        claims.claim(folder, settings, results=("states-*",))
    missing = (
        example
        for example in _missing(model, cfgs, store)
        if example.key[0] % num_shards == shard_id
    )
    first = next(missing, None)
    if first is None:
        return
    missing, batch_size = itertools.chain([first], missing), cfgs[0].batch_size
    run = _frozen_model(model, first, batch_size, partitioner, checkpoint, dtype)
    with contextlib.closing(progress.Bar("cache")) as bar:
        while some := [*itertools.islice(missing, FILE_EXAMPLES)]:
            states = []
            for start in range(0, len(some), batch_size):
                batch = some[start : start + batch_size]
                found = run([each.features for each in batch])
                states += [found[i][each.counts] for i, each in enumerate(batch)]
                bar.add(len(batch))
            if jax.process_index() == 0:
                frozen_states.write(folder, [each.key for each in some], states)
    utils.sync_global_devices("t5patches:frozen_cache")
    logging.info("The frozen model's states are in %s.", folder)


def _missing(
    model: Any, cfgs: Sequence[utils.DatasetConfig], store: frozen_states.Store
) -> Iterator[_Example]:
    """Yields the examples of data sets that are not there, each once."""
    converter = model.FEATURE_CONVERTER_CLS.func(pack=False, apply_length_check=False)
    seen = set()
    for cfg in cfgs:
        if cfg.module:
            utils.import_module(cfg.module)
        dataset = seqio.maybe_get_mixture_or_task(cfg.mixture_or_task_name).get_dataset(
            sequence_length=cfg.task_feature_lengths,
            split=cfg.split,
            shuffle=False,
            num_epochs=1,
            use_cached=cfg.use_cached,
            seed=cfg.seed,
        )
        dataset = converter(dataset, cfg.task_feature_lengths)
        for some in dataset.batch(cfg.batch_size).as_numpy_iterator():
            for row in range(len(some["decoder_target_tokens"])):
                features = {name: values[row] for name, values in some.items()}
                inputs = np.trim_zeros(features.get("encoder_input_tokens", ()), "b")
                targets = np.trim_zeros(features["decoder_target_tokens"], "b")
                name = frozen_states.key(inputs, targets)
                if name not in store and name not in seen:
                    seen.add(name)
                    counts = features["decoder_loss_weights"] != 0
                    yield _Example(name, features, counts)


def _frozen_model(
    model: Any,
    example: _Example,
    batch_size: int,
    partitioner: Any,
    checkpoint: str,
    dtype: str,
) -> Callable[[Sequence[Mapping[str, np.ndarray]]], np.ndarray]:
    """Returns a function from examples to states, [batch_size, length, features]."""
    initializer = utils.TrainStateInitializer(
        optimizer_def=None,
        init_fn=model.get_initial_variables,
        input_shapes={n: (batch_size, *x.shape) for n, x in example.features.items()},
        input_types={n: x.dtype for n, x in example.features.items()},
        partitioner=partitioner,
    )
    params = frozen.find_params(
        initializer.global_train_state_shape,
        partitioner,
        model_dir=None,
        checkpoint=checkpoint,
        vocabulary=vocabularies.of_model(model),
    )
    spec = partitioner.data_partition_spec
    step = partitioner.partition(
        lambda params, batch: model.pre_logits(params, batch).astype(dtype),
        in_axis_resources=(initializer.train_state_axes.params, spec),
        out_axis_resources=None,
    )
    sharding = jax.sharding.NamedSharding(partitioner.mesh, spec)

    def run(examples):
        batch = {}
        for name in example.features:
            rows = np.stack([features[name] for features in examples])
            missing = batch_size - len(rows)
            rows = np.pad(rows, [(0, missing)] + [(0, 0)] * (rows.ndim - 1))
            batch[name] = jax.make_array_from_callback(
                rows.shape, sharding, rows.__getitem__
            )
        return np.asarray(utils.get_local_data(step(params, batch)))

    return run
