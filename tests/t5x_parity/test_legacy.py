"""What T5X's own older Checkpointer writes, both engines read alike."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import traverse_util
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
        traverse_util.flatten_dict(engine.load_t5x_checkpoint(str(tmp_path)), sep="/")
        for engine in (theirs, ours)
    )
    assert expected.keys() == found.keys()
    for name, array in expected.items():
        assert np.asarray(array).dtype == found[name].dtype, name
        np.testing.assert_array_equal(array, found[name], err_msg=name)
    manager = ours.OrbaxCheckpointManagerInterface(
        str(tmp_path / "other"),
        toy.initializer(toy.model()).global_train_state_shape,
        toy.partitioner(),
    )
    restored = manager.restore(path=str(tmp_path / "checkpoint_7")).state_dict()
    for name, array in traverse_util.flatten_dict(restored, sep="/").items():
        np.testing.assert_array_equal(array, expected[name], err_msg=name)
