"""The frozen model is run once over every example, and goes on where it stopped."""

import types

import numpy as np
import pytest
import seqio
import tensorflow as tf
import tiny
from t5x import utils

from t5patches import feature_converters as fcs
from t5patches import frozen, models
from t5patches.errors import UserError
from t5patches.interchange import frozen_states
from t5patches.run import frozen_cache

LENGTHS = {"inputs": 6, "targets": 5}
TASK = "frozen_cache_toy"
ROWS = 11
FEATURES = 3


def examples():
    """Of two and three targets, the last two of the same tokens."""
    for i in [*range(ROWS - 1), ROWS - 2]:
        targets = [i + 2] * (1 + i % 2) + [1]
        marks = [i % 2] + [0] * (len(targets) - 1)
        yield {"inputs": [i + 2, 1], "targets": targets, "target_annotations": marks}


@pytest.fixture(scope="module")
def cfg():
    names = ("inputs", "targets", "target_annotations")
    signature = dict.fromkeys(names, tf.TensorSpec([None], tf.int32))
    feature = seqio.Feature(seqio.PassThroughVocabulary(tiny.VOCAB_SIZE), add_eos=False)
    seqio.TaskRegistry.add(
        TASK,
        source=seqio.FunctionDataSource(
            lambda split, shuffle_files, seed=None: tf.data.Dataset.from_generator(
                examples, output_signature=signature
            ),
            splits=["train"],
        ),
        preprocessors=[],
        output_features=dict.fromkeys(names, feature),
    )
    yield utils.DatasetConfig(
        TASK, LENGTHS, "train", batch_size=4, shuffle=False, seed=0
    )
    seqio.TaskRegistry.remove(TASK)


@pytest.fixture
def stubs(monkeypatch, tmp_path):
    """A frozen model whose states are the target and the sum of the inputs."""
    checkpoint = tmp_path / "checkpoint_1"
    checkpoint.mkdir()
    monkeypatch.setattr(frozen_cache.frozen, "resolve", str)
    calls = []

    def run(batch):
        calls.append(len(batch))
        targets = np.stack([x["decoder_target_tokens"] for x in batch])
        inputs = np.stack([x["encoder_input_tokens"] for x in batch]).sum(1)
        rows = [targets, inputs[:, None] + 0 * targets, 0 * targets + 0.5]
        return np.stack(rows, -1).astype("bfloat16")

    monkeypatch.setattr(frozen_cache, "_frozen_model", lambda *arguments: run)
    monkeypatch.setattr(frozen_cache, "FILE_EXAMPLES", 4)
    model = tiny.make_model(frozen_cache=str(tmp_path / "cache"))
    fill = lambda **options: frozen_cache.fill(
        model, options.pop("cfgs"), None, str(checkpoint), **options
    )
    return types.SimpleNamespace(
        model=model, fill=fill, calls=calls, folder=tmp_path / "cache"
    )


def rows(model, cfg, pack):
    dataset = seqio.get_mixture_or_task(TASK).get_dataset(LENGTHS, "train", False)
    converter = model.FEATURE_CONVERTER_CLS(pack=pack)
    return list(converter(dataset, LENGTHS).as_numpy_iterator())


def test_a_training_row_has_the_states_of_its_examples(cfg, stubs):
    stubs.fill(cfgs=[cfg, cfg])
    assert stubs.calls == [4, 4, 2]  # Each once, though they are in two data sets.
    for pack in (False, True):
        found = rows(stubs.model, cfg, pack)
        assert pack == (len(found) < ROWS)
        for row in found:
            targets, states = row["decoder_target_tokens"], row["frozen_states"]
            assert states.shape == (LENGTHS["targets"], FEATURES)
            np.testing.assert_array_equal(states[:, 0].astype(int), targets)
            np.testing.assert_array_equal(states[:, 2] == 0.5, targets != 0)
            assert "frozen_rows" not in row
        assert pack or states[0, 1] == row["encoder_input_tokens"].sum()


def test_it_goes_on_and_several_share_a_folder(cfg, stubs):
    for shard in (0, 1):
        stubs.fill(cfgs=[cfg], shard_id=shard, num_shards=2)
    done = sum(stubs.calls)
    assert done == ROWS - 1
    assert len(frozen_states.Store(stubs.folder)) == done
    next(stubs.folder.glob("*.npz")).unlink()  # As if it had been stopped there.
    stubs.fill(cfgs=[cfg])
    again = sum(stubs.calls) - done
    assert 0 < again <= 4
    stubs.fill(cfgs=[cfg])
    assert sum(stubs.calls) == done + again
    assert len(frozen_states.Store(stubs.folder)) == ROWS - 1
    assert len(rows(stubs.model, cfg, False)) == ROWS


def test_another_model_s_states_are_refused(cfg, stubs, tmp_path):
    stubs.fill(cfgs=[cfg])
    with pytest.raises(UserError, match="dtype"):
        stubs.fill(cfgs=[cfg], dtype="float32")
    with pytest.raises(UserError, match="FROZEN_CACHE_DTYPE = 'float16'"):
        stubs.fill(cfgs=[cfg], dtype="float16")
    # And by the trainer, whoever has filled it.
    frozen.check_cache(str(stubs.folder), str(tmp_path / "checkpoint_1"))
    with pytest.raises(UserError, match=r"another model \(.*checkpoint_1\) than other"):
        frozen.check_cache(str(stubs.folder), "other")
    with pytest.raises(UserError, match="not filled; `t5patches cache` fills it"):
        frozen.check_cache(str(tmp_path / "none"), "other")


def test_a_model_says_what_does_not_go_with_a_cache(tmp_path):
    without = tiny.make_model(models.EncoderDecoderModelNL, frozen_cache="cache")
    assert without.frozen_cache is None
    with pytest.raises(ValueError, match=r"DROPOUT_RATE = 0\.0 or"):
        tiny.make_model(frozen_cache="cache", dropout_rate=0.1)
    tiny.make_model(frozen_cache="cache", dropout_rate=0.1, frozen_dropout=False)


def test_other_converters_have_states_too(cfg, stubs):
    stubs.fill(cfgs=[cfg])
    converter = fcs.DecoderOnlyTargetAnnotationsFeatureConverter(
        pack=False, frozen_cache=str(stubs.folder)
    )
    dataset = seqio.get_mixture_or_task(TASK).get_dataset(LENGTHS, "train", False)
    # Of decoder-only models an example is its whole row: these are of another model.
    with pytest.raises(tf.errors.OpError, match="no states of an example"):
        list(converter(dataset, LENGTHS).as_numpy_iterator())
