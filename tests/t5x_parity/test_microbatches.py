"""Dropout in microbatches: T5X's trainer, the embedded engine's and ours agree."""

import types

import jax
import numpy as np
import t5x.trainer
import tiny

import t5x_embedded.trainer
from t5patches import trainer as trainer_lib


def test_every_microbatch_has_t5xs_dropout():
    model = tiny.make_model(dropout_rate=0.3, alpha=2.0)
    _, state, _ = tiny.make_state(model)
    _, original, _ = tiny.make_state(model, seed=1)
    bound = types.SimpleNamespace(
        loss_fn=lambda *args: model.loss_fn(*args, original.params)
    )
    step = state, tiny.make_batch(), jax.random.PRNGKey(0), 2
    want, metrics, _ = t5x.trainer.accumulate_grads_microbatched(bound, *step)
    embedded = t5x_embedded.trainer.accumulate_grads_microbatched(bound, *step)
    ours = trainer_lib.accumulate_grads_microbatched(
        model, *step, orig_train_state=original
    )
    for gradients, other, _ in (embedded, ours):
        jax.tree.map(
            lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5),
            gradients,
            want,
        )
        for name in ("loss", "unwanted/loss", "other/kl"):
            np.testing.assert_allclose(
                other[name].compute(), metrics[name].compute(), rtol=1e-5
            )
