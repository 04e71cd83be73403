"""Gradients in one piece and in microbatches; what the step may import."""

import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from t5patches import train_step


def squared_error(params, batch, rng):
    noise = 0.0 if rng is None else jax.random.normal(rng)
    error = jnp.square(batch["x"] @ params["w"] - batch["y"] + noise)
    return jnp.sum(error), {"error": (jnp.sum(error), jnp.float32(error.size))}


def make_problem():
    rng = np.random.default_rng(0)
    batch = {"x": rng.normal(size=(6, 3)), "y": rng.normal(size=(6,))}
    return {"w": jnp.ones(3)}, jax.tree.map(jnp.float32, batch)


@pytest.mark.parametrize("num_microbatches", [2, 3, 6])
def test_microbatches_add_up(num_microbatches):
    params, batch = make_problem()
    whole = train_step.accumulate_gradients(squared_error, params, batch, None)
    parts = train_step.accumulate_gradients(
        squared_error, params, batch, None, num_microbatches=num_microbatches
    )
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), whole, parts)


def test_each_microbatch_has_a_key_of_its_own():
    params, batch = make_problem()
    rng = jax.random.PRNGKey(0)
    gradients, *_ = train_step.accumulate_gradients(
        squared_error, params, batch, rng, num_microbatches=2
    )
    expected = jnp.zeros(3)
    for i in range(2):
        rng, key = jax.random.split(rng)
        half = jax.tree.map(lambda x, i=i: x[3 * i : 3 * i + 3], batch)
        update, _ = jax.grad(squared_error, has_aux=True)(params, half, key)
        expected += update["w"]
    np.testing.assert_allclose(gradients["w"], expected, rtol=1e-6)


def test_batch_that_does_not_divide_is_refused():
    with pytest.raises(ValueError, match="multiple of num_microbatches"):
        train_step.accumulate_gradients(
            squared_error, *make_problem(), None, num_microbatches=4
        )


def test_compute_core_runs_without_tensorflow():
    """TensorFlow, SeqIO and T5X are made unimportable, then the core is imported."""
    program = (
        "import sys\n"
        "for name in ('tensorflow', 'seqio', 'clu.metric_writers', 't5x'):\n"
        "    sys.modules[name] = None\n"
        "import t5patches\n"
        "from t5patches import layers, losses, network, train_step\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True)
