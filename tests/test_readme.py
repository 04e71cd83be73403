"""The README's commands, typed as they stand there, at a size for a test."""

import typed_commands

from t5patches.interchange import json_files

SMALLER = {
    "TRAIN_STEPS_RELATIVE=10000": "TRAIN_STEPS_RELATIVE=4",
    "TRAIN_STEPS_RELATIVE=1000": "TRAIN_STEPS_RELATIVE=2",
    "checkpoint_10000": "checkpoint_4",
    "checkpoint_11000": "checkpoint_6",
    "VOCABULARY_SIZE = 32128": "VOCABULARY_SIZE = 384",
    "{'inputs': 256, 'targets': 64}": "{'inputs': 24, 'targets': 12}",
}


def block_with(text):
    """The README's code block with this text in it, at a smaller size."""
    (block,) = [b for b in typed_commands.blocks("README.md") if text in b]
    for large, small in SMALLER.items():
        block = block.replace(large, small)
    return block


def test_a_job_on_ones_own_model(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    typed_commands.write_vocabulary(tmp_path)
    for split, count in {"train": 64, "validation": 32, "test": 32}.items():
        texts = [
            (typed_commands.text(i, 9), typed_commands.text(i, 4)) for i in range(count)
        ]
        rows = [{"inputs": inputs, "targets": targets} for inputs, targets in texts]
        json_files.write_jsonl(tmp_path / f"{split}.jsonl", rows)
    # Pieces of which a model of four steps says some.
    (tmp_path / "unwanted.txt").write_text("\n".join(typed_commands.WORDS))
    job = block_with("TASK_FEATURE_LENGTHS =")
    (tmp_path / "job.gin").write_text(typed_commands.SMALL + job)
    typed = typed_commands.words(block_with("t5patches evaluate"), tmp_path)
    typed_commands.run(typed)
    assert len(typed) == 11
    typed_commands.check_results(tmp_path, 32, 4)
