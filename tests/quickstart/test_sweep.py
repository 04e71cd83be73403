"""Several methods on one job, small: points, baselines, failures, more later."""

import dataclasses
import itertools
import json
import pathlib
import shutil
from unittest import mock

import pytest
import seqio

from t5patches import tasks
from t5patches.cli import sweep as cli_sweep
from t5patches.errors import UserError
from t5patches.interchange import json_files, records
from t5patches.quickstart import job, sweep, use_cases
from t5patches.quickstart.run_folder import Run
from t5patches.run import scripts
from t5patches.sweep import plan, running


@pytest.fixture(scope="module", autouse=True)
def small_grid():
    point = {"alphas": [4.0], "learning_rates": [0.001]}
    rate = {"learning_rates": [0.001]}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sweep, "FAMILY", point)
        patch.setattr(sweep, "BASELINES", rate)
        patch.setattr(sweep, "ROWS", ({"alphas": [1.0], "learning_rates": [0.04]},))
        yield


@pytest.fixture(scope="module")
def run(before_update, whole):
    """A comparison whose fine-tuned model and annotations are those of `whole`."""
    return before_update(job.settings(whole, methods="*"))


class FirstAlone:
    """T5X's scripts, of which those of the first point run.

    What the others are given is read, checked and evaluated all the same, and kept by
    folder in `given`; their models are the first one's, and they say what the exact
    update says. The other methods' training is that of other tests.
    """

    def __init__(self, run):
        self.exact = run.path("exact", "test")
        self.given, self._made, self._run = {}, {}, scripts._run

    def __call__(self, script, config, arguments, description, branch):
        name = "model_dir" if script == "train" else "output_dir"
        folder = pathlib.Path(arguments[name])
        names = ("LEARNING_RATE", "RANDOM_SEED", "TRAINABLE", "UNWANTED_SETS")
        self.given[folder.parent.name, folder.name] = {
            name: config.macro(name) for name in names
        }
        kind = folder.name.removeprefix("relearned_")
        if self._made.setdefault(kind, folder) == folder:
            self._run(script, config, arguments, description, branch)
            return
        source = self.exact if kind == "test" else self._made[kind]
        shutil.copytree(source, folder, dirs_exist_ok=True)


@pytest.fixture(scope="module")
def engine(run):
    with pytest.MonkeyPatch.context() as patch:
        found = FirstAlone(run)
        patch.setattr(scripts, "_run", found)
        yield found


@pytest.fixture(scope="module")
def first(run, engine):
    return sweep.run_all(run, ["tnff"])


def test_a_method_alone(run, first):
    assert first["chosen"] == {"tnff": "tnff-alpha4-lr0.001"}
    assert first == json.loads(pathlib.Path(run.path("results.json")).read_text())
    point, control = first["points"]
    assert control["control"] and control["name"] == "control-lr0.001"
    assert set(point["distance"]) == set(plan.SPLITS)
    for split in plan.SPLITS:
        lines = list(records.read_predictions(run.predictions("before", split)))
        assert point[split]["examples"] == len(lines)
        for part in ("exact_update", "distances"):
            assert (part in point[split]) == (split == "test")
    for name in ("report.html", "report.png"):
        assert pathlib.Path(run.path(name)).stat().st_size > 1000


def test_a_point_trains_everything_on_what_was_said(run, first):
    """The paper's methods, unlike the quickstart's own update."""
    name = first["points"][0]["name"]
    config = pathlib.Path(run.path("points", name, "model", "config.gin")).read_text()
    for line in ("ALPHA = 4.0", "LEARNING_RATE = 0.001", "TRAINABLE = 'all'"):
        assert f"\n{line}\n" in config
    assert "UNWANTED_SETS = None" in config


def test_more_methods_later(run, first, engine, capsys):
    methods = ["tnff", "whole_sets"]
    results = sweep.run_all(run, methods)
    said = capsys.readouterr().out
    assert "[1/3] TNFF, alpha 4, learning rate 0.001 done before" in said
    assert "[2/3] TNFF on whole sets, alpha 1, learning rate 0.04 …" in said
    assert "fine-tune a small T5 done before" in said
    assert results["methods"] == methods
    assert results["points"][0] == first["points"][0]
    assert set(results["front"]) <= {*methods} != set()
    for test in results["comparisons"]:
        one, other = (results["chosen"][method] for method in test["methods"])
        by_name = {point["name"]: point["test"] for point in results["points"]}
        assert test["bleu"]["ours"] == pytest.approx(by_name[one]["bleu"])
        assert test["prevalence"]["theirs"] == by_name[other]["prevalence"]["after"]
    assert {*itertools.chain(*(t["methods"] for t in results["comparisons"]))} == {
        *methods
    }
    # Whole sets are learned by the rows of unwanted tokens.
    given = engine.given[results["chosen"]["whole_sets"], "model"]
    assert (given["LEARNING_RATE"], given["TRAINABLE"]) == (0.04, "unwanted_rows")
    assert given["UNWANTED_SETS"] is not None


def test_whole_sets_of_no_phrases(tmp_path):
    run = Run(folder=str(tmp_path / "run"), use_case="hallucination")
    with pytest.raises(UserError, match="only a list of phrases"):
        sweep.run_all(run, ["whole_sets"])


def training_texts(run, method, split="train"):
    """Returns the texts that a baseline's task trains on: inputs -> targets."""
    vocabulary = records.load_vocabulary(run.vocabulary_path)
    files = {split: job.training_files(run, method, split)}
    kind = job.BASELINES[method]
    name = tasks.annotated_task(f"{method}_texts", files, vocabulary, kind=kind)
    examples = seqio.get_mixture_or_task(name).get_dataset(None, split, shuffle=False)
    return dict(
        [vocabulary.decode(row[name].tolist()) for name in ("inputs", "targets")]
        for row in examples.as_numpy_iterator()
    )


def test_what_the_baselines_are_trained_on(run):
    annotator = use_cases.find(run.use_case, run.data).annotator(run)
    annotated = list(records.read_annotated(run.annotated("train")))
    clean = {r["inputs"]: r["prediction"] for r in annotated if not r["annotations"]}
    found = {m: training_texts(run, m) for m in ("filtered", "corrective")}
    for texts in found.values():
        assert not any(annotator(target, "") for target in texts.values())
        assert clean.items() <= texts.items()
    assert found["filtered"] == clean != found["corrective"]


def test_original_data_without_what_is_unwanted(tmp_path):
    sizes = {"train": 300, "validation": 30, "test": 30}
    run = Run(folder=str(tmp_path), sizes=sizes, pieces=700)
    job.make_corpus(run)
    annotator = use_cases.find(run.use_case, run.data).annotator(run)
    for split in ("train", "validation"):
        original = [row for _, row in json_files.read_jsonl(run.corpus_files()[split])]
        found = {row["inputs"]: row["targets"] for row in original}
        clean = {key: text for key, text in found.items() if not annotator(text, "")}
        assert training_texts(run, "filtered_original", split) == clean
        assert 0 < len(clean) < len(original)


def test_a_baseline_without_data_ends_its_point_only(run, first):
    """Every original comment has one of the phrases of these runs."""
    results = sweep.run_all(run, ["tnff", "filtered_original"])
    (failed,) = results["failed"]
    assert "leaves nothing of the train split" in failed["failed"]


def failing(monkeypatch, wrong, diverges):
    """Has the update with a method fail."""
    update = running.Sweep._update

    def fails(self, command, point, name):
        if point.method != wrong:
            return update(self, command, point, name)
        if diverges:
            folder = pathlib.Path(self._path(point, name))
            folder.mkdir(parents=True)
            (folder / "bad_batch_7-00000-of-00001.jsonl").touch()
        raise UserError("it is wrong\nand more")

    monkeypatch.setattr(running.Sweep, "_update", fails)


def test_a_loss_that_is_nan_ends_its_point_only(run, first, monkeypatch):
    failing(monkeypatch, "ul", diverges=True)
    results = sweep.run_all(run, ["tnff", "ul"])
    assert results["methods"] == ["tnff"]
    assert [p["failed"] for p in results["failed"]] == ["it is wrong"]
    assert "it is wrong" in pathlib.Path(run.path("report.html")).read_text()
    with pytest.raises(UserError, match="every update failed; .*it is wrong"):
        sweep.run_all(run, ["ul"])


def test_other_mistakes_are_tried_again(run, first, monkeypatch):
    with monkeypatch.context() as patch:
        failing(patch, "nl", diverges=False)
        results = sweep.run_all(run, ["tnff", "nl"])
    assert [p["failed"] for p in results["failed"]] == ["it is wrong"]
    tries = mock.Mock(side_effect=UserError("wrong again"))
    monkeypatch.setattr(running.Sweep, "_update", tries)
    results = sweep.run_all(run, ["tnff", "nl"])
    assert [p["failed"] for p in results["failed"]] == ["wrong again"]


def test_a_mistake_of_the_first_point_stops_all(run, first, monkeypatch, tmp_path):
    tries = mock.Mock(side_effect=UserError("no such file"))
    monkeypatch.setattr(running.Sweep, "_update", tries)
    with pytest.raises(UserError, match="no such file"):
        cli_sweep.sweep([run.path("sweep.json"), "--output", str(tmp_path / "other")])
    tries.assert_called_once()


def test_the_command_goes_on_with_more_points(run, first, engine, tmp_path, capsys):
    """Seeds, and what comes back when the models are trained on the original data."""
    relearned = sweep.run_all(run, ["tnff"], relearn=2)["points"][0]["relearned"]
    assert relearned["steps"] == 2
    assert relearned["test"]["examples"] == first["points"][0]["test"]["examples"]
    found = json.loads(pathlib.Path(run.path("sweep.json")).read_text())
    own, control = found["grid"]
    own = {**own, "seeds": [5], "name": "seeds", "title": "TNFF, seeds"}
    found["grid"] = [found["grid"][0], own, control]
    path = tmp_path / "mine.json"
    json_files.write_json(path, found)
    cli_sweep.sweep([str(path), "--output", run.folder])
    said = capsys.readouterr().out
    assert "[1/3] TNFF, alpha 4, learning rate 0.001 done before" in said
    assert "[2/3] TNFF, seeds, alpha 4, learning rate 0.001, seed 5 …" in said
    results = json.loads(pathlib.Path(run.path("results.json")).read_text())
    assert results["chosen"]["seeds"] == "seeds-alpha4-lr0.001-seed5"
    assert engine.given[results["chosen"]["seeds"], "model"]["RANDOM_SEED"] == 5
    found["grid"][1]["macros"] = {**own["macros"], "BATCH_SIZE": 8}
    json_files.write_json(path, found)
    with pytest.raises(UserError, match="seed5.done.json: this point was made with"):
        cli_sweep.sweep([str(path), "--output", run.folder])


def test_the_grid_goes_before_the_settings_of_the_job(run):
    job_of = dataclasses.replace(
        run, macros={"update": {"ALPHA": 8.0, "SAVE_PERIOD": 3}}
    )
    found = sweep._plan(job_of, {"ul": {}}, sweep.points, relearn=None)
    made = plan.make(found, "")
    macros = made.update.at(made.points[0]).macros
    assert macros["ALPHA"] == 4.0 and macros["LEARNING_RATE"] == 0.001
    assert macros["SAVE_PERIOD"] == 3


def test_names_of_methods():
    assert sweep.methods_of("all") == list(sweep.METHODS)
    assert sweep.methods_of("ul, tnff,ul") == ["ul", "tnff"]


def test_what_is_left_is_said_in_minutes():
    done = [{"seconds": 50.0}, {"seconds": 70.0}]
    assert running._to_go(done, 60.0, 10) == ", about 10 min to go"
    assert running._to_go(done, 60.0, 0) == ""
