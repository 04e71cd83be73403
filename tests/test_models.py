"""The model classes of the method family over a network."""

import dataclasses
import functools
import inspect
import warnings
from unittest import mock

import decoder_only_cases
import gin
import jax
import jax.numpy as jnp
import loss_reference
import numpy as np
import pytest
import seqio
import tiny
from flax import core as flax_core
from flax import traverse_util
from loss_cases import ALL, METHODS
from t5x import decoding
from t5x import models as t5x_models

from t5patches import decoder_only, losses, models, network
from t5patches.interchange import unwanted_sets


def model_class(name, kind="EncoderDecoder"):
    return getattr(models, f"{kind}Model{name.upper()}")


@pytest.fixture(scope="module")
def states():
    """Parameters in training and frozen ones, of two seeds."""
    model = tiny.make_model()
    return [tiny.make_state(model, seed)[1].params for seed in (0, 1)]


def logits_of(model, params, batch):
    names = ("encoder_input", "decoder_input", "decoder_target")
    tokens = (batch[f"{name}_tokens"] for name in names)
    # In NumPy, in which the reference goes from token to token.
    return np.asarray(_apply(model.module)(params, *tokens))


@functools.cache
def _apply(module):
    """Compiled as one program: its operations by themselves take longer to compile."""
    return jax.jit(lambda p, *x: module.apply({"params": p}, *x, enable_dropout=False))


def test_loss_is_the_targeted_loss_of_the_two_networks(states):
    params, frozen = states
    batch = tiny.make_batch()
    options = dict(alpha=2.0, z_loss=0.01)
    model = tiny.make_model(**options)
    loss, metrics = jax.jit(model.eval_fn)(params, batch, frozen)
    both = [logits_of(model, tree, batch) for tree in (params, frozen)]
    targets = jnp.asarray(batch["decoder_target_tokens"])
    annotation = losses.read_annotation(targets, batch["decoder_loss_weights"])
    expected, parts = losses.targeted_loss(
        losses.METHODS["tnff"], *both, targets, annotation, **options
    )
    np.testing.assert_allclose(loss, expected, rtol=1e-6)
    for name in ("unwanted/loss", "unwanted/probability", "other/loss", "other/kl"):
        total, count = parts[name]
        np.testing.assert_allclose(metrics[name].compute(), total / count, rtol=1e-5)


def test_a_batch_without_anything_unwanted_has_no_mean_and_no_warning(states):
    batch = tiny.make_batch()
    batch["decoder_loss_weights"] = np.abs(batch["decoder_loss_weights"])
    _, metrics = tiny.make_model().eval_fn(states[0], batch, states[1])
    on_host = jax.device_get(metrics)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert np.isnan(on_host["unwanted/loss"].compute())
        assert np.isfinite(on_host["other/loss"].compute())


def test_normalizers_and_metrics_count_magnitudes(states):
    """T5X would sum −1 and 1; with as many of both it would divide by nothing."""
    params, frozen = states
    batch = tiny.make_batch()
    signs = np.where(np.arange(tiny.TARGETS) % 2, -1, 1)
    weights = (batch["decoder_target_tokens"] != 0) * signs
    batch["decoder_loss_weights"] = weights.astype(np.int32)
    plain, _ = tiny.make_model().eval_fn(params, batch, frozen)
    model = tiny.make_model(loss_normalizing_factor="NUM_REAL_TARGET_TOKENS")
    loss, metrics = model.eval_fn(params, batch, frozen)
    tokens = np.abs(weights).sum()
    np.testing.assert_allclose(loss, plain / tokens, rtol=1e-5)
    hits = logits_of(model, params, batch).argmax(-1) == batch["decoder_target_tokens"]
    np.testing.assert_allclose(
        metrics["accuracy"].compute(), (hits & (weights != 0)).sum() / tokens, rtol=1e-5
    )


def test_score_is_the_negative_loss_of_each_sequence(states):
    params, frozen = states
    batch = tiny.make_batch()
    model = tiny.make_model(alpha=3.0, z_loss=0.1)
    scores, intermediates = model.score_batch(
        params, batch, return_intermediates=True, orig_params=frozen
    )
    assert scores.shape == (tiny.BATCH,)
    loss, _ = tiny.make_model(alpha=3.0).eval_fn(params, batch, frozen)
    np.testing.assert_allclose(-scores.sum(), loss, rtol=1e-5)
    weights = intermediates["decoder"]["loss_weights"][0]
    np.testing.assert_array_equal(weights, batch["decoder_loss_weights"])
    again = model.score_batch(params, batch, orig_params=frozen)
    np.testing.assert_allclose(again, scores, rtol=1e-6)


def loss_of(model, params, batch, frozen):
    """The loss without dropout, whether the method has a frozen model or not."""
    return model.eval_fn(params, batch, *([frozen] if model.METHOD.frozen else []))


def score_of(model, params, batch, frozen, **options):
    if model.METHOD.frozen:
        options["orig_params"] = frozen
    return model.score_batch(params, batch, **options)


def reference_arguments(name, model, params, frozen, batch):
    """What both functions of the reference take first."""
    both = [logits_of(model, tree, batch) for tree in (params, frozen)]
    return name, *both, batch["decoder_target_tokens"], batch["decoder_loss_weights"]


@pytest.mark.parametrize("name", ALL)
def test_every_class_is_its_row_of_the_table(states, name, tmp_path):
    """The loss of the reference, with alpha, z-loss, ids and sets of the batch."""
    params, frozen = states
    batch = tiny.make_batch()
    ids = np.random.default_rng(1).integers(0, 3, (tiny.BATCH, tiny.TARGETS, 2))
    batch["negative_token_ids"] = ids.astype(np.int32)
    odd = 0xAAAAAAAA  # A third of what is unwanted in the batch is in its sets.
    unwanted_sets.write(tmp_path, np.array([[0], [odd], [1]], np.uint32))
    rows = np.random.default_rng(2).integers(0, 3, (tiny.BATCH, tiny.TARGETS))
    batch["unwanted_sets"] = rows.astype(np.int32)
    sets = (rows == 1)[..., None] & (np.arange(tiny.VOCAB_SIZE) % 2 == 1)
    sets[rows == 2, 0] = True
    weights, targets = batch["decoder_loss_weights"], batch["decoder_target_tokens"]
    known = np.take_along_axis(sets, targets[..., None], axis=-1)[..., 0]
    assert 0 < ((weights < 0) & known).sum() < (weights < 0).sum()
    options = dict(alpha=3.0, epsilon=1e-4)
    options["unwanted_sets"] = str(tmp_path / unwanted_sets.FILE)
    model = tiny.make_model(model_class(name), z_loss=0.01, **options)
    assert model.METHOD.name == name
    loss, metrics = loss_of(model, params, batch, frozen)
    expected, _ = loss_reference.loss(
        *reference_arguments(name, model, params, frozen, batch),
        # A divergence counts of the marked tokens those in the sets as unwanted.
        **(options | {"unwanted_sets": sets}),
        sets_decide=name not in ("nl", "ul", "tnfll", "tnrll"),
        z_loss=0.01,
        negative_token_ids=ids,
    )
    np.testing.assert_allclose(loss, expected, rtol=1e-5)
    assert {"unwanted/loss", "other/loss", "z_loss", "accuracy"} <= set(metrics)
    takes_frozen = "orig_params" in inspect.signature(model.loss_fn).parameters
    assert takes_frozen == losses.METHODS[name].frozen
    scores = score_of(model, params, batch, frozen)
    model = tiny.make_model(model_class(name), **options)
    plain = loss_of(model, params, batch, frozen)[0]
    np.testing.assert_allclose(-scores.sum(), plain, rtol=1e-5)
    if name == "tnff":
        found = jax.jit(model.distances)(params, batch, frozen)
        arrays = reference_arguments(name, model, params, frozen, batch)[1:]
        expected = sums_of_reference(arrays[:2], *arrays[2:], ids, sets)
        assert_distances(found, expected)


def sums_of_reference(both, targets, weights, ids=None, sets=None):
    """What `distances` of a batch are to be, [batch] each, token by token."""
    names = ("fine_tokens", "kl_original", "kl_exact", "unwanted_positions")
    names += ("total_variation", "unwanted_before", "unwanted_after")
    sums = {name: np.zeros(len(targets)) for name in names}
    options = dict(negative_token_ids=ids, unwanted_sets=sets)
    tokens = loss_reference.token_losses(
        *("tnff", *both, targets, weights), sets_decide=sets is not None, **options
    )
    for (row, place), (*_, is_unwanted) in tokens.items():
        index, sign = (row, place), -1 if is_unwanted else 1
        given = () if ids is None else ids[index]
        unwanted = loss_reference.unwanted_tokens(targets[index], sign, given)
        known = () if sets is None else np.flatnonzero(sets[index])
        unwanted = np.array(sorted({*unwanted, *known}), int)
        logits = [each[index] for each in both]
        kl, exact, *more = loss_reference.distances(*logits, unwanted)
        sums["kl_exact"][row] += exact
        if is_unwanted:
            sums["unwanted_positions"][row] += 1
            for name, value in zip(names[4:], more, strict=True):
                sums[name][row] += value
        else:
            sums["fine_tokens"][row] += 1
            sums["kl_original"][row] += kl
    assert sums["fine_tokens"].any() and sums["unwanted_positions"].any()
    return sums


def assert_distances(found, expected):
    assert found.keys() == expected.keys()
    for name, values in expected.items():
        np.testing.assert_allclose(found[name], values, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("tied", [False, True])
def test_rows_of_unwanted_tokens_alone_are_trained(tied, tmp_path):
    """Their gradients are those of the whole update, and all others are zero."""
    unwanted_sets.write(tmp_path, np.array([[0], [0b1100], [0b1001000]], np.uint32))
    gradients = []
    for trainable in ("all", "unwanted_rows"):
        table = str(tmp_path / unwanted_sets.FILE)
        model = tiny.make_model(unwanted_sets=table, trainable=trainable)
        config = dataclasses.replace(model.module.config, logits_via_embedding=tied)
        model.module = network.Transformer(config=config)
        params, frozen = (tiny.make_state(model, seed)[1].params for seed in (0, 1))
        batch = tiny.make_batch()
        batch["unwanted_sets"] = np.full((tiny.BATCH, tiny.TARGETS), 2, np.int32)
        loss = jax.jit(jax.grad(lambda *x, m=model: m.loss_fn(*x)[0]))
        found = loss(params, batch, None, frozen)
        gradients.append(traverse_util.flatten_dict(dict(found), sep="/"))
    everything, rows = gradients
    output = "token_embedder/embedding" if tied else "decoder/logits_dense/kernel"
    trained, expected = np.asarray(rows.pop(output)), everything[output]
    if not tied:
        trained, expected = trained.T, expected.T
    unwanted = np.flatnonzero(np.any(trained, axis=1))
    assert [*unwanted] == [2, 3, 6]
    expected = np.asarray(expected)[unwanted]
    np.testing.assert_allclose(trained[unwanted], expected, rtol=1e-5)
    assert not any(np.any(value) for value in rows.values())
    assert all(np.any(value) for value in everything.values())


@pytest.mark.parametrize(
    ("name", "chunk"),
    [("tnff", 2), ("tnrr", 0), ("npo", 0), ("ftpo", None), ("tnfll", None)],
)
def test_a_cached_update_of_rows_is_that_of_the_networks(name, chunk, tmp_path):
    """Whether nothing but the rows has logits of its own, or, elsewhere, all have."""
    table = np.array([[0], [0b1100], [0b1001000], [0b1001100]], np.uint32)
    unwanted_sets.write(tmp_path, table)
    model = tiny.make_model(
        model_class(name),
        trainable="unwanted_rows",
        unwanted_sets=str(tmp_path / unwanted_sets.FILE),
        z_loss=0.01,
        alpha=3.0,
        logits_chunk=chunk,
    )
    batch = tiny.make_batch()
    sets = np.random.default_rng(0).integers(0, 4, (tiny.BATCH, tiny.TARGETS))
    batch["unwanted_sets"] = sets.astype(np.int32)
    batch["decoder_target_tokens"][::2, 1] = 6
    batch["decoder_loss_weights"][::2, 1] = -1
    frozen = tiny.make_state(model)[1].params
    params = jax.tree.map(jnp.copy, flax_core.unfreeze(frozen))
    kernel = params["decoder"]["logits_dense"]["kernel"]
    params["decoder"]["logits_dense"]["kernel"] = kernel.at[:, [2, 3, 6]].multiply(1.5)
    results, widths = [], []
    for cached in (False, True):
        model.starts_frozen = cached
        if cached:
            batch["frozen_states"] = model.pre_logits(frozen, batch)
        loss = lambda *x: model.loss_fn(*x)
        if chunk is not None:
            found = jax.jit(jax.value_and_grad(loss, has_aux=True))
            (value, metrics), gradient = found(params, batch, None, frozen)
            results.append((value, metrics, gradient["decoder"]["logits_dense"]))
        with mock.patch.object(
            losses, "targeted_loss", wraps=losses.targeted_loss
        ) as calls:
            jax.eval_shape(loss, params, batch, None, frozen)
        widths.append(calls.call_args.args[1].shape[-1])
    assert widths == [tiny.VOCAB_SIZE, tiny.VOCAB_SIZE if chunk is None else 4]
    for one, other in zip(*map(jax.tree.leaves, results), strict=True):
        np.testing.assert_allclose(other, one, rtol=2e-5, atol=1e-6)


def test_rows_need_a_table():
    with pytest.raises(ValueError, match="annotate phrases"):
        tiny.make_model(trainable="unwanted_rows")
    with pytest.raises(ValueError, match="'all' or 'unwanted_rows'"):
        tiny.make_model(trainable="head")


@pytest.mark.parametrize("name", METHODS)
def test_upstream_values_are_upstreams_numbers(states, name):
    """No z-loss, its smoothing, its clip and its threshold."""
    params, frozen = states
    batch = tiny.make_batch()
    options = dict(upstream_values=True, z_loss=0.1, alpha=50.0)
    model = tiny.make_model(model_class(name), **options)
    expected = loss_reference.upstream_token_losses(
        *reference_arguments(name, model, params, frozen, batch), alpha=50.0
    )
    loss, _ = loss_of(model, params, batch, frozen)
    np.testing.assert_allclose(loss, expected.sum(), rtol=1e-5)
    scores, extra = score_of(model, params, batch, frozen, return_intermediates=True)
    np.testing.assert_allclose(-scores, expected.sum(-1), rtol=1e-5, atol=1e-5)
    tokens = extra["decoder"]["token_scores"][0]
    np.testing.assert_allclose(tokens, expected, rtol=1e-5, atol=1e-5)
    rows = np.zeros((tiny.BATCH, tiny.TARGETS), np.int32)
    with pytest.raises(ValueError, match="the model has no table"):
        loss_of(tiny.make_model(), params, {**batch, "unwanted_sets": rows}, frozen)
    batch["negative_token_ids"] = np.zeros((tiny.BATCH, tiny.TARGETS, 1), np.int32)
    with pytest.raises(ValueError, match="no negative_token_ids"):
        loss_of(model, params, batch, frozen)


def test_upstream_has_no_values_of_rivals():
    with pytest.raises(ValueError, match="google/t5patches has no npo"):
        tiny.make_model(model_class("npo"), upstream_values=True)


@pytest.mark.parametrize("kind", ["EncoderDecoder", "DecoderOnly"])
@pytest.mark.parametrize("name", ALL)
def test_alpha_from_the_constructor_and_from_gin_takes_effect(name, kind):
    cls = model_class(name, kind)
    vocabularies = ["input_vocabulary", "output_vocabulary"]
    names = vocabularies if kind == "EncoderDecoder" else ["vocabulary"]
    options = dict.fromkeys(names, seqio.PassThroughVocabulary(9))
    options |= dict(module=None, optimizer_def=None)
    assert cls(**options).alpha == 1e4
    assert cls(**options, alpha=2.0).alpha == 2.0
    gin.parse_config(f"models.{cls.__name__}.alpha = 7.0")
    try:
        assert cls(**options).alpha == 7.0
        assert cls(**options, alpha=2.0).alpha == 2.0
    finally:
        gin.clear_config()


@pytest.mark.parametrize("name", METHODS)
def test_decoder_only_models_have_the_same_table(name):
    config = decoder_only.TransformerConfig(
        **decoder_only_cases.CONFIGS["gated"], dtype=jnp.float32
    )
    module = decoder_only.DecoderWrapper(config=config)
    params = decoder_only_cases.init(module)["params"]
    frozen = jax.tree.map(lambda x: x * 1.5, params)
    batch = decoder_only_cases.batch(prefix=True)
    targets = np.asarray(batch["decoder_target_tokens"])
    weights = np.random.default_rng(0).integers(-1, 2, targets.shape)
    batch["decoder_loss_weights"] = jnp.asarray(weights, jnp.int32)
    model = model_class(name, "DecoderOnly")(
        module=module,
        vocabulary=seqio.PassThroughVocabulary(config.vocab_size),
        optimizer_def=None,
        decode_fn=decoding.temperature_sample,
        inputs_bidirectional_attention=True,
        alpha=3.0,
    )
    loss, _ = loss_of(model, params, batch, frozen)
    options = {
        "decoder_causal_attention": batch["decoder_causal_attention"],
        "enable_dropout": False,
    }
    tokens = (batch["decoder_input_tokens"], targets)
    apply = jax.jit(lambda p: module.apply({"params": p}, *tokens, **options))
    both = [np.asarray(apply(p)) for p in (params, frozen)]
    expected, _ = loss_reference.loss(name, *both, targets, weights, alpha=3.0)
    np.testing.assert_allclose(loss, expected, rtol=1e-5)
    scores = score_of(model, params, batch, frozen)
    np.testing.assert_allclose(-scores.sum(), expected, rtol=1e-5)
    if name == "tnff":
        expected = sums_of_reference(both, targets, weights)
        found = jax.jit(model.distances)(params, batch, frozen)
        assert_distances(found, expected)


def test_frozen_parameters_get_no_gradient(states):
    params, frozen = states
    model = tiny.make_model()
    loss = lambda frozen: model.loss_fn(params, tiny.make_batch(), None, frozen)[0]
    gradient = jax.jit(jax.grad(loss))(frozen)
    assert not any(np.any(leaf) for leaf in jax.tree.leaves(gradient))


def test_loss_without_the_frozen_model_is_refused(states):
    with pytest.raises(ValueError, match="pass its parameters as orig_params"):
        tiny.make_model().eval_fn(states[0], tiny.make_batch())


def test_label_smoothing_is_refused():
    with pytest.raises(ValueError, match="set LABEL_SMOOTHING = 0.0"):
        tiny.make_model(label_smoothing=0.1)


def test_greedy_generation_is_the_argmax_of_each_step(states):
    """Through the KV cache, against the whole prefix at every step."""
    params, _ = states
    batch = tiny.make_batch()
    model = tiny.make_model(t5x_models.EncoderDecoderModel)
    length = 12
    batch["decoder_input_tokens"] = np.zeros((tiny.BATCH, length), np.int32)
    model._decode_fn = lambda **kwargs: tiny.decoding.temperature_sample(
        **kwargs, temperature=0.0
    )
    actual = np.asarray(jax.jit(model.predict_batch)(params, batch))
    expected = np.zeros((tiny.BATCH, length), np.int32)
    ended = np.zeros(tiny.BATCH, bool)
    for t in range(length):
        batch["decoder_input_tokens"] = np.pad(expected, ((0, 0), (1, 0)))[:, :-1]
        batch["decoder_target_tokens"] = np.ones_like(expected)
        choice = logits_of(model, params, batch)[:, t].argmax(-1)
        expected[:, t] = np.where(ended, 0, choice)
        ended |= expected[:, t] == model.output_vocabulary.eos_id
    np.testing.assert_array_equal(actual, expected)


@pytest.mark.parametrize("name", ["nl", "tnff", "tnrr", "ftpo"])
def test_logits_of_some_positions_at_a_time_change_nothing(name, states):
    options = dict(alpha=3.0, z_loss=0.1, dropout_rate=0.1)
    model = tiny.make_model(model_class(name), **options)
    model._loss_normalizing_factor = 7.0
    batch = tiny.make_batch()
    params, frozen = states
    more = (frozen,) if model.METHOD.frozen else ()

    def results(chunk):
        model.logits_chunk = chunk
        gradient = jax.value_and_grad(model.loss_fn, has_aux=True)
        return jax.jit(gradient)(params, batch, jax.random.PRNGKey(2), *more)

    (expected, metrics), gradients = results(0)
    (loss, parts), chunked = results(2)  # Five positions: the last is filled up.
    np.testing.assert_allclose(loss, expected, rtol=1e-6)
    close = functools.partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-6)
    jax.tree.map(close, chunked, gradients)
    assert max(np.abs(x).max() for x in jax.tree.leaves(gradients)) > 0.01
    for metric, values in metrics.items():
        jax.tree.map(close, parts[metric], values)


def test_small_logits_are_made_at_once_and_large_ones_are_not(monkeypatch):
    states = jnp.zeros((4, 10, 16))
    head = models.Head(jnp.zeros((16, 100)))
    size = lambda chunk=None: models._positions_at_once(states, head, chunk)
    assert size() == 10
    bytes_of_four = 4 * 100 * 4 * 4 / jax.device_count()
    monkeypatch.setitem(models.LOGITS_BYTES, "cpu", bytes_of_four)
    assert size() == 4  # Three parts: 4, 4 and 2.
    assert size(7) == 7
    assert size(0) == 10
    assert models._positions_at_once(states, models.Head(), None) == 10
    monkeypatch.setitem(models.LOGITS_BYTES, "cpu", 1)
    assert models._positions_at_once(states[:1], head, None) == 10  # 16 features.


@pytest.mark.parametrize("chunk", [0, 2])
def test_plain_training_by_positions_is_t5x_s(chunk, states):
    options = dict(z_loss=0.1, label_smoothing=0.2, loss_normalizing_factor=7.0)
    batch = tiny.make_batch()
    batch["decoder_loss_weights"] = np.abs(batch["decoder_loss_weights"])

    def results(change):
        model = tiny.make_model(
            t5x_models.EncoderDecoderModel, dropout_rate=0.1, **options
        )
        gradient = jax.value_and_grad(change(model).loss_fn, has_aux=True)
        return jax.jit(gradient)(states[0], batch, jax.random.PRNGKey(2))

    expected = results(lambda model: model)
    found = results(lambda model: models.by_positions(model, chunk))
    (loss, _), (plain, _) = found[0], expected[0]
    np.testing.assert_allclose(loss, plain, rtol=1e-6)
    close = functools.partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-6)
    jax.tree.map(close, found, expected)
    assert max(np.abs(x).max() for x in jax.tree.leaves(found[1])) > 0.01
