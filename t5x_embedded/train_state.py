"""What training carries from step to step, and what inference needs of it."""

from collections.abc import Mapping
from typing import Any

import flax
import jax
import jax.numpy as jnp
from flax import traverse_util
from flax.core import FrozenDict
from flax.linen import partitioning as flax_partitioning

from t5x_embedded import optimizers

EMPTY_DICT = FrozenDict()


def _check_axes(axes: Mapping[str, Any], variables: Mapping[str, Any]) -> None:
    """Sees that every variable has logical axis names.

    Raises:
        ValueError: some have not.
    """
    names = traverse_util.flatten_dict(flax_partitioning.get_axis_names(axes), sep="/")
    nameless = traverse_util.flatten_dict(variables, sep="/").keys() - names.keys()
    if nameless:
        raise ValueError(f"parameters without axis names: {sorted(nameless)}")


def _sort_collections(variables: Mapping[str, Any]) -> dict[str, Any]:
    """Tells a module's collections apart: parameters, mutables, and names of axes.

    Args:
        variables: what `module.init` returned; collection `x_axes` names the axes of
            collection `x`.

    Returns:
        The fields of a train state that they make up.

    Raises:
        ValueError: a collection has axis names for some of its variables only.
    """
    variables = flax.core.freeze(variables)
    axes, values = {}, {}
    for name, collection in variables.items():
        base = name.removesuffix("_axes")
        (values if base == name else axes)[base] = collection
    for name, names in axes.items():
        _check_axes(names, values[name])
    return dict(
        params=values.pop("params"),
        params_axes=axes.pop("params", None),
        flax_mutables=FrozenDict(values),
        flax_mutables_axes=FrozenDict(axes) or None,
    )


def _mutables_of(state_dict: Mapping[str, Any]) -> FrozenDict:
    return flax.core.freeze(state_dict.get("flax_mutables", {}))


class FlaxOptimTrainState(flax.struct.PyTreeNode):
    """Parameters with their optimizer, and the module's other variables.

    Attributes:
        params_axes: the parameters' logical axis names, as flax's
            `param_with_axes` left them; no arrays.
        flax_mutables: collections other than the parameters.
        flax_mutables_axes: their logical axis names.
    """

    _optimizer: optimizers.Optimizer
    params_axes: FrozenDict | None = None
    flax_mutables: FrozenDict = EMPTY_DICT
    flax_mutables_axes: FrozenDict | None = None

    @classmethod
    def create(cls, optimizer_def, model_variables) -> "FlaxOptimTrainState":
        """A state at step 0.

        Args:
            optimizer_def: an OptimizerDef; told of the parameters' axes if it has
                `set_param_axes`.
            model_variables: collections as the model's module initialised them.

        Raises:
            ValueError: axis names are missing.
        """
        fields = _sort_collections(model_variables)
        params = fields.pop("params")
        if hasattr(optimizer_def, "set_param_axes"):
            if fields["params_axes"] is None:
                raise ValueError(
                    f"{type(optimizer_def).__name__} wants the parameters' axis names, "
                    "but the module gives none (collection 'params_axes')"
                )
            names = flax_partitioning.get_axis_names(fields["params_axes"])
            optimizer_def.set_param_axes(names)
        return cls(_optimizer=optimizer_def.create(params), **fields)

    step = property(lambda self: self._optimizer.state.step)
    params = property(lambda self: self._optimizer.target)
    param_states = property(lambda self: self._optimizer.state.param_states)

    def state_dict(self) -> dict[str, Any]:
        """Nested dictionaries of arrays, for a checkpoint."""
        tree = self._optimizer.state_dict()
        if self.flax_mutables:
            tree["flax_mutables"] = flax.core.unfreeze(self.flax_mutables)
        return tree

    def restore_state(self, state_dict: Mapping[str, Any]) -> "FlaxOptimTrainState":
        """This state with the contents of a `state_dict`."""
        return self.replace(
            _optimizer=self._optimizer.restore_state(state_dict),
            flax_mutables=_mutables_of(state_dict),
        )

    def apply_gradient(
        self, grads, learning_rate, flax_mutables=EMPTY_DICT
    ) -> "FlaxOptimTrainState":
        """The state one step later."""
        stepped = self._optimizer.apply_gradient(grads, learning_rate=learning_rate)
        return self.replace(_optimizer=stepped, flax_mutables=flax_mutables)

    def replace_params(self, params: Mapping[str, Any]) -> "FlaxOptimTrainState":
        return self.replace(_optimizer=self._optimizer.replace(target=params))

    def replace_flax_mutables(self, flax_mutables: FrozenDict) -> "FlaxOptimTrainState":
        return self.replace(flax_mutables=flax_mutables)

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
        names = flax_partitioning.get_axis_names
        return FlaxOptimTrainState(
            _optimizer=derive(self._optimizer, names(self.params_axes)),
            flax_mutables=names(self.flax_mutables_axes or EMPTY_DICT),
        )


class InferenceState(flax.struct.PyTreeNode):
    """A train state without an optimizer; its checkpoints have no slots."""

    step: jax.Array | None
    params: FrozenDict
    params_axes: FrozenDict | None = None
    flax_mutables: FrozenDict = EMPTY_DICT
    flax_mutables_axes: FrozenDict | None = None

    @classmethod
    def create(cls, model_variables: Mapping[str, Any]) -> "InferenceState":
        """A state at step 0; see `FlaxOptimTrainState.create`."""
        return cls(step=jnp.array(0), **_sort_collections(model_variables))

    @property
    def param_states(self) -> FrozenDict:
        raise NotImplementedError("an InferenceState has no optimizer, so no slots")

    def apply_gradient(self, *args, **kwargs) -> "InferenceState":
        raise NotImplementedError("an InferenceState cannot be trained")

    def state_dict(self) -> dict[str, Any]:
        """Nested dictionaries of arrays, for a checkpoint."""
        tree = {"target": flax.core.unfreeze(self.params), "state": {"step": self.step}}
        if self.flax_mutables:
            tree["flax_mutables"] = flax.core.unfreeze(self.flax_mutables)
        return tree

    def restore_state(self, state_dict: Mapping[str, Any]) -> "InferenceState":
        """This state with the contents of a `state_dict` (slots are left out)."""
        return self.replace(
            step=state_dict["state"]["step"],
            params=flax.core.freeze(state_dict["target"]),
            flax_mutables=_mutables_of(state_dict),
        )

    def replace_params(self, params: Mapping[str, Any]) -> "InferenceState":
        return self.replace(params=params)

    def replace_flax_mutables(self, flax_mutables: FrozenDict) -> "InferenceState":
        return self.replace(flax_mutables=flax_mutables)

    def replace_step(self, step: jax.Array) -> "InferenceState":
        return self.replace(step=step)

    def as_logical_axes(self) -> "InferenceState":
        """This state with axis names instead of arrays; the step has none."""
        names = flax_partitioning.get_axis_names
        return InferenceState(
            step=None,
            params=names(self.params_axes),
            flax_mutables=names(self.flax_mutables_axes or EMPTY_DICT),
        )


TrainState = FlaxOptimTrainState | InferenceState
