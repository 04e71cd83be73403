"""The optimizer interface: a definition, its state, and the two with the parameters.

A checkpoint stores what `Optimizer.state_dict` returns:
`{"target": parameters, "state": {"step": …, "param_states": …}}`.
"""

from collections.abc import Mapping
from typing import Any

import flax
import jax
from flax import serialization

from t5x_embedded import _absent

__getattr__ = _absent.module_getattr(__name__)


@flax.struct.dataclass
class OptimizerState:
    """The step, and what the optimizer remembers of each parameter."""

    step: jax.Array
    param_states: Any


class OptimizerDef:
    """How parameters are updated; a subclass says with what arithmetic.

    Attributes:
        hyper_params: a flax struct with at least `learning_rate`.
    """

    def __init__(self, hyper_params: Any):
        self.hyper_params = hyper_params

    def init_state(self, params: Any) -> OptimizerState:
        """The state before the first step."""
        raise NotImplementedError

    def apply_gradient(
        self, hyper_params: Any, params: Any, state: OptimizerState, grads: Any
    ) -> tuple[Any, OptimizerState]:
        """One step: (parameters, state) after it."""
        raise NotImplementedError

    def create(self, target: Any) -> "Optimizer":
        """Pairs parameters with a fresh state."""
        return Optimizer(self, self.init_state(target), target)


class Optimizer(flax.struct.PyTreeNode):
    """Parameters (`target`), the optimizer's state, and its definition."""

    optimizer_def: OptimizerDef = flax.struct.field(pytree_node=False)
    state: Any
    target: Any

    def apply_gradient(self, grads: Any, **hyper_param_overrides) -> "Optimizer":
        """One step, e.g. `apply_gradient(grads, learning_rate=1e-3)`."""
        definition = self.optimizer_def
        params, state = definition.apply_gradient(
            definition.hyper_params.replace(**hyper_param_overrides),
            self.target,
            self.state,
            grads,
        )
        return self.replace(target=params, state=state)

    def state_dict(self) -> dict[str, Any]:
        """Nested dictionaries of arrays, for a checkpoint."""
        parts = {"target": self.target, "state": self.state}
        return {k: serialization.to_state_dict(part) for k, part in parts.items()}

    def restore_state(self, state: Mapping[str, Any]) -> "Optimizer":
        """The inverse of `state_dict`.

        Raises:
            ValueError: a parameter or slot is missing or too many.
        """
        restore = serialization.from_state_dict
        return self.replace(
            target=restore(self.target, state["target"], "target"),
            state=restore(self.state, state["state"], "state"),
        )
