"""The engine's models on a tiny T5: against T5X's frozen numbers, and by definition."""

import functools
import json

import decoder_only_cases
import engine_case
import gin
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import seqio
import tensorflow as tf

from t5patches import network
from t5x_embedded import adafactor, decoding, models, partitioning, train_state, utils
from tests.t5x_embedded import test_engine_partitioning

RUN = functools.partial(engine_case.run, "t5x_embedded")  # Cached.


@functools.cache
def tiny():
    """(the model of `RUN`, which decodes greedily, parameters, batch)"""
    greedy = functools.partial(decoding.temperature_sample, temperature=0.0)
    model = engine_case.model(models, adafactor, greedy)
    return model, engine_case.variables(model)["params"], engine_case.batch()


@functools.cache
def log_probs():
    model, params, batch = tiny()
    return jax.nn.log_softmax(jax.jit(model._compute_logits)(params, batch))


def test_agrees_with_t5x():
    """Loss, metrics, gradients, train state after two steps, decodes, scores."""
    want = decoder_only_cases.frozen(engine_case.FROZEN)
    engine_case.assert_close(engine_case.digest(RUN()), want)


def test_greedy_decodes_are_the_argmax_of_each_step():
    """Reading back what was generated, every token is the most probable one."""
    model, params, batch = tiny()
    decodes = RUN()["greedy"]
    shifted = jnp.pad(decodes, ((0, 0), (1, 0)))[:, :-1]
    read_back = {
        **batch,
        "decoder_input_tokens": shifted,
        "decoder_target_tokens": jnp.ones_like(decodes),
    }
    best = jnp.argmax(jax.jit(model._compute_logits)(params, read_back), -1)
    ended = jnp.cumsum(shifted == engine_case.EOS, axis=1) > 0
    np.testing.assert_array_equal(decodes, jnp.where(ended, 0, best))
    assert jnp.any(ended), "no row ended early, so that was not tested"


def test_decoder_params_and_prompts():
    model, params, batch = tiny()
    sample = functools.partial(
        model.predict_batch_with_aux,
        decoder_params={"temperature": 1.0, "topk": 0},
        num_decodes=2,
        return_all_decodes=True,
        prompt_with_targets=True,
    )
    prompted, aux = jax.jit(sample)(params, batch, jax.random.PRNGKey(0))
    assert prompted.shape == (4, 2, 7) and aux["scores"].shape == (4, 2)
    prompt = batch["decoder_input_tokens"][:2, 1:]
    np.testing.assert_array_equal(
        prompted[:2, :, :6], jnp.repeat(prompt[:, None], 2, axis=1)
    )
    assert len({tuple(row) for row in prompted[3].tolist()}) == 2
    key = jax.random.PRNGKey(0)
    twice = functools.partial(
        model.predict_batch_with_aux, rng=key, decoder_params={"decode_rng": key}
    )
    with pytest.raises(ValueError, match="both `rng`"):
        jax.eval_shape(twice, params, batch)


def test_scores():
    model, params, batch = tiny()
    targets = batch["decoder_target_tokens"][..., None]
    picked = jnp.take_along_axis(log_probs(), targets, -1)[..., 0]
    expected = picked * batch["decoder_loss_weights"]
    np.testing.assert_allclose(RUN()["score"], expected.sum(-1), rtol=1e-5)
    with pytest.raises(NotImplementedError, match="return_intermediates.*T5X does"):
        model.score_batch(params, batch, return_intermediates=True)


def test_dropout_follows_its_key():
    model, params, batch = tiny()
    on, _ = jax.jit(model.loss_fn)(params, batch, jax.random.PRNGKey(0))
    off, _ = jax.jit(model.eval_fn)(params, batch)
    assert on != off
    np.testing.assert_allclose(off, RUN()["loss"], rtol=1e-6)


def test_beam_search_is_the_default():
    """As in T5X, which is why the model gin files bind temperature sampling."""
    model, *_ = tiny()
    vocabulary = model.input_vocabulary
    assert vocabulary is model.output_vocabulary
    made = models.EncoderDecoderModel(model.module, vocabulary, vocabulary, None)
    assert made.decode_fn is decoding.beam_search


def test_initial_variables_of_packed_features():
    model, params, _ = tiny()
    shapes = dict(engine_case.SHAPES)
    for side, length in (("encoder", 8), ("decoder", 7)):
        shapes[f"{side}_segment_ids"] = shapes[f"{side}_positions"] = (4, length)
    made = jax.eval_shape(
        lambda: model.get_initial_variables(
            jax.random.PRNGKey(0), shapes, {"encoder_input_tokens": jnp.int32}
        )
    )
    assert set(made) == {"params", "params_axes"}
    assert jax.tree.map(jnp.shape, made["params"]) == jax.tree.map(jnp.shape, params)


def test_metrics_of_packed_batches():
    ids = jnp.array([[1, 1, 2, 2, 0], [1, 2, 3, 4, 4], [0, 0, 0, 0, 0]])
    assert models.count_packed_examples(ids) == 6
    metrics = models.compute_base_metrics(
        logits=jnp.zeros((3, 5, 2)),
        targets=jnp.zeros((3, 5), jnp.int32),
        mask=None,
        loss=jnp.array(30.0),
        segment_ids={"encoder": ids, "decoder": None},
    )
    assert "z_loss" not in metrics
    value = lambda name: float(metrics[name].compute())
    assert value("loss_per_nonpadding_target_token") == 2
    assert value("effective_batch_size/encoder") == 6
    assert value("non_padding_fraction/encoder") == pytest.approx(0.6)
    assert value("non_padding_fraction/overall") == pytest.approx(0.6)
    assert value("accuracy") == 1


@functools.cache
def endings(positions_per_layer):
    """(a greedy model, parameters, inputs) whose decodes have many lengths."""
    config = engine_case.CONFIG.replace(
        vocab_size=60, num_decoder_layers=2, positions_per_layer=positions_per_layer
    )
    greedy = functools.partial(
        decoding.temperature_sample, temperature=0.0, rescale_log_probs=False
    )

    def ending_with(eos):
        vocabulary = seqio.PassThroughVocabulary(60, eos)
        module = network.Transformer(config)
        return models.EncoderDecoderModel(module, vocabulary, vocabulary, None, greedy)

    tokens = np.random.default_rng(0).integers(1, 60, (12, 16))
    tokens *= np.arange(16) < np.arange(5, 17)[:, None]
    batch = {
        "encoder_input_tokens": jnp.asarray(tokens, jnp.int32),
        "decoder_input_tokens": jnp.zeros((12, 20), jnp.int32),
    }
    shapes = {name: x.shape for name, x in batch.items()}
    endless = ending_with(60)

    @jax.jit  # By themselves its operations take longer to compile.
    def initial(key):
        params = endless.get_initial_variables(key, shapes)["params"]
        return jax.tree.map(lambda x: 1.5 * x, params)

    params = initial(jax.random.PRNGKey(0))
    said = np.asarray(jax.jit(endless.predict_batch)(params, batch))
    firsts = [len(set((said == token).argmax(axis=1))) for token in range(1, 60)]
    return ending_with(1 + int(np.argmax(firsts))), params, batch


@pytest.mark.parametrize(
    ("places", "rows", "positions_per_layer"),
    [(1, 12, False), (5, 12, True), (8, 7, False)],
)
def test_rows_in_the_places_of_others(places, rows, positions_per_layer):
    """Each row is decoded as in a batch, whenever it begins and whatever was there."""
    model, params, batch = endings(positions_per_layer)
    want, scores = jax.jit(model.predict_batch_with_aux)(params, batch)
    lengths = set(np.count_nonzero(want, axis=1).tolist())
    assert len(lengths) > 2, "the rows end together, so that nothing was tested"
    queued = functools.partial(model.predict_batch_with_aux, places=places)
    got, got_scores = jax.jit(queued)(params, batch, rows=rows)
    np.testing.assert_array_equal(got[:rows], want[:rows])
    near = functools.partial(np.testing.assert_allclose, rtol=1e-4)
    near(got_scores["scores"][:rows], scores["scores"][:rows])
    assert not got[rows:].any()


@pytest.mark.parametrize("option", ["num_decodes = 2", "prompt_with_targets = True"])
def test_several_decodes_and_prompts_have_no_places(option):
    """Gin gives them, so that the model is asked before batches are put together."""
    given = endings(False)[0]
    assert given.takes_queue()
    try:
        gin.parse_config(
            f"""
            from __gin__ import dynamic_registration
            from t5x import models
            models.EncoderDecoderModel.predict_batch_with_aux.{option}
            """
        )
        made = gin.get_configurable(models.EncoderDecoderModel)(
            given.module,
            *(given.input_vocabulary, given.output_vocabulary, None, given.decode_fn),
        )
        assert not made.takes_queue()
    finally:
        gin.clear_config()


def queued_on_devices():
    """Rows that every device decodes in places of its own, as nested lists."""
    model, params, batch = endings(False)
    partitioner = partitioning.PjitPartitioner(num_partitions=1)
    axes = train_state.InferenceState(step=None, params=None)
    state = train_state.InferenceState(step=jnp.array(0), params=params)
    assert utils.rows_are_apart(axes, partitioner)
    data = tf.data.Dataset.from_tensor_slices(batch).take(11).enumerate()
    infer = utils.get_infer_fn(model.predict_batch, 4, axes, partitioner, queued=2)
    return [decode for _, decode in infer(data, state)]


def test_devices_decode_their_own_rows():
    want = jax.jit(endings(False)[0].predict_batch)(*endings(False)[1:])[:11].tolist()
    code = "import sys; sys.path.insert(0, 'tests'); assert jax.device_count() == 4; "
    code += "from tests.t5x_embedded import test_engine_models as here; "
    code += "print(here.queued_on_devices())"
    process = test_engine_partitioning.start(code, 4)
    found = test_engine_partitioning.finish(process)
    assert json.loads(found.splitlines()[-1]) == want
