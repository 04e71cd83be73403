"""Several methods on one job, small: points, baselines, failures, more later."""

import dataclasses
import json
import pathlib
from unittest import mock

import pytest
import seqio

from t5patches import tasks
from t5patches.errors import UserError
from t5patches.interchange import json_files, records
from t5patches.quickstart import grid, job, sweep, use_cases
from t5patches.quickstart.run_folder import Run


@pytest.fixture(scope="module", autouse=True)
def small_grid():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(grid, "FAMILY", ((4.0, 0.001),))
        patch.setattr(grid, "BASELINES", ((None, 0.001),))
        patch.setattr(grid, "WHOLE_SETS", ((1.0, 0.04),))
        yield


@pytest.fixture(scope="module")
def run(before_update, whole):
    """A comparison whose fine-tuned model and annotations are those of `whole`."""
    return before_update(job.settings(whole, methods="*"))


@pytest.fixture(scope="module")
def first(run):
    return sweep.run_all(run, ["tnff"])


def test_a_method_alone(run, first):
    assert first["chosen"] == {"tnff": "tnff-alpha4-lr0.001"}
    assert first == json.loads(pathlib.Path(run.path("results.json")).read_text())
    (point,) = first["points"]
    assert set(point["distance"]) == set(sweep.SPLITS)
    for split in sweep.SPLITS:
        lines = list(records.read_predictions(run.predictions("before", split)))
        assert point[split]["examples"] == len(lines)
        assert ("exact_update" in point[split]) == (split == "test")
    for name in ("report.html", "report.png"):
        assert pathlib.Path(run.path(name)).stat().st_size > 1000


def test_a_point_trains_everything_on_what_was_said(run, first):
    """The paper's methods, unlike the quickstart's own update."""
    name = first["points"][0]["name"]
    config = pathlib.Path(run.path("points", name, "model", "config.gin")).read_text()
    for line in ("ALPHA = 4.0", "LEARNING_RATE = 0.001", "TRAINABLE = 'all'"):
        assert f"\n{line}\n" in config
    assert "UNWANTED_SETS = None" in config


def test_more_methods_later(run, first, capsys):
    methods = ["tnff", "corrective", "whole_sets"]
    results = sweep.run_all(run, methods)
    said = capsys.readouterr().out
    assert "[1/3] TNFF, alpha 4, learning rate 0.001 done before" in said
    assert "[2/3] corrective, learning rate 0.001 …" in said
    assert "fine-tune a small T5 done before" in said
    assert results["methods"] == methods
    assert results["points"][0] == first["points"][0]
    assert set(results["front"]) <= {*methods} != set()
    # Whole sets are learned by the rows of unwanted tokens.
    name = results["chosen"]["whole_sets"]
    config = pathlib.Path(run.path("points", name, "model", "config.gin")).read_text()
    for line in ("LEARNING_RATE = 0.04", "TRAINABLE = 'unwanted_rows'"):
        assert f"\n{line}\n" in config
    assert "UNWANTED_SETS = None" not in config


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


def test_a_loss_that_is_nan_ends_its_point_only(run, first, monkeypatch):
    def diverges(run, method, model, whole):
        pathlib.Path(run.path(model)).mkdir(parents=True)
        pathlib.Path(run.path(model, "bad_batch_7-00000-of-00001.jsonl")).touch()
        raise UserError("the loss is NaN at step 7\nand more")

    monkeypatch.setattr(job, "update_model", diverges)
    results = sweep.run_all(run, ["tnff", "ul"])
    assert results["methods"] == ["tnff"]
    assert [p["failed"] for p in results["failed"]] == ["the loss is NaN at step 7"]
    assert "the loss is NaN" in pathlib.Path(run.path("report.html")).read_text()
    with pytest.raises(UserError, match="every update failed; .*NaN at step 7"):
        sweep.run_all(run, ["ul"])


def test_other_mistakes_stop_the_run(run, first, monkeypatch):
    refuses = mock.Mock(side_effect=UserError("no such file"))
    monkeypatch.setattr(job, "update_model", refuses)
    with pytest.raises(UserError, match="no such file"):
        sweep.run_all(run, ["nl"])


def test_the_grid_goes_before_the_settings_of_the_job(run):
    job = dataclasses.replace(run, macros={"update": {"ALPHA": 8.0, "SAVE_PERIOD": 3}})
    macros = sweep._with_macros(job, grid.Point("ul", 1.0, 0.0003)).macros["update"]
    assert macros["ALPHA"] == 1.0 and macros["LEARNING_RATE"] == 0.0003
    assert macros["SAVE_PERIOD"] == 3


def test_names_of_methods():
    assert sweep.methods_of("all") == list(sweep.METHODS)
    assert sweep.methods_of("ul, tnff,ul") == ["ul", "tnff"]


def test_what_is_left_is_said_in_minutes():
    done = [{"seconds": 50.0}, {"seconds": 70.0}]
    assert sweep._to_go(done, 60.0, 10) == ", about 10 min to go"
    assert sweep._to_go(done, 60.0, 0) == ""
