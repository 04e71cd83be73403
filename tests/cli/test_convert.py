"""`t5patches convert`, and what its result is good for: the commands of the docs."""

import json
import shutil

import hf_toy
import ml_dtypes
import typed_commands

from t5patches.interchange import json_files


def test_the_commands_of_the_document(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    config = hf_toy.CONFIG | {"vocab_size": 256}
    source = hf_toy.write(tmp_path / "flan-t5-small", config, tokenizer=False)
    (source / "spiece.model").write_bytes(hf_toy.pieces())
    rows = [{"inputs": f"words {i}", "targets": "more"} for i in range(4)]
    json_files.write_jsonl(tmp_path / "test.jsonl", rows)
    (tmp_path / "job.gin").write_text(
        "TASK_FEATURE_LENGTHS = {'inputs': 12, 'targets': 6}\n"
        "FILES = {'test': 'test.jsonl'}\nBATCH_SIZE = 4\n"
    )
    commands = typed_commands.blocks("docs/checkpoints.md")
    text = "\n".join(block for block in commands if block.startswith("t5patches"))
    text = text.replace("updated/checkpoint_1000", "updated/checkpoint_0")
    typed = typed_commands.words(text, tmp_path)
    names = [words[1] for words in typed]
    assert names == ["convert", "generate", "convert", "convert", "info"]
    typed_commands.run(typed[:2])
    # In the place of a training.
    shutil.copytree(tmp_path / "flan" / "checkpoint_0", "updated/checkpoint_0")
    typed_commands.run(typed[2:])
    (path,) = (tmp_path / "before").glob("text-predict-*.jsonl")
    found = [json.loads(line) for line in path.read_text().splitlines()]
    assert len(found) == 4 and all(row["target_tokens"] for row in found)
    tensors = hf_toy.read(source)
    hf_toy.assert_same(hf_toy.read(tmp_path / "updated-hf"), tensors)
    narrow = {key: x.astype(ml_dtypes.bfloat16) for key, x in tensors.items()}
    hf_toy.assert_same(hf_toy.read(tmp_path / "alone-hf"), narrow)
    for name, pieces in {
        "updated-hf": "flan-t5-small/spiece.model",
        "alone-hf": "flan/sentencepiece.model",
    }.items():
        written = tmp_path / name / "spiece.model"
        assert written.read_bytes() == (tmp_path / pieces).read_bytes()
    count = sum(x.size for x in tensors.values())
    assert f"{count:,}" in capsys.readouterr().out
