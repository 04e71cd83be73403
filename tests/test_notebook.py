"""The five functions: docs/python.md as it stands, and what they leave behind."""

import gc
import json
import os
import pathlib
import re
import tempfile

import gin
import hf_toy
import jax
import jax.numpy as jnp
import pytest
from flax import traverse_util

from t5patches import cli, notebook
from t5patches.errors import UserError
from t5patches.interchange import json_files, records

DOCUMENT = pathlib.Path(__file__).parents[1] / "docs" / "python.md"
CONFIG = {**hf_toy.CONFIG, "vocab_size": 256, "num_decoder_layers": 1}
PHRASES = ["x", "ä", "a", "m"]  # Of what these weights say; they have learned nothing.
WORDS = "the cat sat on mat der fish".split()


@gin.configurable
def owned(size=0):
    return size


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("notebook")
    model = hf_toy.write(folder / "my_t5", CONFIG, tokenizer=False)
    (model / "spiece.model").write_bytes(hf_toy.pieces())
    texts = (f"{WORDS[i % 7]} {WORDS[i // 7 % 7]} {i}\n" for i in range(132))
    (folder / "texts.txt").write_text("".join(texts))
    return folder


@pytest.fixture(scope="module")
def namespace(folder):
    """What the document's blocks have made, at a smaller size."""
    code = "\n".join(re.findall(r"```python\n(.*?)```", DOCUMENT.read_text(), re.S))
    code, phrases = re.subn(r'\["nuisance", "fool"\]', repr(PHRASES), code)
    code, steps = re.subn("steps=100", "steps=2, batch_size=16", code)
    code, lengths = re.subn(r"(generate\([^()]*(\([^()]*\))?[^()]*)\)", small, code)
    assert (phrases, steps, lengths) == (2, 2, 5)
    found = {}
    gin.bind_parameter("owned.size", 3)
    before = gin.config_str()
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        exec(compile(code, DOCUMENT, "exec"), found)
    assert gin.config_str() == before and owned() == 3
    gin.clear_config()
    return found


def small(call):
    return f"{call[1]}, max_length=8)"


def leftovers():
    return {*pathlib.Path(tempfile.gettempdir()).glob("t5patches-notebook-*")}


def test_the_document(namespace):
    results = namespace["results"]
    assert results["examples"] == len(namespace["examples"]) == 50
    old, new = (json.dumps(namespace[name]) for name in ("old", "new"))
    assert old != new
    assert namespace["before"]["train"].share_with_unwanted > 0.5
    assert namespace["before"]["train"].whole and not namespace["marked"].whole
    rude, exact = namespace["rude"], namespace["exact"]
    assert exact and not any(rude(row["prediction"], row["inputs"]) for row in exact)


def test_an_update_is_new_arrays(namespace):
    old, new = namespace["model"].params, namespace["updated"].params
    assert all(isinstance(x, jax.Array) for x in jax.tree.leaves((old, new)))
    changed = jax.tree.map(lambda a, b: bool((a != b).any()), old, new)
    changed = traverse_util.flatten_dict(changed, sep="/")
    assert [name for name, did in changed.items() if did] == [
        "decoder/logits_dense/kernel"
    ]


def test_it_is_what_the_command_says(folder, namespace):
    saved = folder / "my_t5_patched"
    kept = {"spiece.model", "config.json", "generation_config.json"}
    assert {*os.listdir(saved)} == {*kept, "model.safetensors"}
    assert cli.main(["convert", "hf-to-t5x", str(saved), str(folder / "t5x")]) == 0
    lines = (folder / "texts.txt").read_text().splitlines()[-50:]
    rows = ({"inputs": line, "id": i} for i, line in enumerate(lines))
    json_files.write_jsonl(folder / "test.jsonl", rows)
    argv = ["generate", f"--gin_file={folder}/t5x/model.gin"]
    argv += ["--gin_file=runs/generate.gin", "--gin_file=tasks/text.gin"]
    given = {
        "FILES": {"test": str(folder / "test.jsonl")},
        "TARGETS_KEY": None,
        "TASK_FEATURE_LENGTHS": {"inputs": 64, "targets": 8},
        "CHECKPOINT_PATH": str(folder / "t5x" / "checkpoint_0"),
        "INFER_OUTPUT_DIR": str(folder / "said"),
    }
    assert cli.main([*argv, *(f"--gin.{k}={v!r}" for k, v in given.items())]) == 0
    said = records.read_predictions(folder / "said" / "text-predict")
    assert [row["target_tokens"] for row in said] == [
        row["target_tokens"] for row in namespace["new"]
    ]


def test_other_parameters(folder, namespace):
    rounded = namespace["rounded"]
    assert {x.dtype for x in jax.tree.leaves(rounded.params)} == {jnp.bfloat16.dtype}
    rounded.save(folder / "rounded", form="t5x")
    again = notebook.load(str(folder / "rounded"))
    same = jax.tree.map(lambda a, b: bool((a == b).all()), rounded.params, again.params)
    assert all(jax.tree.leaves(same))


def test_what_is_refused(folder, namespace):
    model = namespace["model"]
    with pytest.raises(UserError, match="is there already"):
        model.save(folder / "my_t5_patched")
    clean = notebook.annotate(model, namespace["old"], lambda text, inputs: [])
    with pytest.raises(UserError, match="nothing is marked"):
        notebook.update(model, [clean], [clean])
    assert notebook.generate(model, []) == []
    for texts in ("the cat", ["the cat", 3]):
        with pytest.raises(UserError, match="texts: give a list of texts"):
            notebook.generate(model, texts)
    with pytest.raises(UserError, match="validation: give a list of what"):
        notebook.update(model, [clean], [])
    with pytest.raises(UserError, match="train: give a list of what"):
        notebook.update(model, clean, [clean])
    with pytest.raises(UserError, match="method 'tnxx': there is nl, ul"):
        notebook.update(model, [clean], [clean], method="tnxx")


def test_temporary_folders_go_with_what_needs_them(folder, namespace):
    before = leftovers()
    model = notebook.load(str(folder / "my_t5"))
    assert len(leftovers() - before) == 1
    del model
    gc.collect()
    assert leftovers() == before
