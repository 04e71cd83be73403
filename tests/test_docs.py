"""Every command of docs/xsum.md and docs/civil_comments.md, in order, at a small size.

The shell expands the commands, loops and all, to lists of words; they run in this
process, so that what is imported and compiled once serves them all.
"""

import json
import pathlib
import re
import subprocess

import pytest
from small_vocabulary import small_vocabulary

from t5patches import cli
from t5patches.interchange import json_files
from t5patches.tasks import references

ROOT = pathlib.Path(__file__).resolve().parents[1]
# A model and runs that take seconds, for every experiment.
SMALL = """
from __gin__ import dynamic_registration
from t5patches import network
include 'experiments/small.gin'
VOCABULARY_SIZE = 384
TASK_FEATURE_LENGTHS = {'inputs': 24, 'targets': 12}
BATCH_SIZE = 8
TRAIN_STEPS_RELATIVE = 2
SAVE_PERIOD = 1
EVAL_PERIOD = 1
EVAL_STEPS = 1
network.T5Config:
  emb_dim = 16
  num_heads = 2
  head_dim = 8
  mlp_dim = 16
  num_encoder_layers = 1
  num_decoder_layers = 1
"""
WORDS = "hello stupid world you fool the day we talk about weather news".split()


def blocks(name):
    """The code blocks of a document."""
    text = (ROOT / "docs" / name).read_text()
    return re.findall(r"^```\n(.*?)^```", text, re.M | re.S)


def words(commands, folder):
    """What the shell makes of commands: a list of words for each."""
    record = f"{folder}/commands"
    shell = f"""
    log() {{ python3 -c 'import json, sys; print(json.dumps(sys.argv[1:]))' "$@" \
      >> {record}; }}
    t5patches() {{ log t5patches "$@"; }}
    python() {{ log python "$@"; }}
    set -e
    {commands}"""
    subprocess.run(["bash", "-c", shell.replace("log()", "log ()")], check=True)
    lines = pathlib.Path(record).read_text().splitlines()
    return [json.loads(line) for line in lines]


def run_all(name, folder):
    """Types a document's commands; returns how many."""
    job, *commands = blocks(name)
    (folder / "job.gin").write_text(SMALL + job)
    typed = words("\n".join(commands), folder)
    for command, *arguments in typed:
        if command == "t5patches":
            assert cli.main(arguments) == 0, arguments
        else:
            assert arguments[:2] == ["-m", "t5patches.tasks.references"]
            assert references.main(arguments[2:]) == 0, arguments
    return len(typed)


def text(i, count):
    return " ".join(WORDS[(i * 5 + j * j) % len(WORDS)] for j in range(count))


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    model = pathlib.Path(small_vocabulary().sentencepiece_model_file).read_bytes()
    (tmp_path / "sentencepiece.model").write_bytes(model)
    return tmp_path


def steps(folder, model):
    return json.loads((folder / model / "best.json").read_text())["step"]


def check_results(folder, examples):
    results = json.loads((folder / "results.json").read_text())
    assert results["examples"] == examples
    assert (folder / "report.html").stat().st_size > 1000
    frozen = json.loads((folder / "updated" / "frozen.json").read_text())
    best = folder / "finetuned" / f"checkpoint_{steps(folder, 'finetuned')}"
    assert frozen["checkpoint"] == str(best)
    return results


def test_xsum(folder, monkeypatch):
    import spacy

    # In place of spaCy's English pipeline: whatever has an "e" is a place.
    pipeline = spacy.blank("en")
    patterns = [{"label": "GPE", "pattern": [{"TEXT": {"REGEX": "e"}}]}]
    pipeline.add_pipe("entity_ruler").add_patterns(patterns)
    pipeline.to_disk(folder / "en_core_web_sm")
    for split, count in {"train": 24, "validation": 8, "test": 8}.items():
        rows = [
            {"document": text(i, 9), "summary": text(i, 2), "id": f"{split}{i}"}
            for i in range(count)
        ]
        json_files.write_jsonl(folder / "xsum" / f"{split}.jsonl", rows)
    assert run_all("xsum.md", folder) == 18
    results = check_results(folder, 8)
    assert "references" in results
    for model in ("corrective", "filtered"):
        assert not (folder / model / "frozen.json").exists()
        assert steps(folder, model) in (3, 4)


def test_civil_comments(folder):
    lines = [f"{text(i, 10)},{0.4 + i % 7 / 10:.1f},{i}\n" for i in range(150)]
    (folder / "comments.csv").write_text("text,toxicity,id\n" + "".join(lines))
    for name, count in {"train": 60, "trial": 10}.items():
        posts = [(text(i, 6), i) for i in range(count)]
        spans = [
            [k for m in re.finditer("fool|stupid", post) for k in range(*m.span())]
            for post, _ in posts
        ]
        rows = [f'"{s}",{post}\n' for s, (post, _) in zip(spans, posts, strict=True)]
        (folder / f"tsd_{name}.csv").write_text("spans,text\n" + "".join(rows))
    assert run_all("civil_comments.md", folder) == 13
    rows = [
        row
        for _, row in json_files.read_jsonl(*(folder / "after/test").glob("*.jsonl"))
    ]
    check_results(folder, len(rows))
