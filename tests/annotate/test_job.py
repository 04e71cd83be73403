"""Annotating files: shards, resuming, statistics, and errors that name their place."""

import functools
import gzip
import itertools
import json
import multiprocessing
import os
import time

import annotate_toy
import pytest
import tfrecord_rows
from small_vocabulary import small_vocabulary

from t5patches import annotate
from t5patches.annotate import custom, job, phrases, workers
from t5patches.errors import UserError
from t5patches.interchange import json_files, records, shards, tfrecords, unwanted_sets

VOCABULARY = small_vocabulary()
ANNOTATOR = annotate.PhraseAnnotator(["stupid", "silly old fool"])
SUFFIXES = (".done.json", ".jsonl", ".tfrecord")
TEXTS = [
    "hello stupid world",
    "the news of the day",
    "you silly old fool, you",
    "what a day 🎉",
]


# A line of T5X's inference without ids.
T5X = {"inputs": {"inputs_pretokenized": "talk"}, "prediction": "day"}
prediction = functools.partial(annotate_toy.prediction, VOCABULARY)


@pytest.fixture
def predictions(tmp_path):
    rows = [prediction(text, i) for i, text in enumerate(TEXTS)]
    return write(tmp_path, rows[:2], rows[2:])


def write(folder, *contents):
    """Writes rows, a shard each; returns the prefix of the set."""
    for index, rows in enumerate(contents):
        path = shards.shard_path(folder / "old", index, len(contents))
        json_files.write_jsonl(path, rows)
    return folder / "old"


def run(predictions, folder, annotator=ANNOTATOR, **options):
    options = {"settings": {"phrases": "a"}, **options}
    return annotate.annotate_files(
        predictions, annotator, folder, VOCABULARY, **options
    )


def examples_of(folder):
    paths = shards.expand(folder / "annotated", ".tfrecord")
    return [example for path in paths for example in tfrecord_rows.read(path)]


def ids_of(folder):
    return [row["id"] for row in records.read_annotated(folder / "annotated")]


def test_shards_and_statistics(predictions, tmp_path):
    out = tmp_path / "annotated"
    stats = run(predictions, out, feature_lengths={"inputs": 3, "targets": 6})
    rows = list(records.read_annotated(out / "annotated", VOCABULARY))
    assert [row["id"] for row in rows] == ["0", "1", "2", "3"]
    assert rows[0]["annotations"] == [{"start": 6, "end": 12, "label": "stupid"}]
    pairs = zip(rows[0]["target_tokens"], rows[0]["target_annotations"], strict=True)
    marked = [token for token, mark in pairs if mark]
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
    examples = examples_of(out)
    assert [row["id"] for row in rows] == ["0", "2"]
    mark = {records.VOCABULARY: [records.vocabulary_mark(VOCABULARY)]}
    table = unwanted_sets.read(out / unwanted_sets.FILE)
    for row, example in zip(rows, examples, strict=True):
        sets = example.pop(unwanted_sets.FEATURE)
        assert example == records.training_features(row, VOCABULARY) | mark
        last = max(
            i for i, marked in enumerate(example["target_annotations"]) if marked
        )
        token = example["targets"][last]
        assert table[sets[last], token // 32] >> (token % 32) & 1
        assert len(sets) == len(example["targets"]) and not table[0].any()
    first = examples[0]
    assert first["inputs"] == [*VOCABULARY.encode("talk"), 1]
    assert first["targets"][-1] == 1 and first["target_annotations"][-1] == 0


def test_complete_shards_are_skipped_and_a_lost_one_is_made_again(
    predictions, tmp_path
):
    out = tmp_path / "annotated"
    first = run(predictions, out)
    kept, lost = (out / f"annotated-0000{i}-of-00002.jsonl" for i in range(2))
    before, content = kept.stat().st_mtime_ns, lost.read_bytes()
    lost.unlink()
    assert run(predictions, out) == first
    assert kept.stat().st_mtime_ns == before and lost.read_bytes() == content


def test_other_settings_are_refused(predictions, tmp_path, monkeypatch):
    out = tmp_path / "annotated"
    run(predictions, out)
    for change in ({"settings": {"phrases": "b"}}, {"only_annotated": True}):
        with pytest.raises(UserError, match="made with other settings"):
            run(predictions, out, **change)
    for owner, changed in ((phrases, "rules was 1"), (job, "job_rules was 1")):
        with monkeypatch.context() as patch:
            patch.setattr(owner, "RULES", 99)
            with pytest.raises(UserError, match=rf"\({changed}, now 99\)"):
                run(predictions, out)


def good(index=9):
    return json.dumps(prediction(TEXTS[0], index)).encode()


COUNT = itertools.count()


def changed(**changes):
    row = {**prediction("hello world", f"w{next(COUNT)}"), **changes}
    kept = {key: value for key, value in row.items() if value is not ...}
    return json.dumps(kept).encode()


WRONG_LINES = {
    "not JSON": (b'{"inputs": ', "not valid JSON"),
    "not an object": (b"[1, 2]", "a JSON list"),
    "deep": (b"[" * 100_000, "not readable JSON"),
    "not UTF-8": (b'{"inputs": "caf\xe9"}', "not UTF-8"),
    "half a surrogate": (changed(inputs="\ud800"), "field 'inputs' has half"),
    "field missing": (changed(prediction=...), "field 'prediction' is missing"),
    "id missing": (changed(id=...), "field 'id' must be"),
    "wrong type": (changed(inputs=3), "field 'inputs' must be text, not int"),
    **{
        f"ids {ids}": (changed(target_tokens=ids), f"field 'target_tokens'{message}")
        for ids, message in (
            (["a"], " must be a list of ids"),
            ([100_000], " has id 100000, outside"),
            ([5, 1, 5], " goes on after EOS"),
            ([5, 1], ": the ids"),
        )
    },
    "T5X without text": (changed(inputs={}), "field 'inputs' has no 'inputs_p"),
}


@pytest.mark.parametrize("name", WRONG_LINES)
def test_a_wrong_line_stops(tmp_path, name):
    line, message = WRONG_LINES[name]
    (tmp_path / "old.jsonl").write_bytes(b"\n".join([good(8), line, good(9)]))
    with pytest.raises(UserError) as caught:
        run(tmp_path / "old.jsonl", tmp_path / "out")
    assert f"old.jsonl:2: {message}" in str(caught.value)
    assert os.listdir(tmp_path / "out") == ["settings.json"]


def test_wrong_lines_are_skipped_and_listed(tmp_path):
    lines = [good(0)]
    for index, (line, _) in enumerate(WRONG_LINES.values(), start=1):
        lines += [line, good(index)]
    (tmp_path / "old.jsonl").write_bytes(b"\n".join(lines))
    out, wrong = tmp_path / "out", len(WRONG_LINES)
    stats = run(tmp_path / "old.jsonl", out, on_error="skip")
    assert stats["skipped"] == wrong and stats["examples"] == wrong + 1
    listed = (out / "skipped.txt").read_text()
    assert len(listed.splitlines()) == wrong
    for index, (_, message) in enumerate(WRONG_LINES.values(), start=1):
        assert f"old.jsonl:{2 * index}: {message}" in listed
    assert ids_of(out) == [str(i) for i in range(wrong + 1)]
    assert len(examples_of(out)) == wrong + 1
    # What was skipped is an error when errors are asked for.
    with pytest.raises(UserError, match="old.jsonl:2"):
        run(tmp_path / "old.jsonl", out)


def test_nothing_but_wrong_lines(tmp_path):
    (tmp_path / "old.jsonl").write_bytes(b"{\n{")
    message = r"no line is right \(wrong: 2\); .*old\.jsonl:1"
    with pytest.raises(UserError, match=message):
        run(tmp_path / "old.jsonl", tmp_path / "out", on_error="skip")
    assert sorted(os.listdir(tmp_path / "out")) == ["settings.json", "skipped.txt"]
    # Nothing is kept, so other settings are as good as these.
    (tmp_path / "old.jsonl").write_bytes(good())
    assert run(tmp_path / "old.jsonl", tmp_path / "out", settings={})["examples"] == 1


@pytest.mark.parametrize("on_error", ["stop", "skip"])
def test_a_wrong_line_put_right(predictions, tmp_path, on_error):
    whole = run(predictions, tmp_path / "whole")
    second = tmp_path / "old-00001-of-00002.jsonl"
    lines = second.read_bytes()
    second.write_bytes(lines + b"{")
    out = tmp_path / "out"
    if on_error == "stop":
        with pytest.raises(UserError, match=r"00001-of-00002\.jsonl:3"):
            run(predictions, out)
        # Nothing half written stays.
        first = [f"annotated-00000-of-00002{s}" for s in SUFFIXES]
        assert sorted(os.listdir(out)) == [*first, "settings.json"]
    else:
        assert run(predictions, out, on_error=on_error)["skipped"] == 1
    done = shards.shard_path(out / "annotated", 0, 2)
    before = os.stat(done).st_mtime_ns
    second.write_bytes(lines)
    assert run(predictions, out) == whole
    assert os.stat(done).st_mtime_ns == before
    assert sorted(os.listdir(out)) == sorted(os.listdir(tmp_path / "whole"))
    for name in os.listdir(out):
        if ".done." not in name:  # These hold the digests.
            same = (tmp_path / "whole" / name).read_bytes()
            assert (out / name).read_bytes() == same


def test_a_line_more_in_a_file_changes_the_ids_of_the_next(tmp_path):
    out = tmp_path / "out"
    run(write(tmp_path, [T5X, {}], [T5X]), out, on_error="skip")
    run(write(tmp_path, [T5X], [T5X]), out)
    assert ids_of(out) == ["0", "1"]


def test_a_file_whose_last_line_is_no_text_counts_it(tmp_path):
    write(tmp_path, [T5X], [T5X])
    with open(tmp_path / "old-00000-of-00002.jsonl", "ab") as file:
        file.write(b"\xe9")
    run(tmp_path / "old", tmp_path / "out", on_error="skip")
    assert ids_of(tmp_path / "out") == ["0", "2"]


def test_of_two_jobs_that_begin_at_once_one_has_the_folder(predictions, tmp_path):
    start = lambda **settings: job.Job(
        predictions, ANNOTATOR, tmp_path / "out", VOCABULARY, settings=settings
    )
    first, second = start(phrases="a"), start(phrases="b")  # Nothing is there yet.
    with pytest.raises(UserError, match="other settings"):
        first.run_shard(0)
    for index in range(2):
        second.run_shard(index)
    with pytest.raises(UserError, match="other settings"):
        first.finish()
    assert second.finish()["examples"] == 4
    path = tmp_path / "out/annotated-00001-of-00002.done.json"
    state = json.loads(path.read_text())
    state["source"]["settings"] = "others"
    path.write_text(json.dumps(state))
    with pytest.raises(UserError, match="by another command meanwhile"):
        second.finish()


@pytest.mark.parametrize("name", ["annotated-00000-of-00002.jsonl", "stats.json"])
def test_files_that_are_not_ours_are_left_alone(predictions, tmp_path, name):
    out = tmp_path / "out"
    out.mkdir()
    (out / name).write_text("mine")
    with pytest.raises(UserError, match=f"has {name}, but no settings.json"):
        run(predictions, out)
    assert [path.name for path in out.iterdir()] == [name]
    assert (out / name).read_text() == "mine"
    # Nor is another step's record, before it has results.
    (out / name).rename(out / "theirs")
    json_files.write_json(out / "settings.json", {"step": "generate"})
    with pytest.raises(UserError, match="step was 'generate', now 'annotate'"):
        run(predictions, out)


def test_predictions_where_the_results_would_stand(tmp_path):
    path = tmp_path / "annotated-00000-of-00001.jsonl"
    path.write_bytes(good())
    for folder in (tmp_path, tmp_path / "." / "x" / ".."):
        with pytest.raises(UserError, match="stands where results are written"):
            run(path, folder)
    assert path.read_bytes() == good()


def test_damaged_records(predictions, tmp_path):
    out = tmp_path / "out"
    first = run(predictions, out)
    (out / "stats.json").write_text("xx")  # Is written whenever a job ends.
    assert run(predictions, out) == first
    assert json.loads((out / "stats.json").read_text()) == first
    for name in ("settings.json", "annotated-00000-of-00002.done.json"):
        text = (out / name).read_text()
        for content in ("xx", "[]"):
            (out / name).write_text(content)
            with pytest.raises(UserError, match=f"{name}: not "):
                run(predictions, out)
        (out / name).write_text(text)


def test_names_and_messages_that_are_no_text(tmp_path):
    path = tmp_path / os.fsdecode(b"caf\xe9.jsonl")
    path.write_bytes(good() + b"\n{")
    assert run(path, tmp_path / "out", on_error="skip")["skipped"] == 1
    assert r"caf\udce9.jsonl:2" in (tmp_path / "out/skipped.txt").read_text()


def test_complete_results_of_other_predictions_are_kept(predictions, tmp_path):
    out = tmp_path / "out"
    run(predictions, out)
    names = sorted(os.listdir(out))
    changed = tmp_path / "old-00001-of-00002.jsonl"
    json_files.write_jsonl(changed, [prediction("a day", 7)])
    with pytest.raises(UserError, match=r"other predictions \(.*00001-.* has changed"):
        run(predictions, out)
    with pytest.raises(UserError, match="files was 2, now 1"):
        run(changed, out)
    assert sorted(os.listdir(out)) == names


def test_an_empty_file_among_others_and_empty_predictions(tmp_path, caplog):
    rows = [prediction(text, i) for i, text in enumerate(["", "", "day"])]
    stats = run(write(tmp_path, [], rows), tmp_path / "out")
    assert stats["examples"] == 3 and stats["empty"] == 2
    assert "old-00000-of-00002.jsonl: empty" in caplog.text
    assert "2 of 3 predictions are empty" in caplog.text


def test_an_empty_file(tmp_path):
    for content, on_error in ((b"", "stop"), (b"\n \n", "skip")):
        (tmp_path / "old.jsonl").write_bytes(content)
        with pytest.raises(UserError, match=r"old\.jsonl: no predictions to annotate"):
            run(tmp_path / "old.jsonl", tmp_path / "out", on_error=on_error)
    assert not (tmp_path / "out").exists()


def test_a_missing_shard(predictions, tmp_path):
    os.remove(shards.shard_path(predictions, 0, 2))
    with pytest.raises(UserError, match="00000-of-00002.jsonl: shard is missing"):
        run(predictions, tmp_path / "out")
    stats = run(predictions, tmp_path / "out", on_error="skip")
    assert stats["examples"] == 2 and stats["skipped"] == 1
    assert "00000-of-00002" in (tmp_path / "out/skipped.txt").read_text()


def test_gzip(predictions, tmp_path):
    first = run(predictions, tmp_path / "plain")
    for path in tmp_path.glob("old-*.jsonl"):
        (tmp_path / f"{path.name}.gz").write_bytes(gzip.compress(path.read_bytes()))
        path.unlink()
    assert run(predictions, tmp_path / "packed") == first


def test_broken_gzip_files_keep_what_was_whole(tmp_path):
    rows = [{**prediction(TEXTS[0], i), "x": os.urandom(200).hex()} for i in range(300)]
    packed = gzip.compress("\n".join(map(json.dumps, rows)).encode())
    paths = [tmp_path / "cut.jsonl.gz", tmp_path / "none.jsonl.gz"]
    for path, content in zip(paths, (packed[:-2000], b"no gzip"), strict=True):
        path.write_bytes(content)
        with pytest.raises(UserError, match=r"gz:\d+: the gzip file is broken"):
            run(path, tmp_path / "out")
    stats = run(paths, tmp_path / "skipped", on_error="skip")
    assert 250 <= stats["examples"] < 300 and stats["skipped"] == 2


def test_an_annotator_that_raises_now_and_then(predictions, tmp_path):
    def annotator(text, inputs):
        if "news" in text:
            raise ValueError("two\nlines")
        return [(0, 4, "start")] if "fool" in text else []

    arguments = (predictions, tmp_path / "out", annotator)
    with pytest.raises(UserError, match=r"00000-of-00002\.jsonl:2: the annotator rai"):
        run(*arguments)
    stats = run(*arguments, on_error="skip")
    assert stats["examples"] == 3 and stats["annotations_by_label"] == {"start": 1}
    (listed,) = (tmp_path / "out/skipped.txt").read_text().splitlines()
    assert "raised ValueError: two lines" in listed and "test_job.py:" in listed


def test_several_processes_write_the_same(tmp_path):
    rows = [prediction(TEXTS[i % 4], i) for i in range(800)]  # More than a chunk.
    write(tmp_path, [*rows, {"bad": 1}])
    for count in (1, 2):
        options = {"on_error": "skip", "processes": count}
        run(tmp_path / "old", tmp_path / f"out{count}", **options)
    names = sorted(os.listdir(tmp_path / "out1"))
    assert names == sorted(os.listdir(tmp_path / "out2")) and "skipped.txt" in names
    for name in names:
        one, two = ((tmp_path / f"out{n}" / name).read_bytes() for n in (1, 2))
        assert one == two, name


def test_text_only_lines_of_t5x_are_encoded_flagged_and_counted(tmp_path):
    with_ids = {
        "inputs": {**T5X["inputs"], "id_pretokenized": "b"},
        "prediction": "you",
        "prediction_tokens": records.encode(VOCABULARY, "you"),
    }
    write(tmp_path, [{**T5X, "prediction": "hello  stupid world"}, with_ids])
    stats = run(tmp_path / "old", tmp_path / "out")
    first, second = records.read_annotated(tmp_path / "out/annotated", VOCABULARY)
    assert stats["reencoded"] == 1 and stats["examples"] == 2
    assert first["reencoded"] and first["id"] == "0"
    # The vocabulary takes two spaces for one; the annotation sits right all the same.
    assert first["prediction"] == "hello stupid world"
    assert sum(first["target_annotations"]) > 0
    assert "reencoded" not in second and second["id"] == "b"


def test_texts_that_encoding_changes_are_counted_and_shown(tmp_path, caplog):
    vocabulary = small_vocabulary(byte_fallback=False)
    texts = ["hello world", "the “news” of the day"]
    rows = [
        {"inputs": "talk", "prediction": text, "id": i} for i, text in enumerate(texts)
    ]
    write(tmp_path, rows)
    stats = annotate.annotate_files(
        tmp_path / "old", ANNOTATOR, tmp_path / "out", vocabulary
    )
    assert stats["changed_by_encoding"] == 1
    assert stats["lost_characters"] == {"“": 1, "”": 1}
    assert "old-00000-of-00001.jsonl:2: 'the “news” of the day' became" in caplog.text
    first, second = records.read_annotated(tmp_path / "out/annotated", vocabulary)
    assert second["given"] == texts[1] and "⁇" in second["prediction"]
    assert "given" not in first


def test_workers_end_when_what_they_are_for_ends():
    """However long they would take."""
    began = time.monotonic()
    with pytest.raises(KeyboardInterrupt), workers.several(time_wasted, 2) as team:
        team.start([prediction(TEXTS[0], 9)])
        assert multiprocessing.active_children()
        raise KeyboardInterrupt
    assert not multiprocessing.active_children()
    assert time.monotonic() - began < 60


def time_wasted(text, inputs):
    time.sleep(600)


def test_lines_without_ids_get_the_same_ones_in_every_reader(tmp_path):
    for shard in range(2):
        text = f"{json.dumps(T5X)}\n\n{json.dumps(T5X)}\n\n"
        (tmp_path / f"old-0000{shard}-of-00002.jsonl").write_text(text)
    run(tmp_path / "old", tmp_path / "out")
    ids = ids_of(tmp_path / "out")
    assert ids == ["0", "2", "3", "5"]
    assert ids == [row["id"] for row in records.read_predictions(tmp_path / "old")]


def test_a_shard_cut_off_as_it_was_made_again_is_not_done(
    predictions, tmp_path, monkeypatch
):
    broken = True

    def annotator(text, inputs):
        if broken and "news" in text:
            raise ValueError("no")
        return []

    def interrupt(*args):
        raise KeyboardInterrupt

    arguments = (predictions, tmp_path / "out", annotator)
    run(*arguments, on_error="skip")
    broken = False
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(tfrecords, "write", interrupt)
        run(*arguments)
    assert run(*arguments, on_error="skip")["examples"] == 4
    assert len(examples_of(tmp_path / "out")) == 4


@pytest.mark.parametrize(
    ("kept", "message"), [(False, r"mine\.py: no such file"), (True, "was killed")]
)
def test_a_process_that_cannot_work(predictions, tmp_path, kept, message):
    mine = tmp_path / "mine.py"
    mine.write_text(
        "import os, sys\n"
        "def dies(text, inputs):\n"
        "    assert 'tensorflow' not in sys.modules, 'it takes seconds'\n"
        "    os.kill(os.getpid(), 9)\n"
    )
    annotator = custom.load(f"{mine}:dies")
    if not kept:
        mine.unlink()
    with pytest.raises(UserError, match=message):
        run(predictions, tmp_path / "out", annotator, processes=2)
