"""The embedded engine's arithmetic against T5X's own, both in one process."""

import functools

import decoder_only_cases as cases
import engine_case
import flax
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import t5x

import t5x_embedded
from tests import engine_toy

ENGINES = (t5x, t5x_embedded)
for engine in ENGINES:  # Makes the modules the packages' attributes.
    modules = "adafactor", "decoding", "losses", "models", "partitioning", "train_state"
    engine_toy.modules(engine.__name__, *modules)


def assert_same(got, want):
    """Compares leaves, types, shapes and values."""
    got, want = cases.flat(got), cases.flat(want)
    for name, x in want.items():
        assert (got[name].shape, got[name].dtype) == (x.shape, x.dtype), name
    cases.assert_same(got, want)


def test_everything_on_the_tiny_model():
    want, got = (engine_case.run(engine.__name__) for engine in ENGINES)
    assert_same(got, want)


def test_the_frozen_numbers_are_t5xs():
    digest = engine_case.digest(engine_case.run("t5x"))
    engine_case.assert_close(digest, cases.frozen(engine_case.FROZEN))


@pytest.mark.parametrize(
    ("factor", "label_smoothing"),
    [
        (None, 0.0),
        (30.0, 0.2),
        ("num_real_target_tokens", 0.2),
        ("NUM_TOTAL_TARGET_TOKENS", 0.0),
    ],
)
def test_loss_and_gradient(factor, label_smoothing):
    rng = np.random.default_rng(0)
    logits = jnp.asarray(4 * rng.standard_normal((3, 6, 11)), jnp.float32)
    plain = {"decoder_target_tokens": jnp.asarray(rng.integers(1, 11, (3, 6)))}
    weights = jnp.asarray(rng.integers(0, 3, (3, 6)), jnp.float32)
    weighted = plain | {"decoder_loss_weights": weights}

    def loss(losses, batch, logits):
        factor_, weights = losses.get_loss_normalizing_factor_and_weights(factor, batch)
        loss, *others = losses.compute_weighted_cross_entropy(
            logits,
            batch["decoder_target_tokens"],
            weights,
            label_smoothing=label_smoothing,
            z_loss=0.01,
            loss_normalizing_factor=factor_,
        )
        return loss, others

    for batch in (weighted, plain):
        want, got = (
            jax.value_and_grad(functools.partial(loss, e.losses, batch), has_aux=True)(
                logits
            )
            for e in ENGINES
        )
        assert_same(jnp.float32(got[0][1][1]), jnp.float32(want[0][1][1]))
        assert_same((got[0][0], got[1]), (want[0][0], want[1]))


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"factored": False, "beta1": 0.5, "dtype_momentum": "bfloat16"},
        {"clipping_threshold": None, "step_offset": -3},
        {"multiply_by_parameter_scale": False},
    ],
    ids=lambda options: "+".join(options) or "defaults",
)
def test_adafactor_steps_and_layout(options):
    """Steps agree, and each engine's checkpoint tree restores under the other."""
    variables = engine_case.layer_variables()
    rng = np.random.default_rng(1)
    states = []
    for engine in ENGINES:
        optimizer = engine.adafactor.Adafactor(
            min_dim_size_to_factor=16,  # Not the default.
            logical_factor_rules=engine.adafactor.standard_logical_factor_rules(),
            **options,
        )
        states.append(
            engine.train_state.FlaxOptimTrainState.create(optimizer, variables)
        )
    assert_same(states[1].state_dict(), states[0].state_dict())
    for _ in range(3):
        grads = jax.tree.map(
            lambda x: jnp.asarray(rng.standard_normal(x.shape), x.dtype),
            variables["params"],
        )
        states = [s.apply_gradient(grads, learning_rate=0.05) for s in states]
        assert_same(states[1].state_dict(), states[0].state_dict())
    theirs, ours = states
    ours_axes, their_axes = ours.as_logical_axes(), theirs.as_logical_axes()
    assert ours_axes.state_dict() == their_axes.state_dict()
    for state, other in ((theirs, ours), (ours, theirs)):
        restored = state.restore_state(other.state_dict())
        assert_same(restored.state_dict(), other.state_dict())
        assert jax.tree.structure(restored) == jax.tree.structure(state)


TABLE = 3 * np.random.default_rng(5).standard_normal((12, 12))


def markov(state):
    """A model that reads nothing but the last token."""
    logits = jnp.asarray(TABLE, jnp.float32)[state.cur_token[:, 0]]
    return logits, {"seen": state.cache["seen"] + state.cur_token}


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("temperature_sample", {"temperature": 0.0}),
        ("temperature_sample", {"num_decodes": 3, "rescale_log_probs": False}),
        ("temperature_sample", {"temperature": 0.8, "topk": 0, "num_decodes": 5}),
        ("temperature_sample", {"topk": 3, "max_decode_steps": 2, "num_decodes": 2}),
        ("temperature_sample", {"topk": 0, "topp": 0.7, "num_decodes": 4}),
        ("beam_search", {"num_decodes": 4}),
        ("beam_search", {"num_decodes": 3, "alpha": 0.0, "max_decode_len": 4}),
        ("beam_search", {"num_decodes": 2, "alpha": 2.0}),
    ],
    ids=str,
)
def test_decoding(name, options):
    """A row without a prompt, and two with prompts of different lengths."""
    prompts = np.zeros((3, 9), np.int32)
    prompts[1, 1:3] = 4, 5
    prompts[2, 1:2] = 7
    want, got = (
        getattr(engine.decoding, name)(
            jnp.asarray(prompts),
            {"seen": jnp.zeros((3, 1), jnp.int32)},
            markov,
            eos_id=1,
            decode_rng=jax.random.PRNGKey(7),
            **options,
        )
        for engine in ENGINES
    )
    for _, scores in (got, want):
        np.testing.assert_array_less(-1e-4, np.diff(scores, axis=1))
    assert_same(by_tokens(*got), by_tokens(*want))


def by_tokens(decodes, scores):
    """In an order that does not hang on the last bit: some are equally probable."""
    rows = [np.lexsort(row.T[::-1]) for row in np.asarray(decodes)]
    return [
        np.stack([x[order] for x, order in zip(np.asarray(array), rows, strict=True)])
        for array in (decodes, scores)
    ]


def test_axis_rules():
    to_mesh = flax.linen.partitioning.logical_to_mesh_axes
    for dims in ((1, 1), (1, 2), (2, 1), (2, 2)):
        theirs, ours = (
            e.partitioning.standard_logical_axis_rules(*dims, [("extra", "model")])
            for e in ENGINES
        )
        for axes in (
            ("batch", "length", "embed"),
            ("embed", "mlp"),
            ("vocab", "embed"),
            ("joined_kv", "embed"),
            ("heads", "kv"),
            ("extra", "relpos_buckets"),
        ):
            assert to_mesh(axes, ours) == to_mesh(axes, theirs)


def test_data_layout():
    theirs, ours = (engine.partitioning for engine in ENGINES)
    want, got = (e.PjitPartitioner(1).get_data_layout(4) for e in (theirs, ours))
    assert vars(got).items() <= vars(want).items()
    assert ours.PjitPartitioner(1).mesh.shape == theirs.PjitPartitioner(1).mesh.shape


if __name__ == "__main__":
    cases.freeze(engine_case.digest(engine_case.run("t5x")), engine_case.FROZEN)
