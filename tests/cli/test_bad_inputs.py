"""What comes in wrong is refused with status 2 and one line that names the place."""

import io
import json
import shlex

import annotate_toy
import pytest
import seqio
from small_vocabulary import small_vocabulary

from t5patches import cli
from t5patches.errors import UserError
from t5patches.interchange import json_files
from t5patches.run import stages

VOCABULARY = seqio.ByteVocabulary()
TEXTS = ["a rude word", "a good word", "no word at all"]
ANNOTATE = "annotate phrases --phrases rude.txt --vocabulary bytes --output out"
EVALUATE = "evaluate --output out/results.json --old old.jsonl"


def row(text="a word", name="0", **changes):
    """A line of predictions; a change to None takes a field away."""
    made = {**annotate_toy.prediction(VOCABULARY, text, name), **changes}
    return {key: value for key, value in made.items() if value is not None}


def lines(*rows):
    return "".join(map(json_files.json_line, rows))


GOOD = lines(*(row(text, i) for i, text in enumerate(TEXTS)))
POSTS = "spans,text\n" + "".join(f'"[0, 1]",post {i}\n' for i in range(9))
MARKED = {"annotations": [], "target_annotations": [0] * 7}


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A folder with the files that commands read."""
    monkeypatch.chdir(tmp_path)
    for name in ("old.jsonl", "new.jsonl"):
        (tmp_path / name).write_text(GOOD)
    (tmp_path / "rude.txt").write_text("rude\n")
    (tmp_path / "mine.py").write_text("def find(text, inputs):\n    return []\n")
    (tmp_path / "posts.csv").write_text(POSTS)
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder/file").touch()
    return tmp_path


def refused(folder, files, command, message, capsys):
    for name, content in files.items():
        data = content if isinstance(content, bytes) else content.encode()
        (folder / name).write_bytes(data)
    status = cli.main(shlex.split(command))
    error = capsys.readouterr().err
    assert status == 2, (status, error)
    assert message in error and "Traceback" not in error
    assert not list(folder.glob("out/*.jso*")) or [*folder.glob("out/*")] == [
        folder / "out/settings.json"
    ]


@pytest.mark.parametrize(
    ("command", "option"),
    [
        (ANNOTATE, "--predictions"),
        (f"{ANNOTATE} --predictions old.jsonl", "--output"),
        (f"{ANNOTATE} --predictions old.jsonl", "--phrases"),
        (f"{ANNOTATE} --predictions old.jsonl", "--vocabulary"),
        (f"{ANNOTATE} --predictions old.jsonl", "--runner"),
        (f"{EVALUATE} --new new.jsonl", "--phrases"),
        (f"{EVALUATE} --new new.jsonl", "--references"),
        ("report --results results.json", "--output"),
        ("report", "--results"),
        ("quickstart --phrases rude.txt", "--data"),
        ("quickstart", "--methods"),
        ("quickstart", "--output"),
        ("tagger train --output out", "--data"),
        ("tagger train --output out --data posts.csv", "--evaluate"),
        ("tagger train --output out --data posts.csv", "--label"),
    ],
)
def test_an_empty_value(folder, command, option, capsys):
    message = f"argument {option}: is empty"
    refused(folder, {}, f"{command} {option} ''", message, capsys)


PREDICTIONS = {
    "nothing": ("", "old.jsonl: no predictions"),
    "no UTF-8": (GOOD.encode("utf-16"), "old.jsonl:1: not UTF-8"),
    "old Mac's lines": (GOOD.replace("\n", "\r"), "old.jsonl:1: not valid JSON"),
    "a raw NUL": (GOOD.replace("good", "\0"), "old.jsonl:2: not valid JSON"),
    "half a line": (GOOD[:-9], "old.jsonl:3: not valid JSON"),
    "a list": (f"[{lines(row())}]", "old.jsonl:1: not valid JSON"),
    "no number": ('{"inputs": NaN}', "old.jsonl:1: field 'inputs' must be text"),
    "ids of no vocabulary": (lines(row(target_tokens=[-1])), "old.jsonl:1: field 'tar"),
    "ids that are none": (lines(row(target_tokens=[1.0])), "old.jsonl:1: field 'targ"),
    "no ids": (lines(row(target_tokens="")), "old.jsonl:1: field 'target_tokens'"),
    "another text": (lines(row(given=5)), "old.jsonl:1: field 'given' must be text"),
    "an id twice": (lines(row(), row()), "old.jsonl:2: id '0' occurs twice"),
    "a key twice": ('{"inputs": "a", "inputs": "b"}', "old.jsonl:1: not readable JSON"),
}


@pytest.mark.parametrize("name", PREDICTIONS)
@pytest.mark.parametrize(
    "command", [f"{ANNOTATE} --predictions old.jsonl", f"{EVALUATE} --new new.jsonl"]
)
def test_wrong_predictions(folder, name, command, capsys):
    content, message = PREDICTIONS[name]
    if command.startswith("evaluate"):
        command += " --phrases rude.txt"
    refused(folder, {"old.jsonl": content}, command, message, capsys)


def test_an_id_in_two_files(folder, capsys):
    command = f"{ANNOTATE} --predictions old.jsonl --predictions new.jsonl"
    refused(folder, {}, command, "new.jsonl:1: id '0' occurs twice", capsys)
    assert cli.main([*shlex.split(command), "--on-error", "skip"]) == 0
    assert "3 skipped" in capsys.readouterr().out


def test_every_list_that_is_given_counts(folder, capsys):
    (folder / "new.jsonl").write_text(lines(row("rude", 7), row("rude", 8)))
    command = f"{ANNOTATE} --predictions old.jsonl --predictions new.jsonl"
    assert cli.main(shlex.split(command)) == 0
    assert "5 predictions" in capsys.readouterr().out


@pytest.mark.parametrize("name", ["[1].jsonl", "a*.jsonl", "what?.jsonl"])
def test_a_name_with_characters_of_patterns(folder, name, capsys):
    (folder / name).write_text(GOOD)
    assert cli.main([*ANNOTATE.split(), "--predictions", name]) == 0
    assert "3 predictions" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"target_annotations": [0, 1, 0, 0, 0, 0, 0]}, "0 spans in 'annotations'"),
        ({"annotations": [dict(start=2, end=6, label="x")]}, "1 spans in "),
    ],
)
def test_annotations_that_do_not_agree(folder, change, message, capsys):
    files = {"old.jsonl": lines(row(**{**MARKED, **change}))}
    command = f"{EVALUATE} --new new.jsonl"
    refused(folder, files, command, f"old.jsonl:1: {message}", capsys)


def test_a_file_with_itself(folder, capsys):
    (folder / "link.jsonl").symlink_to("old.jsonl")
    command = f"{EVALUATE} --new link.jsonl --phrases rude.txt"
    refused(folder, {}, command, "is given as old predictions and as new", capsys)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("id,targets,targets\n0,a,b\n", "references.csv:1: there are 2 columns"),
        ("id,targets\n0,a\n0,b\n", "references.csv:3: id '0' occurs twice"),
    ],
)
def test_wrong_references(folder, content, message, capsys):
    files = {"references.csv": content}
    command = f"{EVALUATE} --new new.jsonl --phrases rude.txt --references "
    refused(folder, files, f"{command} references.csv", message, capsys)


@pytest.mark.parametrize(
    ("code", "message"),
    [
        ("class Odd(BaseException): pass\ndef find(t, i): raise Odd", "raised Odd"),
        ("import sys\ndef find(t, i): sys.exit(0)", "raised SystemExit: 0"),
        ("import os\ndef find(t, i): os._exit(0)", "raised SystemExit: os._exit(0)"),
        ("def find(t, i): return True", "returned True, not a list"),
        ("async def find(t, i): return []", "returned <coroutine"),
        ("def find(t, i): return [(0, 99, 'x')]", "is no span of the 11 characters"),
        ("def find(t): return []", "raised TypeError"),
    ],
)
@pytest.mark.filterwarnings("ignore:coroutine")
def test_an_annotator_that_is_wrong(folder, code, message, capsys):
    command = "annotate custom --function mine.py:find --vocabulary bytes --output out"
    command += " --predictions old.jsonl"
    refused(folder, {"mine.py": code}, command, "old.jsonl:1: the annotator", capsys)
    refused(folder, {}, command, message, capsys)
    assert cli.main([*ANNOTATE.split(), "--predictions", "old.jsonl"]) == 0


CUSTOM = "annotate custom --function mine.py:find --vocabulary bytes --output out "


@pytest.mark.parametrize("code", ["import os\nos._exit(0)", "raise GeneratorExit"])
def test_a_module_that_ends_the_process(folder, code, capsys):
    files = {"mine.py": code}
    command = f"{CUSTOM} --predictions old.jsonl"
    refused(folder, files, command, "mine.py: importing it raised", capsys)


def test_an_annotator_that_closes_the_output(folder, monkeypatch, capsys):
    (folder / "mine.py").write_text(
        "import sys\ndef find(t, i):\n    sys.stdout.close()\n    return []\n"
    )
    monkeypatch.setattr("sys.stdout", io.StringIO())
    assert cli.main([*CUSTOM.split(), "--predictions", "old.jsonl"]) == 2
    assert "error: standard output: Bad file" in capsys.readouterr().err
    assert (folder / "out/stats.json").exists()


@pytest.mark.parametrize(
    ("files", "more", "message"),
    [
        ({"rude.txt": "a\rb\r"}, "", "rude.txt:1: '\\r' inside a phrase"),
        ({"rude.txt": "rude".encode("utf-16-le")}, "", "rude.txt:1: '\\x00' inside"),
        ({}, "--phrases rude.txt", "argument --phrases: is given twice"),
        ({}, "--extra-ids 9999999999", "--extra-ids: 9999999999 is larger than"),
        ({}, "--targets-length 0", "--targets-length: must be at least 1"),
        ({"out/skipped.txt": "mine"}, "", "out: has skipped.txt, but no settings.json"),
        ({}, "--predictions http://a/b", "paths that begin with 'http://' cannot"),
    ],
)
def test_wrong_options_of_annotate(folder, files, more, message, capsys):
    (folder / "out").mkdir()
    command = f"{ANNOTATE} --predictions old.jsonl {more}"
    refused(folder, files, command, message, capsys)
    assert not list(folder.glob("out/skip*")) or "out/skipped.txt" in files


def test_a_vocabulary_that_is_not_for_t5(folder, capsys):
    places = dict(pad_id=-1, unk_id=0, bos_id=1, eos_id=2)
    vocabulary = small_vocabulary(**places).sentencepiece_model_file
    command = ANNOTATE.replace("bytes", vocabulary) + " --predictions old.jsonl"
    refused(folder, {}, command, "its special ids are pad -1, eos 2, unk 0", capsys)


def test_a_mark_that_does_not_say_what_is_done(folder, capsys):
    command = [*ANNOTATE.split(), "--predictions", "old.jsonl"]
    assert cli.main(command) == 0
    mark = folder / "out/annotated-00000-of-00001.done.json"
    for findings in ({}, {"counts": 5}, []):
        made = json.loads(mark.read_text()) | {"findings": findings}
        mark.write_text(json.dumps(made))
        assert cli.main(command) == 2
        assert f"error: {mark.relative_to(folder)}: '" in capsys.readouterr().err


TAGGER = "tagger train --output out --data posts.csv"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "posts.csv: no posts in it"),
        ("spans,text,text\n[],a,b\n", "posts.csv:1: there are 2 columns 'text'"),
        (f"{POSTS}[99],abc\n", "posts.csv:11: field 'spans' has offset 99"),
        (f"{POSTS}[-1],abc\n", "posts.csv:11: field 'spans' has offset -1"),
        (f"{POSTS}x,abc\n", "posts.csv:11: field 'spans' must be a list"),
        (f"{POSTS}[],{'a ' * 500_001}\n", "posts.csv:11: the text has 1,000,002 char"),
        (f"{POSTS}[]\n", "posts.csv:11: the line has not as many fields"),
        (f'{POSTS}[],"abc\n', "posts.csv:11: not valid CSV"),
    ],
)
@pytest.mark.parametrize(
    "command", [TAGGER, "tagger evaluate --tagger x --data posts.csv"]
)
def test_wrong_posts(folder, command, content, message, capsys):
    refused(folder, {"posts.csv": content}, command, message, capsys)


@pytest.mark.parametrize("output", ["folder", "rude.txt", "rude.txt/x"])
def test_a_tagger_looks_at_its_output_before_it_trains(folder, output, capsys):
    command = TAGGER.replace("--output out", f"--output {output}")
    refused(folder, {}, command, output.partition("/")[0], capsys)


def test_a_quickstart_that_refused_its_data_leaves_the_folder(folder, capsys):
    command = "quickstart --data own.csv --phrases rude.txt --output run"
    rude = "text\n" + "".join(f"number {i} says rude things\n" for i in range(300))
    message = "no vocabulary of 4096 pieces"
    refused(folder, {"own.csv": rude}, command, message, capsys)
    refused(
        folder, {"own.csv": f"{rude}what else is there\n"}, command, message, capsys
    )


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("a\nb\n", "own.csv:2: expected the columns"),
        ("text\n", "0 different examples leave 0 for the train"),
        (
            "text\n" + "".join(f"number {i} says nothing\n" for i in range(300)),
            "rude.txt: none of its phrases is in the targets of own.csv",
        ),
    ],
)
def test_data_of_a_quickstart_are_looked_at_first(folder, content, message, capsys):
    command = "quickstart --data own.csv --phrases rude.txt --output run"
    refused(folder, {"own.csv": content}, command, message, capsys)
    assert not (folder / "run").exists()


def test_an_update_is_not_done_over_a_stage_that_says_nothing(folder):
    (folder / "corpus.done.json").write_text('{"source": {}, "findings": {}}')
    with pytest.raises(UserError, match="corpus.done.json: does not say seconds"):
        stages.do_stage(str(folder / "corpus"), "corpus", dict)


@pytest.mark.parametrize(
    ("files", "command", "message"),
    [
        ({"results.json": '{"method": "\\ud800"}'}, "results.json", "half of a surr"),
        ({"results.json": '{"subsets": {"a\\u001b": 1}}'}, "results.json", "missing"),
        ({"report.html": "{}"}, "report.html", "./report.html: is read here"),
        ({"report.png/x": "", "x.json": "{}"}, "x.json", "./report.png: is a folder"),
    ],
)
def test_a_report_looks_at_what_it_reads_and_writes(
    folder, files, command, message, capsys
):
    (folder / "report.png").mkdir() if "report.png/x" in files else None
    refused(folder, files, f"report --results {command}", message, capsys)


def test_a_report_says_that_its_examples_are_of_another_run(folder, capsys):
    command = f"{EVALUATE} --new new.jsonl --phrases rude.txt"
    assert cli.main(command.split()) == 0
    report = "report --results out/results.json"
    assert cli.main(report.split()) == 0
    assert "of another run" not in capsys.readouterr().err
    (folder / "out/results.examples.jsonl").unlink()
    assert cli.main(report.split()) == 0
    assert "results.examples.jsonl: is not what" in capsys.readouterr().err
