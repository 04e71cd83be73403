"""What T5X's own older Checkpointer writes, both engines read alike."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from t5x import checkpoints as theirs
from t5x import partitioning, utils

from t5x_embedded import checkpoints as ours
from tests import engine_toy
from tests.t5x_embedded import toy


@pytest.mark.parametrize("dtype", [None, "bfloat16"])
def test_arrays_are_equal(dtype, tmp_path):
    model, partitioner = engine_toy.model(), partitioning.PjitPartitioner(1)
    initializer = utils.TrainStateInitializer(
        model.optimizer_def, model.get_initial_variables, toy.SHAPES, partitioner
    )
    state = initializer.from_scratch(jax.random.PRNGKey(0))
    writer = theirs.Checkpointer(
        initializer.global_train_state_shape,
        partitioner,
        str(tmp_path),
        save_dtype=dtype,
    )
    writer.save(state.replace_step(jnp.array(7, jnp.int32)))
    expected, found = (
        jax.tree.map(np.asarray, engine.load_t5x_checkpoint(str(tmp_path)))
        for engine in (theirs, ours)
    )
    toy.assert_same(found, expected)
    manager = toy.manager(toy.initializer(), tmp_path / "other")
    restored = manager.restore(path=str(tmp_path / "checkpoint_7"))
    toy.assert_same(restored, expected)
