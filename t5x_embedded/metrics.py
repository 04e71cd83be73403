"""Metrics that are collected inside a compiled step and read after it (over clu).

Durations and step counts are not known where a metric is made, inside the compiled
function; they are filled in afterwards by `set_time_metrics_duration` and
`set_step_metrics_num_steps`.
"""

from collections.abc import MutableMapping
from typing import Any

import flax
import jax
import jax.numpy as jnp
import numpy as np
from clu import metrics as clu_metrics

from t5x_embedded import _absent

__getattr__ = _absent.module_getattr(__name__)

MetricsMap = MutableMapping[str, clu_metrics.Metric]
Scalar = int | float | np.number | np.ndarray | jax.Array


@flax.struct.dataclass
class Sum(clu_metrics.Metric):
    """A running total."""

    total: Scalar

    @classmethod
    def from_model_output(cls, values: Scalar, **_) -> "Sum":
        """Adds up an array of any shape."""
        return cls(total=jnp.sum(values))

    def merge(self, other: "Sum") -> "Sum":
        return self.replace(total=self.total + other.total)

    def compute(self) -> jax.Array:
        return jnp.asarray(self.total)


@flax.struct.dataclass
class Step(clu_metrics.Metric):
    """The number of steps that a metric spans; the base of per-step metrics."""

    steps: int = 1

    def replace_steps(self, steps: int) -> "Step":
        return self.replace(steps=steps)

    def compute(self) -> jax.Array:
        return jnp.asarray(self.steps)


@flax.struct.dataclass
class AveragePerStep(Step):
    """A total divided by the number of steps (not of microbatches or devices)."""

    total: Scalar | None = None

    @classmethod
    def from_model_output(cls, values: Scalar, steps: int = 1, **_) -> "AveragePerStep":
        return cls(steps=steps, total=jnp.sum(values))

    def merge(self, other: "AveragePerStep") -> "AveragePerStep":
        return type(self)(
            steps=self.steps + other.steps, total=self.total + other.total
        )

    def compute(self) -> jax.Array:
        return self.total / Step.compute(self)


@flax.struct.dataclass
class Time(clu_metrics.Metric):
    """Wall time, set from outside by `replace_duration`."""

    duration: Scalar | None = None

    def replace_duration(self, duration: Scalar) -> "Time":
        return self.replace(duration=duration)

    def merge(self, other: "Time") -> "Time":
        del other  # Parts of one step share its wall time.
        return self

    def compute(self) -> jax.Array:
        if self.duration is None:
            name = type(self).__name__
            raise ValueError(f"{name} was asked for before `duration` was set")
        return jnp.asarray(self.duration)


@flax.struct.dataclass
class TimeRate(Time):
    """An amount divided by the wall time it took."""

    numerator: Scalar | None = None

    @classmethod
    def from_model_output(cls, numerator: Scalar, **_) -> "TimeRate":
        return cls(numerator=numerator)

    def merge(self, other: "TimeRate") -> "TimeRate":
        if self.duration is not None or other.duration is not None:
            raise ValueError("time rates merge before their durations are set, only")
        return type(self)(numerator=self.numerator + other.numerator)

    def compute(self) -> jax.Array:
        return self.numerator / Time.compute(self)


@flax.struct.dataclass
class StepsPerTime(Step, Time):
    """Steps divided by the wall time they took."""

    @classmethod
    def from_model_output(cls, steps: int = 1, **_) -> "StepsPerTime":
        return cls(steps=steps)

    def merge(self, other: "StepsPerTime") -> "StepsPerTime":
        return type(self)(steps=self.steps + other.steps)

    def compute(self) -> jax.Array:
        return Step.compute(self) / Time.compute(self)


def is_metric_obj(obj: Any) -> bool:
    """Whether `obj` is a clu metric: the `is_leaf` of trees of metrics."""
    return isinstance(obj, clu_metrics.Metric)


def set_time_metrics_duration(metrics: Any, duration: Scalar) -> Any:
    """Fills the wall time into every time metric of a tree."""
    return jax.tree.map(
        lambda m: m.replace_duration(duration) if isinstance(m, Time) else m,
        metrics,
        is_leaf=is_metric_obj,
    )


def set_step_metrics_num_steps(metrics: Any, num_steps: int) -> Any:
    """Fills the number of steps into every per-step metric of a tree."""
    return jax.tree.map(
        lambda m: m.replace_steps(num_steps) if isinstance(m, Step) else m,
        metrics,
        is_leaf=is_metric_obj,
    )
