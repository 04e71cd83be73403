"""What training carries from step to step, and what inference needs of it."""

from collections.abc import Mapping
from typing import Any

import flax
import jax
import jax.numpy as jnp
from flax import traverse_util
from flax.core import FrozenDict
from flax.linen import partitioning as flax_partitioning

from t5x_embedded import _absent, optimizers

__getattr__ = _absent.module_getattr(__name__)


def _split(variables: Mapping[str, Any]) -> tuple[FrozenDict, FrozenDict | None]:
    """Tells a module's parameters from the names of their axes.

    Args:
        variables: what `module.init` returned: the collections 'params' and, perhaps,
            'params_axes'.

    Raises:
        NotImplementedError: there are other collections.
        ValueError: only some of the parameters have axis names.
    """
    variables = flax.core.freeze(variables)
    others = sorted(set(variables) - {"params", "params_axes"})
    if others:
        raise NotImplementedError(_absent.message(f"train states with {others}"))
    params, axes = variables["params"], variables.get("params_axes")
    if axes is not None:
        names = flax_partitioning.get_axis_names(axes)
        named = traverse_util.flatten_dict(names, sep="/").keys()
        nameless = traverse_util.flatten_dict(params, sep="/").keys() - named
        if nameless:
            raise ValueError(f"parameters without axis names: {sorted(nameless)}")
    return params, axes


_elsewhere = _absent.instance_getattr("train_state.TrainState")


class FlaxOptimTrainState(flax.struct.PyTreeNode):
    """Parameters with their optimizer.

    Attributes:
        params_axes: the parameters' logical axis names, as flax's
            `param_with_axes` left them; no arrays.
    """

    _optimizer: optimizers.Optimizer
    params_axes: FrozenDict | None = None

    @classmethod
    def create(cls, optimizer_def, model_variables) -> "FlaxOptimTrainState":
        """A state at step 0.

        Args:
            optimizer_def: an OptimizerDef.
            model_variables: collections as the model's module initialised them.

        Raises:
            ValueError: axis names are missing.
        """
        params, axes = _split(model_variables)
        if axes is None:
            raise ValueError("the module names no axes (collection 'params_axes')")
        return cls(_optimizer=optimizer_def.create(params), params_axes=axes)

    __getattr__ = _elsewhere
    step = property(lambda self: self._optimizer.state.step)
    params = property(lambda self: self._optimizer.target)
    param_states = property(lambda self: self._optimizer.state.param_states)

    def state_dict(self) -> dict[str, Any]:
        """Nested dictionaries of arrays, for a checkpoint."""
        return self._optimizer.state_dict()

    def restore_state(self, state_dict: Mapping[str, Any]) -> "FlaxOptimTrainState":
        """This state with the contents of a `state_dict`."""
        return self.replace(_optimizer=self._optimizer.restore_state(state_dict))

    def apply_gradient(self, grads, learning_rate) -> "FlaxOptimTrainState":
        """The state one step later."""
        stepped = self._optimizer.apply_gradient(grads, learning_rate=learning_rate)
        return self.replace(_optimizer=stepped)

    def replace_params(self, params: Mapping[str, Any]) -> "FlaxOptimTrainState":
        return self.replace(_optimizer=self._optimizer.replace(target=params))

    def replace_step(self, step: jax.Array) -> "FlaxOptimTrainState":
        moved = self._optimizer.state.replace(step=step)
        return self.replace(_optimizer=self._optimizer.replace(state=moved))

    def as_logical_axes(self) -> "FlaxOptimTrainState":
        """This state with axis names (a PartitionSpec, or None) instead of arrays.

        Raises:
            ValueError: the optimizer cannot tell how its slots are laid out.
        """
        derive = getattr(self._optimizer.optimizer_def, "derive_logical_axes", None)
        if derive is None:
            raise ValueError(
                f"optimizer {type(self._optimizer.optimizer_def).__name__} has no "
                "`derive_logical_axes`, which partitioning by axis names needs"
            )
        names = flax_partitioning.get_axis_names(self.params_axes)
        return FlaxOptimTrainState(_optimizer=derive(self._optimizer, names))


class InferenceState(flax.struct.PyTreeNode):
    """A train state without an optimizer; its checkpoints have no slots."""

    step: jax.Array | None
    params: FrozenDict
    params_axes: FrozenDict | None = None
    __getattr__ = _elsewhere

    @classmethod
    def create(cls, model_variables: Mapping[str, Any]) -> "InferenceState":
        """A state at step 0; see `FlaxOptimTrainState.create`."""
        params, axes = _split(model_variables)
        return cls(step=jnp.array(0), params=params, params_axes=axes)

    @property
    def param_states(self) -> FrozenDict:
        raise NotImplementedError("an InferenceState has no optimizer, so no slots")

    def apply_gradient(self, *args, **kwargs) -> "InferenceState":
        raise NotImplementedError("an InferenceState cannot be trained")

    def state_dict(self) -> dict[str, Any]:
        """Nested dictionaries of arrays, for a checkpoint."""
        return {"target": flax.core.unfreeze(self.params), "state": {"step": self.step}}

    def restore_state(self, state_dict: Mapping[str, Any]) -> "InferenceState":
        """This state with the contents of a `state_dict` (slots are left out)."""
        return self.replace(
            step=state_dict["state"]["step"],
            params=flax.core.freeze(state_dict["target"]),
        )

    def replace_params(self, params: Mapping[str, Any]) -> "InferenceState":
        return self.replace(params=params)

    def replace_step(self, step: jax.Array) -> "InferenceState":
        return self.replace(step=step)

    def as_logical_axes(self) -> "InferenceState":
        """This state with axis names instead of arrays; the step has none."""
        names = flax_partitioning.get_axis_names(self.params_axes)
        return InferenceState(step=None, params=names)


TrainState = FlaxOptimTrainState | InferenceState
