"""A model small enough to train within a test, and batches for it."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import seqio
from t5x import adafactor, decoding, partitioning, utils

from t5patches import models, network

VOCAB_SIZE = 32
BATCH = 8
INPUTS = 6
TARGETS = 5
SHAPES = {
    "encoder_input_tokens": (BATCH, INPUTS),
    "decoder_input_tokens": (BATCH, TARGETS),
    "decoder_target_tokens": (BATCH, TARGETS),
    "decoder_loss_weights": (BATCH, TARGETS),
}
TYPES = dict.fromkeys(SHAPES, jnp.int32)


def make_model(
    cls=models.EncoderDecoderModelTNFF, dropout_rate=0.0, num_layers=1, **kwargs
):
    config = network.T5Config(
        vocab_size=VOCAB_SIZE,
        emb_dim=16,
        num_heads=4,
        num_encoder_layers=num_layers,
        num_decoder_layers=num_layers,
        head_dim=8,
        mlp_dim=32,
        mlp_activations=("gelu", "linear"),
        dropout_rate=dropout_rate,
    )
    vocabulary = seqio.PassThroughVocabulary(VOCAB_SIZE, eos_id=1)
    return cls(
        module=network.Transformer(config=config),
        input_vocabulary=vocabulary,
        output_vocabulary=vocabulary,
        optimizer_def=adafactor.Adafactor(
            decay_rate=0.8,
            step_offset=0,
            logical_factor_rules=adafactor.standard_logical_factor_rules(),
        ),
        decode_fn=decoding.temperature_sample,
        **kwargs,
    )


def make_batch(seed=0):
    """Targets without padding but in the last column; a quarter is unwanted."""
    rng = np.random.default_rng(seed)
    targets = rng.integers(2, VOCAB_SIZE, size=(BATCH, TARGETS)).astype(np.int32)
    weights = np.where(rng.random(targets.shape) < 0.25, -1, 1).astype(np.int32)
    targets[::2, -1] = weights[::2, -1] = 0
    inputs = rng.integers(2, VOCAB_SIZE, size=(BATCH, INPUTS)).astype(np.int32)
    decoder_inputs = np.pad(targets, ((0, 0), (1, 0)))[:, :-1]
    return {
        "encoder_input_tokens": inputs,
        "decoder_input_tokens": decoder_inputs,
        "decoder_target_tokens": targets,
        "decoder_loss_weights": weights,
    }


class MeshPartitioner(partitioning.PjitPartitioner):
    """On CPUs T5X's own mesh is (data 1, model: all); this one is as on a TPU."""

    @property
    def mesh(self):
        devices = np.array(jax.devices()).reshape(-1, self._num_partitions)
        return jax.sharding.Mesh(devices, ("data", "model"))


def make_state(model, seed=0, num_partitions=1):
    """A partitioner, a train state from scratch and its axes."""
    partitioner, state, axes = _make_state(_ByModule(model), seed, num_partitions)
    # A train step donates the buffers that it is given.
    return partitioner, jax.tree.map(jnp.copy, state), axes


class _ByModule:
    """A model, equal to those of the same network: their states are the same."""

    def __init__(self, model):
        self.model = model

    def __hash__(self):
        return hash(self.model.module)

    def __eq__(self, other):
        return self.model.module == other.model.module


@functools.cache
def _make_state(key, seed, num_partitions):
    partitioner = MeshPartitioner(
        num_partitions=num_partitions,
        logical_axis_rules=partitioning.standard_logical_axis_rules(),
    )
    initializer = utils.TrainStateInitializer(
        optimizer_def=key.model.optimizer_def,
        init_fn=key.model.get_initial_variables,
        input_shapes=SHAPES,
        input_types=TYPES,
        partitioner=partitioner,
    )
    state = initializer.from_scratch(jax.random.PRNGKey(seed))
    return partitioner, state, initializer.train_state_axes
