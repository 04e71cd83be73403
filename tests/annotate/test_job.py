"""Annotating files: shards, resuming, statistics, and errors that name their place."""

import json
import os

import pytest
from small_vocabulary import small_vocabulary

from t5patches import annotate, records
from t5patches.errors import UserError

VOCABULARY = small_vocabulary()
ANNOTATOR = annotate.PhraseAnnotator(["stupid", "silly old fool"])
TEXTS = [
    "hello stupid world",
    "the news of the day",
    "you silly old fool, you",
    "what a day 🎉",
]


def prediction(text, index):
    ids = records.encode(VOCABULARY, text)
    return {
        "inputs": "talk",
        "prediction": text,
        "target_tokens": ids,
        "id": str(index),
    }


@pytest.fixture
def predictions(tmp_path):
    for shard in range(2):
        rows = [
            prediction(t, 2 * shard + i) for i, t in enumerate(TEXTS[2 * shard :][:2])
        ]
        records.write_jsonl(records.shard_path(tmp_path / "old", shard, 2), rows)
    return tmp_path / "old"


def run(predictions, folder, **options):
    options = {"settings": {"phrases": "a"}, **options}
    return annotate.annotate_files(
        predictions, ANNOTATOR, folder, VOCABULARY, **options
    )


def test_shards_and_statistics(predictions, tmp_path):
    out = tmp_path / "annotated"
    stats = run(predictions, out, feature_lengths={"inputs": 3, "targets": 6})
    rows = list(records.read_annotated(out / "annotated", VOCABULARY))
    assert [row["id"] for row in rows] == ["0", "1", "2", "3"]
    assert rows[0]["annotations"] == [{"start": 6, "end": 12, "label": "stupid"}]
    marked = [
        t
        for t, m in zip(
            *(rows[0][k] for k in ("target_tokens", "target_annotations")), strict=True
        )
        if m
    ]
    assert VOCABULARY.decode(marked).strip() == "stupid"
    unwanted = sum(sum(row["target_annotations"]) for row in rows)
    kept = sum(sum(row["target_annotations"][:6]) for row in rows)
    assert stats == json.loads((out / "stats.json").read_text())
    assert stats["share_with_unwanted"] == 0.5
    assert stats["unwanted_tokens"] == unwanted
    assert stats["annotations_by_label"] == {"stupid": 1, "silly old fool": 1}
    assert stats["truncation"]["dropped_unwanted_tokens"] == unwanted - kept > 0
    assert stats["truncation"]["truncated_inputs"] == 4
    assert stats["written"] == stats["examples"] == 4


def test_tfrecords_hold_the_same_examples(predictions, tmp_path):
    out = tmp_path / "annotated"
    run(predictions, out, only_annotated=True)
    rows = list(records.read_annotated(out / "annotated"))
    examples = [
        example
        for path in records.expand(out / "annotated", ".tfrecord")
        for example in records.read_tfrecords(path)
    ]
    assert [row["id"] for row in rows] == ["0", "2"]
    assert examples == [records.training_features(row, VOCABULARY) for row in rows]
    assert examples[0]["inputs"] == [*VOCABULARY.encode("talk"), 1]
    assert (
        examples[0]["targets"][-1] == 1 and examples[0]["target_annotations"][-1] == 0
    )


def test_complete_shards_are_skipped_and_a_lost_one_is_made_again(
    predictions, tmp_path
):
    out = tmp_path / "annotated"
    first = run(predictions, out)
    shards = [records.shard_path(out / "annotated", i, 2) for i in range(2)]
    before = [os.stat(path).st_mtime_ns for path in shards]
    content = open(shards[1], "rb").read()
    os.remove(shards[1])
    assert run(predictions, out) == first
    assert os.stat(shards[0]).st_mtime_ns == before[0]
    assert open(shards[1], "rb").read() == content


@pytest.mark.parametrize(
    "change", [{"settings": {"phrases": "b"}}, {"only_annotated": True}]
)
def test_other_settings_are_refused(predictions, tmp_path, change):
    out = tmp_path / "annotated"
    run(predictions, out)
    with pytest.raises(UserError, match="made with other settings"):
        run(predictions, out, **change)


def test_a_wrong_line_is_named_and_nothing_half_written_stays(predictions, tmp_path):
    second = records.shard_path(predictions, 1, 2)
    rows = [row for _, row in records.read_jsonl(second)]
    rows[1]["prediction"] = "what a night"
    records.write_jsonl(second, rows)
    out = tmp_path / "annotated"
    with pytest.raises(UserError, match=r"00001-of-00002\.jsonl:2: field 'target_tok"):
        run(predictions, out)
    names = sorted(os.listdir(out))
    assert names == [
        "annotated-00000-of-00002.jsonl",
        "annotated-00000-of-00002.stats.json",
        "annotated-00000-of-00002.tfrecord",
        "settings.json",
    ]


def test_an_annotator_that_returns_nonsense(predictions, tmp_path):
    nonsense = lambda text, inputs: [(3, 500, "x")]
    with pytest.raises(UserError, match=r"jsonl:1: the annotator returned \(3, 500\)"):
        annotate.annotate_files(
            predictions, nonsense, tmp_path / "out", VOCABULARY, settings={}
        )


def test_text_only_lines_of_t5x_are_encoded_flagged_and_counted(tmp_path):
    path = tmp_path / "t5x.jsonl"
    rows = [
        {
            "inputs": {"inputs_pretokenized": "talk"},
            "prediction": "hello  stupid world",
        },
        {
            "inputs": {"inputs_pretokenized": "talk", "id_pretokenized": "b"},
            "prediction": "you",
            "prediction_tokens": records.encode(VOCABULARY, "you"),
        },
    ]
    records.write_jsonl(path, rows)
    stats = run(path, tmp_path / "out")
    first, second = records.read_annotated(tmp_path / "out/annotated", VOCABULARY)
    assert stats["reencoded"] == 1 and stats["examples"] == 2
    assert first["reencoded"] and first["id"] == "0"
    # The vocabulary takes two spaces for one; the annotation sits right all the same.
    assert first["prediction"] == "hello stupid world"
    assert sum(first["target_annotations"]) > 0
    assert "reencoded" not in second and second["id"] == "b"
