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
import enum
from collections.abc import Mapping
from typing import Any

import flax
import jax
import jax.numpy as jnp
import optax
from flax import traverse_util
from flax.core import FrozenDict

from t5x_embedded import _absent, optimizers

__getattr__ = _absent.module_getattr(
    __name__, ["HParamMap", "HeuristicRule", "HEURISTIC_RULE", "FactorRule"]
)

SLOTS = ("v_row", "v_col", "v", "m")


class FactorDim(enum.Enum):
    """What a logical axis is to the factored second moment."""

    NONE = None
    BATCH = 1
    ROW = 2
    COLUMN = 3


def factor_name_to_factordim(name: str | FactorDim) -> FactorDim:
    """A rule written as text as a `FactorDim`.

    Raises:
        KeyError: the text is none of 'row', 'column', 'col', 'batch', 'none' and
            'unfactorized', in any case.
    """
    if not isinstance(name, str):
        return name
    short = {"COL": "COLUMN", "UNFACTORIZED": "NONE"}
    return FactorDim[short.get(name.upper(), name.upper())]


def standard_logical_factor_rules() -> FrozenDict:
    """T5's axes: what each is to the factored second moment."""
    columns = (
        "vocab mlp heads kv joined_kv q_wi_fused o_wo_fused multiquery_heads kv_fused "
        "mlp_activations"
    )
    return FrozenDict(
        {axis: FactorDim.COLUMN for axis in columns.split()}
        | {"embed": FactorDim.ROW}
        | {"layers": FactorDim.BATCH, "stack": FactorDim.BATCH}
        | {"relpos_buckets": FactorDim.NONE, "layer_norm_scale": FactorDim.NONE}
    )


@flax.struct.dataclass
class _HyperParams:
    learning_rate: Any
    multiply_by_parameter_scale: bool
    beta1: float | None
    decay_rate: float
    step_offset: int
    clipping_threshold: float | None
    weight_decay_rate: float | None
    min_dim_size_to_factor: int
    epsilon1: float
    epsilon2: float
    factored: bool
    weight_decay_rate_lr_exponent: float | None
    global_norm_clip_threshold: float | None
    max_parameter_scale: float | None
    logical_factor_rules: Any = flax.struct.field(pytree_node=False)


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


class Adafactor(optimizers.OptimizerDef):
    """Adafactor for parameters of rank 0 to 2.

    The two sides of a matrix are factored where both are at least
    `min_dim_size_to_factor`, whatever `logical_factor_rules` says of them: T5X heeds
    the rules at higher ranks only, so here they are checked and otherwise unused.
    """

    def __init__(
        self,
        learning_rate: float | None = None,
        factored: bool = True,
        multiply_by_parameter_scale: bool = True,
        beta1: float | None = None,
        decay_rate: float = 0.8,
        step_offset: int = 0,
        clipping_threshold: float | None = 1.0,
        weight_decay_rate: float | None = None,
        min_dim_size_to_factor: int = 128,
        epsilon1: float = 1e-30,
        epsilon2: float = 1e-3,
        dtype_momentum: Any = jnp.float32,
        factor_map: Any = None,
        logical_factor_rules: Mapping[str, FactorDim | str] | None = None,
        weight_decay_rate_lr_exponent: float | None = None,
        global_norm_clip_threshold: float | None = None,
        max_parameter_scale: float | None = None,
        skip_nan_updates: bool | None = False,
    ):
        """Sets the hyperparameters.

        Args:
            learning_rate: usually given per step, by the trainer.
            factored: keep row and column means of a matrix's second moment in place
                of all of it.
            multiply_by_parameter_scale: take the learning rate relative to the
                parameter's root mean square.
            beta1: momentum, or None for none.
            decay_rate: the second moment decays by 1 - t ** -decay_rate.
            step_offset: the step at which that t is 0.
            clipping_threshold: the most that an update's root mean square may be
                (before the learning rate), or None.
            weight_decay_rate: the share of a parameter taken off at each step.
            min_dim_size_to_factor: the shortest side that is factored.
            epsilon1: added to squared gradients.
            epsilon2: the least parameter scale.
            dtype_momentum: how momentum is stored.
            factor_map: not supported.
            logical_factor_rules: logical axis name to `FactorDim` (or its name).
            weight_decay_rate_lr_exponent: weight decay is
                `learning_rate ** this`, times `weight_decay_rate` if given.
            global_norm_clip_threshold: the most that the norm of all gradients
                together may be.
            max_parameter_scale: the greatest parameter scale.
            skip_nan_updates: not supported.

        Raises:
            NotImplementedError: an option that only T5X has.
        """
        given = locals()
        refused = {"factor_map": factor_map, "skip_nan_updates": skip_nan_updates}
        if not isinstance(multiply_by_parameter_scale, bool):
            refused["multiply_by_parameter_scale"] = multiply_by_parameter_scale
        for name, value in refused.items():
            if value not in (None, False):
                _absent.option("adafactor.Adafactor", name, value)
        self.dtype_momentum = jax.dtypes.canonicalize_dtype(dtype_momentum)
        names = (field.name for field in dataclasses.fields(_HyperParams))
        super().__init__(_HyperParams(**{name: given[name] for name in names}))

    def __eq__(self, other: Any) -> bool:
        # Compiled functions are cached by this: equal settings, equal programs.
        return isinstance(other, Adafactor) and (
            (self.hyper_params, self.dtype_momentum)
            == (other.hyper_params, other.dtype_momentum)
        )

    def __hash__(self) -> int:
        return hash((Adafactor, str(self.dtype_momentum)))

    def _second_moment(self, hyper: _HyperParams) -> optax.GradientTransformation:
        return optax.scale_by_factored_rms(
            factored=hyper.factored,
            decay_rate=hyper.decay_rate,
            step_offset=hyper.step_offset,
            min_dim_size_to_factor=hyper.min_dim_size_to_factor,
            epsilon=hyper.epsilon1,
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
        moments = self._second_moment(self.hyper_params).init(shapes)
        momentum = self.hyper_params.beta1 is not None
        # An array of its own for every slot: the state's buffers are donated.
        m = {
            path: jnp.zeros(p.shape, self.dtype_momentum) if momentum else jnp.zeros(1)
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
        hyper = hyper_params
        if hyper.learning_rate is None:
            raise ValueError("Adafactor was not given a learning rate")
        weights, updates = _flat(params), _flat(grads)
        if hyper.global_norm_clip_threshold:
            clip = optax.clip_by_global_norm(hyper.global_norm_clip_threshold)
            updates, _ = clip.update(updates, clip.init(weights))
        updates = {path: g.astype(jnp.float32) for path, g in updates.items()}

        old = {slot: {} for slot in SLOTS}
        for path, value in _flat(state.param_states).items():
            path, _, slot = path.rpartition("/")
            old[slot][path] = value
        moments = optax.FactoredState(state.step, old["v_row"], old["v_col"], old["v"])
        updates, moments = self._second_moment(hyper).update(updates, moments, updates)
        if hyper.clipping_threshold is not None:
            clip = optax.clip_by_block_rms(hyper.clipping_threshold)
            updates, _ = clip.update(updates, clip.init(weights))

        new, m = {}, {}
        for path, w in weights.items():
            new[path], m[path] = self._move(hyper, w, updates[path], old["m"][path])
        return _like(params, new), _state(state.step + 1, params, moments, m)

    def _move(self, hyper, param, update, m):
        """Takes a scaled update off a parameter: (parameter, momentum)."""
        rate = hyper.learning_rate
        if hyper.multiply_by_parameter_scale:
            rate *= jnp.clip(_rms(param), hyper.epsilon2, hyper.max_parameter_scale)
        update = rate * update
        if hyper.beta1 is not None:
            update = hyper.beta1 * m + (1.0 - hyper.beta1) * update
            m = update.astype(self.dtype_momentum)
        decay = hyper.weight_decay_rate
        if hyper.weight_decay_rate_lr_exponent:
            exponent = hyper.weight_decay_rate_lr_exponent
            decay = (decay or 1.0) * hyper.learning_rate**exponent
        kept = param if decay is None else (1.0 - decay) * param
        return (kept - update).astype(param.dtype), m

    def set_param_axes(self, param_logical_axes: Any) -> None:
        """Checks the factor rules against the parameters' logical axes.

        Args:
            param_logical_axes: a PartitionSpec of axis names for each parameter.

        Raises:
            KeyError: an axis has no rule.
            NotImplementedError: a rule makes an axis a batch of parameters.
        """
        rules = self.hyper_params.logical_factor_rules
        if rules is None:
            return
        for path, axes in _flat(param_logical_axes).items():
            dims = [factor_name_to_factordim(rules[axis]) for axis in axes]
            if FactorDim.BATCH in dims:
                raise NotImplementedError(
                    f"{path} has axes {tuple(axes)}: "
                    + _absent.message("Adafactor for stacked or scanned parameters")
                )

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
            if self.hyper_params.beta1:
                axes[path]["m"] = spec
        target = optimizer_state.target
        return optimizers.Optimizer(
            self,
            optimizers.OptimizerState(step=None, param_states=_like(target, axes)),
            _like(target, _flat(param_logical_axes)),
        )
