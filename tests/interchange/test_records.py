"""The interchange files: what is read, refused and written, and how."""

import gzip
import json
import subprocess
import sys

import pytest
import tfrecord_rows
from small_vocabulary import small_vocabulary

from t5patches.errors import UserError
from t5patches.interchange import claims, json_files, records, shards, tfrecords

VOCABULARY = small_vocabulary(extra_ids=10)
GOOD = {"inputs": "a", "prediction": "you", "target_tokens": [5, 1], "id": "7"}
ANNOTATED = {
    **GOOD,
    "annotations": [{"start": 0, "end": 3, "label": "x"}],
    "target_annotations": [1, 0],
}


def write(path, *lines):
    path.write_text("".join(line + "\n" for line in lines), encoding="utf-8")
    return path


def write_shards(prefix, count, rows, indices=None):
    """Writes a shard for each row; returns the paths."""
    paths = [shards.shard_path(prefix, index, count) for index in range(count)]
    for index in range(count) if indices is None else indices:
        json_files.write_jsonl(paths[index], [rows[index]])
    return paths


def test_predictions_round_trip(tmp_path):
    rows = [{**GOOD, "prediction": "🎉 \u2028 <é>", "note": 1}, {**GOOD, "id": "8"}]
    both = write_shards(tmp_path / "p", 2, rows)
    for spec in (tmp_path / "p", str(tmp_path / "p-*.jsonl"), both):
        assert list(records.read_predictions(spec)) == rows
    assert list(records.read_predictions(both, VOCABULARY)) == rows


def span(start, end, **more):
    return {"annotations": [{"start": start, "end": end, **more}]}


ABSENT = object()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"inputs": ABSENT}, "field 'inputs'"),
        ({"prediction": ABSENT}, "field 'prediction'"),
        ({"id": ABSENT}, "field 'id'"),
        ({"inputs": None}, "field 'inputs' must be text, not NoneType"),
        ({"prediction": 3}, "field 'prediction' must be text, not int"),
        ({"prediction": "a\ud83d"}, "field 'prediction' has half of a surrogate pair"),
        ({"id": ""}, "field 'id' must be a text or a whole number"),
        ({"id": True}, "field 'id' must be"),
        ({"target_tokens": "5 1"}, "field 'target_tokens' must be a list of ids"),
        ({"target_tokens": [5, 1.0]}, "field 'target_tokens' must be a list of ids"),
        ({"target_tokens": [5, -1]}, "has id -1, outside the vocabulary"),
        ({"target_tokens": [99999]}, "has id 99999, outside the vocabulary of"),
        ({"target_tokens": [1, 5]}, r"goes on after EOS \(id 1\)"),
        ({"target_tokens": [0, 5, 1]}, "'target_tokens' begins with padding"),
        ({"inputs": {}}, "field 'inputs' has no 'inputs_pretokenized'"),
        ({"annotations": None}, "field 'annotations' must be a list"),
        (span(0, 4, label="x"), "start 0 and end 4 are"),
        (span(2, 2, label="x"), "start 2 and end 2 are"),
        (span(False, 1, label="x"), "start False and end 1 are"),
        (span(0, 1), r"annotations\[0\]: must be"),
        ({"target_annotations": [1, 2]}, "must be a list of 0 and 1"),
        ({"target_annotations": [True, 0]}, "must be a list of 0 and 1"),
        ({"target_annotations": [1]}, "has 1 values for 2 ids"),
        ({"corrected": 3}, "field 'corrected' must be text"),
    ],
)
def test_a_wrong_field_is_named(tmp_path, change, message):
    wrong = {
        k: v for k, v in {**ANNOTATED, "id": "8", **change}.items() if v is not ABSENT
    }
    path = write(tmp_path / "p.jsonl", *map(json.dumps, (ANNOTATED, wrong)))
    with pytest.raises(UserError, match=rf"p\.jsonl:2: .*{message}"):
        list(records.read_annotated(path, VOCABULARY))


def test_ids_of_the_padded_vocabulary_are_legal(tmp_path):
    limit = records.max_vocabulary_size(VOCABULARY)
    assert limit % 128 == 0 and VOCABULARY.vocab_size < limit
    row = {**GOOD, "target_tokens": [limit - 1, 1]}
    path = write(tmp_path / "p.jsonl", json.dumps(row))
    assert list(records.read_predictions(path, VOCABULARY)) == [row]


def test_nothing_to_read(tmp_path):
    with pytest.raises(UserError, match=r"p\.jsonl: no such file"):
        list(records.read_predictions(tmp_path / "p.jsonl"))
    write_shards(tmp_path / "q", 3, [GOOD] * 3, indices=(0, 2))
    with pytest.raises(UserError, match=r"q-00001-of-00003\.jsonl: shard is missing"):
        list(records.read_predictions(tmp_path / "q"))


def test_t5x_inference_lines(tmp_path):
    text_only = {"inputs": {"inputs_pretokenized": "a"}, "prediction": "you"}
    tokens = [*VOCABULARY.encode("you"), 1, 4]
    lines = [text_only, {**text_only, "prediction_tokens": tokens}]
    path = write(tmp_path / "t5x.jsonl", *map(json.dumps, lines))
    expected = {"inputs": "a", "prediction": "you"}
    ids = records.encode(VOCABULARY, "you")
    _, second = records.read_predictions(path, VOCABULARY)
    assert second == {**expected, "target_tokens": ids, "id": "1"}
    first, _ = records.read_predictions(path)  # Without a vocabulary.
    assert first == {**expected, "id": "0"}
    scored = {"inputs": text_only["inputs"], "score": 1}
    path = write(tmp_path / "s.jsonl", json.dumps(scored))
    with pytest.raises(UserError, match=r"s\.jsonl:1: field 'prediction' is missing"):
        list(records.read_predictions(path))


def test_a_failed_write_leaves_what_was_there(tmp_path):
    path = tmp_path / "folder" / "p.jsonl"
    json_files.write_jsonl(path, [GOOD])

    def rows():
        yield GOOD
        raise RuntimeError("power cut")

    with pytest.raises(RuntimeError):
        json_files.write_jsonl(path, rows())
    assert [row for _, row in json_files.read_jsonl(path)] == [GOOD]
    assert [p.name for p in path.parent.iterdir()] == ["p.jsonl"]


def test_claims(tmp_path):
    folder = tmp_path / "out"
    claims.claim(folder, {"a": 0})  # Of a step that made nothing: it does not bind.
    claims.claim(folder, {"a": (1, 2), "b": "x"}, results=("*.jsonl",))
    write(folder / "p.jsonl", json.dumps(GOOD))
    claims.claim(folder, {"a": [1, 2], "b": "x"})
    with pytest.raises(UserError, match="b was 'x', now 'y'"):
        claims.claim(folder, {"a": [1, 2], "b": "y"})
    claims.claim(folder, {"b": "y"}, results=("*.csv",), name="other.settings.json")
    with pytest.raises(UserError, match=r"has p\.jsonl, but no third\.json"):
        claims.claim(folder, {}, results=("*.jsonl",), name="third.json")


def test_marks(tmp_path):
    unit, source = tmp_path / "p-00000-of-00001", {"input": "abc"}
    assert claims.findings(unit) is None
    claims.mark_done(unit, {"count": 3}, source)
    assert claims.findings(unit) == claims.findings(unit, source) == {"count": 3}
    assert claims.findings(unit, {"input": "other"}) is None
    claims.unmark(unit)
    claims.unmark(unit)
    assert claims.findings(unit) is None
    write(tmp_path / "p-00000-of-00001.done.json", "{}")
    with pytest.raises(UserError, match="does not say what is done; remove it"):
        claims.findings(unit)


def test_digests(tmp_path):
    assert claims.fingerprint({"a": 1, "b": 2}) == claims.fingerprint({"b": 2, "a": 1})
    one, two = write(tmp_path / "1", "x"), write(tmp_path / "2", "x")
    assert claims.file_digest(one) == claims.file_digest(two)
    assert claims.file_digest([one, two]) != claims.file_digest([two])


def test_tfrecords_round_trip(tmp_path):
    row = {"inputs": [3, 1], "targets": [9, 4, 1], "target_annotations": [0, 1, 0]}
    rows = [row] * 3
    path = tmp_path / "a.tfrecord"
    assert tfrecords.write(path, rows) == 3
    assert list(tfrecord_rows.read(path)) == rows


def test_vocabularies(tmp_path):
    assert records.load_vocabulary("bytes").vocab_size == 259
    with pytest.raises(UserError, match="no such vocabulary"):
        records.load_vocabulary(tmp_path / "v.model")
    with pytest.raises(UserError, match="not a SentencePiece model"):
        records.load_vocabulary(write(tmp_path / "v.model", "not a model"))


def test_what_corrections_become_in_training():
    features = records.training_features({**ANNOTATED, "corrected": "you"}, VOCABULARY)
    assert features == {
        "inputs": records.encode(VOCABULARY, "a"),
        "targets": [5, 1],
        "target_annotations": [1, 0],
        "corrected_targets": records.encode(VOCABULARY, "you"),
    }
    assert "corrected_targets" not in records.training_features(ANNOTATED, VOCABULARY)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("p.jsonl", b"", r"p\.jsonl: no predictions in it"),
        ("p.jsonl", b"\n\n", "no predictions in it"),
        ("p.jsonl", b'{"inputs": "caf\xe9"}\n', r"p\.jsonl:1: not UTF-8"),
        ("p.jsonl", b'\n\n{"inputs": "a", \n', r"p\.jsonl:3: not valid JSON"),
        ("p.jsonl", b"[1]", r"p\.jsonl:1: a JSON list; each line"),
        ("p.jsonl", b"[" * 100_000, r"p\.jsonl:1: not readable JSON"),
        ("p.jsonl.gz", b"not gzip", r"p\.jsonl\.gz:1: the gzip file is"),
        ("p.jsonl.gz", None, r"p\.jsonl\.gz:\d+: the gzip file is"),
    ],
)
def test_files_that_cannot_be_read_are_named(tmp_path, name, content, message):
    if content is None:  # Cut off in the middle.
        rows = [{**GOOD, "id": str(i), "note": str(i**9)} for i in range(1000)]
        lines = "".join(json.dumps(row) + "\n" for row in rows)
        whole = gzip.compress(lines.encode())
        content = whole[: len(whole) // 2]
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=message):
        list(records.read_predictions(tmp_path / name))


def test_prefixes_of_t5x_shards(tmp_path):
    names = [f"p.jsonl-0000{i}-of-00002" for i in range(2)]
    for name in names:
        write(tmp_path / name, json.dumps(GOOD))
        (tmp_path / f"{name}.COMPLETED").write_text("")
    paths = [str(tmp_path / name) for name in names]
    assert shards.expand(tmp_path / "p") == paths
    assert shards.expand(tmp_path / "p.jsonl") == paths
    (tmp_path / names[0]).unlink()
    with pytest.raises(UserError, match="shard is missing"):
        shards.expand(tmp_path / "p")


def test_two_sets_of_one_name_are_refused(tmp_path):
    for count in (1, 2):
        write_shards(tmp_path / "p", count, [GOOD] * count)
    with pytest.raises(UserError, match="two sets of shards, of-00001 and of-00002"):
        shards.expand(tmp_path / "p")
    assert len(shards.expand(tmp_path / "p-*-of-00002.jsonl")) == 2
    # A file that two patterns name is read once.
    one = tmp_path / "p-00000-of-00001.jsonl"
    assert shards.expand([one, tmp_path / "p-*-of-00001*"]) == [str(one)]


def test_two_writers_of_one_file_do_not_meet(tmp_path):
    """As two processes would: the file is the whole of one of them, then the other."""
    path = tmp_path / "a.jsonl"
    write = r"""
import sys
from t5patches.interchange import shards
with shards.atomic_write(sys.argv[1]) as file:
    file.write("first\n")
    print("begun", flush=True)
    sys.stdin.readline()
    file.write("end of first\n")
"""
    other = subprocess.Popen(
        [sys.executable, "-c", write, str(path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert other.stdout.readline() == "begun\n"
    json_files.write_jsonl(path, [{"by": "second"}])
    assert [row for _, row in json_files.read_jsonl(path)] == [{"by": "second"}]
    other.communicate("\n")
    assert path.read_text() == "first\nend of first\n"
    assert [p.name for p in tmp_path.iterdir()] == ["a.jsonl"]


def test_what_a_killed_writer_left_is_removed(tmp_path):
    path = tmp_path / "a.jsonl"
    killed = "import sys, os; from t5patches.interchange import shards\n"
    killed += "with shards.atomic_write(sys.argv[1]): os.kill(os.getpid(), 9)"
    subprocess.run([sys.executable, "-c", killed, str(path)])
    (left,) = tmp_path.iterdir()
    assert left.name.endswith(".tmp")
    json_files.write_jsonl(path, [GOOD])
    assert [p.name for p in tmp_path.iterdir()] == ["a.jsonl"]
