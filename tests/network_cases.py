"""Networks and batches that the network's tests share, on either engine."""

import jax
import jax.numpy as jnp
import numpy as np

# Widths that differ from each other, so that a mixed-up axis shows.
SMALL = {
    "vocab_size": 40,
    "emb_dim": 24,
    "num_heads": 3,
    "num_encoder_layers": 2,
    "num_decoder_layers": 2,
    "head_dim": 4,
    "mlp_dim": 20,
    "dropout_rate": 0.1,
}
CONFIGS = {
    "t5_1_1": SMALL | {"mlp_activations": ("gelu", "linear")},
    "t5_1_0": SMALL | {"mlp_activations": ("relu",), "logits_via_embedding": True},
}


def batch(packed: bool = False) -> dict[str, jax.Array]:
    """Three sequences with padding, or the same packed from two examples each."""
    rng = np.random.RandomState(0)
    # Longer than MAX_DISTANCE, so that every bucket is in use.
    inputs = rng.randint(1, 40, (3, 140))
    targets = rng.randint(1, 40, (3, 9))
    inputs[1, 90:] = 0
    targets[2, 5:] = 0
    shifted = np.pad(targets, ((0, 0), (1, 0)))[:, :-1]
    result = {
        "encoder_input_tokens": inputs,
        "decoder_input_tokens": shifted,
        "decoder_target_tokens": targets,
    }
    if packed:
        shifted[:, 4] = 0
        for name, tokens, start in (("encoder", inputs, 50), ("decoder", targets, 4)):
            ids = np.where(np.arange(tokens.shape[1]) < start, 1, 2) * (tokens > 0)
            result[f"{name}_segment_ids"] = ids
    return {name: jnp.asarray(x) for name, x in result.items()}


def init(module, tokens=None):
    """Variables from a fixed key; `tokens` as of `batch`."""
    tokens = list((tokens or batch()).values())
    make = jax.jit(lambda key: module.init(key, *tokens, enable_dropout=False))
    return make(jax.random.PRNGKey(7))


def loss_fn(module, dropout: bool = False):
    """params, batch -> (cross entropy over the targets, logits).

    The batch is an argument: batches of one shape share a compiled program.
    """

    def loss(params, batch):
        logits = module.apply(
            {"params": params},
            **batch,
            enable_dropout=dropout,
            rngs={"dropout": jax.random.PRNGKey(3)},
        )
        targets = batch["decoder_target_tokens"]
        log_p = jax.nn.log_softmax(logits.astype(jnp.float32))
        log_p = jnp.take_along_axis(log_p, targets[..., None], axis=-1)[..., 0]
        return -jnp.sum(log_p * (targets > 0)), logits

    return loss


def evaluate(module, params, batch, dropout: bool = False):
    """(loss, logits, gradients)."""
    gradient = jax.value_and_grad(loss_fn(module, dropout), has_aux=True)
    (loss, logits), gradients = jax.jit(gradient)(params, batch)
    return loss, logits, gradients


def logits(module, params, batch):
    """Logits alone, without dropout: a program that compiles in a third of the time."""
    return jax.jit(loss_fn(module))(params, batch)[1]


def decode_by_steps(module, params, batch):
    """Logits [batch, length, vocab] of the decoder inputs, a token at a time."""
    inputs, tokens, _ = list(batch.values())[:3]
    length = tokens.shape[1]
    variables = {"params": params}
    decoding = {"enable_dropout": False, "decode": True, "mutable": ["cache"]}

    @jax.jit  # By themselves its operations take longer to compile.
    def start(inputs):
        encoded = module.apply(variables, inputs, enable_dropout=False, method="encode")
        ones = [jnp.ones_like(x) for x in (inputs, tokens, tokens)]
        _, made = module.apply(variables, *ones, **decoding)
        return encoded, made["cache"]

    @jax.jit
    def step(cache, token):
        logits, new = module.apply(
            variables | {"cache": cache},
            *(encoded, inputs, token, token),
            max_decode_length=length,
            method="decode",
            **decoding,
        )
        return new["cache"], logits[:, 0]

    encoded, cache = start(inputs)
    rows = []
    for i in range(length):
        cache, row = step(cache, tokens[:, i : i + 1])
        rows.append(row)
    return jnp.stack(rows, axis=1), cache


def relative_error(value, expected) -> float:
    """Largest deviation, relative to the largest expected magnitude."""
    value, expected = np.asarray(value, np.float64), np.asarray(expected, np.float64)
    return float(np.abs(value - expected).max() / max(np.abs(expected).max(), 1e-30))


def worst_error(tree, expected) -> float:
    """`relative_error` of the worst leaf; a list is one array."""
    errors = jax.tree.map(
        relative_error, tree, expected, is_leaf=lambda x: isinstance(x, list)
    )
    return max(jax.tree.leaves(errors))


def summary(module) -> dict:
    """Numbers small enough to keep in a file: what `evaluate` gives in each setting."""
    params = init(module)["params"]
    result = {}
    for name in ("plain", "dropout", "packed"):
        examples = batch(packed=name == "packed")
        loss, logits, gradients = evaluate(module, params, examples, name == "dropout")
        norms = jax.tree.map(lambda g: float(jnp.linalg.norm(g)), gradients)
        paths = jax.tree_util.tree_flatten_with_path(norms)[0]
        result[name] = {
            "loss": float(loss),
            "logits": np.asarray(logits[:, ::3, ::7], np.float64).tolist(),
            "gradient_norms": {jax.tree_util.keystr(p): n for p, n in paths},
        }
    return result
