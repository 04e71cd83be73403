"""The decoder-only network: packing, prefixes, its cache, and its gin files."""

import copy
import pathlib

import decoder_only_cases as cases
import gin
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from t5x import models

from t5patches import decoder_only

GIN = pathlib.Path(__file__).parents[1] / "gin"
SHAPES = {  # emb_dim, heads, head_dim, layers, mlp_dim
    "t5_1_1_small": (512, 6, 64, 8, 1024),
    "t5_1_1_base": (768, 12, 64, 12, 2048),
    "t5_1_1_large": (1024, 16, 64, 24, 2816),
    "t5_1_1_xl": (2048, 32, 64, 24, 5120),
    "t5_1_1_xxl": (4096, 64, 64, 24, 10240),
}


@pytest.fixture(scope="module")
def module():
    return decoder_only.DecoderWrapper(
        decoder_only.TransformerConfig(**cases.CONFIGS["gated"])
    )


@pytest.fixture(scope="module")
def params(module):
    return cases.init(module)["params"]


def test_parameters_and_axes_have_t5x_names(module):
    made = jax.eval_shape(lambda: cases.init(module))
    shapes = {
        jax.tree_util.keystr(path, simple=True, separator="/"): x.shape
        for path, x in jax.tree_util.tree_leaves_with_path(made["params"])
    }
    expected = {
        "decoder/token_embedder/embedding": (40, 24),
        "decoder/relpos_bias/rel_embedding": (3, 32),
        "decoder/decoder_norm/scale": (24,),
        "decoder/logits_dense/kernel": (24, 40),
    }
    for layer in ("decoder/layers_0", "decoder/layers_1"):
        for name in ("pre_self_attention_layer_norm", "pre_mlp_layer_norm"):
            expected[f"{layer}/{name}/scale"] = (24,)
        for name in ("query", "key", "value"):
            expected[f"{layer}/self_attention/{name}/kernel"] = (24, 12)
        expected[f"{layer}/self_attention/out/kernel"] = (12, 24)
        for name, shape in {"wi_0": (24, 20), "wi_1": (24, 20), "wo": (20, 24)}.items():
            expected[f"{layer}/mlp/{name}/kernel"] = shape
    assert shapes == expected
    axes = made["params_axes"]["decoder"]
    assert axes["token_embedder"]["embedding_axes"].names == ("vocab", "embed")
    query = axes["layers_1"]["self_attention"]["query"]
    assert query["kernel_axes"].names == ("embed", "joined_kv")


def test_packed_examples_do_not_see_each_other(module, params):
    packed = cases.batch(packed=True, prefix=True)
    _, expected, _ = cases.evaluate(module, params, packed)
    for segment in (1, 2):
        here = packed["decoder_segment_ids"] == segment
        alone = {
            name: jnp.where(here, packed[name], 0)
            for name in (
                "decoder_input_tokens",
                "decoder_target_tokens",
                "decoder_causal_attention",
            )
        }
        _, got, _ = cases.evaluate(module, params, alone)
        where = np.asarray(here)
        assert cases.relative_error(got[where], expected[where]) < 1e-5


def test_a_cache_filled_at_once_continues_as_the_forward_pass(module, params):
    """Prompts of different lengths; then a token of each row at a time."""
    batch = cases.batch(prefix=True)
    batch["decoder_target_tokens"] = jnp.ones_like(batch["decoder_target_tokens"])
    _, expected, _ = cases.evaluate(module, params, batch)
    prompts = np.array(cases.PROMPTS)
    tokens, is_prompt = batch["decoder_input_tokens"], batch["decoder_causal_attention"]

    def apply(cache, *tokens, **options):
        return module.apply(
            {"params": params} | cache,
            *tokens,
            enable_dropout=False,
            mutable=["cache"],
            **options,
        )

    _, cache = apply({}, tokens, tokens, decode=True)
    _, cache = apply(
        cache,
        tokens * is_prompt,
        is_prompt,
        decoder_causal_attention=is_prompt,
        prefill=True,
        prefill_lengths=jnp.asarray(prompts),
    )
    step = jax.jit(
        lambda cache, token: apply(
            cache, token, token, decode=True, max_decode_length=cases.LENGTH
        )
    )
    for i in range(cases.LENGTH - max(prompts)):
        rows = np.arange(len(prompts))
        logits, cache = step(cache, tokens[rows, prompts + i][:, None])
        want = expected[rows, prompts + i]
        assert cases.relative_error(logits[:, 0], want) < 1e-5
    index = cache["cache"]["decoder"]["layers_0"]["self_attention"]["cache_index"]
    np.testing.assert_array_equal(index, prompts + i + 1)


def test_prefill_takes_the_prefix_where_no_lengths_are_given(module, params):
    batch = cases.batch(prefix=True)
    tokens, is_prompt = batch["decoder_input_tokens"], batch["decoder_causal_attention"]
    _, cache = module.apply(
        {"params": params},
        tokens,
        is_prompt,
        decoder_causal_attention=is_prompt,
        prefill=True,
        enable_dropout=False,
        mutable=["cache"],
    )
    index = cache["cache"]["decoder"]["layers_1"]["self_attention"]["cache_index"]
    np.testing.assert_array_equal(index, np.array(cases.PROMPTS) + 1)


def test_wrong_use_is_refused(module, params):
    batch = cases.batch(packed=True)
    apply = lambda *args, **kwargs: module.apply(
        {"params": params}, *args, enable_dropout=False, mutable=["cache"], **kwargs
    )
    with pytest.raises(ValueError, match="cannot be decoded"):
        apply(**batch, decode=True)
    tokens = batch["decoder_input_tokens"]
    with pytest.raises(ValueError, match=r"\[batch, length\]"):
        apply(tokens[0], tokens[0])
    with pytest.raises(ValueError, match="either filled"):
        apply(tokens, tokens, decode=True, prefill=True, prefill_lengths=tokens[:, 0])


@pytest.fixture
def clean_gin(monkeypatch):
    gin.clear_config()
    # Gin has no way to take a search path back.
    monkeypatch.setattr(gin.config, "_LOCATION_PREFIXES", ["", str(GIN)])
    yield
    gin.clear_config()


@pytest.mark.parametrize("name", [*SHAPES, "t5_1_1_tiny"])
def test_gin_files_build_the_model(name, clean_gin):
    gin.parse_config_files_and_bindings(
        [f"models/{name}.gin", "models/decoder_only.gin"],
        ["DROPOUT_RATE = 0.25", "VOCABULARY_PATH = 'v.model'"],
    )
    model = copy.deepcopy(gin.query_parameter("%MODEL"))
    config = model.module.config
    assert isinstance(model, models.DecoderOnlyModel)
    assert isinstance(model.module, decoder_only.DecoderWrapper)
    assert model._inputs_bidirectional_attention
    assert config.vocab_size == 32128 and config.dropout_rate == 0.25
    assert config.logits_via_embedding
    assert config.mlp_activations == ("gelu", "linear")
    if name in SHAPES:
        assert config.dtype == "bfloat16"
        assert SHAPES[name] == (
            config.emb_dim,
            config.num_heads,
            config.head_dim,
            config.num_layers,
            config.mlp_dim,
        )
    else:
        assert config.dtype == "float32" and config.emb_dim <= 128
