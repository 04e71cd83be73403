"""`t5patches annotate`: every annotator, with the options that all share."""

import json
import pathlib
import sys

import annotate_toy
import pytest
import seqio
import spacy

from t5patches import cli, evaluate
from t5patches.interchange import json_files, records
from t5patches.quickstart import job, run_folder

VOCABULARY = seqio.ByteVocabulary()
TEXT = "Smith met John Doe in Paris"


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """What the command reads, made once."""
    folder = tmp_path_factory.mktemp("made")
    rows = [
        annotate_toy.prediction(VOCABULARY, TEXT, i, inputs)
        for i, inputs in enumerate(["Jane Smith and John Doe, Paris", "nobody"])
    ]
    json_files.write_jsonl(folder / "old.jsonl", rows)
    patterns = [("PERSON", "Smith"), ("PERSON", "John Doe"), ("GPE", "Paris")]
    annotate_toy.ruler_pipeline(*patterns).to_disk(folder / "pipeline")
    spacy.blank("en").to_disk(folder / "blank")
    (folder / "mine.py").write_text(
        "def first(text, inputs):\n    return [(0, 5, 'first')]\n"
        "def none(text, inputs):\n    return None\n"
        "def row(text, inputs, row):\n    return [(0, 5, row['id'])]\n"
    )
    (folder / "rude.txt").write_text("doe\n")
    (folder / "spans.csv").write_text("id,start,end\n1,10,18\n1,0,5\n")
    return folder


@pytest.fixture
def folder(made, tmp_path, monkeypatch):
    for path in made.iterdir():
        (tmp_path / path.name).symlink_to(path)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def annotate(*words):
    shared = "--predictions old.jsonl --output out --vocabulary bytes"
    return cli.main(["annotate", *words, *shared.split()])


def labels(folder):
    rows = records.read_annotated(folder / "out/annotated", VOCABULARY)
    return [[span["label"] for span in row["annotations"]] for row in rows]


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("phrases --phrases rude.txt", [["doe"], ["doe"]]),
        ("entities --pipeline pipeline", [[], ["PERSON", "PERSON", "GPE"]]),
        ("entities --pipeline pipeline --labels GPE", [[], ["GPE"]]),
        (
            "entities --unsupported-words-only --labels GPE --pipeline pipeline",
            [[], ["GPE"]],
        ),
        ("entities --pipeline pipeline --labels GPE --only-annotated", [["GPE"]]),
        ("spans --spans spans.csv", [[], ["unwanted", "unwanted"]]),
        ("custom --function mine.py:first", [["first"], ["first"]]),
        ("custom --function mine.py:row", [["0"], ["1"]]),
    ],
)
def test_annotators(folder, words, expected, capsys):
    assert annotate(*words.split()) == 0
    assert labels(folder) == expected
    written = f"{len(expected)} written to out"
    assert written in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("entities --pipeline pipeline --labels DATE", "no entities 'DATE'"),
        ("entities --pipeline pipeline --labels ,", "',' names nothing"),
        ("entities --pipeline blank", "no component that finds entities"),
        ("entities --pipeline nothing", "spacy download nothing"),
        ("custom --function mine:second", "'second' is no function"),
        ("custom --function mine:none", "old.jsonl:1: the annotator returned None"),
        ("toxicity --tagger pipeline", "t5patches tagger train"),
        ("phrases --phrases rude.txt --processes 0", "must be at least 1"),
        ("phrases --phrases rude.txt --number 3", "unrecognized arguments: --number 3"),
        ("phrases --phrases rude.txt --on-error ignore", "invalid choice"),
    ],
)
def test_wrong_use(folder, words, message, capsys):
    assert annotate(*words.split()) == 2
    captured = capsys.readouterr()
    assert message in captured.err and "Traceback" not in captured.err
    assert not (folder / "out/stats.json").exists()


def test_the_command_and_the_quickstart_annotate_alike(folder, monkeypatch):
    """A list of phrases has one identity, whoever runs it."""
    run = run_folder.Run(folder=str(folder / "run"), phrases="rude.txt", data="mine")
    for split in run_folder.SPLITS:
        path = pathlib.Path(run.predictions("before", split) + "-00000-of-00001.jsonl")
        path.parent.mkdir(parents=True)
        path.write_bytes((folder / "old.jsonl").read_bytes())
    (folder / "run/corpus").mkdir()
    (folder / "run/corpus/phrases.txt").write_text("# a comment\ndoe\n")
    monkeypatch.setattr(job.records, "load_vocabulary", lambda *_: VOCABULARY)
    job.annotate(run)
    assert annotate("phrases", "--phrases", "rude.txt") == 0
    first, second = run.path("annotated/test"), str(folder / "out")
    one, other = (json_files.read_json(f"{f}/settings.json") for f in (first, second))
    assert one == other and one["phrases"]
    old, new = f"{first}/annotated", f"{second}/annotated"
    results, _ = evaluate.evaluate_files(old, new, None)
    assert results["prevalence"] == {"before": 1.0, "after": 1.0}


def test_skipped_lines_are_counted(folder, capsys):
    text = (folder / "old.jsonl").read_text()
    (folder / "old.jsonl").unlink()  # A link to what all tests share.
    (folder / "old.jsonl").write_text(text + '{"inputs": 3}\n')
    assert annotate("custom", "--function=mine:first", "--on-error=skip") == 0
    assert "1 skipped" in capsys.readouterr().out
    assert "old.jsonl:3: field 'inputs'" in (folder / "out/skipped.txt").read_text()
    assert json.loads((folder / "out/stats.json").read_text())["skipped"] == 1


def test_beam_where_it_is_missing(folder, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "apache_beam", None)
    monkeypatch.delitem(sys.modules, "t5patches.annotate.beam", raising=False)
    words = ["custom", "--function=mine:first", "--runner=DirectRunner"]
    assert annotate(*words) == 2
    assert "pip install t5patches[beam]" in capsys.readouterr().err


def test_help(capsys):
    assert cli.main(["annotate", "--help"]) == 0
    whole = capsys.readouterr().out
    for name in ("phrases", "entities", "toxicity", "spans", "custom"):
        assert f"  {name} " in whole
        assert cli.main(["annotate", name, "--help"]) == 0
        text = capsys.readouterr().out
        assert "reads " in text and "writes " in text and "--on-error" in text
