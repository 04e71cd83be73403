"""The compiled training step: loss, gradient, optimizer update. No TensorFlow.

`SelfDistillationTrainer` and the benchmarks call the same `train_step`. A loss is a
function of (params, batch, rng); whatever else it needs (the frozen parameters of a
targeted update) is bound by the caller inside the function that is compiled, where
it is an argument of that function, not a constant.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp

Array = jax.Array
PyTree = Any
Batch = Mapping[str, Array]
LossFn = Callable[[PyTree, Batch, Array | None], tuple[Array, PyTree]]


def add_metrics(metrics: PyTree, update: PyTree) -> PyTree:
    """The default way to merge the metrics of two microbatches: their sum."""
    return jax.tree.map(jnp.add, metrics, update)


def accumulate_gradients(
    loss_fn: LossFn,
    params: PyTree,
    batch: Batch,
    rng: Array | None,
    *,
    num_microbatches: int | None = None,
    merge_metrics: Callable[[PyTree, PyTree], PyTree] = add_metrics,
    constrain_batch: Callable[[Batch], Batch] = lambda batch: batch,
) -> tuple[PyTree, PyTree]:
    """The gradient of `loss_fn` over a batch, in one piece or in microbatches.

    The loss is a sum over tokens, so that the gradients of microbatches add up to
    the gradient of the batch. Microbatch i is a contiguous slice of the batch and
    gets the second half of the i-th split of `rng`, as in T5X's
    `accumulate_grads_microbatched`.

    Args:
      loss_fn: (params, batch, rng) -> (loss, metrics).
      params: the tree to differentiate by.
      batch: arrays [batch, ...].
      rng: a key for dropout, or None.
      num_microbatches: None, 0 or 1 for a single pass.
      merge_metrics: merges the metrics of two microbatches.
      constrain_batch: re-applies the sharding of a batch to a microbatch.

    Returns:
      Gradients as a tree like `params` (float32 where accumulated) and the metrics
      of the whole batch.

    Raises:
      ValueError: if the batch size is not a multiple of `num_microbatches`.
    """
    gradient_fn = jax.grad(loss_fn, has_aux=True)
    if num_microbatches is None or num_microbatches <= 1:
        return gradient_fn(params, batch, rng)

    batch_size = next(iter(batch.values())).shape[0]
    if batch_size % num_microbatches:
        raise ValueError(
            f"the batch size, {batch_size}, must be a multiple of num_microbatches,"
            f" {num_microbatches}"
        )
    microbatches = jax.tree.map(
        lambda x: x.reshape(num_microbatches, -1, *x.shape[1:]), batch
    )

    def accumulate(carry, microbatch):
        gradients, rng = carry
        step_rng = None
        if rng is not None:
            rng, step_rng = jax.random.split(rng)
        update, metrics = gradient_fn(params, constrain_batch(microbatch), step_rng)
        return (jax.tree.map(jnp.add, gradients, update), rng), metrics

    zeros = jax.tree.map(lambda p: jnp.zeros(p.shape, jnp.float32), params)
    (gradients, _), stacked = jax.lax.scan(accumulate, (zeros, rng), microbatches)
    # The metrics of a step are scalars: stacking and merging them outside the loop
    # needs no neutral element to start from.
    metrics = jax.tree.map(lambda x: x[0], stacked)
    for i in range(1, num_microbatches):
        metrics = merge_metrics(metrics, jax.tree.map(lambda x, i=i: x[i], stacked))
    return gradients, metrics


def train_step(
    train_state: Any,
    batch: Batch,
    rng: Array | None,
    *,
    loss_fn: LossFn,
    learning_rate: Array | float,
    num_microbatches: int | None = None,
    merge_metrics: Callable[[PyTree, PyTree], PyTree] = add_metrics,
    constrain_batch: Callable[[Batch], Batch] = lambda batch: batch,
) -> tuple[Any, PyTree, PyTree]:
    """One update of a train state. To be compiled by the caller.

    Args:
      train_state: T5X's train state, or anything with `params` and
        `apply_gradient(gradients, learning_rate=...)`.
      batch: arrays [batch, ...].
      rng: a key for dropout, or None.
      loss_fn: (params, batch, rng) -> (loss, metrics).
      learning_rate: a scalar.
      num_microbatches: see `accumulate_gradients`.
      merge_metrics: see `accumulate_gradients`.
      constrain_batch: see `accumulate_gradients`.

    Returns:
      The new train state, the metrics and the gradients.
    """
    gradients, metrics = accumulate_gradients(
        loss_fn,
        train_state.params,
        batch,
        rng,
        num_microbatches=num_microbatches,
        merge_metrics=merge_metrics,
        constrain_batch=constrain_batch,
    )
    new_state = train_state.apply_gradient(gradients, learning_rate=learning_rate)
    return new_state, metrics, gradients
