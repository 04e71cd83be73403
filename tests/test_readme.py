"""The README's commands, typed as they stand there, at a size for a test."""

import json
import os
import pathlib
import re
import subprocess
import sys

from t5patches.interchange import json_files
from t5patches.quickstart import comments, vocabulary

ROOT = pathlib.Path(__file__).resolve().parents[1]
SMALLER = {
    "models/t5_1_1_small.gin": "models/t5_1_1_tiny.gin",
    "TRAIN_STEPS_RELATIVE=10000": "TRAIN_STEPS_RELATIVE=40",
    "TRAIN_STEPS_RELATIVE=1000": "TRAIN_STEPS_RELATIVE=5",
    "checkpoint_10000": "checkpoint_40",
    "checkpoint_11000": "checkpoint_45",
    "VOCABULARY_SIZE = 32128": "VOCABULARY_SIZE = 768",
    "{'inputs': 256, 'targets': 64}": "{'inputs': 24, 'targets': 32}",
}


def block_with(text):
    """The README's code block with this text in it, at a smaller size."""
    blocks = re.findall(
        r"^```\n(.*?)^```", (ROOT / "README.md").read_text(), re.M | re.S
    )
    (block,) = [block for block in blocks if text in block]
    for large, small in SMALLER.items():
        block = block.replace(large, small)
    return block


def test_a_job_on_ones_own_model(tmp_path):
    splits = comments.make(0, {"train": 64, "validation": 32, "test": 32})
    for split, rows in splits.items():
        json_files.write_jsonl(tmp_path / f"{split}.jsonl", rows)
    texts = [text for row in splits["train"] for text in row.values()]
    vocabulary.train(texts, str(tmp_path / "sentencepiece.model"), 700)
    # A model of 40 steps has not learnt to be rude.
    (tmp_path / "unwanted.txt").write_text("the\nit\nthat\na\n")
    (tmp_path / "job.gin").write_text(block_with("TASK_FEATURE_LENGTHS ="))
    commands = block_with("t5patches evaluate")
    shell = f'set -e\nt5patches() {{ {sys.executable} -m t5patches "$@"; }}\n{commands}'
    path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(
        ["bash", "-c", shell],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    results = json.loads((tmp_path / "results.json").read_text())
    assert results["examples"] == 32
    assert (tmp_path / "report.html").stat().st_size > 1000
    frozen = json.loads((tmp_path / "updated" / "frozen.json").read_text())
    assert frozen["checkpoint"] == str(tmp_path / "finetuned" / "checkpoint_40")
