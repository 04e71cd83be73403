"""The command: help, exit codes, and the steps on files."""

import json
import os
import resource
import subprocess
import sys
from unittest import mock

import pytest
from small_vocabulary import small_vocabulary

from t5patches import cli
from t5patches.cli import evaluation, t5x_scripts
from t5patches.interchange import json_files, records

VOCABULARY = small_vocabulary()
MODEL_FILE = os.path.abspath(VOCABULARY.sentencepiece_model_file)
ANNOTATE = "annotate phrases --phrases rude.txt --predictions old.jsonl "
ANNOTATE += f"--vocabulary {MODEL_FILE} --output"
EVALUATE = "evaluate --old old.jsonl --new new.jsonl --phrases rude.txt --output"


def predictions(path, *texts):
    rows = [
        {
            "inputs": f"talk {i}",
            "prediction": text,
            "target_tokens": records.encode(VOCABULARY, text),
            "id": str(i),
        }
        for i, text in enumerate(texts)
    ]
    json_files.write_jsonl(path, rows)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """The working folder, with predictions before and after an update."""
    (tmp_path / "rude.txt").write_text("fool\nstupid\n")
    predictions(tmp_path / "old.jsonl", "you fool", "a nice day", "stupid")
    predictions(tmp_path / "new.jsonl", "you all", "a nice day", "what")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(*words):
    return cli.main(" ".join(words).split())


def test_help_and_wrong_macros_import_nothing_heavy():
    train = "['train', '--gin_file=runs/finetune.gin', '--gin.DROPOUT_RATE=2']"
    code = (
        "import sys; from t5patches import cli; status = cli.main(['--help']);"
        f"status |= cli.main({train}) - 2;"
        "heavy = {'jax', 'tensorflow', 'seqio', 'matplotlib'} & set(sys.modules);"
        "sys.exit(status or (3 if heavy else 0))"
    )
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True
    )
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert result.returncode == 0, result.stderr
    assert "quickstart" in result.stdout and "annotate" in result.stdout
    # Of the processor, not of the clock: tests share their machine.
    seconds = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    assert seconds < 3


@pytest.mark.parametrize(
    "command",
    [["annotate", "phrases"], ["evaluate"], ["report"], ["quickstart"]]
    + [[name] for name in ("train", "infer", "eval", "generate")],
)
def test_each_help_says_what_is_read_and_written(command, capsys):
    assert cli.main([*command, "--help"]) == 0
    text = capsys.readouterr().out.lower()
    assert "reads" in text and "writes" in text


@pytest.mark.parametrize(
    "words",
    ["", "fly", "annotate", "annotate magic", "annotate phrases", "evaluate --old x"]
    + ["train", "report --nonsense"],
)
def test_wrong_use(words, capsys):
    assert run(words) == 2
    assert "Traceback" not in capsys.readouterr().err


def test_version(capsys):
    assert cli.main(["--version"]) == 0
    assert capsys.readouterr().out.strip()[0].isdigit()


def test_annotate(folder, capsys):
    assert run(ANNOTATE, "out --targets-length 1") == 0
    rows = list(records.read_annotated(folder / "out/annotated", VOCABULARY))
    assert [bool(row["annotations"]) for row in rows] == [True, False, True]
    stats = json.loads((folder / "out/stats.json").read_text())
    assert stats["truncation"]["feature_lengths"] == {"targets": 1}
    assert "3 predictions, 66.7 % with something unwanted" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ("--old-samples old.jsonl", "--old-samples and --new-samples are given"),
        ("--second-new new.jsonl", "--second-old and --second-new are given"),
        ("--second-old old.jsonl --second-new new.jsonl --second-phrases rude.txt",
         "--second-phrases and --second-old: give one"),
        ("--seed x", "--seed"),
        ("--cluster nothing", "has no field 'nothing'"),
    ],
)  # fmt: skip
def test_wrong_options_of_evaluate(folder, more, message, capsys):
    assert run(EVALUATE, "results.json", more) == 2
    assert message in capsys.readouterr().err
    assert run(EVALUATE.replace("--phrases rude.txt", "--variants"), "x.json") == 2
    assert "--variants needs --phrases" in capsys.readouterr().err
    assert not (folder / "results.json").exists()


def test_wrong_input_is_a_message_and_2(folder, capsys):
    (folder / "rude.txt").write_text("# nothing\n")
    assert run(ANNOTATE, "out") == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and "rude.txt: no phrases in it" in error
    assert "Traceback" not in error
    assert not (folder / "out").exists()


def test_ids_that_do_not_match(folder, capsys):
    predictions("new.jsonl", "you all")
    assert run(EVALUATE, "results.json") == 2
    assert "missing in the new" in capsys.readouterr().err
    assert not (folder / "results.json").exists()


@pytest.mark.parametrize("command", [ANNOTATE, EVALUATE])
def test_an_output_in_a_file(folder, command, capsys):
    (folder / "taken").write_text("")
    assert run(command, "taken/x.json") == 2
    assert "taken" in capsys.readouterr().err


def test_results_go_over_nothing_that_is_there(folder, capsys):
    assert run(EVALUATE, str(folder)) == 2
    assert "is a folder; give a file" in capsys.readouterr().err
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    for name in ("old.jsonl", "new.jsonl"):
        assert run(EVALUATE, name) == 2
        assert "is read here" in capsys.readouterr().err
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


def test_evaluate_and_report(folder, capsys):
    """Also to an output that nobody reads, as of `| head`, or that has no '─'."""
    assert run(EVALUATE, "results.json") == 0
    results = json.loads((folder / "results.json").read_text())
    assert results["prevalence"] == {"before": 2 / 3, "after": 0}
    assert results["exact_match"]["clean"] == 1
    more = "--exact-update exact.jsonl --rejection samples.jsonl"
    predictions("exact.jsonl", "you", "a nice day", "what")
    predictions("samples.jsonl", "you")
    assert run(EVALUATE, "results.json", more) == 0
    results = json.loads((folder / "results.json").read_text())
    assert results["distance_to_exact_update"]["outputs"]["exact_match"] == 2 / 3
    assert results["rejection_sampling"]["accepted"]["examples"] == 1
    more = (
        "--against exact.jsonl --second-phrases rude.txt --variants --cluster inputs "
    )
    more += "--old-samples samples.jsonl --new-samples sampled.jsonl --seed 5"
    predictions("sampled.jsonl", "fool")
    assert run(EVALUATE, "results.json", more) == 0
    results = json.loads((folder / "results.json").read_text())
    assert results["intervals"]["clusters"] == 3 and results["against"]["seed"] == 5
    assert results["second_detector"]["prevalence"] == results["prevalence"]
    assert results["samples"]["prevalence"] == {"before": 0, "after": 1}
    assert results["variants"]["inside"] == {"before": 0, "after": 0}
    assert results["commands"][0].endswith("--seed 5")
    assert set(results["fingerprints"]) >= {"exact.jsonl", "rude.txt"}
    assert run("report --results results.json") == 0
    assert "66.7 %" in capsys.readouterr().out
    assert "<mark" in (folder / "report.html").read_text(encoding="utf-8")
    assert (folder / "report.png").stat().st_size > 10_000
    words = "-m t5patches report --results results.json"
    command = [sys.executable, *words.split()]
    environment = {**os.environ, "PYTHONIOENCODING": "ascii"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0 and "before" in done.stdout
    read, write = os.pipe()
    os.close(read)
    with open(write, "w") as closed:
        done = subprocess.run(command, stdout=closed, stderr=subprocess.PIPE, text=True)
    assert done.returncode == 2
    assert done.stderr.endswith("error: standard output: Broken pipe\n")


def test_ways_to_end(monkeypatch, capsys):
    def report_raises(error):
        monkeypatch.setattr(evaluation, "report", mock.Mock(side_effect=error))
        return run("report")

    assert report_raises(SystemExit("bye")) == 1
    assert "bye" in capsys.readouterr().err
    assert report_raises(KeyboardInterrupt) == 130
    with pytest.raises(RuntimeError, match="ours"):
        report_raises(RuntimeError("ours"))
    with pytest.raises(OSError, match="ours"):
        report_raises(OSError("ours"))


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("FILE=models/a.gin FILE=b", "FILE=models/a.gin FILE=runs/generate.gin FILE=b"),
        ("FILE=b", "FILE=runs/generate.gin FILE=b"),
        ("FILE=x/runs/generate.gin", "FILE=x/runs/generate.gin"),
        ("FILE models/a.gin --x", "FILE models/a.gin FILE=runs/generate.gin --x"),
    ],
)
def test_generate_adds_its_run_file(given, expected):
    given, expected = (
        words.replace("FILE", "--gin_file").split() for words in (given, expected)
    )
    assert t5x_scripts._with_generate_gin(given) == expected
