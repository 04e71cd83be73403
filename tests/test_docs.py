"""Every command of docs/xsum.md and docs/civil_comments.md, in order, at a small size.

Those about cached tasks are typed by tests/beam. Those of docs/successive.md repeat the
README's, which tests/test_readme.py types: they are read up to what they would load.
"""

import json
import pathlib
import re
import shutil

import pytest
import typed_commands
from typed_commands import text

from t5patches import cli
from t5patches.checkpoints import finding
from t5patches.errors import UserError
from t5patches.interchange import json_files
from t5patches.run import preflight, scripts


def run_all(name, folder):
    """Types a document's commands; returns how many."""
    typed_commands.write_vocabulary(folder)
    job, *commands = typed_commands.blocks(f"docs/{name}")
    (folder / "job.gin").write_text(typed_commands.SMALL + job)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        typed = typed_commands.words("\n".join(commands), folder)
        typed_commands.run(typed)
    return len(typed)


def best(folder, model):
    return json.loads((folder / model / "best.json").read_text())["step"]


@pytest.fixture(scope="module")
def xsum(tmp_path_factory):
    """The folder of XSUM's commands."""
    import spacy

    folder = tmp_path_factory.mktemp("xsum")
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
    return folder


def test_xsum(xsum):
    results = typed_commands.check_results(xsum, 8, best(xsum, "finetuned"))
    assert "references" in results
    for model in ("corrective", "filtered"):
        assert not (xsum / model / "frozen.json").exists()
        assert best(xsum, model) in (3, 4)
        [made] = json_files.read_json(xsum / model / "patches.json")["updates"]
        assert (made["method"], made["alpha"], made["frozen"]) == (model, None, None)


def test_civil_comments(xsum, tmp_path, monkeypatch):
    """What training is given is looked at; the models are those of XSUM's commands."""
    run, starts = scripts._run, []

    def untrained(script, config, arguments, *rest):
        if script != "train":
            return run(script, config, arguments, *rest)
        scripts._make_paths_absolute(arguments)
        preflight.check(script, arguments)
        restore = preflight.restore_config(arguments)
        starts.append(restore and restore.path)
        folder = pathlib.Path(arguments["model_dir"])
        shutil.copytree(xsum / folder.name, tmp_path / folder.name)

    monkeypatch.setattr(scripts, "_run", untrained)
    lines = [f"{text(i, 10)},{0.4 + i % 7 / 10:.1f},{i}\n" for i in range(150)]
    (tmp_path / "comments.csv").write_text("text,toxicity,id\n" + "".join(lines))
    for name, count in {"train": 60, "trial": 10}.items():
        posts = [text(i, 6) for i in range(count)]
        spans = [
            [k for m in re.finditer("fool|stupid", post) for k in range(*m.span())]
            for post in posts
        ]
        rows = [f'"{s}",{post}\n' for s, post in zip(spans, posts, strict=True)]
        (tmp_path / f"tsd_{name}.csv").write_text("spans,text\n" + "".join(rows))
    assert run_all("civil_comments.md", tmp_path) == 13
    assert starts == [None, finding.choose_checkpoint(tmp_path / "finetuned", "best")]
    (after,) = (tmp_path / "after" / "test").glob("*.jsonl")
    count = sum(1 for _ in json_files.read_jsonl(after))
    typed_commands.check_outputs(tmp_path, count)


def test_successive(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    typed_commands.write_vocabulary(tmp_path)
    [job] = [b for b in typed_commands.blocks("README.md") if "_LENGTHS = {" in b]
    (tmp_path / "job.gin").write_text(job)
    for name in ("unwanted.txt", "more.txt"):
        (tmp_path / name).write_text(f"{name[:-4]}\n")
    commands = "\n".join(typed_commands.blocks("docs/successive.md"))
    scripts_typed = 0

    def stop():
        raise UserError("read")

    for _, command, *arguments in typed_commands.words(commands, tmp_path):
        if command in ("train", "generate"):
            scripts_typed += 1
            script = {"generate": "infer"}.get(command, command)
            with pytest.raises(UserError, match="^read$"):
                scripts.run(script, arguments, prepare=stop)
        else:
            assert cli.main([command, *arguments]) == 2
            assert "usage" not in capsys.readouterr().err
    assert scripts_typed == 5
    assert (tmp_path / "both.txt").read_text() == "unwanted\nmore\n"
