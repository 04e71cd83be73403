"""The compiled training step: loss, gradient, optimizer update. No TensorFlow.

`SelfDistillationTrainer` and the benchmarks share it. A loss is a function of
(params, batch, rng, *extra) that is differentiated by `params` alone; the frozen
parameters of a targeted update are `extra`. They must be arguments of the function
that the caller compiles, or they become constants of its program.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp

Array = jax.Array
PyTree = Any
Batch = Mapping[str, Array]
LossFn = Callable[..., tuple[Array, PyTree]]


def add_metrics(metrics: PyTree, update: PyTree) -> PyTree:
    """The default way to merge the metrics of two microbatches: their sum."""
    return jax.tree.map(jnp.add, metrics, update)


def accumulate_gradients(
    loss_fn: LossFn,
    params: PyTree,
    batch: Batch,
    rng: Array | None,
    *extra: Any,
    mutables: PyTree = None,
    num_microbatches: int | None = None,
    merge_metrics: Callable[[PyTree, PyTree], PyTree] = add_metrics,
    constrain_batch: Callable[[Batch], Batch] = lambda batch: batch,
) -> tuple[PyTree, PyTree, PyTree]:
    """The gradient of `loss_fn` over a batch, in one piece or in microbatches.

    The loss is a sum over tokens, so that the gradients of microbatches add up to
    the gradient of the batch. Microbatch i is a contiguous slice of the batch and
    gets the second half of the i-th split of `rng`, as in T5X's
    `accumulate_grads_microbatched`.

    Args:
      loss_fn: (params, batch, rng, *extra) -> (loss, metrics); with `mutables`,
        (params, batch, rng, *extra, mutables) -> (loss, (metrics, mutables)).
      params: the tree to differentiate by.
      batch: arrays [batch, ...].
      rng: a key for dropout, or None.
      *extra: more arguments of the loss: the frozen parameters.
      mutables: variables that the loss changes, handed from one microbatch to the
        next, or None.
      num_microbatches: None, 0 or 1 for a single pass.
      merge_metrics: merges the metrics of two microbatches.
      constrain_batch: re-applies the sharding of a batch to a microbatch.

    Returns:
      Gradients as a tree like `params` (float32 where accumulated), the metrics of
      the whole batch, and the mutables as the loss left them.

    Raises:
      ValueError: if the batch size is not a multiple of `num_microbatches`.
    """
    value_and_gradient = jax.value_and_grad(loss_fn, has_aux=True)

    def gradient_fn(batch, rng, mutables):
        if mutables is None:
            (_, metrics), gradients = value_and_gradient(params, batch, rng, *extra)
            return gradients, metrics, None
        (_, (metrics, mutables)), gradients = value_and_gradient(
            params, batch, rng, *extra, mutables
        )
        return gradients, metrics, mutables

    if num_microbatches is None or num_microbatches <= 1:
        return gradient_fn(batch, rng, mutables)

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
        gradients, rng, mutables = carry
        step_rng = None
        if rng is not None:
            rng, step_rng = jax.random.split(rng)
        update, metrics, mutables = gradient_fn(
            constrain_batch(microbatch), step_rng, mutables
        )
        return (jax.tree.map(jnp.add, gradients, update), rng, mutables), metrics

    zeros = jax.tree.map(lambda p: jnp.zeros(p.shape, jnp.float32), params)
    (gradients, _, mutables), stacked = jax.lax.scan(
        accumulate, (zeros, rng, mutables), microbatches
    )
    # The metrics of a step are scalars: stacking and merging them outside the loop
    # needs no neutral element to start from.
    metrics = jax.tree.map(lambda x: x[0], stacked)
    for i in range(1, num_microbatches):
        metrics = merge_metrics(metrics, jax.tree.map(lambda x, i=i: x[i], stacked))
    return gradients, metrics, mutables


def train_step(
    train_state: Any,
    batch: Batch,
    rng: Array | None,
    *extra: Any,
    loss_fn: LossFn,
    learning_rate: Array | float,
    **options: Any,
) -> tuple[Any, PyTree, PyTree]:
    """One update of a train state. To be compiled by the caller.

    Args:
      train_state: T5X's train state, or anything with `params` and
        `apply_gradient(gradients, learning_rate=...)`.
      batch: arrays [batch, ...].
      rng: a key for dropout, or None.
      *extra: more arguments of the loss: the frozen parameters.
      loss_fn: (params, batch, rng, *extra) -> (loss, metrics).
      learning_rate: a scalar.
      **options: of `accumulate_gradients`.

    Returns:
      The new train state, the metrics and the gradients.
    """
    gradients, metrics, _ = accumulate_gradients(
        loss_fn, train_state.params, batch, rng, *extra, **options
    )
    new_state = train_state.apply_gradient(gradients, learning_rate=learning_rate)
    return new_state, metrics, gradients
