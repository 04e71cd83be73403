"""`t5patches convert`, and what its result is good for: the commands of the docs."""

import json

import hf_toy
import typed_commands

from t5patches.interchange import json_files


def test_the_commands_of_the_document(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    config = hf_toy.CONFIG | {"vocab_size": 384, "tokenizer_class": "ByT5Tokenizer"}
    tensors = hf_toy.weights(config)
    source = hf_toy.write(tmp_path / "flan-t5-small", config, tensors, tokenizer=False)
    rows = [{"inputs": f"words {i}", "targets": "more"} for i in range(4)]
    json_files.write_jsonl(tmp_path / "test.jsonl", rows)
    (tmp_path / "job.gin").write_text(
        "TASK_FEATURE_LENGTHS = {'inputs': 12, 'targets': 6}\n"
        "FILES = {'test': 'test.jsonl'}\nBATCH_SIZE = 4\n"
    )
    commands = typed_commands.blocks("docs/checkpoints.md")
    text = "\n".join(block for block in commands if block.startswith("t5patches"))
    text = text.replace("updated/checkpoint_1000", "flan/checkpoint_0")
    typed = typed_commands.words(text, tmp_path)
    assert [words[1] for words in typed] == ["convert", "generate", "convert"]
    typed_commands.run(typed)
    (path,) = (tmp_path / "before").glob("text-predict-*.jsonl")
    found = [json.loads(line) for line in path.read_text().splitlines()]
    assert len(found) == 4 and all(row["target_tokens"] for row in found)
    hf_toy.assert_same(hf_toy.read(tmp_path / "updated-hf"), hf_toy.read(source))
