"""Checkpoints: what is saved is restored, and nothing half-written ever is."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from t5x_embedded import checkpoints, utils
from tests.t5x_embedded import toy
from tests.t5x_embedded.toy import assert_same, manager


@pytest.fixture(scope="module")
def saved(tmp_path_factory, initializer, state):
    folder = tmp_path_factory.mktemp("saved")
    save(manager(initializer, folder), state, 3)
    return folder / "checkpoint_3"


def save(a_manager, state, step):
    a_manager.save(toy.at_step(state, step))
    a_manager.wait_until_finished()


def test_round_trip_is_exact_parameters_and_optimizer(initializer, state, saved):
    restored = manager(initializer, saved.parent).restore(path=str(saved))
    assert int(restored.step) == 3
    assert_same(restored, toy.at_step(state, 3))


def test_an_inference_state_takes_the_parameters_only(state, saved):
    initializer = toy.initializer(optimizer=False)
    restored = checkpoints.restore_train_state(
        saved, initializer.global_train_state_shape, toy.partitioner()
    )
    assert int(restored.step) == 3
    restored = restored.state_dict()
    assert set(restored["state"]) == {"step"}
    assert_same(restored["target"], state.state_dict()["target"])


def test_dtypes_are_cast_on_both_ways(initializer, state, tmp_path):
    a_manager = manager(
        initializer, tmp_path, save_dtype="bfloat16", restore_dtype="float32"
    )
    save(a_manager, state, 1)
    stored = checkpoints.stored_arrays(tmp_path / "checkpoint_1")
    assert {v.dtype for k, v in stored.items() if k.startswith("target/")} == {
        jnp.dtype("bfloat16")
    }
    restored = a_manager.restore(tmp_path / "checkpoint_1")
    assert all(x.dtype == jnp.float32 for x in jax.tree.leaves(restored.params))


def test_what_is_saved_does_not_change_while_training_goes_on(
    initializer, state, tmp_path
):
    a_manager = manager(initializer, tmp_path)
    copy = jax.tree.map(jnp.copy, state)
    add = jax.jit(lambda s: jax.tree.map(lambda x: x + 1, s), donate_argnums=0)
    a_manager.save(copy)
    for _ in range(3):
        copy = add(copy)
    a_manager.wait_until_finished()
    assert_same(a_manager.restore(tmp_path / "checkpoint_0"), state)


def test_keep_deletes_the_oldest_and_a_step_is_saved_once(initializer, state, tmp_path):
    a_manager = manager(initializer, tmp_path, keep=2)
    for step in (1, 2, 2, 5):
        save(a_manager, state, step)
    a_manager.close()
    assert checkpoints.all_steps(tmp_path) == [2, 5]


def test_half_written_checkpoints_are_not_there(saved, tmp_path):
    (tmp_path / "checkpoint_4.orbax-checkpoint-tmp-17" / "state").mkdir(parents=True)
    (tmp_path / "checkpoint_5" / "state").mkdir(parents=True)
    assert checkpoints.all_steps(tmp_path) == []
    assert checkpoints.all_steps(tmp_path / "nowhere") == []
    with pytest.raises(ValueError, match="not a valid checkpoint"):
        checkpoints.find_checkpoint(tmp_path)
    assert checkpoints.find_checkpoint(saved.parent) == str(saved)
    assert checkpoints.find_checkpoint(saved) == str(saved)


def test_another_architecture_names_the_first_difference(saved):
    other = toy.initializer(toy.model(mlp_dim=40))
    with pytest.raises(ValueError, match=r"mlp/wi.* \(16, 24\), the model needs .*40"):
        manager(other, saved.parent).restore(path=str(saved))
    deeper = toy.initializer(toy.model(num_decoder_layers=2))
    with pytest.raises(ValueError, match="has no target/decoder/layers_1/"):
        manager(deeper, saved.parent).restore(path=str(saved))


def test_load_without_a_model(state, saved):
    loaded = checkpoints.load_t5x_checkpoint(saved.parent)
    assert int(loaded["state"]["step"]) == 3
    flat = utils.flatten_dict_string_keys(loaded["target"])
    for name, value in utils.flatten_dict_string_keys(state.params).items():
        np.testing.assert_array_equal(flat[name], value)


@pytest.mark.parametrize("mode", ["latest", "all"])
def test_configurations_of_folders(mode, saved, tmp_path):
    config = utils.RestoreCheckpointConfig(str(saved.parent), mode=mode)
    empty = utils.RestoreCheckpointConfig(str(tmp_path), mode=mode)
    found = utils.get_first_valid_restore_config_and_paths([empty, config])
    assert found == (config, [str(saved)])
    assert utils.get_first_valid_restore_config_and_paths([empty]) == (None, [])
    with pytest.raises(ValueError, match="is not a folder"):
        missing = utils.RestoreCheckpointConfig(str(tmp_path / "no"), mode=mode)
        utils.get_first_valid_restore_config_and_paths([missing])


def test_modes_and_types_are_checked():
    with pytest.raises(ValueError, match="mode must be one of.*'newest'"):
        utils.RestoreCheckpointConfig("x", mode="newest")
    with pytest.raises(ValueError, match="dtype must be one of.*'int8'"):
        utils.SaveCheckpointConfig(dtype="int8")
