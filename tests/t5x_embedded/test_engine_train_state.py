"""Train states and their optimizer: layout, steps, axes, and what is refused."""

import engine_case
import flax
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.linen import partitioning as flax_partitioning
from jax.sharding import PartitionSpec

from t5x_embedded import adafactor, optimizers, train_state

AXES, variables = engine_case.LAYER_AXES, engine_case.layer_variables


def optimizer(**options):
    rules = adafactor.standard_logical_factor_rules()
    return adafactor.Adafactor(logical_factor_rules=rules, **options)


def create(variables_=None, **options):
    return train_state.FlaxOptimTrainState.create(
        optimizer(**options), variables_ or variables()
    )


def test_layout_of_a_checkpoint():
    tree = create(beta1=0.9, dtype_momentum="bfloat16").state_dict()
    assert set(tree) == {"target", "state"}
    assert set(tree["state"]) == {"step", "param_states"}
    slots = tree["state"]["param_states"]["layer"]
    shapes = {k: {s: v.shape for s, v in slot.items()} for k, slot in slots.items()}
    one = (1,)
    assert shapes == {
        "wide": {"v_row": (130,), "v_col": (140,), "v": one, "m": (130, 140)},
        "narrow": {"v_row": one, "v_col": one, "v": (6, 140), "m": (6, 140)},
        "scale": {"v_row": one, "v_col": one, "v": (140,), "m": (140,)},
    }
    assert slots["wide"]["m"].dtype == jnp.bfloat16
    assert tree["state"]["step"].dtype == jnp.int32


def step_by_hand(param, grad, rate, momentum=0.0):
    """The first Adafactor step, whose decay is 0, in float64."""
    param, grad = np.asarray(param, np.float64), np.asarray(grad, np.float64)
    second = grad**2 + 1e-30
    if min(param.shape) >= 128 and param.ndim == 2:
        rows, cols = second.mean(1, keepdims=True), second.mean(0, keepdims=True)
        second = rows * cols / rows.mean()
    update = grad / np.sqrt(second)
    update /= max(1.0, np.sqrt((update**2).mean()))
    scale = max(np.sqrt((param**2).mean()), 1e-3)
    return param - (1 - momentum) * rate * scale * update


@pytest.mark.parametrize("beta1", [None, 0.9])
def test_first_step(beta1):
    state = create(beta1=beta1)
    grads = jax.tree.map(lambda p: jnp.roll(p, 3) * 0.1, state.params)
    after = jax.jit(lambda s, g: s.apply_gradient(g, learning_rate=0.1))(state, grads)
    for name, param in state.params["layer"].items():
        expected = step_by_hand(param, grads["layer"][name], 0.1, beta1 or 0.0)
        got = after.params["layer"][name]
        np.testing.assert_allclose(got, expected, rtol=2e-5, atol=1e-6)
    assert int(after.step) == 1
    assert jax.tree.structure(after) == jax.tree.structure(state)


def test_bfloat16_gradients_and_parameters_keep_float32_slots():
    state = create()
    rough = jax.tree.map(lambda p: p.astype(jnp.bfloat16), state.params)
    after = state.replace_params(rough).apply_gradient(rough, learning_rate=0.1)
    assert {str(x.dtype) for x in jax.tree.leaves(after.params)} == {"bfloat16"}
    assert {str(x.dtype) for x in jax.tree.leaves(after.param_states)} == {"float32"}


def test_no_learning_rate():
    state = create()
    with pytest.raises(ValueError, match="not given a learning rate"):
        state.apply_gradient(state.params, learning_rate=None)


def test_a_state_is_restored_whole_or_not():
    state, saved = create(), create().replace_step(jnp.array(7)).state_dict()
    restored = state.restore_state(saved)
    assert jax.tree.structure(restored) == jax.tree.structure(state)
    del saved["target"]["layer"]["scale"]
    with pytest.raises(ValueError, match="scale"):
        state.restore_state(saved)


def test_no_two_slots_share_memory():
    """A donated buffer may be there once only."""
    arrays = jax.tree.leaves(create())
    assert len({x.unsafe_buffer_pointer() for x in arrays}) == len(arrays)


def test_logical_axes():
    axes = create(beta1=0.9).as_logical_axes()
    assert axes.params["layer"]["wide"] == PartitionSpec("embed", "mlp")
    slots = axes.param_states["layer"]
    assert slots["wide"] == {
        "v_row": None,
        "v_col": None,
        "v": None,
        "m": PartitionSpec("embed", "mlp"),
    }
    assert slots["scale"]["v"] == PartitionSpec("embed")
    assert axes.step is None and axes.params_axes is None
    shapes = jax.eval_shape(lambda: create(beta1=0.9))
    assert shapes.params["layer"]["wide"].shape == (130, 140)
    assert shapes.as_logical_axes().state_dict() == axes.state_dict()


def test_other_collections_are_refused():
    axes = {"mean_axes": flax_partitioning.AxisMetadata(names=("embed",))}
    made = variables(stats={"mean": jnp.ones(3)}, stats_axes=axes)
    for make in (create, train_state.InferenceState.create):
        with pytest.raises(NotImplementedError, match="'stats'.*T5X does"):
            make(made)


def test_axis_names_are_needed():
    with pytest.raises(ValueError, match="without axis names: .*layer/scale"):
        create(variables(axes={k: AXES[k] for k in ("wide", "narrow")}))
    with pytest.raises(ValueError, match="the module names no axes"):
        create(variables(axes=None))


def test_inference_state():
    state = train_state.InferenceState.create(variables())
    assert state.replace_step(jnp.array(4)).step == 4
    axes = state.as_logical_axes()
    assert axes.step is None
    assert axes.params["layer"]["narrow"] == PartitionSpec("relpos_buckets", "heads")
    for use in (lambda: state.param_states, lambda: state.apply_gradient(None)):
        with pytest.raises(NotImplementedError, match="InferenceState"):
            use()


def test_parameters_that_only_t5x_factors():
    cube = variables({"heads": (4, 5, 6)}, {"heads": ("embed", "heads", "kv")})
    with pytest.raises(ValueError, match=r"layer/heads.*\(4, 5, 6\).*T5X does"):
        create(cube)


def test_equal_settings_are_equal_optimizers():
    """A jitted step is compiled once for states made from the same settings."""
    assert optimizer(beta1=0.9) == optimizer(beta1=0.9)
    assert hash(optimizer(beta1=0.9)) == hash(optimizer(beta1=0.9))
    assert optimizer(beta1=0.9) != optimizer()
    assert optimizer() != optimizer(dtype_momentum="bfloat16")


def test_another_optimizer():
    """What an OptimizerDef of one's own has to give."""

    @flax.struct.dataclass
    class Hyper:
        learning_rate: float | None = None

    class Descent(optimizers.OptimizerDef):
        def init_state(self, params):
            return optimizers.OptimizerState(jnp.array(0), {})

        def apply_gradient(self, hyper_params, params, state, grads):
            rate = hyper_params.learning_rate
            moved = jax.tree.map(lambda p, g: p - rate * g, params, grads)
            return moved, state.replace(step=state.step + 1)

    state = train_state.FlaxOptimTrainState.create(Descent(Hyper()), variables())
    after = state.apply_gradient(state.params, learning_rate=1.0)
    assert not any(jnp.any(x) for x in jax.tree.leaves(after.params))
    with pytest.raises(ValueError, match="Descent has no `derive_logical_axes`"):
        state.as_logical_axes()
