"""The toy model and task on the embedded engine, and what its loops need of them."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import tensorflow as tf

from t5x_embedded import checkpoints, partitioning, trainer, utils
from tests import engine_toy
from tests.engine_toy import LENGTHS, TASK, VOCABULARY, register

__all__ = ["LENGTHS", "TASK", "VOCABULARY", "register"]
SHAPES = {
    "encoder_input_tokens": (4, LENGTHS["inputs"]),
    "decoder_input_tokens": (4, LENGTHS["targets"]),
}
model = functools.partial(engine_toy.model, engine="t5x_embedded")


def partitioner():
    return partitioning.PjitPartitioner(num_partitions=1)


def dataset(split="train", **kwargs) -> utils.DatasetConfig:
    settings = dict(batch_size=4, shuffle=split == "train", seed=1)
    return utils.DatasetConfig(
        mixture_or_task_name=register(),
        task_feature_lengths=LENGTHS,
        split=split,
        **{**settings, **kwargs},
    )


def skipping(steps: int):
    """A get_dataset_fn that goes on after `steps` batches."""

    def get_dataset(*args):
        return utils.get_dataset(*args).skip(steps)

    return get_dataset


def trainer_cls(num_microbatches=None):
    return functools.partial(
        trainer.Trainer,
        learning_rate_fn=utils.create_learning_rate_scheduler(
            "constant", base_learning_rate=0.05
        ),
        num_microbatches=num_microbatches,
    )


def train_arguments(model_dir, **kwargs) -> dict:
    """Keyword arguments of `train.train` for 8 steps, saving every 4."""
    arguments = dict(
        model=model(),
        train_dataset_cfg=dataset(),
        train_eval_dataset_cfg=None,
        infer_eval_dataset_cfg=None,
        checkpoint_cfg=utils.CheckpointConfig(
            save=utils.SaveCheckpointConfig(period=4)
        ),
        partitioner=partitioner(),
        trainer_cls=trainer_cls(),
        model_dir=str(model_dir),
        total_steps=8,
        eval_steps=2,
        eval_period=4,
        random_seed=0,
        summarize_config_fn=lambda *args: None,
    )
    return {**arguments, **kwargs}


def initializer(a_model=None, optimizer=True) -> utils.TrainStateInitializer:
    a_model = a_model or model()
    return utils.TrainStateInitializer(
        optimizer_def=a_model.optimizer_def if optimizer else None,
        init_fn=a_model.get_initial_variables,
        input_shapes=SHAPES,
        partitioner=partitioner(),
    )


def manager(an_initializer, folder, **options):
    """What saves and restores the initializer's train states in a folder."""
    return checkpoints.OrbaxCheckpointManagerInterface(
        str(folder), an_initializer.global_train_state_shape, partitioner(), **options
    )


def at_step(state, step):
    return state.replace_step(jnp.array(step, jnp.int32))


def assert_same(a, b):
    """Compares trees of arrays, or train states, types included."""
    a, b = (
        tree.state_dict() if hasattr(tree, "state_dict") else tree for tree in (a, b)
    )
    types = [jax.tree.map(lambda x: x.dtype, tree) for tree in (a, b)]
    assert types[0] == types[1]
    jax.tree.map(np.testing.assert_array_equal, a, b)


def arrays(folder, step):
    """A checkpoint's arrays by name."""
    path = checkpoints.get_checkpoint_dir(folder, step)
    return utils.flatten_dict_string_keys(checkpoints.load_t5x_checkpoint(path))


def scalars(folder):
    """Tag -> {step: value}, of TensorBoard events."""
    found = {}
    for path in sorted(folder.glob("events.*")):
        for event in tf.compat.v1.train.summary_iterator(str(path)):
            for value in event.summary.value:
                if value.tensor.dtype == tf.float32.as_datatype_enum:
                    number = float(tf.make_ndarray(value.tensor))
                    found.setdefault(value.tag, {})[event.step] = number
    return found
