"""Adafactor with T5X's state layout, on optax's transformations.

optax has the arithmetic; what is added is the state: `param_states` holds, beside
each parameter, the slots `v_row`, `v_col` (factored second moment), `v` (unfactored)
and `m` (momentum), float32, an unused slot being one zero. Checkpoints of T5X have
that layout.

References:
    Shazeer and Stern, Adafactor: Adaptive Learning Rates with Sublinear Memory Cost,
    2018, https://arxiv.org/abs/1804.04235.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

import flax
import jax
import jax.numpy as jnp
import optax
from flax import traverse_util
from flax.core import FrozenDict

from t5x_embedded import _absent, optimizers

__getattr__ = _absent.module_getattr(__name__)

SLOTS = ("v_row", "v_col", "v", "m")


def standard_logical_factor_rules() -> FrozenDict:
    """None: T5X heeds its rules at ranks above 2 only, which this engine has not."""
    return FrozenDict()


def _flat(tree: Any) -> dict[str, Any]:
    return traverse_util.flatten_dict(flax.core.unfreeze(tree), sep="/")


def _like(tree: Any, flat: Mapping[str, Any]) -> Any:
    """`flat` nested again, frozen if `tree` is."""
    nested = traverse_util.unflatten_dict(dict(flat), sep="/")
    return flax.core.freeze(nested) if isinstance(tree, FrozenDict) else nested


def _state(step, params, moments: optax.FactoredState, m) -> optimizers.OptimizerState:
    """The slots of one parameter put together, in the structure of `params`."""
    parts = (moments.v_row, moments.v_col, moments.v, m)
    slots = {
        path: {slot: part[path] for slot, part in zip(SLOTS, parts, strict=True)}
        for path in m
    }
    return optimizers.OptimizerState(step, _like(params, slots))


def _rms(x: jax.Array) -> jax.Array:
    return jnp.sqrt(jnp.mean(jnp.square(x)))


@dataclasses.dataclass(frozen=True)  # Compiled functions are cached by its equality.
class Adafactor(optimizers.OptimizerDef):
    """Adafactor for parameters of rank 0 to 2.

    The two sides of a matrix are factored where both are at least
    `min_dim_size_to_factor`, whatever `logical_factor_rules` says of them: T5X heeds
    the rules at higher ranks only.

    Attributes:
        learning_rate: usually given per step, by the trainer.
        factored: keep row and column means of a matrix's second moment in place of
            all of it.
        multiply_by_parameter_scale: take the learning rate relative to the
            parameter's root mean square.
        beta1: momentum, or None for none.
        decay_rate: the second moment decays by 1 - t ** -decay_rate.
        step_offset: the step at which that t is 0.
        clipping_threshold: the most that an update's root mean square may be (before
            the learning rate), or None.
        min_dim_size_to_factor: the shortest side that is factored.
        epsilon1: added to squared gradients.
        epsilon2: the least parameter scale.
        dtype_momentum: how momentum is stored.
        logical_factor_rules: ignored.
    """

    learning_rate: Any = None
    factored: bool = True
    multiply_by_parameter_scale: bool = True
    beta1: float | None = None
    decay_rate: float = 0.8
    step_offset: int = 0
    clipping_threshold: float | None = 1.0
    min_dim_size_to_factor: int = 128
    epsilon1: float = 1e-30
    epsilon2: float = 1e-3
    dtype_momentum: Any = jnp.float32
    logical_factor_rules: Mapping[str, Any] | None = dataclasses.field(
        default=None, hash=False
    )

    def __post_init__(self):
        scale = self.multiply_by_parameter_scale
        if not isinstance(scale, bool):
            name = "adafactor.Adafactor"
            _absent.option(name, "multiply_by_parameter_scale", scale)

    @property
    def hyper_params(self) -> "Adafactor":
        """Its own settings."""
        return self

    def replace(self, **settings: Any) -> "Adafactor":
        return dataclasses.replace(self, **settings)

    def _second_moment(self) -> optax.GradientTransformation:
        return optax.scale_by_factored_rms(
            factored=self.factored,
            decay_rate=self.decay_rate,
            step_offset=self.step_offset,
            min_dim_size_to_factor=self.min_dim_size_to_factor,
            epsilon=self.epsilon1,
        )

    def init_state(self, params: Any) -> optimizers.OptimizerState:
        """Zero slots.

        Raises:
            ValueError: a parameter's rank is above 2.
        """
        shapes = {}
        for path, p in _flat(params).items():
            shapes[path] = jax.ShapeDtypeStruct(p.shape, jnp.float32)
            if len(p.shape) > 2:
                missing = _absent.message("Adafactor for parameters of rank above 2")
                raise ValueError(f"{path} has shape {p.shape}: {missing}")
        moments = self._second_moment().init(shapes)
        # An array of its own for every slot: the state's buffers are donated.
        m = {
            path: jnp.zeros(1)
            if self.beta1 is None
            else jnp.zeros(p.shape, self.dtype_momentum)
            for path, p in shapes.items()
        }
        return _state(jnp.zeros((), jnp.int32), params, moments, m)

    def apply_gradient(self, hyper_params, params, state, grads):
        """One step.

        Args:
            hyper_params: the settings, with a learning rate.
            params: the parameters.
            state: an OptimizerState, of `init_state` or the last step.
            grads: in the structure of `params`, any float type.

        Returns:
            (parameters in their own types, state).

        Raises:
            ValueError: there is no learning rate.
        """
        if hyper_params.learning_rate is None:
            raise ValueError("Adafactor was not given a learning rate")
        weights = _flat(params)
        updates = {path: g.astype(jnp.float32) for path, g in _flat(grads).items()}
        old = {slot: {} for slot in SLOTS}
        for path, value in _flat(state.param_states).items():
            path, _, slot = path.rpartition("/")
            old[slot][path] = value
        moments = optax.FactoredState(state.step, old["v_row"], old["v_col"], old["v"])
        updates, moments = hyper_params._second_moment().update(
            updates, moments, updates
        )
        if hyper_params.clipping_threshold is not None:
            clip = optax.clip_by_block_rms(hyper_params.clipping_threshold)
            updates, _ = clip.update(updates, clip.init(weights))

        new, m = {}, {}
        for path, w in weights.items():
            new[path], m[path] = hyper_params._move(w, updates[path], old["m"][path])
        return _like(params, new), _state(state.step + 1, params, moments, m)

    def _move(self, param, update, m):
        """Takes a scaled update off a parameter: (parameter, momentum)."""
        rate = self.learning_rate
        if self.multiply_by_parameter_scale:
            rate *= jnp.maximum(_rms(param), self.epsilon2)
        update = rate * update
        if self.beta1 is not None:
            update = self.beta1 * m + (1.0 - self.beta1) * update
            m = update.astype(self.dtype_momentum)
        return (param - update).astype(param.dtype), m

    def derive_logical_axes(self, optimizer_state, param_logical_axes):
        """The optimizer with logical axis names instead of arrays.

        A slot that mirrors its parameter is laid out like it; rows, columns and the
        step are replicated (None).

        Args:
            optimizer_state: an optimizers.Optimizer, over arrays or shapes.
            param_logical_axes: a PartitionSpec of axis names for each parameter.
        """
        slots = _flat(optimizer_state.state.param_states)
        axes = {}
        for path, spec in _flat(param_logical_axes).items():
            axes[path] = dict.fromkeys(SLOTS)
            if slots[f"{path}/v"].shape != (1,):
                axes[path]["v"] = spec
            if self.beta1:
                axes[path]["m"] = spec
        target = optimizer_state.target
        return optimizers.Optimizer(
            self,
            optimizers.OptimizerState(step=None, param_states=_like(target, axes)),
            _like(target, _flat(param_logical_axes)),
        )
