"""A tiny T5 with fixed parameters, run through one engine's models and optimizer.

What T5X made of it is frozen in testdata/t5x_engine.json, for the tests of the embedded
engine; `python tests/t5x_parity/test_engine_compute.py` writes that file anew.
"""

import functools
import pathlib

import decoder_only_cases
import flax
import jax
import jax.numpy as jnp
import numpy as np
import seqio
from flax import traverse_util
from flax.linen import partitioning as flax_partitioning

from t5patches import network
from tests import engine_toy

FROZEN = pathlib.Path(__file__).parent / "testdata" / "t5x_engine.json"
VOCAB = 160
EOS = 151  # One that the model happens to choose in the middle of a decode.
SHAPES = {"encoder_input_tokens": (4, 8), "decoder_input_tokens": (4, 7)}
CONFIG = network.T5Config(
    vocab_size=VOCAB,
    emb_dim=32,
    num_heads=2,
    num_encoder_layers=1,
    num_decoder_layers=1,
    head_dim=8,
    mlp_dim=32,
    mlp_activations=("gelu", "linear"),
    dropout_rate=0.1,
)
LOSS = dict(label_smoothing=0.1, z_loss=1e-3, loss_normalizing_factor=50.0)
LAYER_SHAPES = {"wide": (130, 140), "narrow": (6, 140), "scale": (140,)}
LAYER_AXES = {"wide": ("embed", "mlp"), "narrow": ("relpos_buckets", "heads")}
LAYER_AXES["scale"] = ("embed",)


def layer_variables(shapes=LAYER_SHAPES, axes=LAYER_AXES, **collections):
    """Variables of one layer with random parameters; `axes` None for nameless ones."""
    rng = np.random.default_rng(0)
    made = {
        "params": {
            "layer": {
                k: jnp.asarray(rng.standard_normal(s), jnp.float32)
                for k, s in shapes.items()
            }
        },
        **collections,
    }
    if axes is not None:
        names = {
            f"{k}_axes": flax_partitioning.AxisMetadata(names=v)
            for k, v in axes.items()
        }
        made["params_axes"] = {"layer": names}
    return flax.core.freeze(made)


def batch(weights=True):
    """A batch with padding, an EOS and an example that is all padding."""
    rng = np.random.default_rng(0)
    inputs, targets = rng.integers(2, VOCAB, (4, 8)), rng.integers(2, VOCAB, (4, 7))
    inputs[1, 5:] = 0
    targets[2, 4:] = [1, 0, 0]
    targets[3] = 0
    features = {
        "encoder_input_tokens": inputs,
        "decoder_input_tokens": np.pad(targets, ((0, 0), (1, 0)))[:, :-1],
        "decoder_target_tokens": targets,
        "decoder_loss_weights": targets > 0,
    }
    return {k: jnp.asarray(v, jnp.int32) for k, v in features.items()}


def variables(model):
    """The model's variables with parameters that depend on nothing but numpy."""
    made = flax.core.unfreeze(
        jax.eval_shape(
            lambda: model.get_initial_variables(jax.random.PRNGKey(0), SHAPES)
        )
    )
    rng = np.random.default_rng(1)
    flat = traverse_util.flatten_dict(made["params"])
    for path in sorted(flat):
        shape = flat[path].shape
        noise = rng.standard_normal(shape)
        if path[-1] == "scale":
            value = 1.0 + 0.1 * noise
        else:
            value = noise * (1.0 if path[-1] == "embedding" else 1.5 * shape[0] ** -0.5)
        flat[path] = jnp.asarray(value, jnp.float32)
    made["params"] = traverse_util.unflatten_dict(flat)
    return flax.core.freeze(made)


def model(models, adafactor, decode_fn, **adafactor_options):
    """The model, of an engine's modules."""
    vocabulary = seqio.PassThroughVocabulary(VOCAB, EOS)
    optimizer = adafactor.Adafactor(
        min_dim_size_to_factor=16,
        logical_factor_rules=adafactor.standard_logical_factor_rules(),
        **adafactor_options,
    )
    return models.EncoderDecoderModel(
        network.Transformer(CONFIG),
        vocabulary,
        vocabulary,
        optimizer,
        decode_fn=decode_fn,
        **LOSS,
    )


@functools.cache
def run(engine):
    """Loss, metrics, gradients, a step, decodes and scores under `engine`.

    Args:
        engine: 't5x' (the real one) or 't5x_embedded'.

    Returns:
        Nested dictionaries of arrays.
    """
    models, adafactor, decoding, train_state = engine_toy.modules(
        engine, "models", "adafactor", "decoding", "train_state"
    )
    greedy = functools.partial(
        decoding.temperature_sample, temperature=0.0, rescale_log_probs=False
    )
    made = model(models, adafactor, greedy, beta1=0.9)
    vars_, features = variables(made), batch()
    numbers = decoder_only_cases.basics(made, vars_["params"], features, None)
    state = train_state.FlaxOptimTrainState.create(made.optimizer_def, vars_)
    apply = jax.jit(lambda state, g: state.apply_gradient(g, learning_rate=0.01))
    for _ in range(2):
        state = apply(state, numbers["gradients"])
    searcher = model(models, adafactor, decoding.beam_search)
    beams, beam_aux = jax.jit(
        functools.partial(
            searcher.predict_batch_with_aux, num_decodes=4, return_all_decodes=True
        )
    )(vars_["params"], features)
    return numbers | {
        "state": state.state_dict(),
        "beams": beams,
        "beam_scores": beam_aux["scores"],
    }


def digest(results):
    """`results` by path, a long float array as its norm and a projection."""

    def shorten(x):
        if x.size < 9 or x.dtype == np.int32:
            return x
        x = x.astype(np.float64).ravel()
        return np.array([np.linalg.norm(x), x @ np.cos(np.arange(x.size))])

    flat = decoder_only_cases.flat(results)
    return {name: shorten(x) for name, x in flat.items()}


def assert_close(got, want, rtol=1e-5):
    """Compares a digest with what it is to be; a projection to within `rtol` of the
    norm, all else to within `rtol` of itself."""
    assert got.keys() == want.keys()
    for name, x in got.items():
        y = np.asarray(want[name])
        if x.dtype == np.float64:  # A norm and a projection.
            atol = rtol * y[0]
            np.testing.assert_allclose(x[1], y[1], rtol, atol, err_msg=name)
            x, y = x[0], y[0]
        np.testing.assert_allclose(x, y, rtol, err_msg=name)
