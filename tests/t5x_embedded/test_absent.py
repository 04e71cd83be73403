"""What the engine leaves out says so, and that T5X has it."""

import importlib

import jax.numpy as jnp
import pytest

from t5x_embedded import optimizers, partitioning, utils

NAMES = """adafactor.HParamMap checkpoints.SaveBestCheckpointer decoding.gather_beams
gin_utils.sum_fn infer.create_task_from_tfexample_file
metrics.create_metrics_dict models.DecoderParams optimizers.MultiOptimizer
partitioning.get_mesh train.run_actions train_state.EMPTY_DICT
trainer.TerminateOnNanAction trainer.WeightMetricsComputer utils.run_main"""
# Function -> (arguments that it needs, arguments that it refuses one by one).
DECODING = dict(inputs=None, cache=None, tokens_to_logits=None, eos_id=1)
OPTIONS = {
    "adafactor.Adafactor": ({}, {"multiply_by_parameter_scale": {}}),
    "decoding.beam_search": (
        DECODING,
        {"cache_offset": 1, "initial_index": jnp.array([1, 1])},
    ),
    "decoding.temperature_sample": (
        DECODING,
        {"cache_offset": 1, "temperature": jnp.array([5.0, 0.0])},
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


def test_what_to_do_instead():
    with pytest.raises(ValueError, match="num_partitions must be given"):
        partitioning.PjitPartitioner()
    with pytest.raises(ValueError, match="'cosine_decay'.*T5X does"):
        utils.create_learning_rate_scheduler("constant * cosine_decay")
