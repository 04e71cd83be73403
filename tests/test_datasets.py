"""The paper's data sets as tasks: from TFDS's format, from files, and by name."""

import importlib
import json
import os
import time
import types

import numpy as np
import pyarrow
import pytest
import seqio
import tensorflow as tf
import tensorflow_datasets as tfds
from pyarrow import parquet
from small_vocabulary import small_vocabulary
from t5x import utils

from t5patches import tasks
from t5patches.annotate import phrases
from t5patches.errors import UserError
from t5patches.interchange import json_files, records, tables, tfrecords, vocabularies
from t5patches.tasks import comments, metrics, references

VOCABULARY = small_vocabulary()
LENGTHS = {"inputs": 16, "targets": 8}
TEXT = tfds.features.Text()


@pytest.fixture(autouse=True)
def no_tasks_left_behind():
    before = set(seqio.TaskRegistry.names())
    yield
    for name in set(seqio.TaskRegistry.names()) - before:
        seqio.TaskRegistry.remove(name)
    seqio.set_tfds_data_dir_override(None)
    seqio.utils.LazyTfdsLoader._MEMOIZED_BUILDERS.clear()


def read(name, split="train", lengths=LENGTHS, **options):
    ds = seqio.get_mixture_or_task(name).get_dataset(
        lengths, split, **{"shuffle": False, **options}
    )
    return list(ds.as_numpy_iterator())


def ids(rows):
    return [row["id_pretokenized"].decode() for row in rows]


def articles(split, count):
    texts = [(f"hello world {split} {i}", f"you {i}") for i in range(count)]
    return [{"document": document, "summary": summary} for document, summary in texts]


def make_tfds(folder, name, version, features, splits, config=None):
    """Writes a data set as TFDS has it, of the rows of each split."""

    def column(key, rows):
        dtype = tf.as_dtype(features[key].dtype)
        return tf.ragged.constant([row[key] for row in rows], dtype)

    tfds.dataset_builders.store_as_tfds_dataset(
        name=name,
        version=version,
        config=config,
        features=tfds.features.FeaturesDict(features),
        split_datasets={
            split: tf.data.Dataset.from_tensor_slices(
                {key: column(key, rows) for key in features}
            )
            for split, rows in splits.items()
        },
        data_dir=str(folder),
    )
    seqio.set_tfds_data_dir_override(str(folder))


# ---- XSUM ----


def test_xsum_of_tfds(tmp_path, caplog):
    splits = {name: articles(name, 5) for name in ("train", "validation", "test")}
    make_tfds(tmp_path, "xsum", "1.1.0", dict(document=TEXT, summary=TEXT), splits)
    name = tasks.xsum_task("d_xsum", VOCABULARY, metric_fns=[metrics.rouge])
    with caplog.at_level("WARNING", logger="absl"):
        rows = read(name, "test")
    assert "split test: 5 examples; the paper has 11301" in caplog.text
    # TFDS has shuffled the examples as it wrote them.
    assert ids(rows) == [f"xsum-test.tfrecord-00000-of-00001__{i}" for i in range(5)]
    by_text = {row["inputs_pretokenized"].decode(): row for row in rows}
    for i in range(5):
        row = by_text[f"hello world test {i}"]
        assert row["targets"].tolist() == [*VOCABULARY.encode(f"you {i}"), 1][:8]
    # The id stays with the text in another order and in shards.
    again = read(name, "test", shuffle=True, seed=1)
    shards = [read(name, "test", shard_info=seqio.ShardInfo(i, 2)) for i in range(2)]
    pairs = lambda rows: {x["id_pretokenized"]: x["inputs_pretokenized"] for x in rows}
    assert pairs(again) == pairs(sum(shards, [])) == pairs(rows)


class Unreachable(tfds.core.GeneratorBasedBuilder):
    """A data set whose download nobody answers."""

    VERSION = tfds.core.Version("1.0.0")

    def _info(self):
        return self.dataset_info_from_configs(
            features=tfds.features.FeaturesDict({"document": TEXT, "summary": TEXT})
        )

    def _split_generators(self, manager):
        return {"train": self._generate_examples(manager.download("http://[::1]:9/x"))}

    def _generate_examples(self, path):
        yield from ()


def test_a_data_set_that_tfds_does_not_have_and_cannot_reach(tmp_path):
    seqio.set_tfds_data_dir_override(str(tmp_path))
    name = tasks.xsum_task("d_xsum", VOCABULARY, tfds_name="unreachable:1.0.0")
    start = time.monotonic()
    with pytest.raises(UserError, match=r"has no unreachable:1.0.0 .*Max retries.*own"):
        read(name)
    assert time.monotonic() - start < 30  # With TFDS's ten attempts, 204 s.


@pytest.mark.parametrize("suffix", [".jsonl", ".parquet"])
def test_xsum_of_files(tmp_path, suffix, caplog):
    rows = [{**row, "id": f"x{i}"} for i, row in enumerate(articles("train", 3))]
    path = tmp_path / f"train{suffix}"
    if suffix == ".jsonl":
        json_files.write_jsonl(path, rows)
    else:
        parquet.write_table(pyarrow.Table.from_pylist(rows), path)
    name = tasks.xsum_task("d_xsum", VOCABULARY, {"train": str(path)})
    with caplog.at_level("WARNING", logger="absl"):
        found = read(name)
    assert ids(found) == ["x0", "x1", "x2"]
    assert found[1]["inputs_pretokenized"] == b"hello world train 1"
    assert "split train: 3 examples; the paper has 203577" in caplog.text


@pytest.mark.parametrize("wrong", ["all", "bytes", "text"])
def test_a_damaged_parquet_file(tmp_path, wrong):
    path = tmp_path / "train.parquet"
    if wrong == "all":
        path.write_bytes(b"PAR1 and nothing more")
    elif wrong == "text":
        raw = pyarrow.array([b"caf\xe9"]).cast(pyarrow.binary())
        column = pyarrow.Array.from_buffers(pyarrow.string(), 1, raw.buffers())
        parquet.write_table(pyarrow.table({"text": column}), path)
    else:
        rows = [{"text": f"word {i} " * 9} for i in range(999)]
        parquet.write_table(pyarrow.Table.from_pylist(rows), path)
        content = bytearray(path.read_bytes())
        middle = len(content) // 2
        content[:middle] = [byte ^ 0xFF for byte in content[:middle]]
        path.write_bytes(bytes(content))
    with pytest.raises(UserError, match=r"train\.parquet: not a readable Parquet"):
        list(tables.read_rows(str(path)))


# ---- Civil Comments ----


def posts(count=300):
    return [
        {
            "text": " ".join(f"w{j}" for j in range(i % 12 + 1)) + f" end{i}",
            "id": str(10_000 + i),
            "toxicity": (i % 11) / 10,
        }
        for i in range(count)
    ]


LIMITS = dict(min_words=4, max_words=10, min_toxicity=0.3, max_toxicity=0.8)


def comments_task(name, path, rows=None, **options):
    """Registers the comments of a file, perhaps written first."""
    if rows is not None:
        json_files.write_jsonl(path, rows)
    return tasks.civil_comments_task(name, VOCABULARY, str(path), **options)


def test_civil_comments_in_splits_of_their_own(tmp_path, caplog):
    rows, path = posts(), tmp_path / "comments.jsonl"
    name = comments_task("d_comments", path, rows, **LIMITS)
    with caplog.at_level("WARNING", logger="absl"):
        found = {split: ids(read(name, split)) for split in comments.SPLITS}
    assert "the paper has 175754" in caplog.text
    together = sum(found.values(), [])
    assert len(together) == len(set(together))
    assert set(together) == {
        row["id"]
        for row in rows
        if 4 <= len(row["text"].split()) <= 10 and 0.25 < row["toxicity"] < 0.85
    }
    share = len(found["train"]) / len(together)
    assert 0.7 < share < 0.9 and found["validation"] and found["test"]
    # Other comments, another order: every comment stays in its split.
    json_files.write_jsonl(path, posts(400)[::-1])
    after = {split: ids(read(name, split)) for split in comments.SPLITS}
    assert all(set(found[split]) <= set(after[split]) for split in comments.SPLITS)
    shuffled = ids(read(name, "train", shuffle=True, seed=0))
    assert shuffled != after["train"] and sorted(shuffled) == sorted(after["train"])


def test_civil_comments_of_tfds_are_those_of_files(tmp_path):
    rows = posts()
    features = dict(text=TEXT, id=TEXT, toxicity=tfds.features.Scalar(np.float32))
    splits = {"train": rows[:200], "validation": rows[200:250], "test": rows[250:]}
    make_tfds(tmp_path, "civil_comments", "1.2.4", features, splits, "CivilComments")
    served = tasks.civil_comments_task("d_tfds", VOCABULARY, **LIMITS)
    own = comments_task("d_files", tmp_path / "comments.jsonl", rows, **LIMITS)
    texts = lambda rows: {x["id_pretokenized"]: x["targets_pretokenized"] for x in rows}
    for split in comments.SPLITS:
        assert texts(read(own, split)) == texts(read(served, split))


def test_comments_without_ids_or_toxicity(tmp_path):
    path = tmp_path / "comments.csv"
    texts = [" ".join(f"w{i + j}" for j in range(9)) for i in range(60)]
    path.write_text("text\n" + "\n".join(texts) + "\n")
    name = comments_task("d_misspelt", path)
    with pytest.raises(UserError, match=r":2: field 'toxicity' is missing"):
        read(name)
    name = comments_task("d_comments", path, toxicity_key=None)
    found = {
        split: {row["inputs_pretokenized"] for row in read(name, split)}
        for split in comments.SPLITS
    }
    path.write_text("text\n" + "\n".join(texts[::-1]) + "\n")
    for split, before in found.items():
        assert before == {row["inputs_pretokenized"] for row in read(name, split)}
    assert sum(map(len, found.values())) == 60


@pytest.mark.parametrize(
    ("share", "inputs", "targets"),
    [(0.5, b"a b", b"c d e"), (0.9, b"a b c d", b"e"), (0.01, b"a", b"b c d e")],
)
def test_comments_are_cut_between_words(share, inputs, targets):
    ds = tf.data.Dataset.from_tensors({"text": " a b\tc\nd  e", "id_pretokenized": "1"})
    (row,) = comments.cut_in_two(share)(ds).as_numpy_iterator()
    assert (row["inputs"], row["targets"]) == (inputs, targets)


def test_limits_that_leave_nothing(tmp_path):
    path = tmp_path / "comments.jsonl"
    name = comments_task("d_comments", path, posts(30), min_words=100)
    with pytest.raises(UserError, match="no comment for split 'train' is within"):
        read(name)
    with pytest.raises(UserError, match="prefix_share must be between 0 and 1"):
        comments_task("d_x", "x", prefix_share=1.5)
    for wrong in ("x", None, float("nan")):
        json_files.write_jsonl(path, [{"text": "a", "toxicity": wrong}])
        name = comments_task("d_x", path)
        with pytest.raises(UserError, match=r":1: field 'toxicity' must be a number"):
            read(name)


# ---- Toxic spans ----

SPANS = [
    {"text": "you stupid fool", "spans": [4, 5, 6, 7, 8, 9]},
    {"text": "a  café 🎉 idiot", "spans": [8, 9, 10, 11, 12, 13, 14]},
    {"text": "the day", "spans": []},
]


@pytest.mark.parametrize("vocabulary", [VOCABULARY, seqio.ByteVocabulary()])
def test_marked_offsets_are_covered_and_no_others(vocabulary):
    for row in SPANS:
        text, offsets = row["text"], row["spans"]
        found, marks = comments.mark_offsets(text, offsets, vocabulary)
        assert found == records.encode(vocabulary, text) and len(marks) == len(found)
        marked = [i for i, mark in zip(found, marks, strict=True) if mark]
        wanted = "".join(text[i] for i in offsets)
        decoded = vocabulary.decode(marked)
        assert "".join(decoded.split()) == "".join(wanted.split())


def test_a_space_put_in_front_is_not_marked():
    # All four bytes of the emoji, and not the space before it; EOS.
    assert comments.mark_offsets("😀", [0], VOCABULARY)[1] == [0, 1, 1, 1, 1, 0]
    assert comments.mark_offsets("😀 é", [2], VOCABULARY)[1][:5] == [0] * 5


@pytest.mark.parametrize("kind", ["tfds", "csv", "jsonl"])
def test_spans_task(tmp_path, kind):
    files = None
    if kind == "tfds":
        offsets = tfds.features.Tensor(shape=(None,), dtype=np.int32)
        features = dict(text=TEXT, id=TEXT, spans=offsets)
        rows = [{**row, "id": str(i)} for i, row in enumerate(SPANS)]
        splits = {split: rows for split in ("train", "validation", "test")}
        config = "CivilCommentsToxicSpans"
        make_tfds(tmp_path, "civil_comments", "1.2.4", features, splits, config)
    elif kind == "csv":
        lines = [f'"{row["spans"]}","{row["text"]}"\n' for row in SPANS]
        (tmp_path / "t.csv").write_text("spans,text\n" + "".join(lines))
        files = {"train": str(tmp_path / "t.csv")}
    else:
        json_files.write_jsonl(tmp_path / "t.jsonl", SPANS)
        files = {"train": str(tmp_path / "t.jsonl")}
    name = tasks.civil_comments_spans_task("d_spans", VOCABULARY, files)
    rows = read(name, lengths={k: 64 for k in ("inputs", "targets")})
    by_text = {row["targets_pretokenized"].decode(): row for row in rows}
    for row in SPANS:
        found, marks = comments.mark_offsets(row["text"], row["spans"], VOCABULARY)
        assert by_text[row["text"]]["targets"].tolist() == found
        assert by_text[row["text"]]["target_annotations"].tolist() == marks
        assert by_text[row["text"]]["inputs"].tolist() == [1]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('"[1, 99]",abc', "has offset 99, outside the 3 characters"),
        ('"[1, x]",abc', "must be a list of character offsets"),
        ("1,abc", "must be a list of character offsets"),
    ],
)
def test_wrong_spans_are_named(tmp_path, line, message):
    (tmp_path / "t.csv").write_text(f"spans,text\n[],ok\n{line}\n")
    files = {"train": str(tmp_path / "t.csv")}
    name = tasks.civil_comments_spans_task("d_spans", VOCABULARY, files)
    with pytest.raises(UserError, match=rf"t\.csv:3: field 'spans' {message}"):
        read(name)


# ---- Annotated generations and their baselines ----


def annotated_files(folder, corrections=False):
    rows = [
        {
            "inputs": "hello",
            "target_tokens": [5, 6 + i, 7, 1],
            "target_annotations": [0, i % 2, 0, 0],
            **({"corrected": "the day"} if corrections and i == 1 else {}),
        }
        for i in range(4)
    ]
    features = [records.training_features(row, VOCABULARY) for row in rows]
    tfrecords.write(folder / "a.tfrecord", features)
    return {"train": str(folder / "a.tfrecord")}


def test_the_baselines_over_annotated_generations(tmp_path):
    files, task = annotated_files(tmp_path), tasks.annotated_task
    filtered = read(task("d_filtered", files, VOCABULARY, kind="filtered"))
    assert [row["targets"].tolist() for row in filtered] == [[5, 6, 7, 1], [5, 8, 7, 1]]
    assert set(filtered[0]) == {"inputs", "targets"}
    corrected = read(task("d_corrective", files, VOCABULARY, kind="corrective"))
    assert [row["targets"].tolist() for row in corrected] == [
        *([5, 6, 7, 1], [5, 7, 1], [5, 8, 7, 1], [5, 7, 1])
    ]
    files = annotated_files(tmp_path, corrections=True)
    rows = read(task("d_negative", files, VOCABULARY, kind="negative"))
    assert [row["negative_targets"].tolist() for row in rows] == [
        [5, 6 + i, 7, 1] for i in range(4)
    ]
    given = [*VOCABULARY.encode("the day"), 1][:8]
    assert [row["corrected_targets"].tolist() for row in rows] == [
        *([5, 6, 7, 1], given, [5, 8, 7, 1], [5, 7, 1])
    ]


def test_baselines_without_an_example(tmp_path):
    marked = {"inputs": [4, 1], "targets": [5, 1], "target_annotations": [1, 0]}
    tfrecords.write(tmp_path / "a.tfrecord", [marked])
    files = {"train": str(tmp_path / "a.tfrecord")}
    for kind in ("filtered", "corrective"):  # But for an EOS.
        name = tasks.annotated_task("d_nothing_left", files, VOCABULARY, kind=kind)
        with pytest.raises(UserError, match="every example has something unwanted"):
            read(name)


def write_raw(path, *changed):
    """Writes ten records; `changed` stands in place of those from number 3 on."""
    ids = {"inputs": [1], "targets": [1], "target_annotations": [0]}
    whole = tfrecords.example_bytes(ids)
    with tf.io.TFRecordWriter(str(path)) as writer:
        for raw in [*[whole] * 3, *changed, *[whole] * (7 - len(changed))]:
            writer.write(raw)


def read_raw(path):
    return read(tasks.annotated_task("d_raw", {"train": str(path)}, VOCABULARY))


def typed_otherwise(**kind):
    example = tf.train.Example()
    for name in ("inputs", "target_annotations"):
        example.features.feature[name].int64_list.value.append(0)
    example.features.feature["targets"].CopyFrom(tf.train.Feature(**kind))
    return example.SerializeToString()


FLOATS = tf.train.FloatList(value=[1.0])
BYTES = tf.train.BytesList(value=[b"x"])


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        (typed_otherwise(float_list=FLOATS), "record 3, feature 'targets', is a float"),
        (typed_otherwise(bytes_list=BYTES), "record 3, feature 'targets', is a bytes"),
        (b"\xff\xff\xffhello", "record 3 is not a readable TFRecord example"),
    ],
    ids=["floats", "texts", "no example"],
)
def test_a_record_that_is_no_example_of_ids(tmp_path, changed, message):
    write_raw(tmp_path / "a.tfrecord", changed)
    with pytest.raises(UserError, match=f"a.tfrecord: {message}"):
        read_raw(tmp_path / "a.tfrecord")


@pytest.mark.parametrize("end", [b"", b"0" * 20], ids=["truncated", "corrupted"])
def test_a_damaged_tfrecord(tmp_path, end):
    path = tmp_path / "a.tfrecord"
    write_raw(path)
    path.write_bytes(path.read_bytes()[:-20] + end)
    what = "corrupted" if end else "truncated"
    with pytest.raises(UserError, match=f"after 9 records, {what} record") as error:
        read_raw(path)
    assert "{{" not in str(error.value) and "[Op" not in str(error.value)


def test_a_tfrecord_that_is_broken_off_in_the_head_of_a_record(tmp_path):
    path = tmp_path / "a.tfrecord"
    write_raw(path)
    path.write_bytes(path.read_bytes() + b"1234")
    with pytest.raises(UserError, match=r"a.tfrecord: is broken off after 10 records"):
        read_raw(path)


@pytest.mark.parametrize(
    "stats", [{}, {"truncation": {}, "unwanted_tokens": 1}, {"truncation": 1}]
)
def test_counts_of_another(tmp_path, stats):
    files = annotated_files(tmp_path)
    json_files.write_json(tmp_path / "stats.json", stats)
    name = tasks.annotated_task("d_counts", files, VOCABULARY)
    with pytest.raises(UserError, match=r"stats.json: '\w+' is .*; remove it"):
        read(name)


@pytest.mark.parametrize(
    ("content", "output", "message"),
    [
        ("id,inputs,targets\n1,a,b\n", "own.csv", "own.csv: is read; give another"),
        ("id,inputs,targets\n1,a,b\n1,c,d\n", "out", "own.csv:3: id '1' occurs twice"),
        ("inputs,targets\n", "out", "own.csv: no rows in it"),
        ("inputs,targets\na,b\n", "own.csv/x", "own.csv: File exists, but no folder"),
    ],
)
def test_wrong_references(tmp_path, monkeypatch, content, output, message, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "own.csv").write_text(content)
    assert references.main(["--data", "own.csv", "--output", output]) == 2
    assert f"error: {message}" in capsys.readouterr().err
    assert os.listdir() == ["own.csv"]
    assert (tmp_path / "own.csv").read_text() == content


# ---- SeqIO's cache, T5X's module, metrics ----


def cache(name, split, folder):
    """What `seqio_cache_tasks` writes for a split, without Beam."""
    task = seqio.get_mixture_or_task(name)
    ds = task.preprocess_precache(task.source.get_dataset(split, shuffle=False))
    rows = list(ds.as_numpy_iterator())
    target = folder / name
    target.mkdir(parents=True, exist_ok=True)
    with tf.io.TFRecordWriter(str(target / f"{split}.tfrecord-00000-of-00001")) as file:
        for row in rows:
            file.write(seqio.utils.dict_to_tfexample(row).SerializeToString())
    (target / f"stats.{split}.json").write_text(json.dumps({"examples": len(rows)}))
    features = {
        key: {"shape": list(spec.shape), "dtype": spec.dtype.name}
        for key, spec in ds.element_spec.items()
    }
    info = {"num_shards": 1, "features": features, "seqio_version": "0.0.20"}
    (target / f"info.{split}.json").write_text(json.dumps(info))
    (target / "COMPLETED").write_text("")


def test_cached_tasks_give_what_the_sources_give(tmp_path, monkeypatch):
    json_files.write_jsonl(tmp_path / "train.jsonl", articles("train", 12))
    names = [
        tasks.xsum_task("d_text", VOCABULARY, {"train": str(tmp_path / "train.jsonl")}),
        tasks.annotated_task("d_ann", annotated_files(tmp_path), VOCABULARY),
    ]
    folder = tmp_path / "cache"
    monkeypatch.setattr(seqio.utils, "_GLOBAL_CACHE_DIRECTORIES", [str(folder)])
    expected = {}
    for name in names:
        cache(name, "train", folder)
        expected[name] = plain(read(name))
    for source in ("train.jsonl", "a.tfrecord"):  # Only the cache is there from now on.
        (tmp_path / source).unlink()
    for name, rows in expected.items():
        assert plain(read(name, use_cached=True)) == rows
        shuffled = plain(read(name, use_cached=True, shuffle=True, seed=0))
        assert shuffled != rows and sorted(shuffled, key=str) == sorted(rows, key=str)


def plain(rows):
    return [
        {k: v.tolist() if isinstance(v, np.ndarray) else v for k, v in row.items()}
        for row in rows
    ]


def test_names_for_t5x_mixture_or_task_module():
    module = importlib.reload(importlib.import_module("t5patches.tasks.public"))
    names = {"xsum", "civil_comments", "civil_comments_spans"}
    assert names <= set(seqio.TaskRegistry.names())
    features = seqio.get_mixture_or_task("xsum").output_features
    assert features["inputs"].vocabulary == module.VOCABULARY


def test_a_vocabulary_is_its_pieces_not_its_path(tmp_path):
    """A task of one's own module may spell the path of the model's file otherwise."""
    copy = tmp_path / "copy.model"
    copy.write_bytes(VOCABULARY.sp_model)
    mine = vocabularies.SentencePieceVocabulary(str(copy))
    json_files.write_jsonl(tmp_path / "a.jsonl", [{"inputs": "a", "targets": "b"}])
    name = tasks.text_task("d_own", {"train": str(tmp_path / "a.jsonl")}, VOCABULARY)
    cfg = utils.DatasetConfig(name, LENGTHS, "train", 1, False, None)
    model = types.SimpleNamespace(input_vocabulary=mine, output_vocabulary=mine)
    utils.verify_matching_vocabs(cfg, model)
    other = vocabularies.SentencePieceVocabulary(
        small_vocabulary(byte_fallback=False).sentencepiece_model_file
    )
    model = types.SimpleNamespace(input_vocabulary=mine, output_vocabulary=other)
    with pytest.raises(ValueError, match="vocabularies"):
        utils.verify_matching_vocabs(cfg, model)
    assert mine != seqio.ByteVocabulary()


def test_metrics(tmp_path):
    wanted, outputs = ["the cat sat", "a day"], ["the cat sat", "fool you"]
    scores = metrics.rouge(wanted, outputs)
    assert scores["rouge1"] == scores["rougeLsum"] == 50
    assert metrics.exact_match(wanted, outputs) == {"exact_match": 0.5}
    (tmp_path / "unwanted.txt").write_text("fool\n")
    metric = metrics.prevalence(phrases.load(tmp_path / "unwanted.txt"))
    assert metric(wanted, outputs) == {"unwanted_prevalence": 0.5}
    json_files.write_jsonl(tmp_path / "t.jsonl", [{"inputs": "a", "targets": "b"}])
    files = {"test": str(tmp_path / "t.jsonl")}
    fns = [metrics.rouge, metrics.exact_match, metric]
    name = tasks.text_task("d_metrics", files, VOCABULARY, metric_fns=fns)
    assert len(seqio.get_mixture_or_task(name).metric_objs) == 3
