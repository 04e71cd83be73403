"""A decoder-only model, its batches and its numbers, on either engine.

What T5X made of them is frozen in testdata/decoder_only.json, for the tests that run
without T5X; `python tests/t5x_parity/test_decoder_only.py` writes that file anew.
"""

import functools
import importlib
import json
import pathlib

import jax
import jax.numpy as jnp
import network_cases as cases
import numpy as np
import seqio

from tests import engine_toy

FROZEN = pathlib.Path(__file__).parent / "testdata" / "decoder_only.json"
LENGTH = 24
PROMPTS = (5, 19, 0)
CONFIGS = {
    name: {k: v for k, v in fields.items() if not k.endswith("coder_layers")}
    | {"num_layers": 2}
    for name, fields in zip(("gated", "tied"), cases.CONFIGS.values(), strict=True)
}


def batch(packed: bool = False, prefix: bool = False) -> dict[str, jax.Array]:
    """Three sequences with padding; packed, each is of two examples."""
    rng = np.random.RandomState(0)
    targets = rng.randint(2, 40, (3, LENGTH))
    targets[1, 22:] = 0
    shifted = np.pad(targets, ((0, 0), (1, 0)))[:, :-1]
    result = {"decoder_input_tokens": shifted, "decoder_target_tokens": targets}
    places = np.broadcast_to(np.arange(LENGTH), targets.shape)
    if packed:
        shifted[:, 9] = 0
        result["decoder_segment_ids"] = np.where(places < 9, 1, 2) * (targets > 0)
        places = np.where(places < 9, places, places - 9)
        result["decoder_positions"] = places
    if prefix:
        result["decoder_causal_attention"] = places <= np.array(PROMPTS)[:, None]
    return {name: jnp.asarray(x, jnp.int32) for name, x in result.items()}


def init(module):
    """Variables from a fixed key."""
    return cases.init(module, batch())


def make_model(models, adafactor, module, decode_fn, **options):
    """A DecoderOnlyModel of an engine's modules."""
    return models.DecoderOnlyModel(
        module,
        seqio.PassThroughVocabulary(40, 1),
        adafactor.Adafactor(),
        decode_fn=decode_fn,
        loss_normalizing_factor=50.0,
        z_loss=1e-3,
        **options,
    )


@functools.cache
def run(engine: str, network: str = "t5patches.decoder_only", prefix: bool = True):
    """Loss, metrics, gradients, decodes and scores of a model.

    Args:
      engine: 't5x' (the real one) or 't5x_embedded'.
      network: the module of the network.
      prefix: whether the inputs see each other in both directions.

    Returns:
      Nested dictionaries of arrays.
    """
    models, adafactor, decoding = engine_toy.modules(
        engine, "models", "adafactor", "decoding"
    )
    net = importlib.import_module(network)
    module = net.DecoderWrapper(net.TransformerConfig(**CONFIGS["gated"]))
    greedy = functools.partial(
        decoding.temperature_sample, temperature=0.0, rescale_log_probs=False
    )
    made = make_model(
        models, adafactor, module, greedy, inputs_bidirectional_attention=prefix
    )
    shapes = {"decoder_input_tokens": (3, LENGTH)}
    init = jax.jit(lambda key: made.get_initial_variables(key, shapes)["params"])
    params = init(jax.random.PRNGKey(7))
    features = batch(prefix=True)
    features["decoder_loss_weights"] = (features["decoder_target_tokens"] > 0) * (
        1 - features["decoder_causal_attention"]
    )
    numbers = basics(made, params, features, jax.random.PRNGKey(3))
    sampled = functools.partial(
        made.predict_batch_with_aux,
        num_decodes=3,
        return_all_decodes=True,
        decoder_params={"temperature": 0.9, "topk": 0, "max_decode_steps": 6},
    )
    samples, sample_aux = jax.jit(sampled)(params, features, jax.random.PRNGKey(5))
    return numbers | {
        "gradients": jax.tree.map(jnp.linalg.norm, numbers["gradients"]),
        "samples": samples,
        "sample_scores": sample_aux["scores"],
    }


def flat(tree) -> dict[str, np.ndarray]:
    """Leaves by path."""
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {jax.tree_util.keystr(path): np.asarray(x) for path, x in leaves}


def freeze(numbers: dict[str, np.ndarray], path: pathlib.Path = FROZEN) -> None:
    """Writes T5X's results, by path, for the tests that run without T5X."""
    text = json.dumps({name: x.tolist() for name, x in numbers.items()})
    path.write_text(text + "\n")


def frozen(path: pathlib.Path = FROZEN) -> dict[str, np.ndarray]:
    """What `freeze` wrote."""
    return {k: np.asarray(v) for k, v in json.loads(path.read_text()).items()}


def basics(model, params, features, rng) -> dict:
    """Loss, metrics, gradients, decodes and scores of a model that decodes greedily."""
    step = jax.jit(jax.value_and_grad(model.loss_fn, has_aux=True))
    (loss, metrics), gradients = step(params, features, rng)
    decodes, aux = jax.jit(model.predict_batch_with_aux)(params, features)
    return {
        "loss": loss,
        "metrics": {
            name: {k: v for k, v in vars(metric).items() if v is not None}
            for name, metric in sorted(metrics.items())
        },
        "gradients": gradients,
        "greedy": decodes,
        "greedy_scores": aux["scores"],
        "score": jax.jit(model.score_batch)(params, features),
    }


def assert_same(got, want, rtol=1e-5):
    """Compares `flat` results."""
    assert got.keys() == want.keys()
    for name, x in want.items():
        atol = rtol * float(np.abs(x).max(initial=0))
        np.testing.assert_allclose(got[name], x, rtol=rtol, atol=atol, err_msg=name)


evaluate = cases.evaluate
logits = cases.logits
relative_error = cases.relative_error
worst_error = cases.worst_error
