"""The network: T5X's parameters and numbers (frozen), cache, packing, gin files."""

import copy
import functools
import json
import pathlib
import subprocess
import sys

import gin
import jax
import jax.numpy as jnp
import network_cases as cases
import numpy as np
import pytest
import seqio
from flax import traverse_util
from t5x import models

from t5patches import decoder_only, network

FROZEN = pathlib.Path(__file__).parent / "testdata" / "network.json"
GIN = pathlib.Path(__file__).parents[1] / "gin"


def transformer(name="t5_1_1", **overrides):
    return network.Transformer(network.T5Config(**cases.CONFIGS[name] | overrides))


@pytest.fixture(scope="module")
def params():
    return cases.init(transformer())["params"]


@pytest.mark.parametrize("name", cases.CONFIGS)
def test_agrees_with_t5x(name):
    """Loss, logits and gradients of T5X's network from the same key."""
    expected = json.loads(FROZEN.read_text())[name]
    got = cases.summary(transformer(name))
    assert got.keys() == expected.keys()
    for setting in expected:
        assert cases.worst_error(got[setting], expected[setting]) < 1e-5, setting


def test_parameters_and_axes_have_t5x_names():
    variables = cases.init(transformer())
    flat = traverse_util.flatten_dict(variables["params"], sep="/")
    shapes = {path: x.shape for path, x in flat.items()}
    assert all(x.dtype == jnp.float32 for x in flat.values())
    attention = dict.fromkeys(["query/kernel", "key/kernel", "value/kernel"], (24, 12))
    attention["out/kernel"] = (12, 24)
    mlp = {"wi_0/kernel": (24, 20), "wi_1/kernel": (24, 20), "wo/kernel": (20, 24)}
    expected = {"token_embedder/embedding": (40, 24)}
    own, cross = "self_attention", {"cross_attention": "encoder_decoder_attention"}
    sides = {"encoder": {"attention": "attention"}, "decoder": {own: own} | cross}
    for side, names in sides.items():
        expected[f"{side}/relpos_bias/rel_embedding"] = (3, 32)
        expected[f"{side}/{side}_norm/scale"] = (24,)
        for layer in (f"{side}/layers_0", f"{side}/layers_1"):
            for norm, module in names.items():
                expected[f"{layer}/pre_{norm}_layer_norm/scale"] = (24,)
                for leaf, shape in attention.items():
                    expected[f"{layer}/{module}/{leaf}"] = shape
            expected[f"{layer}/pre_mlp_layer_norm/scale"] = (24,)
            for leaf, shape in mlp.items():
                expected[f"{layer}/mlp/{leaf}"] = shape
    expected["decoder/logits_dense/kernel"] = (24, 40)
    assert shapes == expected

    axes = traverse_util.flatten_dict(variables["params_axes"], sep="/")
    layer = "decoder/layers_1"
    for path, names in {
        "token_embedder/embedding": ("vocab", "embed"),
        f"{layer}/self_attention/query/kernel": ("embed", "joined_kv"),
        f"{layer}/encoder_decoder_attention/out/kernel": ("joined_kv", "embed"),
        f"{layer}/mlp/wo/kernel": ("mlp", "embed"),
        f"{layer}/pre_mlp_layer_norm/scale": ("embed",),
        "decoder/relpos_bias/rel_embedding": ("heads", "relpos_buckets"),
    }.items():
        assert axes[f"{path}_axes"].names == names


@pytest.mark.parametrize("name", [*cases.CONFIGS, "umt5"])
def test_cached_decoding_equals_the_forward_pass(name):
    own = {"positions_per_layer": True} if name == "umt5" else {}
    module = transformer("t5_1_1" if own else name, **own)
    params = cases.init(module)["params"]
    batch = cases.batch()
    # Padding targets would be masked in the forward pass, but not while decoding.
    batch["decoder_target_tokens"] = jnp.ones_like(batch["decoder_target_tokens"])
    expected = cases.logits(module, params, batch)
    got, cache = cases.decode_by_steps(module, params, batch)
    assert cases.relative_error(got, expected) < 1e-5
    layer = cache["decoder"]["layers_0"]
    assert layer.keys() == {"self_attention"}
    assert layer["self_attention"]["cached_key"].shape == (3, 3, 4, 9)
    assert int(layer["self_attention"]["cache_index"]) == 9


def test_decodes_of_an_input_share_its_encoding(params):
    module, batch = transformer(), cases.batch()
    # T5X's way: each input is there once for each of its decodes.
    several = {name: jnp.repeat(x, 2, axis=0) for name, x in batch.items()}
    several["decoder_input_tokens"] = jnp.roll(several["decoder_input_tokens"], 1, 0)
    expected, _ = cases.decode_by_steps(module, params, several)
    several["encoder_input_tokens"] = batch["encoder_input_tokens"]
    got, _ = cases.decode_by_steps(module, params, several)
    assert cases.relative_error(got, expected) < 1e-5


def test_packed_examples_do_not_see_each_other(params):
    module, packed = transformer(), cases.batch(packed=True)
    expected = cases.logits(module, params, packed)
    inputs, targets = packed["encoder_segment_ids"], packed["decoder_segment_ids"]
    for segment in (1, 2):
        alone = {}
        for name in ("encoder_input", "decoder_input", "decoder_target"):
            segments = inputs if name == "encoder_input" else targets
            tokens = packed[f"{name}_tokens"]
            alone[f"{name}_tokens"] = jnp.where(segments == segment, tokens, 0)
        got = cases.logits(module, params, alone)
        where = np.asarray(targets == segment)
        assert cases.relative_error(got[where], expected[where]) < 1e-5


def test_padding_does_not_matter(params):
    module, batch = transformer(), cases.batch()
    _, expected, gradients = cases.evaluate(module, params, batch)
    longer = {name: jnp.pad(x, ((0, 0), (0, 3))) for name, x in batch.items()}
    _, got, longer_gradients = cases.evaluate(module, params, longer)
    where = np.asarray(batch["decoder_target_tokens"] > 0)
    assert cases.relative_error(got[:, :9][where], expected[where]) < 1e-5
    assert cases.worst_error(longer_gradients, gradients) < 1e-4


def test_bfloat16_stays_near_float32(params):
    batch = cases.batch()
    expected = cases.logits(transformer(), params, batch)
    for float32_logits in (False, True):
        module = transformer(dtype="bfloat16", float32_attention_logits=float32_logits)
        logits = cases.logits(module, params, batch)
        assert logits.dtype == jnp.float32
        gradient = jax.grad(cases.loss_fn(module), has_aux=True)
        gradients, _ = jax.eval_shape(gradient, params, batch)
        assert all(g.dtype == jnp.float32 for g in jax.tree.leaves(gradients))
        assert cases.relative_error(logits, expected) < 0.05


def test_wrong_use_is_refused(params):
    batch = cases.batch(packed=True)

    def apply(*args, **options):  # What is refused is refused while it is traced.
        apply = functools.partial(transformer().apply, enable_dropout=False, **options)
        jax.eval_shape(lambda: apply({"params": params}, *args))

    with pytest.raises(ValueError, match="cannot be decoded"):
        apply(**batch, decode=True)
    with pytest.raises(ValueError, match="without decoder_segment_ids"):
        del batch["decoder_segment_ids"]
        apply(**batch)
    with pytest.raises(ValueError, match=r"\[batch, length\]"):
        apply(batch["encoder_input_tokens"][0], method="encode")


def test_the_core_needs_neither_tensorflow_nor_an_engine():
    code = (
        "import sys\n"
        "for name in ('tensorflow', 'seqio', 'clu.metric_writers', 't5x', 'gin'):\n"
        "    sys.modules[name] = None\n"
        "import t5patches\n"
        "from t5patches import decoder_only, layers, losses, network\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


SHAPES = {  # emb_dim, heads, head_dim, layers, mlp_dim
    "t5_1_0_small": (512, 8, 64, 6, 2048),
    "t5_1_0_base": (768, 12, 64, 12, 3072),
    "t5_1_0_large": (1024, 16, 64, 24, 4096),
    "t5_1_0_3b": (1024, 32, 128, 24, 16384),
    "t5_1_0_11b": (1024, 128, 128, 24, 65536),
    "t5_1_1_small": (512, 6, 64, 8, 1024),
    "t5_1_1_base": (768, 12, 64, 12, 2048),
    "t5_1_1_large": (1024, 16, 64, 24, 2816),
    "t5_1_1_xl": (2048, 32, 64, 24, 5120),
    "t5_1_1_xxl": (4096, 64, 64, 24, 10240),
}


@pytest.fixture
def gin_model(monkeypatch):
    """Makes the model of gin files and bindings."""

    def make(names, *bindings):
        files = [f"models/{name}.gin" for name in names]
        bindings = ["VOCABULARY_PATH = 'v.model'", *bindings]
        gin.parse_config_files_and_bindings(files, bindings)
        return copy.deepcopy(gin.query_parameter("%MODEL"))

    gin.clear_config()
    # Gin has no way to take a search path back.
    monkeypatch.setattr(gin.config, "_LOCATION_PREFIXES", ["", str(GIN)])
    yield make
    gin.clear_config()


def test_there_is_a_gin_file_for_every_size():
    files = {p.stem for p in (GIN / "models").glob("t5_*.gin")}
    assert files == SHAPES.keys() | {"t5_1_0_tiny", "t5_1_1_tiny"}


SIZES = [*SHAPES, "t5_1_0_tiny", "t5_1_1_tiny"]
KINDS = [(name, "encoder_decoder") for name in SIZES]
KINDS += [(name, "decoder_only") for name in SIZES if name.startswith("t5_1_1")]


@pytest.mark.parametrize("name, kind", KINDS)
def test_gin_files_build_the_model(name, kind, gin_model):
    first = name.startswith("t5_1_0")
    files = [name, "decoder_only"] if kind == "decoder_only" else [name]
    extra_ids = "seqio.SentencePieceVocabulary.extra_ids = 100"
    model = gin_model(files, "DROPOUT_RATE = 0.25", extra_ids)
    assert model.input_vocabulary.sentencepiece_model_file == "v.model"
    assert model.input_vocabulary.extra_ids == 100
    config = model.module.config
    if kind == "decoder_only":
        assert isinstance(model, models.DecoderOnlyModel)
        assert isinstance(model.module, decoder_only.DecoderWrapper)
        assert model._inputs_bidirectional_attention and config.logits_via_embedding
        layers = "num_layers"
    else:
        assert isinstance(model.module, network.Transformer)
        assert config.logits_via_embedding == first
        assert config.num_encoder_layers == config.num_decoder_layers
        layers = "num_decoder_layers"
    assert config.vocab_size == 32128 and config.dropout_rate == 0.25
    assert config.mlp_activations == (("relu",) if first else ("gelu", "linear"))
    if name in SHAPES:
        assert config.dtype == "bfloat16"
        sizes = ("emb_dim", "num_heads", "head_dim", layers, "mlp_dim")
        assert SHAPES[name] == tuple(getattr(config, size) for size in sizes)
    else:
        assert config.dtype == "float32" and config.emb_dim <= 128


def test_gin_files_decode_greedily(gin_model):
    """What DECODE_FN picks is the argmax of each step, whatever the seed."""
    sizes = dict(vocab_size=40, num_encoder_layers=1, num_decoder_layers=1)
    bindings = [f"network.T5Config.{name} = {size}" for name, size in sizes.items()]
    model = gin_model(["t5_1_1_tiny"], "DROPOUT_RATE = 0.0", *bindings)
    model._output_vocabulary = seqio.PassThroughVocabulary(40, eos_id=1)
    batch = cases.batch()
    params = cases.init(model.module)["params"]
    predict = jax.jit(model.predict_batch_with_aux)
    outputs = [
        predict(params, batch, decoder_params={"decode_rng": jax.random.PRNGKey(i)})[0]
        for i in range(2)
    ]
    np.testing.assert_array_equal(*outputs)
    tokens = np.asarray(outputs[0])
    shifted = np.pad(tokens, ((0, 0), (1, 0)))[:, :-1]
    batch |= {
        "decoder_input_tokens": jnp.asarray(shifted),
        "decoder_target_tokens": jnp.ones_like(shifted),
    }
    logits = cases.logits(model.module, params, batch)
    best = np.asarray(logits.argmax(-1))
    for row, expected in zip(tokens, best, strict=True):
        length = list(row).index(1) + 1 if 1 in row else len(row)
        np.testing.assert_array_equal(row[:length], expected[:length])
