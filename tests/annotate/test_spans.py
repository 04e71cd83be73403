"""What people have marked: files of spans, and what is wrong with them."""

import json
import pickle

import annotate_toy
import pyarrow
import pyarrow.parquet
import pytest
import seqio
from small_vocabulary import small_vocabulary

from t5patches import annotate, evaluate
from t5patches.annotate import spans
from t5patches.errors import UserError
from t5patches.interchange import json_files, records

BYTES = seqio.ByteVocabulary()
TEXTS = {"a": "you silly fool", "7": "good news, sir", "c": "hm"}
EXPECTED = {
    "a": [("silly", "rude"), ("fool", "unwanted")],
    "7": [("news", "unwanted")],
    "c": [],
}
ROWS = [
    {"id": "a", "start": 10, "end": 14, "label": None, "marked": "fool"},
    {"id": "7", "start": 5, "end": 9},
    {"id": "a", "start": 4, "end": 9, "label": "rude", "marked": None},
    {"id": "a", "start": 4, "end": 9, "label": "rude", "marked": "silly"},
]
LISTS = [
    {"id": "a", "spans": [{"start": 10, "end": 14, "label": ""}, dict(ROWS[2])]},
    {"id": "7", "spans": [{"start": 5, "end": 9, "marked": "news"}]},
    {"id": "c", "spans": []},
]
PAIRS = [{"id": 7, "spans": [[5, 9]]}, *LISTS[::2]]
CSV = "start,id,end,label,marked\n10,a,14,,fool\n5,7,9,,\n4,a,9,rude,\n"
_CELL = json.dumps(LISTS[0]["spans"]).replace('"', '""')
CSV_LISTS = f'id,spans\n7,"[[5, 9]]"\na,"{_CELL}"\n'


def write(path, content):
    if path.suffix == ".parquet":
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(content), path)
    elif isinstance(content, str):
        path.write_text(content)
    else:
        json_files.write_jsonl(path, content)
    return path


@pytest.fixture
def predictions(tmp_path):
    rows = [annotate_toy.prediction(BYTES, text, n) for n, text in TEXTS.items()]
    return write(tmp_path / "old.jsonl", rows)


def run(predictions, folder, content, name="spans.jsonl", **options):
    """Returns the marked texts by id."""
    annotator = spans.SpanAnnotator(write(predictions.parent / name, content))
    annotator = options.pop("send", lambda it: it)(annotator)
    vocabulary = options.pop("vocabulary", BYTES)
    annotate.annotate_files(predictions, annotator, folder, vocabulary, **options)
    return {
        row["id"]: [
            (row["prediction"][s["start"] : s["end"]], s["label"])
            for s in row["annotations"]
        ]
        for row in records.read_annotated(folder / "annotated")
    }


@pytest.mark.parametrize(
    ("suffix", "content"),
    [
        (".jsonl", ROWS),
        (".jsonl", LISTS),
        (".jsonl", PAIRS),
        (".csv", CSV),
        (".csv", CSV_LISTS),
        (".parquet", ROWS),
        (".parquet", LISTS),
    ],
)
def test_forms_of_a_file(predictions, tmp_path, suffix, content):
    found = run(predictions, tmp_path / "out", content, f"spans{suffix}")
    assert found == EXPECTED


def test_it_goes_to_other_processes(predictions, tmp_path):
    send = lambda annotator: pickle.loads(pickle.dumps(annotator))
    assert run(predictions, tmp_path / "out", ROWS, send=send) == EXPECTED


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"id": "b"}, "1: field 'id': no prediction has the id 'b'"),
        ({"id": None}, "1: field 'id' is missing or empty"),
        ({"id": 1.5}, "1: field 'id' must be a text or a whole number"),
        ({"end": 15}, "1: field 'end' is 15, outside the 14 characters of prediction"),
        ({"end": 10}, "1: field 'end' is 10, not after 'start', 10"),
        ({"start": -1}, "1: field 'start' must be a whole number from 0, not -1"),
        ({"start": 1.0}, "1: field 'start' must be a whole number from 0, not 1.0"),
        ({"start": "1 "}, "1: field 'marked' is 'fool', but characters 1 to 14"),
        ({"start": True}, "1: field 'start' must be a whole number"),
        ({"label": 3}, "1: field 'label' must be text, not int"),
        ({"marked": "foo"}, "1: field 'marked' is 'foo', but characters 10 to 14 of"),
        ({"spans": "[[0, 1]"}, "1: field 'spans' must be a list of [start, end] or"),
        ({"spans": [[0, 1, 2]]}, "1: spans[0] must be [start, end] or"),
        ({"spans": [[0, 1], [0]]}, "1: spans[1] must be [start, end] or"),
        ({"spans": [{"start": 2}]}, "1: spans[0]: field 'end' is missing"),
        ({"spans": [[0, 99]]}, "1: spans[0]: field 'end' is 99, outside the 14"),
    ],
)
def test_wrong_rows_are_named(predictions, tmp_path, row, message):
    with pytest.raises(UserError) as caught:
        run(predictions, tmp_path / "out", [{**ROWS[0], **row}])
    assert f"{tmp_path}/spans.jsonl:{message}" in str(caught.value)
    assert not (tmp_path / "out/stats.json").exists()


def test_no_span_at_all(predictions, tmp_path):
    with pytest.raises(UserError, match=r"spans\.jsonl: no spans in it"):
        run(predictions, tmp_path / "out", "")


def test_wrong_rows_can_be_skipped(predictions, tmp_path):
    rows = [*ROWS, {"id": "b", "start": 0, "end": 1}, {"id": "c", "start": 0, "end": 9}]
    found = run(predictions, tmp_path / "out", rows, on_error="skip")
    assert found == {key: EXPECTED[key] for key in ("a", "7")}
    first, second = (tmp_path / "out/skipped.txt").read_text().splitlines()
    assert "spans.jsonl:5: field 'id'" in first
    assert "old.jsonl:3: " in second and "spans.jsonl:6: field 'end'" in second


def test_another_file_is_another_annotation(predictions, tmp_path):
    """A folder is of one file; but old and new outputs have a file each."""
    run(predictions, tmp_path / "out", ROWS)
    with pytest.raises(UserError, match="spans"):
        run(predictions, tmp_path / "out", ROWS[:1])
    run(predictions, tmp_path / "new", ROWS[:1])
    results, _ = evaluate.evaluate_files(
        tmp_path / "out/annotated", tmp_path / "new/annotated", None
    )
    assert results["prevalence"] == {"before": 2 / 3, "after": 1 / 3}


def test_spans_of_a_text_that_encoding_changes(tmp_path):
    """They are of the text as it was given: here the vocabulary has no backslash."""
    text = r"a \silly\ day you  fool"
    row = {"id": "a", "inputs": "talk", "prediction": text}
    places = [
        (text.index(word), text.index(word) + len(word), word)
        for word in ("silly", "fool", "\\ ", "day")
    ]
    rows = [{"id": "a", "start": s, "end": e, "marked": m} for s, e, m in places]
    predictions = write(tmp_path / "old.jsonl", [row])
    found = run(predictions, tmp_path / "out", rows, vocabulary=small_vocabulary())
    words = [word for word, _ in found["a"]]
    assert {"silly", "fool", "day"} < {*words} and len(words) == 4
