"""T5X's forms: parameters read in parts, a train state written."""

import hf_toy
import jax
import numpy as np
import pytest
import tensorstore
from flax import core, serialization, traverse_util

from t5patches import network
from t5patches.convert import folders, names, t5x_files
from t5patches.errors import UserError

CONFIG = network.T5Config(
    vocab_size=96,
    emb_dim=16,
    num_heads=3,
    head_dim=4,
    mlp_dim=24,
    num_encoder_layers=2,
    num_decoder_layers=2,
    mlp_activations=("gelu", "linear"),
)
STEP = np.zeros((), np.int32)


def random_params(config=CONFIG):
    rng = np.random.default_rng(0)
    every = names.parameters(config)
    return {p.name: rng.standard_normal(p.shape).astype(np.float32) for p in every}


def write(folder, params, config=CONFIG):
    unread = {
        name: t5x_files.Unread(x.shape, x.dtype, lambda x=x: x)
        for name, x in params.items()
    }
    t5x_files.write(folder, config, unread)
    return folder / "checkpoint_0"


def test_a_new_train_state_is_written(tmp_path):
    import orbax.checkpoint as ocp
    from t5x import adafactor, train_state

    params = random_params()
    path = write(tmp_path, params)
    found = ocp.PyTreeCheckpointHandler().restore(path / "state")
    flat = traverse_util.flatten_dict(found["target"], sep="/")
    hf_toy.assert_same(flat, params)
    # As the engine makes one of these parameters.
    axes = jax.eval_shape(
        lambda: network.Transformer(CONFIG).init(
            jax.random.PRNGKey(0), *[np.ones((1, 2), int)] * 3, enable_dropout=False
        )
    )["params_axes"]
    rules = adafactor.standard_logical_factor_rules()
    optimizer = adafactor.Adafactor(
        decay_rate=0.8, step_offset=0, logical_factor_rules=rules
    )
    variables = core.freeze({"params": found["target"], "params_axes": axes})
    state = train_state.FlaxOptimTrainState.create(optimizer, variables).state_dict()
    expected = traverse_util.flatten_dict(state, sep="/")
    got = traverse_util.flatten_dict(found, sep="/")
    arrays = {
        name: np.asarray(x) for name, x in expected.items() if hasattr(x, "shape")
    }
    hf_toy.assert_same({name: np.asarray(got[name]) for name in arrays}, arrays)


def test_arrays_are_made_a_few_at_a_time(tmp_path, monkeypatch):
    monkeypatch.setattr(t5x_files, "_AT_ONCE", 10_000)
    alive, most = set(), 0

    class Counted(np.ndarray):
        def __del__(self):
            alive.discard(id(self))

    def make(x):
        nonlocal most
        array = x.copy().view(Counted)
        alive.add(id(array))
        most = max(most, len(alive))
        return array

    params = random_params()
    unread = {
        name: t5x_files.Unread(x.shape, x.dtype, lambda x=x: make(x))
        for name, x in params.items()
    }
    t5x_files.write(tmp_path, CONFIG, unread)
    assert 0 < most < len(params) / 2
    found = t5x_files.Parameters(str(tmp_path / "checkpoint_0"))
    hf_toy.assert_same(dict(found.read(params)), params)


def test_nothing_else_is_read(tmp_path):
    params = random_params()
    found = t5x_files.Parameters(str(write(tmp_path, params)))
    name = "decoder/layers_1/mlp/wo/kernel"
    hf_toy.assert_same(dict(found.read([name])), {name: params[name]})
    shapes = {name: tuple(array.shape) for name, array in found.arrays.items()}
    assert shapes == {name: x.shape for name, x in params.items()}


def stacked(params):
    """As T5X's scalable_t5 has them: layers along the second axis of one array."""
    found = {name: x for name, x in params.items() if "/layers_" not in name}
    for name in params:
        side, layer, rest = (*name.split("/", 2), "")[:3]
        if layer == "layers_0":
            both = [params[f"{side}/layers_{i}/{rest}"] for i in range(2)]
            found[f"{side}/{side}/{rest}"] = np.stack(both, axis=1)
    return found


def legacy(folder, params):
    """As T5X wrote before it had Orbax: large arrays beside a msgpack file."""
    folder.mkdir()
    flat = {f"target/{name}": x for name, x in params.items()}
    big = "target/token_embedder/embedding"
    shape = list(flat[big].shape)
    spec = {
        "driver": "zarr",
        "kvstore": {"driver": "file", "path": "target.token_embedder.embedding/"},
        "metadata": {
            "shape": shape,
            "chunks": shape,
            "dtype": "<f4",
            "compressor": {"id": "gzip", "level": 1},
        },
    }
    place = spec["kvstore"] | {"path": str(folder / spec["kvstore"]["path"])}
    made = tensorstore.open(spec | {"kvstore": place}, create=True).result()
    made.write(flat[big]).result()
    flat[big] = spec
    tree = traverse_util.unflatten_dict(flat, sep="/") | {"state": {"step": STEP}}
    content = serialization.msgpack_serialize({"version": 3, "optimizer": tree})
    (folder / "checkpoint").write_bytes(content)


@pytest.mark.parametrize("positions_per_layer", [False, True])
def test_older_forms_come_out_alike(tmp_path, positions_per_layer):
    """Scanned layers, one by one, in the older format."""
    config = CONFIG.replace(positions_per_layer=positions_per_layer)
    params = random_params(config)
    legacy(tmp_path / "checkpoint_7", stacked(params))
    found = t5x_files.Parameters(str(tmp_path / "checkpoint_7"))
    hf_toy.assert_same(dict(found.read(found.arrays)), params)
    folders.t5x_to_hf(str(tmp_path), str(tmp_path / "hf"))
    tensors = hf_toy.read(tmp_path / "hf")
    for parameter in names.parameters(config):
        expected = params[parameter.name]
        got = tensors[parameter.key]
        assert np.array_equal(got.T if parameter.transposed else got, expected)


def test_other_networks_are_refused(tmp_path):
    params = random_params()
    odd = dict(params, extra=params["encoder/encoder_norm/scale"])
    less = {n: x for n, x in params.items() if n != "decoder/layers_1/mlp/wo/kernel"}
    for name, given, message in (
        ("a", odd, r"of no T5: extra is \(16,\), expected none such"),
        ("b", less, r"decoder/layers_1/mlp/wo/kernel is missing, expected \(24, 16\)"),
        ("c", {"token_embedder/embedding": odd["extra"]}, r"has the shape \(16,\)"),
    ):
        (tmp_path / name).mkdir()
        legacy_like = tmp_path / name / "checkpoint_0"
        legacy(legacy_like, params)
        tree = traverse_util.unflatten_dict(given, sep="/")
        content = {"version": 3, "optimizer": {"target": tree, "state": {"step": STEP}}}
        packed = serialization.msgpack_serialize(content)
        (legacy_like / "checkpoint").write_bytes(packed)
        with pytest.raises(UserError, match=message):
            folders.t5x_to_hf(str(tmp_path / name), str(tmp_path / "hf"))
    assert t5x_files.Parameters(str(legacy_like)).arrays
    source, chosen = str(tmp_path / "a"), r"(token_embedder|(en|de)coder)/.*"
    with pytest.raises(UserError, match=r"--parameters \[a: unterminated"):
        folders.t5x_to_hf(source, str(tmp_path / "hf"), parameters="[a")
    folders.t5x_to_hf(source, str(tmp_path / "hf"), parameters=chosen)
    assert len(hf_toy.read(tmp_path / "hf")) == len(params)
