"""What the engine leaves out says so, and that T5X has it."""

import importlib

import jax.numpy as jnp
import pytest

from t5x_embedded import checkpoints, optimizers, partitioning, train, utils
from tests.t5x_embedded import toy

NAMES = """adafactor.HParamMap checkpoints.SaveBestCheckpointer decoding.gather_beams
gin_utils.sum_fn infer.create_task_from_tfexample_file
metrics.create_metrics_dict models.DecoderParams optimizers.MultiOptimizer
partitioning.get_mesh train.run_actions train_state.EMPTY_DICT
trainer.TerminateOnNanAction trainer.WeightMetricsComputer utils.run_main"""
# Function -> (arguments that it needs, arguments that it refuses one by one).
DECODING = dict(inputs=None, cache=None, tokens_to_logits=None, eos_id=1)
OPTIONS = {
    "adafactor.Adafactor": (
        {},
        {"multiply_by_parameter_scale": {}, "global_norm_clip_threshold": 1.0},
    ),
    "decoding.beam_search": (
        DECODING,
        {"cache_offset": 1, "initial_index": jnp.array([1, 1])},
    ),
    "decoding.temperature_sample": (
        DECODING,
        {"cache_offset": 1, "temperature": jnp.array([5.0, 0.0])},
    ),
    "partitioning.PjitPartitioner": (
        {"num_partitions": 2},
        {"params_on_devices": False},
    ),
    "utils.RestoreCheckpointConfig": (
        {"path": "x"},
        {
            "assignment_map": [("a", None)],
            "fallback_to_scratch": True,
            "state_transformation_fns": [dict],
        },
    ),
    "utils.SaveCheckpointConfig": ({}, {"save_dataset": True}),
}


def named(name):
    module, _, attribute = name.partition(".")
    return getattr(importlib.import_module(f"t5x_embedded.{module}"), attribute)


def test_names(initializer, state):
    for name in NAMES.split():
        with pytest.raises(AttributeError, match=f"does not have t5x.{name}; T5X does"):
            named(name)
    with pytest.raises(AttributeError, match="no attribute 'MultyOptimizer'"):
        _ = optimizers.MultyOptimizer
    with pytest.raises(AttributeError, match="Initializer.from_checkpoint; T5X does"):
        initializer.from_checkpoint([])
    inference = named("train_state.InferenceState")(step=None, params=state.params)
    for each in (state, inference):
        with pytest.raises(AttributeError, match="flax_mutables; T5X does"):
            _ = each.flax_mutables
        with pytest.raises(AttributeError, match="has no attribute 'flux'"):
            _ = each.flux


@pytest.mark.parametrize("owner", OPTIONS)
def test_options(owner):
    needed, refused = OPTIONS[owner]
    for option, value in refused.items():
        with pytest.raises(NotImplementedError, match=rf"{owner}\({option}=.*T5X does"):
            named(owner)(**needed, **{option: value})


def test_options_of_training(tmp_path):
    for option in ({"use_orbax": False}, {"actions": {"TRAIN": [1]}}):
        name = next(iter(option))
        with pytest.raises(NotImplementedError, match=f"{name}=.*T5X does"):
            train.train(**toy.train_arguments(tmp_path, **option))


def test_what_to_do_instead():
    with pytest.raises(NotImplementedError, match="Pass num_partitions=4"):
        partitioning.PjitPartitioner(model_parallel_submesh=(2, 2, 1, 1))
    with pytest.raises(ValueError, match="num_partitions must be given"):
        partitioning.PjitPartitioner()
    with pytest.raises(NotImplementedError, match="Checkpointer.*T5X does"):
        checkpoints.Checkpointer(None, None, "x")
    with pytest.raises(ValueError, match="'cosine_decay'.*T5X does"):
        utils.create_learning_rate_scheduler("constant * cosine_decay")
