"""A whole patch of a small model, its form, its files, and the same by hand."""

import dataclasses
import json
import pathlib
import re
import shlex
import shutil
from unittest import mock

import hf_toy
import numpy as np
import pytest
import safetensors.numpy

from t5patches import cli
from t5patches.checkpoints import finding
from t5patches.cli.annotate import make_annotator
from t5patches.convert import t5x_files
from t5patches.errors import UserError
from t5patches.interchange import json_files, records
from t5patches.patch import asked, duration, inputs, job
from t5patches.run import gin_files, scripts
from t5patches.sweep import plan, running

CONFIG = {**hf_toy.CONFIG, "vocab_size": 256, "num_decoder_layers": 1}
WORDS = "the cat sat on mat der fish".split()
# Of what these weights say; they have learned nothing.
PHRASES = "x\nä\na\nm\n"
OPTIONS = ["--batch-size", "16", "--targets-length", "8"]


def parameters(path):
    found = t5x_files.Parameters(path)
    return dict(found.read(found.arrays))


def make_model(folder):
    model = hf_toy.write(folder, CONFIG, tokenizer=False)
    (model / "spiece.model").write_bytes(hf_toy.pieces())
    (model / "README.md").write_text("---\nlicense: mit\n---\n# My model\n")
    (model / "results.json").write_text("{}")


@pytest.fixture(scope="module")
def patched(tmp_path_factory):
    """A folder with a model, texts, phrases, and what the command made of them."""
    folder = tmp_path_factory.mktemp("patch")
    make_model(folder / "model")
    texts = (f"{WORDS[i % 7]} {WORDS[i // 7 % 7]} {i}" for i in range(160))
    json_files.write_jsonl(folder / "texts.jsonl", ({"text": text} for text in texts))
    (folder / "phrases.txt").write_text(PHRASES)
    calls, run = [], scripts.run

    def recorded(*args, **options):
        calls.append(args)
        run(*args, **options)

    def searched(sweep, made):
        row = {"alpha": 1.0, "learning_rate": 1.0, "distance": {"validation": 0.25}}
        failed = {"name": "bad", "alpha": 4.0, "learning_rate": 8.0}
        points = [{"name": "best", **row}]
        return {"chosen": {"tnff": "best"}, "points": points, "failed": [failed]}

    with (
        mock.patch.object(scripts, "run", recorded),
        mock.patch.object(running, "run", searched),
    ):
        assert cli.main(command(folder)) == 0
    json_files.write_json(folder / "calls.json", calls)
    return folder


def command(folder):
    given = {"model": "model", "inputs": "texts.jsonl", "phrases": "phrases.txt"}
    given["output"] = "patched"
    options = [w for k, v in given.items() for w in (f"--{k}", str(folder / v))]
    return ["patch", *options, *OPTIONS, "--steps", "4", "--search"]


def test_the_model_is_the_old_one_but_for_the_phrases(patched):
    old, new = (hf_toy.read(patched / name) for name in ("model", "patched"))
    changed = {key for key in old if not np.array_equal(old[key], new[key])}
    assert changed == {"lm_head.weight"} and old.keys() == new.keys()
    rows = (old["lm_head.weight"] != new["lm_head.weight"]).any(axis=1)
    vocabulary = records.load_vocabulary(patched / "model" / "spiece.model")
    said = "".join(
        vocabulary.tokenizer.id_to_piece(int(i)) for i in np.flatnonzero(rows)
    )
    assert {*said.lower()} & {*"xäam"} and rows.sum() < 60
    kept = ("spiece.model", "config.json", "generation_config.json")
    assert all((patched / "patched" / name).is_file() for name in kept)


def test_the_report_and_the_card(patched):
    folder = patched / "patched"
    results = json.loads((folder / "results.json").read_text())
    tests = json_files.read_jsonl(folder / "run" / "inputs" / "test.jsonl")
    assert results["examples"] == len([*tests]) > 0
    assert results["prevalence"]["before"] > results["prevalence"]["after"]
    assert results["exact_update"]["prevalence"]["after"] == 0
    card = (folder / "README.md").read_text()
    assert card.startswith("---\nlicense: mit\n---\n# My model\n\n## Targeted update\n")
    before = f"{100 * results['prevalence']['before']:.1f} %"
    assert f"| outputs with something unwanted | {before} (" in card
    assert (folder / "report.html").stat().st_size > 1000


def test_the_same_by_hand(patched, monkeypatch):
    """What is typed calls T5X's scripts with the very words; one training was compared.

    (The parameters were the same bit for bit; a second training takes long.)
    """
    folder, done = patched / "patched" / "run", patched / "calls.json"
    called = []
    monkeypatch.setattr(scripts, "run", lambda *args, **_: called.append([*args]))
    typed = map(shlex.split, (folder / "commands.txt").read_text().splitlines())
    for _, name, *words in typed:
        if name in ("train", "infer", "evaluate"):
            assert cli.main([name, *words]) == 0
    assert called == json.loads(done.read_text())
    results = json.loads((patched / "patched" / "results.json").read_text())
    again = json.loads((folder / "results.json").read_text())
    assert all(results[name] == again[name] for name in ("prevalence", "exact_match"))
    assert [script for script, _ in called] == ["infer"] * 6 + ["train", "infer"]
    (gin,) = (words for script, (words,) in called if script == "train")
    assert gin == f"--gin_file={folder / 'update.gin'}"


def test_what_a_model_is(patched, capsys):
    """In both forms the same, and by which update it was made."""
    assert cli.main(["info", str(patched / "patched")]) == 0
    said, tree = capsys.readouterr().out.split("\n\n")
    tensors = hf_toy.read(patched / "patched")
    count = f"parameters {sum(x.size for x in tensors.values()):,}"
    assert count in " ".join(said.split()) and "form         Hugging Face's" in said
    names = [line.split() for line in tree.splitlines()]
    shapes = {key: "×".join(map(str, x.shape)) for key, x in tensors.items()}
    assert {name: shape for name, shape, _ in names} == shapes
    assert cli.main(["info", str(patched / "patched" / "run" / "updated")]) == 0
    said, tree = capsys.readouterr().out.split("\n\n")
    said = " ".join(said.split())
    for text in (count, "step 4", "update 1 method tnff, alpha 1.0, learning_rate 1.0"):
        assert text in said
    assert "heads 3 of 4 activations gelu, linear vocabulary 256 rows" in said
    assert len(tree.splitlines()) == len(names)
    assert cli.main(["info", str(patched)]) == 2


def test_it_goes_on_where_it_was_stopped(patched, capsys):
    folder = patched / "patched"
    before = {
        path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()
    }
    (folder / "run" / "finish.done.json").unlink()
    (folder / "config.json").unlink()
    assert cli.main(command(patched)) == 0
    said = capsys.readouterr().out
    assert said.count("done before") == 9
    assert re.search(r"All takes about \d+ to \d+ minutes on this machine", said)
    after = {
        path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()
    }
    assert after == before
    assert cli.main([*command(patched), "--seed", "1"]) == 2
    assert "seed was 0, now 1" in capsys.readouterr().err


def test_outputs_that_are_marked_already_of_a_checkpoint(patched, tmp_path):
    """Of T5X's form, which stays; then in the other."""
    run = patched / "patched" / "run"
    rows = []
    for split in ("train", "validation", "test"):
        for row in records.read_predictions(run / "before" / split / "text-predict"):
            text = row["prediction"]
            spans = [(i, i + 1) for i, letter in enumerate(text) if letter in "xä"]
            named = [{"start": s, "end": e, "label": "letter"} for s, e in spans]
            rows.append({**row, "annotations": named})
    json_files.write_jsonl(tmp_path / "marked.jsonl", rows)
    output, model = tmp_path / "patched", run / "model"
    given = ["--model", str(model), "--output", str(output), "--method", "tnrf"]
    given += ["--annotated", str(tmp_path / "marked.jsonl"), *OPTIONS, "--steps", "2"]
    assert cli.main(["patch", *given]) == 0
    step = finding.step_of(output)
    old = parameters(model / "checkpoint_0")
    new = parameters(output / f"checkpoint_{step}")
    assert 0 < step <= 2 and old.keys() == new.keys()
    assert all(not np.array_equal(old[key], new[key]) for key in old)
    results = json.loads((output / "results.json").read_text())
    tests = [row for row in rows if inputs.split_of(row["inputs"]) == "test"]
    share = sum(bool(row["annotations"]) for row in tests) / len(tests)
    assert results["prevalence"]["before"] == pytest.approx(share)
    gin = (output / "model.gin").read_text()
    assert gin.endswith(f"VOCABULARY_PATH = '{output / 'sentencepiece.model'}'\n")
    converted = tmp_path / "converted"
    assert cli.main(["convert", "t5x-to-hf", str(output), str(converted)]) == 0
    assert safetensors.numpy.load_file(converted / "model.safetensors")


def test_the_search_is_a_sweep_of_the_same_update(patched):
    """Its plan, and what became of its choice; tests/quickstart runs such sweeps."""
    run = patched / "patched" / "run"
    found = plan.read(str(run / "search.json"))
    # In turn; the defaults are those of runs/unwanted_rows.gin.
    settings = [(point.alpha, point.learning_rate) for point in found.points]
    rates = [(1.0, 0.04), (1.0, 0.01), (1.0, 0.16), (0.25, 0.04), (4.0, 0.04)]
    assert settings == rates
    found.update.at(found.points[1]).write(str(run / "point.gin"))
    folders = scripts.gin_folders()
    point, update = (
        {b.name: b.value for b in gin_files.read([str(run / name)], [], folders)}
        for name in ("point.gin", "update.gin")
    )
    changed = {name for name in update if point.get(name) != update[name]}
    assert changed == {"MODEL_DIR", "LEARNING_RATE", "TRAIN_STEPS_RELATIVE"}
    assert point.keys() == update.keys()  # _train.gin asks for MODEL_DIR.
    assert point["TRAIN_STEPS_RELATIVE"] == 1 and update["TRAIN_STEPS_RELATIVE"] == 4

    chosen = {"alpha": 1.0, "learning_rate": 1.0}
    assert {name: update[name.upper()] for name in chosen} == chosen
    results = json.loads((patched / "patched" / "results.json").read_text())["search"]
    assert results["chosen"] == chosen and results["steps"] == 1
    assert results["points"] == [
        {**chosen, "distance": 0.25},
        {"alpha": 4.0, "learning_rate": 8.0, "distance": None},
    ]
    card = (patched / "patched" / "README.md").read_text()
    assert "- alpha: 1\n- learning rate: 1\n- learning rates tried: 1 with" in card
    assert "1 with alpha 1: 0.250; 8 with alpha 4: failed (" in card
    typed = (run / "commands.txt").read_text().splitlines()
    (sweep,) = (line for line in typed if line.startswith("t5patches sweep"))
    assert sweep == f"t5patches sweep {run / 'search.json'} --output {run / 'search'}"


def test_alternatives_are_tried_where_no_list_says_all(patched, tmp_path, capsys):
    """And trained on, all parameters; the outputs are those of the other patch."""
    (tmp_path / "find.py").write_text(
        "def find(text, inputs):\n"
        "    return [(i, i + 1, 'x') for i, c in enumerate(text) if c in 'xä']\n"
    )
    words = f"custom --function {tmp_path / 'find.py'}:find"
    patch = asked.Patch(
        model=str(patched / "model"),
        output=str(tmp_path / "patched"),
        annotator=make_annotator(words, "here"),
        words=words,
        batch_size=16,
        targets_length=8,
    )
    before, run = patched / "patched" / "run", pathlib.Path(patch.path())
    stages = job._Job(patch, inputs.read(str(patched / "texts.jsonl")))
    for stage in ("inputs", "model", "before"):
        shutil.copytree(before / stage, run / stage)
        shutil.copyfile(before / f"{stage}.done.json", run / f"{stage}.done.json")
    names = [*stages.stages]
    assert names[3:6] == ["annotate", "alternatives", "update"]
    for name in names[:5]:
        stages.do(name)
    typed = [*map(shlex.split, stages.done["alternatives"]["commands"])]
    assert [words[1] for words in typed] == ["infer", "annotate"] * 2
    with mock.patch.object(scripts, "run"), mock.patch.object(finding, "step_of"):
        with mock.patch.object(finding, "choose_checkpoint"):
            stages.update()
    gin = (run / "update.gin").read_text()
    assert "unwanted_rows" not in gin and "LEARNING_RATE" not in gin
    for split, annotate in zip(job.TRAINING, typed[1::2], strict=True):
        folder = run / "annotated_alternatives" / split
        rows = [*records.read_annotated(folder / "annotated")]
        count = sum(len(row["unwanted_alternatives"]) for row in rows)
        counted = stages.done["alternatives"][split]
        assert 0 < count == counted["unwanted_alternatives"]
        assert count < (tried := counted["alternatives_tried"])
        assert f"'{folder / 'annotated'}'" in gin
        # The same, typed: it finds them done.
        stat = (folder / "annotated-00000-of-00001.tfrecord").stat()
        assert cli.main(annotate[1:]) == 0
        assert (folder / "annotated-00000-of-00001.tfrecord").stat() == stat
        said = f"{count:,} of {tried:,} alternatives are unwanted"
        assert said in capsys.readouterr().out


def test_nothing_to_update(tmp_path):
    stages = job._Job(asked.Patch("model", str(tmp_path)), {})
    nothing = {"share_with_unwanted": 0.0}
    with (
        mock.patch.object(stages, "_annotate", return_value=nothing),
        pytest.raises(UserError, match="nothing unwanted is in what the model says"),
    ):
        stages.annotate()


def test_duration(tmp_path):
    given = {"model": "model", "inputs": "texts", "steps": 100, "batch_size": 10}
    patch = asked.Patch(output=str(tmp_path), targets_length=36, **given)
    examples = {"train": 80, "validation": 10, "test": 10}
    found = {"parameters": 10**6, "inputs_length": 64}
    done = {"model": found, "inputs": {"examples": examples}}
    # A pass of an example: 2 · 10⁶ · (64 + 36) / 2 FLOP, 0.1 s. All 100 outputs, then
    # 20 for each of 90 that are trained on, then 10 again; the frozen model over 90;
    # 1,000 examples three times.
    passes = 100 + 20 * 90 + 10 + 90 + 3 * 1000
    # Runs of T5X's scripts: three, two, the update, one.
    best, worst = passes * 0.1 / 0.75 + 7 * 5, passes * 0.1 / 0.2 + 7 * 20
    found = duration.minutes(patch, done, 1e9)
    assert found == pytest.approx((best / 60, worst / 60))
    # Five points with a quarter of the steps, each with three runs.
    patch = dataclasses.replace(patch, search=True)
    passes += 5 * (10 + 10) + 5 * 3 * 250
    best, worst = passes * 0.1 / 0.75 + 22 * 5, passes * 0.1 / 0.2 + 22 * 20
    found = duration.minutes(patch, done, 1e9)
    assert found == pytest.approx((best / 60, worst / 60))


def test_memory():
    # Three copies of a parameter, three arrays of logits, of four bytes each.
    assert asked.memory(1000, 50, 8) == 4 * 1000 * 3 + 4 * (50 * 8) * 3


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"--model": "none"}, "none: no such folder"),
        ({"--model": "."}, "is no model's folder"),
        ({"--inputs": "none.jsonl"}, "none.jsonl"),
        (
            {"--inputs": "other.csv"},
            "other.csv:2: expected a column 'inputs' or 'text'",
        ),
        ({"--inputs": "few.csv"}, "1 different examples leave"),
        ({"--phrases": "none.txt"}, "none.txt"),
        ({"--phrases": None}, "what is unwanted?"),
        ({"--annotator": "entities"}, "--phrases and --annotator entities: give one"),
        ({"--output": "model"}, "is the model"),
        ({"--output": "gs://a/b"}, "name a folder on a local disk"),
        ({"--output": "full"}, "has something else in it"),
        ({"--vocabulary": "x.model"}, "has its own tokenizer"),
        ({"--word-ends": "next"}, "unrecognized arguments: --word-ends next"),
        ({"--partitions": "2"}, "2: must divide the model's num_heads, 3"),
        ({"--method": "magic"}, "invalid choice: 'magic'"),
        ({"--search": "--learning-rate=1"}, "leave --learning-rate out"),
    ],
)
def test_wrong_options(change, says, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    make_model(tmp_path / "model")
    texts = ({"inputs": f"cat {i}"} for i in range(60))
    json_files.write_jsonl("texts.jsonl", texts)
    for name, text in (
        ("phrases.txt", "cat\n"),
        ("other.csv", "title,body\na,b\n"),
        ("few.csv", "text\na\na\n"),
        ("full/thesis.tex", "chapter 1"),
    ):
        pathlib.Path(name).parent.mkdir(exist_ok=True)
        pathlib.Path(name).write_text(text)
    given = {"--model": "model", "--inputs": "texts.jsonl", "--output": "patched"}
    given |= {"--phrases": "phrases.txt", **change}
    options = [w for k, v in given.items() if v is not None for w in (k, v)]
    assert cli.main(["patch", *options]) == 2
    assert says in capsys.readouterr().err


def test_wrong_marks(tmp_path, capsys):
    make_model(tmp_path / "model")
    row = {"prediction": "a cat", "annotations": []}
    marked = tmp_path / "marked.jsonl"
    given = ["--model", str(tmp_path / "model"), "--output", str(tmp_path / "patched")]
    rows = [{**row, "inputs": f"cat {i}", "id": i} for i in range(60)]
    for change, says in (
        ({}, "nothing is marked in the"),
        ({"annotations": [{"start": 0, "end": 9, "label": "x"}]}, "are not a span of"),
        ({"annotations": None}, "must be a list of spans"),
        ({"id": 1}, "id '1' occurs twice"),
    ):
        json_files.write_jsonl(marked, [{**rows[0], **change}, *rows[1:]])
        assert cli.main(["patch", *given, "--annotated", str(marked)]) == 2
        assert says in capsys.readouterr().err
