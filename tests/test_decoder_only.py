"""The decoder-only network: packing, prefixes and its cache."""

import decoder_only_cases as cases
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from t5patches import decoder_only


@pytest.fixture(scope="module")
def module():
    return decoder_only.DecoderWrapper(
        decoder_only.TransformerConfig(**cases.CONFIGS["gated"])
    )


@pytest.fixture(scope="module")
def params(module):
    return cases.init(module)["params"]


@pytest.fixture(scope="module")
def apply(module, params):
    """The network without dropout, from a cache: logits and the new cache."""

    def apply(cache, *args, **options):
        variables = {"params": params} | cache
        options = {"enable_dropout": False, "mutable": ["cache"]} | options
        return module.apply(variables, *args, **options)

    return apply


def prompts_of(batch):
    """Tokens, where the prompts are, and the options of a call that reads them."""
    is_prompt = batch["decoder_causal_attention"]
    options = {"decoder_causal_attention": is_prompt, "prefill": True}
    return batch["decoder_input_tokens"], is_prompt, options


def cache_index(cache):
    return cache["cache"]["decoder"]["layers_1"]["self_attention"]["cache_index"]


def test_packed_examples_do_not_see_each_other(module, params):
    packed = cases.batch(packed=True, prefix=True)
    expected = cases.logits(module, params, packed)
    for segment in (1, 2):
        here = packed["decoder_segment_ids"] == segment
        alone = {
            name: jnp.where(here, x, 0)
            for name, x in packed.items()
            if name.endswith(("_tokens", "_attention"))
        }
        got = cases.logits(module, params, alone)
        where = np.asarray(here)
        assert cases.relative_error(got[where], expected[where]) < 1e-5


def test_a_cache_filled_at_once_continues_as_the_forward_pass(module, params, apply):
    """Prompts of different lengths; then a token of each row at a time."""
    batch = cases.batch(prefix=True)
    batch["decoder_target_tokens"] = jnp.ones_like(batch["decoder_target_tokens"])
    expected = cases.logits(module, params, batch)
    prompts = np.array(cases.PROMPTS)
    tokens, is_prompt, options = prompts_of(batch)
    _, cache = apply({}, tokens, tokens, decode=True)
    options["prefill_lengths"] = jnp.asarray(prompts)
    _, cache = apply(cache, tokens * is_prompt, is_prompt, **options)
    options = {"decode": True, "max_decode_length": cases.LENGTH}
    step = jax.jit(lambda cache, token: apply(cache, token, token, **options))
    for i in range(cases.LENGTH - max(prompts)):
        rows = np.arange(len(prompts))
        logits, cache = step(cache, tokens[rows, prompts + i][:, None])
        want = expected[rows, prompts + i]
        assert cases.relative_error(logits[:, 0], want) < 1e-5
    np.testing.assert_array_equal(cache_index(cache), prompts + i + 1)


def test_prefill_takes_the_prefix_where_no_lengths_are_given(apply):
    tokens, is_prompt, options = prompts_of(cases.batch(prefix=True))
    _, cache = apply({}, tokens, is_prompt, **options)
    np.testing.assert_array_equal(cache_index(cache), np.array(cases.PROMPTS) + 1)


def test_wrong_use_is_refused(apply):
    batch = cases.batch(packed=True)
    with pytest.raises(ValueError, match="cannot be decoded"):
        apply({}, **batch, decode=True)
    tokens = batch["decoder_input_tokens"]
    with pytest.raises(ValueError, match=r"\[batch, length\]"):
        apply({}, tokens[0], tokens[0])
    with pytest.raises(ValueError, match="either filled"):
        both = {"decode": True, "prefill": True, "prefill_lengths": tokens[:, 0]}
        apply({}, tokens, tokens, **both)
