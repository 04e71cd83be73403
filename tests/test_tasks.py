"""Tasks over a user's files: registration, features, order, and what is refused."""

import gzip
import json
import shutil

import numpy as np
import pytest
import seqio
from sentencepiece import sentencepiece_model_pb2
from small_vocabulary import small_vocabulary

from t5patches import tasks
from t5patches.errors import UserError
from t5patches.feature_converters import TargetAnnotationsFeatureConverter
from t5patches.interchange import json_files, records, shards, tfrecords, unwanted_sets
from t5patches.tasks import annotated_records

VOCABULARY = small_vocabulary()
LENGTHS = {"inputs": 8, "targets": 6}


@pytest.fixture(autouse=True)
def no_tasks_left_behind():
    yield
    for name in [name for name in seqio.TaskRegistry.names() if name.startswith("t_")]:
        seqio.TaskRegistry.remove(name)


def write_text(path, count=10):
    rows = [
        {"inputs": f"hello {i}", "targets": f"you {i}", "id": i} for i in range(count)
    ]
    json_files.write_jsonl(path, rows)
    return str(path)


def annotated(count=6, length=4):
    return [
        {
            "inputs": [*VOCABULARY.encode(f"hello {i}"), 1],
            "targets": [*[5] * (length - 1), 1],
            "target_annotations": [*[0] * (length - 2), i % 2, 0],
        }
        for i in range(count)
    ]


def read(name, split="train", lengths=LENGTHS, **options):
    ds = seqio.get_mixture_or_task(name).get_dataset(
        lengths, split, **{"shuffle": False, **options}
    )
    return list(ds.as_numpy_iterator())


def test_text_task(tmp_path):
    path = write_text(tmp_path / "train.jsonl")
    name = tasks.text_task("t_text", {"train": path}, VOCABULARY)
    rows = read(name)
    assert len(rows) == 10
    assert rows[3]["inputs_pretokenized"] == b"hello 3"
    assert rows[3]["id_pretokenized"] == b"3"
    assert rows[3]["inputs"].tolist() == [*VOCABULARY.encode("hello 3"), 1][:8]
    assert rows[3]["targets"].tolist() == [*VOCABULARY.encode("you 3"), 1][:6]
    assert seqio.TaskRegistry.get(name).num_input_examples("train") == 10


def test_long_texts_are_cut_and_end_with_eos(tmp_path):
    path = tmp_path / "train.jsonl"
    json_files.write_jsonl(path, [{"inputs": "hello " * 9, "targets": "you " * 9}])
    (row,) = read(tasks.text_task("t_text", {"train": str(path)}, VOCABULARY))
    assert len(row["inputs"]) == 8 and row["inputs"][-1] == 1
    assert len(row["targets"]) == 6 and row["targets"][-1] == 1
    assert row["id_pretokenized"] == b"train:0"


def test_csv(tmp_path):
    path = tmp_path / "train.csv"
    path.write_text('text,reply,id\n"a, ""b""\nc",d,x\ne,f,y\n', encoding="utf-8-sig")
    name = tasks.text_task("t_csv", {"train": str(path)}, VOCABULARY, "text", "reply")
    first, second = read(name)
    assert first["inputs_pretokenized"] == b'a, "b"\nc'
    assert (second["targets_pretokenized"], second["id_pretokenized"]) == (b"f", b"y")
    gzipped = tmp_path / "train.csv.gz"
    gzipped.write_bytes(gzip.compress(path.read_bytes()))
    name = tasks.text_task("t_gz", {"train": str(gzipped)}, VOCABULARY, "text", "reply")
    assert [row["id_pretokenized"] for row in read(name)] == [b"x", b"y"]
    name = tasks.text_task("t_csv2", {"train": str(path)}, VOCABULARY, "text", None)
    assert read(name)[0]["targets"].tolist() == [1]


GOOD = '{"inputs": "a", "targets": "b"}'


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (GOOD + '\n{"inputs": "a"}\n', ":2: field 'targ"),
        (GOOD.replace('"a"', "3"), ":1: field 'inputs' must be text"),
        (GOOD.replace("}", ', "id": []}'), ":1: field 'id' must"),
        ("{\n", ":1: not valid JSON"),
        ("\n", ": no examples in it"),
        ("inputs,targets\na,b\nc\n", ":3: the line has not as many fields"),
        ("inputs,targets\na,b,c\n", ":2: the line has not as many fields"),
        ('inputs,targets\na,b\n"a"x,b\n', ":3: not valid CSV"),
        ("inputs,reply\na,b\n", ":2: field 'targets' is missing; the line has"),
    ],
)
def test_a_bad_line_is_named(tmp_path, content, message):
    name = "a.csv" if content.startswith("inputs") else "a.jsonl"
    (tmp_path / name).write_text(content)
    task = tasks.text_task("t_bad", {"train": str(tmp_path / name)}, VOCABULARY)
    with pytest.raises(UserError) as error:
        read(task)
    assert f"{name}{message}" in str(error.value)


def test_missing_files_and_splits(tmp_path):
    name = tasks.text_task("t_text", {"train": str(tmp_path / "x.jsonl")}, VOCABULARY)
    with pytest.raises(UserError, match=r"x\.jsonl: no such file"):
        read(name)
    with pytest.raises(UserError, match="for split 'test'; the task has train"):
        read(name, "test")
    with pytest.raises(UserError, match="files must name files by split"):
        tasks.text_task("t_text", "x.jsonl", VOCABULARY)
    with pytest.raises(UserError, match="task 't text'"):
        tasks.text_task("t text", {"train": "x.jsonl"}, VOCABULARY)


def test_registering_again(tmp_path):
    one, two = write_text(tmp_path / "1.jsonl"), write_text(tmp_path / "2.jsonl", 3)
    tasks.text_task("t_text", {"train": one}, VOCABULARY)
    task = seqio.TaskRegistry.get("t_text")
    tasks.text_task("t_text", {"train": one}, small_vocabulary())
    assert seqio.TaskRegistry.get("t_text") is task
    tasks.text_task("t_text", {"train": two}, VOCABULARY)
    assert len(read("t_text")) == 3
    write_text(tmp_path / "2.jsonl", 5)
    assert len(read("t_text")) == 5
    seqio.TaskRegistry.add("t_other", source=task.source, output_features={})
    with pytest.raises(UserError, match="'t_other' is registered already"):
        tasks.text_task("t_other", {"train": one}, VOCABULARY)


def order(name, key="id_pretokenized", **options):
    """The values of a feature in a shuffled order."""
    return [str(row[key]) for row in read(name, shuffle=True, **options)]


def test_shuffling_is_whole_per_epoch_and_fixed_by_the_seed(tmp_path):
    path = write_text(tmp_path / "a.jsonl", 40)
    name = tasks.text_task("t_text", {"train": path}, VOCABULARY)
    two_epochs = order(name, seed=3, num_epochs=2)
    assert two_epochs == order(name, seed=3, num_epochs=2)
    assert two_epochs != order(name, seed=4, num_epochs=2)
    first, second = two_epochs[:40], two_epochs[40:]
    assert sorted(first) == sorted(second) == sorted(f"b'{i}'" for i in range(40))
    assert first != second
    parts = [order(name, seed=3, shard_info=seqio.ShardInfo(i, 3)) for i in range(3)]
    assert sorted(sum(parts, [])) == sorted(first)


def test_annotated_task(tmp_path):
    path = shards.shard_path(tmp_path / "a", 0, 1, ".tfrecord")
    examples = annotated()
    tfrecords.write(path, examples)
    name = tasks.annotated_task("t_ann", {"train": str(tmp_path / "a")}, VOCABULARY)
    rows = read(name, lengths={"inputs": 16, "targets": 6})
    assert [{k: v.tolist() for k, v in row.items()} for row in rows] == examples
    assert {v.dtype.name for v in rows[0].values()} == {"int32"}


def test_several_unwanted_tokens_at_a_position(tmp_path):
    """From TFRecords to the batch; a record may have none."""
    examples = annotated(2)
    flat = [0, 0, 7, 9, 8, 0, 0, 0]
    path = shards.shard_path(tmp_path / "a", 0, 1, ".tfrecord")
    tfrecords.write(path, [{**examples[0], "negative_token_ids": flat}, examples[1]])
    files = {"train": str(tmp_path / "a")}
    name = tasks.annotated_task("t_ids", files, VOCABULARY, negative_token_ids=2)
    rows = read(name)
    pairs = [[0, 0], [7, 9], [8, 0], [0, 0]]
    assert [row["negative_token_ids"].tolist() for row in rows] == [pairs, [[0, 0]] * 4]
    cut = read(name, lengths={"inputs": 8, "targets": 3})
    assert cut[0]["negative_token_ids"].tolist() == pairs[:3]
    converter = TargetAnnotationsFeatureConverter(pack=False)
    (batch, _) = seqio.get_dataset(name, LENGTHS, converter, shuffle=False)
    assert batch["negative_token_ids"].numpy().tolist() == [*pairs, [0, 0], [0, 0]]


def test_a_position_at_which_everything_is_unwanted(tmp_path):
    """The target that is marked counts, too; padding does not."""
    example, files = annotated(2)[1], {"train": str(tmp_path / "a.tfrecord")}
    size = VOCABULARY.vocab_size
    others = [i for i in range(1, size) if i != 5]
    for place, wrong in ((1, False), (2, True)):  # The second of them is marked.
        ids = [0] * place * len(others) + others + [0] * (3 - place) * len(others)
        tfrecords.write(
            files["train"], [example, {**example, "negative_token_ids": ids}]
        )
        name = f"t_whole_{place}"
        tasks.annotated_task(name, files, VOCABULARY, negative_token_ids=len(others))
        if wrong:
            message = r"a\.tfrecord: record 1, .*_token_ids', has every id .* target 2"
            with pytest.raises(UserError, match=message):
                read(name)
        else:
            assert len(read(name)) == 2
    flags = np.zeros((3, -(-size // 32) * 32), np.uint8)
    flags[1:, 1:size] = 1
    flags[1, 1] = 0  # The end of the sequence.
    packed = np.packbits(flags, axis=1, bitorder="little").view("<u4")
    table = tmp_path / unwanted_sets.FILE
    unwanted_sets.write(tmp_path, packed[:2])
    tasks.annotated_task("t_table", files, VOCABULARY, unwanted_sets=str(table))
    unwanted_sets.write(tmp_path, packed)
    with pytest.raises(UserError, match=r"npz: row 2 has every id of the vocabulary"):
        tasks.annotated_task("t_table", files, VOCABULARY, unwanted_sets=str(table))


def test_unwanted_alternatives_of_a_position(tmp_path):
    """From pairs of position and id, beside further unwanted tokens."""
    examples = annotated(2)
    more = {"unwanted_alternatives": [1, 7, 1, 9, 2, 8], "negative_token_ids": [6] * 4}
    path = shards.shard_path(tmp_path / "a", 0, 1, ".tfrecord")
    tfrecords.write(path, [{**examples[0], **more}, examples[1]])
    files = {"train": str(tmp_path / "a")}
    assert tasks.find_alternatives(files) == 0
    settings = {"alternatives": {"most": 2}}
    json_files.write_json(tmp_path / "settings.json", settings)
    k = tasks.find_alternatives(files)
    name = tasks.annotated_task("t_alts", files, VOCABULARY, alternatives=k)
    pairs = [[0, 0], [7, 9], [8, 0], [0, 0]]
    rows = [row["negative_token_ids"].tolist() for row in read(name)]
    assert rows == [pairs, [[0, 0]] * 4]
    both = dict(alternatives=k, negative_token_ids=1)
    rows = read(tasks.annotated_task("t_both", files, VOCABULARY, **both))
    assert rows[0]["negative_token_ids"].tolist() == [[6, *pair] for pair in pairs]


def test_sets_of_unwanted_tokens(tmp_path):
    """From the table beside the records to the batch; a record may have none."""
    examples = annotated(2)
    path = shards.shard_path(tmp_path / "a", 0, 1, ".tfrecord")
    files = {"train": str(tmp_path / "a")}
    tfrecords.write(path, [{**examples[0], "sets": [1, 0, 2, 1]}, examples[1]])
    assert tasks.find_unwanted_sets(files) is None
    unwanted_sets.write(tmp_path, np.array([[0], [6], [1]], np.uint32))
    table = tasks.find_unwanted_sets(files)
    name = tasks.annotated_task("t_sets", files, VOCABULARY, unwanted_sets=table)
    found = [row["unwanted_sets"].tolist() for row in read(name)]
    assert found == [[1, 0, 2, 1], [0] * 4]
    tfrecords.write(path, [{**examples[0], "sets": [1, 0, 3, 1]}])
    with pytest.raises(UserError, match="'sets', has 3, which is not in"):
        read(name)
    other = tmp_path / "other"
    shutil.copytree(tmp_path, other, ignore=shutil.ignore_patterns("other"))
    both = {**files, "validation": str(other / "a")}
    assert tasks.find_unwanted_sets(both) == table
    unwanted_sets.write(other, np.array([[0], [7]], np.uint32))
    with pytest.raises(UserError, match="must be the same"):
        tasks.find_unwanted_sets(both)
    (other / unwanted_sets.FILE).unlink()
    assert tasks.find_unwanted_sets(both) == table  # By an annotator without sets.
    json_files.write_json(other / "settings.json", {"sets": True})
    with pytest.raises(UserError, match="unwanted_sets.npz is missing"):
        tasks.find_unwanted_sets(both)
    (other / unwanted_sets.FILE).write_bytes(b"no table")
    with pytest.raises(UserError, match="no table of unwanted sets"):
        unwanted_sets.read(other / unwanted_sets.FILE)


def test_the_order_of_annotated_shards_is_fixed_by_the_seed(tmp_path):
    for shard in range(3):
        path = shards.shard_path(tmp_path / "a", shard, 3, ".tfrecord")
        tfrecords.write(path, annotated(30)[10 * shard :][:10])
    name = tasks.annotated_task("t_ann", {"train": str(tmp_path / "a")}, VOCABULARY)
    options = {"lengths": {"inputs": 16, "targets": 6}, "num_epochs": 2}
    first, again, other = (order(name, "inputs", seed=i, **options) for i in (1, 1, 2))
    assert first == again != other
    assert len(set(first)) == 30 and len(first) == 60


def test_what_annotating_has_counted_is_logged(tmp_path, caplog):
    path = tmp_path / "a.tfrecord"
    tfrecords.write(path, annotated(6, length=8))
    counted = {"examples": 6, "examples_with_unwanted": 3, "unwanted_tokens": 3}
    lost = {"dropped_unwanted_tokens": 3, "examples_without_unwanted_left": 3}
    counted["truncation"] = {"feature_lengths": {"targets": 5}, **lost}
    json_files.write_json(tmp_path / "stats.json", counted)
    files = {"train": str(path)}
    name = tasks.annotated_task("t_ann", files, VOCABULARY)
    with pytest.raises(UserError, match="nothing unwanted is .* first 5 ids"):
        read(name, lengths={"inputs": 3, "targets": 5})
    name = tasks.annotated_task("t_ann", files, VOCABULARY, allow_nothing_unwanted=True)
    with caplog.at_level("INFO", logger="absl"):
        rows = read(name, lengths={"inputs": 3, "targets": 5})
    assert "'examples': 6, 'examples_with_unwanted': 3" in caplog.text
    assert "lose 3 of 3 unwanted tokens; 3 examples lose all" in caplog.text
    assert all(len(row["target_annotations"]) == 5 for row in rows)
    # Inputs end with EOS as they did when the model generated.
    assert rows[0]["inputs"].tolist() == [*VOCABULARY.encode("hello 0")[:2], 1]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"targets": [5, 99999, 5, 1]}, "record 1, feature 'targets', has 99999"),
        ({"inputs": [-1]}, "record 1, feature 'inputs', has -1"),
        ({"target_annotations": [0, 2, 0, 0]}, "'target_annotations', has 2"),
        ({"target_annotations": [0]}, "record 1 has 4 targets and 1 target_annot"),
        ({"negative_token_ids": [7] * 7}, "7 negative_token_ids; there must be 2 per"),
        ({"negative_token_ids": [0] * 7 + [100_000]}, "_ids', has 100000, which is"),
        ({"negative_token_ids": [0] * 7 + [-1]}, "_ids', has -1, which is"),
        ({"corrected_targets": [99999, 1]}, "'corrected_targets', has 99999, which"),
        ({"vocabulary": [5]}, "'vocabulary', is another's than the task's"),
    ],
)
def test_wrong_records_are_named(tmp_path, change, message):
    examples = annotated(2)
    examples[1].update(change)
    path = tmp_path / "a.tfrecord"
    tfrecords.write(path, examples)
    options = {"negative_token_ids": 2}
    if "corrected_targets" in change:
        options = {"kind": "corrective"}
    files = {"train": str(path)}
    name = tasks.annotated_task("t_wrong", files, VOCABULARY, **options)
    with pytest.raises(UserError, match=message) as error:
        read(name)
    assert f"{path}: " in str(error.value)


def test_records_of_another_vocabulary_of_equal_size(tmp_path):
    """What is annotated with one is not trained on as the other's."""
    model = sentencepiece_model_pb2.ModelProto.FromString(VOCABULARY.sp_model)
    one, two = model.pieces[300:302]
    one.piece, two.piece = two.piece, one.piece
    (tmp_path / "swapped.model").write_bytes(model.SerializeToString())
    swapped = seqio.SentencePieceVocabulary(str(tmp_path / "swapped.model"))
    assert swapped.vocab_size == VOCABULARY.vocab_size
    path = tmp_path / "a.tfrecord"
    mark = {records.VOCABULARY: [records.vocabulary_mark(VOCABULARY)]}
    tfrecords.write(path, [row | mark for row in annotated(2)])
    files = {"train": str(path)}
    for vocabulary in (VOCABULARY, small_vocabulary(extra_ids=5)):
        assert len(read(tasks.annotated_task("t_same", files, vocabulary))) == 2
    name = tasks.annotated_task("t_other", files, swapped)
    with pytest.raises(UserError, match=r"a\.tfrecord: record 0.*swapped\.model"):
        read(name)


def test_nothing_unwanted_is_trained_on_if_asked_for(tmp_path):
    path = tmp_path / "a.tfrecord"
    rows = [{**row, "target_annotations": [0] * 4} for row in annotated(3)]
    tfrecords.write(path, rows)
    files = {"train": str(path), "validation": str(path)}
    name = tasks.annotated_task("t_clean", files, VOCABULARY)
    with pytest.raises(UserError, match="a.tfrecord: nothing unwanted is marked"):
        read(name)
    assert len(read(name, "validation")) == 3
    for allowed in ({"kind": "filtered"}, {"allow_nothing_unwanted": True}):
        name = tasks.annotated_task("t_clean", files, VOCABULARY, **allowed)
        assert len(read(name)) == 3


def test_files_that_are_no_annotated_tfrecords(tmp_path):
    path = tmp_path / "a.tfrecord"
    for content in (b"not a record", b""):
        path.write_bytes(content)
        name = tasks.annotated_task("t_ann", {"train": str(path)}, VOCABULARY)
        with pytest.raises(UserError, match="not a readable TFRec|no annotated exam"):
            read(name)
    tfrecords.write(path, [{"inputs": [3], "targets": [4]}])
    with pytest.raises(UserError, match="without feature 'target_annotations'"):
        read(tasks.annotated_task("t_ann", {"train": str(path)}, VOCABULARY))
    name = tasks.annotated_task("t_ann2", {"train": str(tmp_path / "b")}, VOCABULARY)
    with pytest.raises(UserError, match="no such file"):
        read(name)


def test_an_empty_generation(tmp_path):
    """A thousand examples, then one alone in what is parsed at once."""
    examples = annotated(1024)
    examples.append({"inputs": [4, 1], "targets": [], "target_annotations": []})
    tfrecords.write(tmp_path / "a.tfrecord", examples)
    files = {"train": str(tmp_path / "a.tfrecord")}
    rows = read(tasks.annotated_task("t_ann", files, VOCABULARY))
    assert len(rows) == 1025 and rows[-1]["targets"].tolist() == []


def test_files_are_checked_once_for_each_of_their_states(tmp_path, monkeypatch):
    checked = []
    look = annotated_records._are_right

    looking = lambda *args: checked.append(args) or look(*args)
    monkeypatch.setattr(annotated_records, "_are_right", looking)
    files = {"train": str(tmp_path / "a.tfrecord")}
    tfrecords.write(tmp_path / "a.tfrecord", annotated(3))
    name = tasks.annotated_task("t_ann", files, VOCABULARY)
    assert len(read(name)) == len(read(name)) == 3 and len(checked) == 1
    assert len(read(name, lengths={"targets": 3})) == 3 and len(checked) == 1
    tfrecords.write(tmp_path / "a.tfrecord", annotated(5))
    assert len(read(name)) == 5 and len(checked) == 2


def test_from_gin(tmp_path):
    import gin

    path = write_text(tmp_path / "train.jsonl")
    config = f"""
    from __gin__ import dynamic_registration
    import seqio
    from t5patches import tasks

    NAME = @tasks.text_task()
    tasks.text_task:
      name = 't_gin'
      files = {json.dumps({"train": path})}
      vocabulary = @seqio.SentencePieceVocabulary()
    seqio.SentencePieceVocabulary.sentencepiece_model_file = \
      '{VOCABULARY.sentencepiece_model_file}'
    """
    with gin.unlock_config():
        gin.parse_config(config.replace("\n    ", "\n"))
        name = gin.query_parameter("NAME/macro.value").scoped_configurable_fn()
        again = gin.query_parameter("NAME/macro.value").scoped_configurable_fn()
    gin.clear_config()
    assert name == again == "t_gin"
    assert len(read("t_gin")) == 10
