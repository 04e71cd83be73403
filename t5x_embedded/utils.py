"""Configurations, data sets, initial states and schedules: T5X's `utils`.

What gin files name (`DatasetConfig`, `CheckpointConfig`, `create_learning_rate_…`)
and what the train, infer and eval loops share.
"""

from __future__ import annotations

import dataclasses
import importlib
import inspect
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import clu.data.dataset_iterator as clu_data
import flax.core
import jax
import jax.numpy as jnp
import numpy as np
import seqio
import tensorflow as tf
from absl import logging
from etils import epath
from flax import traverse_util
from flax.linen import partitioning as flax_partitioning
from jax.experimental import multihost_utils
from jax.sharding import NamedSharding, PartitionSpec

from t5x_embedded import _absent, checkpoints, models, partitioning
from t5x_embedded import train_state as train_state_lib

get_local_data = checkpoints.get_local_data
TensorBoardLogger = seqio.TensorBoardLogger
LearningRateCallable = Callable[[jax.Array], jax.Array]

__getattr__ = _absent.module_getattr(__name__)


# ---- Configurations ----


def _check_choice(name: str, value: Any, allowed: Sequence[str | None]) -> None:
    if value not in allowed:
        raise ValueError(f"{name} must be one of {list(allowed)}: {value!r}")


@dataclasses.dataclass
class SaveCheckpointConfig:
    """When and how checkpoints are saved.

    Attributes:
        dtype: of saved parameters, 'float32' or 'bfloat16'; None leaves them.
        period: steps between checkpoints.
        keep: how many of the latest to keep; None keeps all.
        save_dataset: must be False.
    """

    dtype: str | None = "float32"
    period: int | None = None
    keep: int | None = None
    save_dataset: bool = False

    def __post_init__(self):
        name = "utils.SaveCheckpointConfig"
        _check_choice(f"{name}.dtype", self.dtype, (None, "float32", "bfloat16"))
        _absent.refuse(name, vars(self), "save_dataset")


@dataclasses.dataclass
class RestoreCheckpointConfig:
    """Which checkpoint to start from.

    Attributes:
        path: a checkpoint's folder (mode 'specific'), or model folders.
        mode: 'specific'; 'latest' or 'all' checkpoints of the folders.
        dtype: of restored parameters; None keeps what was saved.
    """

    path: str | Sequence[str] | None
    mode: str = "latest"
    dtype: str | None = None

    def __post_init__(self):
        name = "utils.RestoreCheckpointConfig"
        _check_choice(f"{name}.mode", self.mode, ("specific", "latest", "all"))
        dtypes = (None, "float32", "bfloat16", "float16")
        _check_choice(f"{name}.dtype", self.dtype, dtypes)


@dataclasses.dataclass
class CheckpointConfig:
    """Saving and restoring; None turns either off."""

    save: SaveCheckpointConfig | None = None
    restore: RestoreCheckpointConfig | None = None


@dataclasses.dataclass
class DatasetConfig:
    """A split of a SeqIO task or mixture, and how it becomes batches.

    Attributes:
        mixture_or_task_name: registered name, or the task or mixture itself.
        task_feature_lengths: feature name -> length.
        split: name of the split.
        batch_size: examples per batch, over all processes.
        shuffle: whether to shuffle.
        seed: of shuffling and preprocessing; None takes the clock.
        use_cached: read SeqIO's offline cache.
        pack: pack several examples into a row.
        module: a module to import first. Deprecated in T5X.
    """

    mixture_or_task_name: str | seqio.Task | seqio.Mixture
    task_feature_lengths: Mapping[str, int]
    split: str
    batch_size: int
    shuffle: bool
    seed: int | None
    use_cached: bool = False
    pack: bool = False
    module: str | None = None


# ---- Small things ----


sync_global_devices = multihost_utils.sync_global_devices
multihost_assert_equal = multihost_utils.assert_equal


def set_hardware_rng_ops() -> None:
    """Makes JAX's keys use the accelerator's own generator."""
    jax.config.update("jax_default_prng_impl", "unsafe_rbg")


def flatten_dict_string_keys(x) -> dict[str, Any]:
    """{'a': {'b': 1}} -> {'a/b': 1}."""
    return traverse_util.flatten_dict(flax.core.unfreeze(x), sep="/")


def import_module(module: str) -> None:
    """Imports a module by name, for what it registers."""
    importlib.import_module(module)


def get_zeros_batch_like_dataset(dataset: tf.data.Dataset) -> dict[str, jax.Array]:
    """A batch of zeros like those of a data set."""
    return {
        name: jnp.zeros(spec.shape, spec.dtype.as_numpy_dtype)
        for name, spec in dataset.element_spec.items()
    }


def log_model_info(log_file: str | None, full_train_state, partitioner) -> None:
    """Writes names, shapes and shardings of a train state to a file and the log."""
    if jax.process_index() != 0:
        return
    shapes = flatten_dict_string_keys(full_train_state.state_dict())
    axes = partitioner.get_mesh_axes(full_train_state).state_dict()
    specs = flatten_dict_string_keys(axes)
    sizes = [x.size for name, x in shapes.items() if name.startswith("target/")]
    lines = [f"Total number of parameters: {sum(sizes)}", ""]
    lines += [
        f"Variable    {name:80} size {x.size:<12} shape {x.shape!s:40} "
        f"partition spec {specs[name]}"
        for name, x in shapes.items()
    ]
    logging.info(lines[0])
    if log_file is not None:
        path = epath.Path(log_file)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("\n".join([*lines, ""]))


# ---- Learning rate ----

_LEAST_RATE = 1e-8  # It never falls below this.


def create_learning_rate_scheduler(
    factors: str = "constant * linear_warmup * rsqrt_decay",
    base_learning_rate: float = 0.5,
    warmup_steps: int = 1000,
    decay_factor: float = 0.5,
    step_offset: int = 0,
) -> LearningRateCallable:
    """The product of named factors, as a function of the step.

    Args:
        factors: names joined by '*':
            constant: the base learning rate.
            linear_warmup: from 0 to 1 over `warmup_steps`.
            linear_decay: warm-up to the base learning rate, then downwards with
                slope `decay_factor` (it includes constant and linear_warmup).
            rsqrt_decay: 1 / sqrt(max(step, warmup_steps)).
        base_learning_rate: see `constant`, `linear_decay`.
        warmup_steps: see above.
        decay_factor: see `linear_decay`.
        step_offset: the step that counts as 0.

    Returns:
        A function of an integer step: float32 [].

    Raises:
        ValueError: a factor is unknown here.
    """
    warm = warmup_steps
    table = {
        "constant": lambda step: base_learning_rate,
        "linear_warmup": lambda step: jnp.minimum(1.0, step / warm),
        "linear_decay": lambda step: (
            base_learning_rate
            * jnp.minimum(step / warm, 1.0 + decay_factor * (warm - step))
        ),
        "rsqrt_decay": lambda step: 1.0 / jnp.sqrt(jnp.maximum(step, warm)),
    }
    chosen = [name.strip() for name in factors.split("*")]
    for name in chosen:
        if name not in table:
            missing = _absent.message(f"the learning rate's factor {name!r}")
            raise ValueError(f"Unknown factor {name!r} in {factors!r}: {missing}")

    def learning_rate(step):
        step = jnp.maximum(0, step - step_offset)
        rate = 1.0
        for name in chosen:
            rate = rate * table[name](step)
        return jnp.asarray(jnp.maximum(rate, _LEAST_RATE), jnp.float32)

    return learning_rate


# ---- Initial train states ----


def get_first_valid_restore_config_and_paths(
    restore_cfgs: Sequence[RestoreCheckpointConfig],
) -> tuple[RestoreCheckpointConfig | None, Sequence[str]]:
    """The first configuration that leads to a checkpoint, and its checkpoints' paths.

    A 'specific' configuration is taken at its word: its paths are not looked at.

    Raises:
        ValueError: a folder of a 'latest' or 'all' configuration does not exist.
    """
    for cfg in restore_cfgs:
        folders = [cfg.path] if isinstance(cfg.path, str) else list(cfg.path)
        if cfg.mode == "specific":
            return cfg, folders
        for folder in folders:
            if not epath.Path(folder).is_dir():
                raise ValueError(
                    f"{folder} is not a folder; restoring mode {cfg.mode!r} needs one"
                )
            steps = checkpoints.all_steps(folder)
            if steps:
                chosen = steps[-1:] if cfg.mode == "latest" else steps
                paths = [checkpoints.get_checkpoint_dir(folder, s) for s in chosen]
                return cfg, paths
    return None, []


class TrainStateInitializer:
    """Knows the shapes of train states; makes them, sharded.

    Attributes:
        global_train_state_shape: a train state of `jax.ShapeDtypeStruct`s.
        train_state_axes: a train state of partition specs.
    """

    def __init__(
        self,
        optimizer_def,
        init_fn: Callable[..., Any],
        input_shapes: Mapping[str, Sequence[int]],
        partitioner: partitioning.BasePartitioner,
        input_types: Mapping[str, Any] | None = None,
    ):
        """Finds the shapes; initialises nothing.

        Args:
            optimizer_def: makes the optimizer, or None for an `InferenceState`.
            init_fn: the model's `get_initial_variables`.
            input_shapes: feature -> shape of the global batch.
            partitioner: shards the states.
            input_types: feature -> dtype, float32 if None.
        """

        def initialize(rng):
            variables = flax.core.freeze(
                init_fn(rng=rng, input_shapes=input_shapes, input_types=input_types)
            )
            if optimizer_def is None:
                return train_state_lib.InferenceState.create(variables)
            return train_state_lib.FlaxOptimTrainState.create(optimizer_def, variables)

        self._initialize = initialize
        self._partitioner = partitioner
        self.global_train_state_shape = jax.eval_shape(
            initialize, rng=jax.random.PRNGKey(0)
        )
        self.train_state_axes = partitioner.get_mesh_axes(self.global_train_state_shape)

    def from_scratch(self, init_rng):
        """A freshly initialised train state."""
        logging.info("Initializing parameters from scratch.")
        initialize = self._partitioner.partition(
            self._initialize,
            in_axis_resources=None,
            out_axis_resources=self.train_state_axes,
        )
        return initialize(init_rng)

    def restore(self, path: epath.PathLike, dtype=None):
        """The train state of a checkpoint; see `checkpoints.restore_train_state`."""
        return checkpoints.restore_train_state(
            path, self.global_train_state_shape, self._partitioner, dtype
        )

    __getattr__ = _absent.instance_getattr("utils.TrainStateInitializer")


def initializer_for(
    model: models.BaseTransformerModel,
    shapes: Mapping[str, Sequence[int]],
    types: Mapping[str, Any] | None,
    partitioner: partitioning.BasePartitioner,
    output_dir: str | None,
    initializer_cls: Callable[..., TrainStateInitializer],
    with_optimizer: bool = False,
) -> TrainStateInitializer:
    """The initializer of a run, whose model is described in `model-info.txt`.

    Args:
        model: gives the variables and the optimizer.
        shapes: feature -> shape of the global batch.
        types: feature -> dtype, float32 if None.
        partitioner: shards the states.
        output_dir: the folder of the description, or None for the log only.
        initializer_cls: makes the initializer.
        with_optimizer: whether the states can be trained.
    """
    made = initializer_cls(
        optimizer_def=model.optimizer_def if with_optimizer else None,
        init_fn=model.get_initial_variables,
        input_shapes=shapes,
        input_types=types,
        partitioner=partitioner,
    )
    log_file = output_dir and str(epath.Path(output_dir) / "model-info.txt")
    log_model_info(log_file, made.global_train_state_shape, partitioner)
    return made


# ---- Data sets ----


def get_provider(cfg: DatasetConfig) -> seqio.Task | seqio.Mixture:
    """The task or mixture of a configuration, whose module is imported first."""
    if cfg.module:
        import_module(cfg.module)
    if isinstance(cfg.mixture_or_task_name, seqio.DatasetProviderBase):
        return cfg.mixture_or_task_name
    return seqio.get_mixture_or_task(cfg.mixture_or_task_name)


def get_vocabulary(cfg: DatasetConfig) -> tuple[seqio.Vocabulary, seqio.Vocabulary]:
    """The vocabularies of a task's inputs and targets.

    Raises:
        ValueError: it has not both features.
    """
    features = get_provider(cfg).output_features
    missing = {"inputs", "targets"} - set(features)
    if missing:
        raise ValueError(f"{cfg.mixture_or_task_name} has no feature {missing}")
    return features["inputs"].vocabulary, features["targets"].vocabulary


def verify_matching_vocabs(cfg: DatasetConfig, model: models.BaseTransformerModel):
    """Raises a ValueError unless the task's vocabularies are the model's."""
    task = get_vocabulary(cfg)
    mine = (model.input_vocabulary, model.output_vocabulary)
    if task[0] != mine[0] or task[1] != mine[1]:
        raise ValueError(
            f"The vocabularies of {cfg.mixture_or_task_name} are not the model's:\n"
            f"  task: {task[0]}, {task[1]}\n  model: {mine[0]}, {mine[1]}"
        )


def _rows_of_shard(cfg: DatasetConfig, num_shards: int) -> int:
    """How many rows of each batch are one shard's."""
    rows, rest = divmod(cfg.batch_size, num_shards)
    if rest:
        raise ValueError(
            f"Batch size {cfg.batch_size} is not a multiple of {num_shards} shards"
        )
    return rows


def get_dataset(
    cfg: DatasetConfig,
    shard_id: int,
    num_shards: int,
    feature_converter_cls: Callable[..., seqio.FeatureConverter],
    num_epochs: int | None = None,
) -> tf.data.Dataset:
    """Batches of one process's shard, in the model's features.

    Args:
        cfg: the data set.
        shard_id: this shard.
        num_shards: of so many.
        feature_converter_cls: called with `pack`.
        num_epochs: repeat so often; None repeats for ever.

    Raises:
        ValueError: the batch size is not a multiple of the shards.
    """
    rows = _rows_of_shard(cfg, num_shards)
    seed = cfg.seed
    if seed is None:  # The processes must agree on it.
        seed = int(multihost_utils.broadcast_one_to_all(np.int32(time.time())))
    provider = get_provider(cfg)
    multihost_assert_equal(np.array(seed), "The processes have different data seeds")
    logging.info("Data of %r, seed %d", provider.name, seed)
    return seqio.get_dataset(
        mixture_or_task_name=provider,
        task_feature_lengths=cfg.task_feature_lengths,
        dataset_split=cfg.split,
        shuffle=cfg.shuffle,
        num_epochs=num_epochs,
        feature_converter=feature_converter_cls(pack=cfg.pack),
        shard_info=seqio.ShardInfo(index=shard_id, num_shards=num_shards),
        use_cached=cfg.use_cached,
        seed=seed,
        batch_size=rows,
    )


def get_training_eval_datasets(
    cfg: DatasetConfig,
    shard_id: int,
    num_shards: int,
    eval_steps: int,
    feature_converter_cls: Callable[..., seqio.FeatureConverter],
) -> dict[str, tf.data.Dataset]:
    """`eval_steps` batches of each task of a mixture, and of the mixture itself.

    Examples are repeated where a task has too few, and batched before they are
    sharded, so that files of uneven size do not matter. Tasks without the split are
    left out.
    """
    rows = _rows_of_shard(cfg, num_shards)

    def batches(name):
        # A finite number of epochs: a task that filters everything must not hang.
        examples = get_dataset(
            dataclasses.replace(cfg, mixture_or_task_name=name, batch_size=1),
            shard_id=0,
            num_shards=1,
            feature_converter_cls=feature_converter_cls,
            num_epochs=eval_steps * cfg.batch_size,
        )
        mine = examples.unbatch().repeat().shard(num_shards, shard_id)
        return mine.batch(rows, drop_remainder=True).take(eval_steps).cache()

    provider = get_provider(cfg)
    tasks = [t for t in seqio.get_subtasks(provider) if cfg.split in t.splits]
    datasets = {task.name: batches(task.name) for task in tasks}
    if isinstance(provider, seqio.Mixture):
        datasets[provider.name] = batches(cfg.mixture_or_task_name)
    return datasets


class ShardedDatasetIterator(clu_data.DatasetIterator):
    """Puts the batches of a process where the partitioner wants them."""

    def __init__(self, iterator: clu_data.DatasetIterator, partitioner):
        """See the class.

        Args:
            iterator: yields dicts of this process's rows.
            partitioner: says how the global batch is sharded.
        """
        self.iterator = iterator
        self._partitioner = partitioner

    def __next__(self) -> dict[str, jax.Array]:
        return self._partitioner.to_global(next(self.iterator))

    def reset(self):
        return self.iterator.reset()

    @property
    def element_spec(self):
        return self.iterator.element_spec


def prepare_train_iter(train_iter, *, partitioner) -> clu_data.PeekableDatasetIterator:
    """Turns what a `get_dataset_fn` returned into an iterator of sharded batches.

    Raises:
        ValueError: it is neither a tf.data.Dataset nor a clu DatasetIterator.
    """
    if isinstance(train_iter, tf.data.Dataset):
        train_iter = clu_data.TfDatasetIterator(train_iter, checkpoint=False)
    if not isinstance(train_iter, clu_data.DatasetIterator):
        raise ValueError(f"get_dataset_fn returned a {type(train_iter)}.")
    sharded = ShardedDatasetIterator(train_iter, partitioner)
    return clu_data.PeekableDatasetIterator(sharded)


# ---- Inference ----


# Encoders run at a quarter, a half, three quarters or the whole of the inputs' length,
# each a program of its own; below this length there is little to gain.
_SHORTEST_BUCKET = 32


def _without_padding(batch):
    """Cuts the encoder's features to the bucket of the longest row."""
    names = [name for name in batch if name.startswith("encoder_")]
    if "encoder_input_tokens" not in names:
        return batch
    tokens = batch["encoder_input_tokens"]
    length = tokens.shape[1]
    step = max(-(-length // 4), _SHORTEST_BUCKET)
    used = int(np.flatnonzero((tokens != 0).any(axis=0)).max(initial=0)) + 1
    bucket = min(-(-used // step) * step, length)
    return {**batch, **{name: batch[name][:, :bucket] for name in names}}


def rows_are_apart(train_state_axes, partitioner) -> bool:
    """Whether a device can decode rows without the others, or there is but one share.

    Args:
        train_state_axes: partition specs of the train state.
        partitioner: of the devices.
    """
    is_spec = lambda x: isinstance(x, PartitionSpec)
    specs = filter(is_spec, jax.tree.leaves(train_state_axes.params, is_leaf=is_spec))
    shardings = (NamedSharding(partitioner.mesh, spec) for spec in specs)
    whole = all(sharding.is_fully_replicated for sharding in shardings)
    return whole or partitioner.data_mesh_size == 1


def _device_by_device(step, mesh, data_spec):
    """An inference step of which each device does its rows, however long they take."""

    def local(params, batch, indices, rng):
        if rng is not None:  # Others than on the next device.
            rng = jax.random.fold_in(rng, jax.lax.axis_index(data_spec[0]))
        with flax_partitioning.axis_rules(()):  # Here nothing is spread over devices.
            return step(params, batch, indices, rng)

    return jax.shard_map(
        local,
        mesh=mesh,
        in_specs=(PartitionSpec(), data_spec, data_spec, PartitionSpec()),
        out_specs=data_spec,
        check_vma=False,
    )


def untuned(ds: tf.data.Dataset) -> tf.data.Dataset:
    """Has no thread tune how `ds` is read.

    It sleeps ever longer between two looks, and who has read all waits for it to wake.
    """
    options = tf.data.Options()
    options.autotune.enabled = False
    return ds.with_options(options)


def _infer_batches(ds, batch_size: int, shard_id: int, num_shards: int):
    """Yields (indices, batch) of this shard; padding rows have the index -1.

    Batches are cut to buckets of the inputs' length, all rows of one to the same.

    Row r of the data goes to shard r mod num_shards, so that all shards see the same
    number of batches, and the padding is in the last of them.
    """
    places = np.arange(batch_size)[shard_id::num_shards]
    for indices, batch in untuned(ds.batch(batch_size)).as_numpy_iterator():
        real = places < len(indices)
        rows = np.where(real, places, 0)  # The first row pads.
        mine = {name: x[rows] for name, x in _without_padding(batch).items()}
        yield np.where(real, indices[rows], -1), mine


def get_infer_fn(
    infer_step: Callable[..., Any],
    batch_size: int,
    train_state_axes,
    partitioner: partitioning.BasePartitioner,
    queued: int = 0,
) -> Callable[..., Any]:
    """Compiles a model's inference step and loops it over a data set.

    Args:
        infer_step: `model.predict_batch`, `predict_batch_with_aux` or `score_batch`:
            (params, batch[, rng]) -> arrays of batch_size rows, or
            (such arrays, dict of such arrays).
        batch_size: rows of the global batch.
        train_state_axes: partition specs of the train state.
        partitioner: compiles the step.
        queued: where it is not 0, a step takes so many batches, and as arguments
            `places`, the batch size, and `rows`, how many rows are no padding.

    Returns:
        A function (enumerated tf.data.Dataset of unbatched model features, train
        state, rng=None) -> list of (index, prediction as nested lists) in the order
        of the data, or (that list, dict of auxiliary lists).
    """
    takes_rng = "rng" in inspect.signature(infer_step).parameters

    devices = partitioner.data_mesh_size

    def step(params, batch, indices, rng):
        options = {"rng": rng} if takes_rng else {}
        if queued:
            places = batch_size // devices
            options |= {"places": places, "rows": jnp.sum(indices >= 0)}
        return indices, infer_step(params, batch, **options)

    data_spec = partitioner.data_partition_spec
    if queued and devices > 1:
        step = _device_by_device(step, partitioner.mesh, data_spec)
    partitioned_step = partitioner.partition(
        step,
        in_axis_resources=(train_state_axes.params, data_spec, data_spec, None),
        out_axis_resources=(None, None),
    )
    layout = partitioner.get_data_layout(batch_size)

    def infer_fn(ds: tf.data.Dataset, train_state, rng=None):
        results = []
        for indices, batch in _infer_batches(
            ds, batch_size * (queued or 1), layout.shard_id, layout.num_shards
        ):
            step_rng = None
            if rng is not None:
                step_rng, rng = jax.random.split(rng)
            results.append(
                partitioned_step(
                    train_state.params,
                    *partitioner.to_global((batch, indices)),
                    step_rng,
                )
            )
        if not results:
            raise ValueError("There are no examples to infer on.")
        # Read only now: the steps were queued without waiting for one another.
        results = jax.tree.map(lambda x: np.asarray(get_local_data(x)), results)
        indices, outputs = jax.tree.map(lambda *xs: np.concatenate(xs), *results)
        real = np.flatnonzero(indices >= 0)
        order = real[np.argsort(indices[real])]
        outputs = jax.tree.map(lambda x: x[order], outputs)
        aux = None
        if isinstance(outputs, tuple):
            outputs, aux = outputs
        pairs = list(zip(indices[order].tolist(), outputs.tolist(), strict=True))
        return pairs if aux is None else (pairs, jax.tree.map(np.ndarray.tolist, aux))

    return infer_fn
