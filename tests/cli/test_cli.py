"""The command: help, exit codes, and the steps on files."""

import json
import os
import subprocess
import sys
import time

import pytest
from small_vocabulary import small_vocabulary

from t5patches import cli
from t5patches.cli import evaluation, t5x_scripts
from t5patches.interchange import json_files, records

VOCABULARY = small_vocabulary()


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
    return str(path)


@pytest.fixture
def files(tmp_path):
    (tmp_path / "rude.txt").write_text("fool\nstupid\n")
    return {
        "old": predictions(tmp_path / "old.jsonl", "you fool", "a nice day", "stupid"),
        "new": predictions(tmp_path / "new.jsonl", "you all", "a nice day", "what"),
        "phrases": str(tmp_path / "rude.txt"),
        "folder": tmp_path,
    }


def annotate(files, **changes):
    options = {
        "--phrases": files["phrases"],
        "--predictions": files["old"],
        "--output": str(files["folder"] / "annotated"),
        "--vocabulary": VOCABULARY.sentencepiece_model_file,
        **changes,
    }
    words = [word for pair in options.items() for word in pair]
    return cli.main(["annotate", "phrases", *words])


def evaluate(files, *more):
    words = [
        "--old",
        files["old"],
        "--new",
        files["new"],
        "--phrases",
        files["phrases"],
    ]
    output = str(files["folder"] / "results.json")
    return cli.main(["evaluate", *words, "--output", output, *more])


def test_help_is_quick_and_imports_nothing_heavy():
    code = (
        "import sys; from t5patches import cli; status = cli.main(['--help']);"
        "heavy = {'jax', 'tensorflow', 'seqio', 'matplotlib'} & set(sys.modules);"
        "sys.exit(status or (3 if heavy else 0))"
    )
    start = time.monotonic()
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True
    )
    assert result.returncode == 0, result.stderr
    assert "quickstart" in result.stdout and "annotate" in result.stdout
    # A second on an idle machine; tests share theirs.
    assert time.monotonic() - start < 3


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
    "argv",
    [
        [],
        ["fly"],
        ["annotate"],
        ["annotate", "magic"],
        ["annotate", "phrases"],
        ["evaluate", "--old", "x"],
        ["train"],
        ["report", "--nonsense"],
    ],
)
def test_wrong_use(argv, capsys):
    assert cli.main(argv) == 2
    captured = capsys.readouterr()
    assert "Traceback" not in captured.err


def test_version(capsys):
    assert cli.main(["--version"]) == 0
    assert capsys.readouterr().out.strip()[0].isdigit()


def test_annotate(files, capsys):
    assert annotate(files, **{"--targets-length": "1"}) == 0
    out = files["folder"] / "annotated"
    rows = list(records.read_annotated(out / "annotated", VOCABULARY))
    assert [bool(row["annotations"]) for row in rows] == [True, False, True]
    stats = json.loads((out / "stats.json").read_text())
    assert stats["truncation"]["feature_lengths"] == {"targets": 1}
    assert "3 predictions, 66.7 % with something unwanted" in capsys.readouterr().out


def test_wrong_input_is_a_message_and_2(files, capsys):
    (files["folder"] / "rude.txt").write_text("# nothing\n")
    assert annotate(files) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and "rude.txt: no phrases in it" in error
    assert "Traceback" not in error
    assert not (files["folder"] / "annotated").exists()


def test_evaluate_and_report(files, capsys):
    assert evaluate(files) == 0
    results = json.loads((files["folder"] / "results.json").read_text())
    assert results["prevalence"] == {"before": 2 / 3, "after": 0}
    assert results["exact_match"]["clean"] == 1
    path = str(files["folder"] / "results.json")
    assert cli.main(["report", "--results", path]) == 0
    assert "66.7 %" in capsys.readouterr().out
    assert "<mark" in (files["folder"] / "report.html").read_text(encoding="utf-8")
    assert (files["folder"] / "report.png").stat().st_size > 10_000


def test_ids_that_do_not_match(files, capsys):
    predictions(files["folder"] / "new.jsonl", "you all")
    assert evaluate(files) == 2
    assert "missing in the new" in capsys.readouterr().err
    assert not (files["folder"] / "results.json").exists()


def test_an_output_that_is_a_file(files, capsys):
    (files["folder"] / "taken").write_text("")
    assert annotate(files, **{"--output": str(files["folder"] / "taken/x")}) == 2
    assert "taken" in capsys.readouterr().err
    assert evaluate(files, "--output", str(files["folder"] / "taken/r.json")) == 2
    assert "taken" in capsys.readouterr().err


def test_results_go_over_nothing_that_is_there(files, capsys):
    assert evaluate(files, "--output", str(files["folder"])) == 2
    assert "is a folder; give a file" in capsys.readouterr().err
    before = sorted(os.listdir(files["folder"]))
    for path in files["folder"].glob("*.jsonl"):
        content = path.read_bytes()
        assert evaluate(files, "--output", str(path)) == 2
        assert "is read here" in capsys.readouterr().err
        assert path.read_bytes() == content
    assert sorted(os.listdir(files["folder"])) == before


def test_an_output_that_nobody_reads(files):
    """As of `| head`, and on a terminal without the table's lines."""
    assert evaluate(files) == 0
    command = [sys.executable, "-m", "t5patches", "report", "--results"]
    command.append(str(files["folder"] / "results.json"))
    environment = {**os.environ, "PYTHONIOENCODING": "ascii"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0 and "before" in done.stdout
    read, write = os.pipe()
    os.close(read)
    with open(write, "w") as closed:
        done = subprocess.run(command, stdout=closed, stderr=subprocess.PIPE, text=True)
    assert done.returncode == 1 and "Traceback" not in done.stderr


def test_an_exit_with_a_message(monkeypatch, capsys):
    def leaves(argv):
        raise SystemExit("bye")

    monkeypatch.setattr(evaluation, "report", leaves)
    assert cli.main(["report"]) == 1
    assert "bye" in capsys.readouterr().err


def test_interrupt_and_our_own_faults(files, monkeypatch, capsys):
    def interrupt(argv):
        raise KeyboardInterrupt

    def fault(argv):
        raise RuntimeError("ours")

    monkeypatch.setattr(evaluation, "report", interrupt)
    assert cli.main(["report"]) == 130
    monkeypatch.setattr(evaluation, "report", fault)
    with pytest.raises(RuntimeError, match="ours"):
        cli.main(["report"])


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (
            ["--gin_file=models/a.gin", "--gin_file=my.gin"],
            [
                "--gin_file=models/a.gin",
                "--gin_file=runs/generate.gin",
                "--gin_file=my.gin",
            ],
        ),
        (["--gin_file=my.gin"], ["--gin_file=runs/generate.gin", "--gin_file=my.gin"]),
        (["--gin_file=x/runs/generate.gin"], ["--gin_file=x/runs/generate.gin"]),
        (
            ["--gin_file", "models/a.gin", "--gin.X=1"],
            ["--gin_file", "models/a.gin", "--gin_file=runs/generate.gin", "--gin.X=1"],
        ),
    ],
)
def test_generate_adds_its_run_file(given, expected):
    assert t5x_scripts._with_generate_gin(given) == expected
