"""Converted models: Transformers' numbers, nothing lost, nothing half done."""

import json
import os

import hf_toy
import ml_dtypes
import numpy as np
import pytest

from benchmarks import parity_hf
from t5patches.convert import configs, folders, safetensors_files, t5x_files
from t5patches.errors import UserError

FROZEN = json.loads(parity_hf.FROZEN.read_text())
NETWORKS = ("t5", "t5_v1_1", "umt5")  # The others are these, in other sizes.
VERSIONS = sorted({name.partition(", ")[2] for name in FROZEN})


def there_and_back(tmp_path, config, tensors, **options):
    source = hf_toy.write(tmp_path / "theirs", config, tensors)
    made = folders.hf_to_t5x(str(source), str(tmp_path / "ours"))
    back = tmp_path / "back"
    folders.t5x_to_hf(str(tmp_path / "ours"), str(back), **options)
    return made, back


def params(folder):
    found = t5x_files.Parameters(str(folder / "checkpoint_0"))
    return dict(found.read(found.arrays))


def tensors_of(kind):
    """The weights of a kind of model, as Transformers was given them."""
    config = FROZEN[f"{kind}, {VERSIONS[0]}"]["config"]
    return hf_toy.weights(config, parity_hf.KINDS[kind][2])


@pytest.mark.parametrize("kind", parity_hf.KINDS)
def test_says_what_transformers_says(kind, tmp_path):
    expected = dict(FROZEN[f"{kind}, {VERSIONS[0]}"])
    config, tensors = expected.pop("config"), tensors_of(kind)
    made, back = there_and_back(tmp_path, config, tensors)
    if kind in NETWORKS:
        given = parity_hf.inputs(config["vocab_size"])
        path = str(tmp_path / "ours" / "checkpoint_0")
        got = parity_hf.frozen(parity_hf.run(made, path, given))
        assert got.pop("greedy") == expected.pop("greedy")
        assert got.keys() == expected.keys()
        for name, numbers in expected.items():
            np.testing.assert_allclose(got[name], numbers, atol=1e-4, rtol=0)

    hf_toy.assert_same(hf_toy.read(back), tensors)
    again = json.loads((back / "config.json").read_text())
    assert again["tie_word_embeddings"] == (not parity_hf.KINDS[kind][2])
    expected = {"t5": again["tie_word_embeddings"]}.get(again["model_type"])
    assert again.get("scale_decoder_outputs") == expected
    for key in config.keys() & again.keys() - {
        "architectures",
        "scale_decoder_outputs",
        "tie_word_embeddings",
    }:
        assert again[key] == config[key], key


@pytest.mark.parametrize("kind", parity_hf.KINDS)
def test_version_5_writes_other_keys_of_the_same_model(kind, tmp_path):
    found = []
    for version in VERSIONS:
        config = FROZEN[f"{kind}, {version}"]["config"]
        source = hf_toy.write(tmp_path / version, config, tensors_of(kind))
        with safetensors_files.Weights(source) as weights:
            like = configs.architecture(configs.read(source), source)
            _, unread = folders._to_t5x(like, config, weights)
            found.append({name: array.read() for name, array in unread.items()})
    older, newer = found
    if kind == "umt5":  # It divides the logits of these, whatever they were before.
        older["decoder/logits_dense/kernel"] *= np.float32(16**-0.5)
    hf_toy.assert_same(newer, older)


def test_a_mt5_that_version_5_ties_has_logits_of_their_own(tmp_path):
    """Version 5 does not divide the logits of mT5."""
    config = FROZEN[f"mt5, {VERSIONS[1]}"]["config"]
    assert config["tie_word_embeddings"] and "5." in config["transformers_version"]
    tensors = hf_toy.weights(config, head=False)
    _, back = there_and_back(tmp_path, config, tensors)
    head = params(tmp_path / "ours")["decoder/logits_dense/kernel"]
    np.testing.assert_array_equal(head.T, tensors["shared.weight"])
    hf_toy.assert_same(
        hf_toy.read(back), tensors | {"lm_head.weight": tensors["shared.weight"]}
    )


def test_a_tied_mt5_is_written_as_the_t5_that_it_is(tmp_path):
    """For version 5 would not divide its logits."""
    config = hf_toy.CONFIG | {"model_type": "mt5", "tie_word_embeddings": True}
    made, back = there_and_back(tmp_path, config, hf_toy.weights(head=False))
    assert made.logits_via_embedding
    again = json.loads((back / "config.json").read_text())
    assert again["model_type"] == "t5"
    assert again["architectures"] == ["T5ForConditionalGeneration"]
    assert again["tie_word_embeddings"] and again["scale_decoder_outputs"]


@pytest.mark.parametrize(
    "names",
    [
        ("encoder.embed_tokens.weight", "decoder.embed_tokens.weight"),
        ("lm_head.weight",),
        ("shared.weight", "encoder.embed_tokens.weight", "lm_head.weight"),
    ],
)
def test_shared_tensors_are_written_once(names, tmp_path):
    """Whichever of its names the file has the table under."""
    tensors = hf_toy.weights(head=False)
    table = tensors.pop("shared.weight")
    config = hf_toy.CONFIG | {"tie_word_embeddings": True}
    given = tensors | dict.fromkeys(names, table)
    made, back = there_and_back(tmp_path, config, given)
    assert made.logits_via_embedding
    hf_toy.assert_same(hf_toy.read(back), tensors | {"shared.weight": table})


def test_logits_of_their_own_beside_a_config_that_says_tied(tmp_path):
    config = hf_toy.CONFIG | {"tie_word_embeddings": True}
    hf_toy.write(tmp_path / "theirs", config)
    with pytest.raises(UserError, match="lm_head.weight differs from shared.weight"):
        folders.hf_to_t5x(str(tmp_path / "theirs"), str(tmp_path / "ours"))


def test_what_a_default_config_leaves_out_is_written(tmp_path):
    assert not {"decoder_start_token_id", "pad_token_id"} & hf_toy.CONFIG.keys()
    _, back = there_and_back(tmp_path, hf_toy.CONFIG, hf_toy.weights())
    for name in ("config.json", "generation_config.json"):
        found = json.loads((back / name).read_text())
        assert found["decoder_start_token_id"] == found["pad_token_id"] == 0
        assert found["eos_token_id"] == 1


def test_types_are_kept_and_shards_are_no_larger_than_said(tmp_path):
    tensors = {
        key: x.astype(np.float16 if "wo" in key else ml_dtypes.bfloat16)
        for key, x in hf_toy.weights().items()
    }
    _, back = there_and_back(tmp_path, hf_toy.CONFIG, tensors, shard_bytes=4000)
    index = json.loads((back / "model.safetensors.index.json").read_text())
    files = sorted(set(index["weight_map"].values()))
    assert len(files) > 2
    assert index["metadata"]["total_size"] == sum(x.nbytes for x in tensors.values())
    for file in files:
        assert os.path.getsize(back / file) < 4000 + 2500  # What names take.
    assert json.loads((back / "config.json").read_text())["dtype"] == "bfloat16"
    folders.hf_to_t5x(str(back), str(tmp_path / "again"))
    folders.t5x_to_hf(str(tmp_path / "again"), str(tmp_path / "back_again"))
    hf_toy.assert_same(hf_toy.read(tmp_path / "back_again"), tensors)


def bfloat16(x):
    """The bits that bfloat16 keeps of float32, rounded to even."""
    bits = x.view(np.uint32)
    rounded = (bits + 0x7FFF + (bits >> 16 & 1)) >> 16
    return rounded.astype(np.uint16).view(ml_dtypes.bfloat16)


@pytest.mark.parametrize(
    "key, name, cast",
    [("dtype", "bfloat16", bfloat16), ("torch_dtype", "float16", np.float16)],
)
def test_what_was_trained_gets_the_type_that_came_in(key, name, cast, tmp_path):
    trained, ours = hf_toy.weights(), str(tmp_path / "ours")
    folders.hf_to_t5x(str(hf_toy.write(tmp_path / "trained")), ours)
    expected = {k: cast(x) for k, x in trained.items()}
    config = hf_toy.CONFIG | {key: name}
    like = hf_toy.write(tmp_path / "like", config, expected)
    folders.t5x_to_hf(ours, str(tmp_path / "back"), str(like))
    hf_toy.assert_same(hf_toy.read(tmp_path / "back"), expected)
    again = json.loads((tmp_path / "back" / "config.json").read_text())
    assert again["dtype"] == name and "torch_dtype" not in again

    # A config.json that names another: the weights are right.
    (like / "config.json").write_text(json.dumps(config | {key: "float32"}))
    folders.hf_to_t5x(str(like), str(tmp_path / "carried"))
    folders.t5x_to_hf(ours, str(tmp_path / "too"), str(tmp_path / "carried"))
    hf_toy.assert_same(hf_toy.read(tmp_path / "too"), expected)

    folders.t5x_to_hf(
        ours, str(tmp_path / "said"), str(tmp_path / "carried"), dtype="float32"
    )
    hf_toy.assert_same(hf_toy.read(tmp_path / "said"), trained)


def test_numbers_that_float16_has_not_are_named(tmp_path):
    tensors = {k: x.astype(ml_dtypes.bfloat16) for k, x in hf_toy.weights().items()}
    tensors["lm_head.weight"][3, 2] = 1e5
    source = hf_toy.write(tmp_path / "theirs", tensors=tensors)
    folders.hf_to_t5x(str(source), str(tmp_path / "ours"))
    with pytest.raises(UserError, match="lm_head.weight has numbers too large for fl"):
        folders.t5x_to_hf(
            str(tmp_path / "ours"), str(tmp_path / "back"), dtype="float16"
        )
    assert not (tmp_path / "back").exists()


def test_what_was_beside_the_weights_comes_back_and_code_does_not(tmp_path):
    source = hf_toy.write(tmp_path / "theirs")
    (source / "README.md").write_text("a card")
    (source / "modeling_mine.py").write_text("raise SystemExit")
    (source / "config.json").write_text(json.dumps(hf_toy.CONFIG | {"mine": [1]}))
    (source / "generation_config.json").write_text('{"max_length": 7}')
    folders.hf_to_t5x(str(source), str(tmp_path / "ours"))
    os.rename(tmp_path / "ours" / "checkpoint_0", tmp_path / "checkpoint_0")
    checkpoint, like = str(tmp_path / "checkpoint_0"), str(tmp_path / "ours")
    folders.t5x_to_hf(checkpoint, str(tmp_path / "back"), like)
    found = sorted(path.name for path in (tmp_path / "back").iterdir())
    assert found == [
        "README.md",
        "config.json",
        "generation_config.json",
        "model.safetensors",
        "tokenizer_config.json",
    ]
    assert json.loads((tmp_path / "back" / "config.json").read_text())["mine"] == [1]
    kept = json.loads((tmp_path / "back" / "generation_config.json").read_text())
    assert kept["max_length"] == 7

    other = hf_toy.write(tmp_path / "other", hf_toy.CONFIG | {"d_ff": 8}, {})
    with pytest.raises(UserError, match="d_ff is 24 there, 8 here"):
        folders.t5x_to_hf(checkpoint, str(tmp_path / "wrong"), str(other))


def test_a_checkpoint_alone_says_what_it_is(tmp_path):
    config = hf_toy.CONFIG | {"model_type": "umt5"}
    made, _ = there_and_back(tmp_path, config, hf_toy.weights(config))
    os.rename(tmp_path / "ours" / "checkpoint_0", tmp_path / "checkpoint_0")
    (tmp_path / "vocabulary.model").write_bytes(hf_toy.pieces())
    found = folders.t5x_to_hf(
        str(tmp_path / "checkpoint_0"),
        str(tmp_path / "alone"),
        vocabulary=str(tmp_path / "vocabulary.model"),
    )
    assert found == made
    hf_toy.assert_same(hf_toy.read(tmp_path / "alone"), hf_toy.weights(config))
    again = json.loads((tmp_path / "alone" / "config.json").read_text())
    assert {key: again[key] for key in config} == config
    assert (tmp_path / "alone" / "spiece.model").read_bytes() == hf_toy.pieces()


@pytest.mark.parametrize(
    "change, message",
    [
        ({"auto_map": {"AutoModel": "x.Y"}}, "auto_map names code"),
        ({"model_type": "longt5"}, "'model_type' is 'longt5', expected one of t5"),
        ({"feed_forward_proj": "gelu"}, "'feed_forward_proj' is 'gelu', expected"),
        ({"relative_attention_num_buckets": 64}, "num_buckets' is 64; only models"),
        ({"layer_norm_epsilon": 1e-5}, "'layer_norm_epsilon' is 1e-05; only models"),
        ({"is_encoder_decoder": False}, "'is_encoder_decoder' is False"),
        ({"decoder_start_token_id": 5}, "'decoder_start_token_id' is 5; only"),
        ({"quantization_config": {"bits": 4}}, "the model is quantised"),
        ({"d_ff": "24"}, "'d_ff' is '24', expected a whole number"),
        ({"d_ff": 32}, r"model.safetensors: .*wi_0.weight has the shape \(24, 16\)"),
        ({"num_layers": 2}, "has no encoder.block.1.layer.0.layer_norm.weight"),
        ({"num_decoder_layers": 1}, "has decoder.block.1.layer.0.SelfAttention.k"),
    ],
)
def test_other_models_are_refused(change, message, tmp_path):
    source = hf_toy.write(tmp_path / "theirs", tensors=hf_toy.weights())
    (source / "config.json").write_text(json.dumps(hf_toy.CONFIG | change))
    with pytest.raises(UserError, match=message):
        folders.hf_to_t5x(str(source), str(tmp_path / "ours"))
    assert [path.name for path in tmp_path.iterdir()] == ["theirs"]


def cut_off(source):
    path = source / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])


def unpickle(source):
    (source / "model.safetensors").rename(source / "pytorch_model.bin")


def nothing(source):
    (source / "model.safetensors").unlink()


def index(**places):
    def change(source):
        (source / "model.safetensors").rename(source / "one.safetensors")
        every = dict.fromkeys(hf_toy.weights(), "one.safetensors") | places
        path = source / "model.safetensors.index.json"
        path.write_text(json.dumps({"weight_map": every}))

    return change


def integers(source):
    (source / "model.safetensors").unlink()
    tensors = hf_toy.weights()
    tensors["shared.weight"] = tensors["shared.weight"].astype(np.int8)
    hf_toy.write(source / "new", tensors=tensors)
    os.rename(source / "new" / "model.safetensors", source / "model.safetensors")


@pytest.mark.parametrize(
    "change, message",
    [
        (cut_off, r"model.safetensors: .*; copy the model again"),
        (unpickle, r"pytorch_model.bin: only safetensors .*[.]save_pretrained\('.*'\)"),
        (nothing, "has neither model.safetensors nor model.safetensors.index.json"),
        (index(x="../one.safetensors"), "x is in '../one.safetensors', which is not"),
        (index(x="/etc/passwd"), "x is in '/etc/passwd', which is not the name"),
        (index(x="two.safetensors"), "two.safetensors: .*[Nn]o such file"),
        (index(x="one.safetensors"), "one.safetensors: has no x, which"),
        (integers, "shared.weight is of type I8, expected F32"),
    ],
)
def test_damaged_folders_are_refused(change, message, tmp_path):
    source = hf_toy.write(tmp_path / "theirs")
    change(source)
    with pytest.raises(UserError, match=message):
        folders.hf_to_t5x(str(source), str(tmp_path / "ours"))
    assert [path.name for path in tmp_path.iterdir()] == ["theirs"]


def test_a_missing_shape_of_a_checkpoint_is_named(tmp_path):
    there_and_back(tmp_path, hf_toy.CONFIG, hf_toy.weights())
    (path,) = (tmp_path / "ours" / "checkpoint_0" / "state" / "d").iterdir()
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(UserError, match=f"{path.name} is not as it was written"):
        folders.t5x_to_hf(str(tmp_path / "ours"), str(tmp_path / "new"))
    assert not (tmp_path / "new").exists()


def test_an_output_that_is_there_is_not_written_over(tmp_path):
    source = hf_toy.write(tmp_path / "theirs")
    (tmp_path / "ours").mkdir()
    with pytest.raises(UserError, match="ours: is there already"):
        folders.hf_to_t5x(str(source), str(tmp_path / "ours"))
    with pytest.raises(UserError, match="theirs: is there already"):
        folders.t5x_to_hf(str(source), str(source))


def test_a_tensor_larger_than_a_shard_has_one_of_its_own(tmp_path):
    sizes = {"a": 10, "b": 300, "c": 10, "d": 10}
    arrays = {k: np.full((n,), n, np.float32) for k, n in sizes.items()}
    tensors = [safetensors_files.Tensor(k, x.shape, x.dtype) for k, x in arrays.items()]
    together = []

    def read(names):
        together.append(names)
        return [arrays[name] for name in names]

    safetensors_files.write(tmp_path, tensors, read, 100)
    assert together == [["a"], ["b"], ["c", "d"]]
    with safetensors_files.Weights(tmp_path) as found:
        hf_toy.assert_same({k: found.read(k) for k in found}, arrays)


def test_wider_types_come_first(tmp_path):
    """So that each tensor is aligned, which readers that map files need."""
    arrays = {"a": np.ones(3, ml_dtypes.bfloat16), "b": np.arange(4, dtype=np.float32)}
    tensors = [safetensors_files.Tensor(k, x.shape, x.dtype) for k, x in arrays.items()]
    safetensors_files.write(tmp_path, tensors, lambda keys: map(arrays.get, keys), 99)
    hf_toy.assert_same(hf_toy.read(tmp_path), arrays)
    content = (tmp_path / "model.safetensors").read_bytes()
    length = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + length])
    places = {key: header[key]["data_offsets"] for key in arrays}
    assert length % 8 == 0 and places == {"a": [16, 22], "b": [0, 16]}
