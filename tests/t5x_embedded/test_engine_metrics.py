"""The engine's metrics: merging, filling in, and what is missing."""

import jax.numpy as jnp
import pytest
from clu import metrics as clu_metrics

from t5x_embedded import metrics


def test_sum_and_average_per_step():
    total = metrics.Sum.from_model_output(jnp.arange(4.0))
    assert total.merge(metrics.Sum(total=2)).compute() == 8
    mean = metrics.AveragePerStep.from_model_output(jnp.array([1.0, 5.0]))
    both = mean.merge(mean)
    assert (both.total, both.steps, both.compute()) == (12, 2, 6)
    assert both.replace_steps(4).compute() == 3


def test_times():
    time = metrics.Time()
    with pytest.raises(ValueError, match="before `duration` was set"):
        time.compute()
    assert time.merge(metrics.Time()).replace_duration(3.0).compute() == 3
    rate = metrics.TimeRate.from_model_output(10).merge(metrics.TimeRate(numerator=2))
    assert rate.replace_duration(4.0).compute() == 3
    with pytest.raises(ValueError, match="durations"):
        rate.merge(rate.replace_duration(1.0))
    steps = metrics.StepsPerTime.from_model_output()
    assert steps.merge(steps).replace_duration(0.5).compute() == 4


def test_filling_in():
    collected = {
        "rate": metrics.TimeRate(numerator=6),
        "pace": metrics.StepsPerTime(),
        "loss": metrics.AveragePerStep(total=8.0),
        "accuracy": clu_metrics.Average(total=1.0, count=2.0),
    }
    filled = metrics.set_step_metrics_num_steps(
        metrics.set_time_metrics_duration(collected, 2.0), 4
    )
    values = {name: float(metric.compute()) for name, metric in filled.items()}
    assert values == {"rate": 3, "pace": 2, "loss": 2, "accuracy": 0.5}


def test_kinds():
    total = metrics.Sum(1.0)
    assert metrics.is_metric_obj(total) and not metrics.is_metric_obj(1.0)
