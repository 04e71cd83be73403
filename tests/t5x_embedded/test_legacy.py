"""T5X's older checkpoints: restored as written, refused with reasons."""

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
import t5x
import tensorstore as ts
from flax import serialization, traverse_util

from t5patches import _engine
from t5patches.checkpoints import contents, finding
from t5patches.errors import UserError
from t5x_embedded import checkpoints, utils
from tests.t5x_embedded import toy
from tests.t5x_embedded.toy import assert_same, manager


def write(path, state, version=3, driver="file", old_path=False):
    """Writes a state dict: arrays of some rank as folders, but for the embedding."""
    flat = traverse_util.flatten_dict(jax.tree.map(np.asarray, state), sep="/")
    path.mkdir()
    for name, array in flat.items():
        if not array.ndim or name.endswith("embedding"):
            continue
        folder = name.replace("/", ".")
        metadata = {"shape": list(array.shape), "chunks": [8] * array.ndim}
        metadata["compressor"] = {"id": "gzip"}
        spec = {"driver": "zarr", "dtype": array.dtype.name, "metadata": metadata}
        place = {"driver": "file", "path": f"{path}/{folder}"}
        store = ts.open({**spec, "kvstore": place}, create=True).result()
        store.write(array).result()
        where = {"path": folder}
        kvstore = {"driver": driver, **({} if old_path else where)}
        flat[name] = {**spec, "kvstore": kvstore, **(where if old_path else {})}
    content = {
        "version": version,
        "optimizer": traverse_util.unflatten_dict(flat, sep="/"),
    }
    (path / "checkpoint").write_bytes(serialization.msgpack_serialize(content))


@pytest.fixture(scope="module")
def state(state):
    return toy.at_step(state, 7)


@pytest.fixture(scope="module")
def saved(state, tmp_path_factory):
    path = tmp_path_factory.mktemp("legacy") / "checkpoint_7"
    write(path, state.state_dict())
    return path


def test_parameters_and_optimizer_are_restored(initializer, state, saved, tmp_path):
    restored = manager(initializer, tmp_path).restore(path=str(saved))
    assert_same(restored, state)
    assert int(checkpoints.load_t5x_checkpoint(saved.parent)["state"]["step"]) == 7


def test_a_run_goes_on_in_its_folder(initializer, state, tmp_path):
    write(tmp_path / "checkpoint_7", state.state_dict())
    a_manager = manager(initializer, tmp_path)
    restored = a_manager.restore()
    a_manager.save(toy.at_step(restored, 8))
    a_manager.close()
    assert checkpoints.all_steps(tmp_path) == [7, 8] == finding.steps(tmp_path)


@pytest.mark.parametrize("driver", ["gfile", "gcs"])
def test_bfloat16_and_where_it_was_written(state, tmp_path, driver):
    # Written elsewhere, by an old TensorStore, and without an optimizer's state.
    tree = state.state_dict()
    half = jax.tree.map(lambda x: np.asarray(x, ml_dtypes.bfloat16), tree["target"])
    tree = {"target": half, "state": {"step": np.int32(7)}}
    path = tmp_path / "checkpoint_7"
    write(path, tree, driver=driver, old_path=driver == "gfile")
    inference = toy.initializer(toy.model(), optimizer=False)
    assert_same(manager(inference, tmp_path).restore().state_dict()["target"], half)
    full = manager(inference, tmp_path, restore_dtype="float32").restore()
    assert {x.dtype for x in jax.tree.leaves(full.params)} == {jnp.dtype("float32")}
    with pytest.raises(ValueError, match="has no state/param_states/.*the model needs"):
        manager(toy.initializer(toy.model()), tmp_path).restore()


def test_shapes_and_dtypes_are_known_without_a_model(saved, state):
    stored = checkpoints.stored_arrays(saved)
    flat = utils.flatten_dict_string_keys(state.state_dict())
    assert {n: (x.shape, x.dtype) for n, x in stored.items()} == {
        n: (x.shape, x.dtype) for n, x in flat.items()
    }


@pytest.fixture
def embedded(monkeypatch):
    """The embedded engine, though T5X may be there."""
    monkeypatch.setattr(_engine, "name", lambda: "t5x_embedded")
    monkeypatch.setattr(t5x, "checkpoints", checkpoints)


def test_errors_before_a_run(embedded, initializer, state, saved, tmp_path):
    params = initializer.global_train_state_shape.params
    contents.check_whole(saved)
    contents.check_architecture(saved, params)
    wider = toy.initializer(toy.model(mlp_dim=40)).global_train_state_shape.params
    with pytest.raises(UserError, match=r"mlp/wi.*\(16, 24\) there and \(16, 40\)"):
        contents.check_architecture(saved, wider)
    path = tmp_path / "checkpoint_7"
    write(path, state.state_dict())
    lost = "target.decoder.decoder_norm.scale"
    (path / lost).rename(tmp_path / "elsewhere")
    with pytest.raises(UserError, match="cannot open target/decoder/decoder_norm/sc"):
        contents.check_architecture(path, params)
    (path / "checkpoint").write_text('model_checkpoint_path: "model.ckpt-7"')
    with pytest.raises(UserError, match="is not T5X's msgpack file"):
        contents.check_architecture(path, params)
    write(tmp_path / "checkpoint_8", {"target": {}}, version=1)
    with pytest.raises(UserError, match="version 1"):
        contents.shapes(tmp_path / "checkpoint_8")
