"""The whole job, small: its files, its refusals, and runs that are killed."""

import json
import logging
import pathlib
import shutil
from unittest import mock

import numpy as np
import pytest

from t5patches import cli
from t5patches.checkpoints import finding
from t5patches.errors import UserError
from t5patches.interchange import claims, records
from t5patches.quickstart import job
from t5patches.quickstart.run_folder import Run
from t5patches.run import stages

OWN = ["--data", "/no/x.csv", "--phrases", "/no/p.txt"]


def parameters(run, model):
    import jax
    import orbax.checkpoint as ocp
    from etils import epath

    state = epath.Path(run.checkpoint(model)) / "state"
    return jax.tree.leaves(ocp.PyTreeCheckpointHandler().restore(state)["target"])


def test_files_and_results(whole):
    folder = pathlib.Path(whole.folder)
    results = json.loads((folder / "results.json").read_text())
    assert results["method"] == "tnff" and results["seed"] == 0
    assert set(results["prevalence"]) == {"before", "after"}
    assert set(results["exact_match"]) >= {"all", "clean"}
    assert results["seconds"] > 0 and results["peak_memory_gb"] > 0
    assert list(results["stage_seconds"]) == job.stages(whole, job.STAGES)
    assert results["share_with_unwanted"]["train"] > 0
    exact = results["exact_update"]
    assert exact["prevalence"] == {**results["prevalence"], "after": 0.0}
    assert exact.keys() <= results.keys()
    assert set(results["distance_to_exact_update"]) == {
        "difference",
        "ratio",
        "outputs",
    }
    assert results["verdict"].startswith("The update changed ")
    for name in ("report.html", "report.png", "training.png"):
        assert (folder / name).stat().st_size > 1000


def test_the_update_starts_from_the_fine_tuned_model(whole):
    paths = [whole.checkpoint(model) for model in ("finetuned", "updated")]
    assert [path.rpartition("_")[2] for path in paths] == ["12", "18"]


def test_killed_while_updating(whole, killed, options):
    """The parameters are the same in the end, and so is what comes of them."""
    run = Run(folder=str(killed), **options)
    assert finding.steps(run.path("updated"))[-1] == 14
    for name in ("generate_after", "evaluate"):
        claims.mark_done(run.path(name), claims.findings(whole.path(name)))
    job.run_all(run)
    pairs = zip(*(parameters(r, "updated") for r in (run, whole)), strict=True)
    assert all(np.array_equal(ours, theirs) for ours, theirs in pairs)


def test_what_is_quiet_within_what_is_quiet():
    levels = [logging.getLogger("absl").level]
    with stages.quiet():
        levels.append(logging.getLogger("absl").level)
        with stages.quiet("error"):
            levels.append(logging.getLogger("absl").level)
        levels.append(logging.getLogger("absl").level)
    levels.append(logging.getLogger("absl").level)
    own = levels[0]
    assert levels == [own, logging.WARNING, logging.ERROR, logging.WARNING, own]


def test_done_stages_are_not_done_again(whole, capsys, monkeypatch):
    never = mock.Mock(side_effect=AssertionError("done again"))
    for name, (what, _) in job.STAGES.items():
        monkeypatch.setitem(job.STAGES, name, (what, never))
    job.run_all(whole)
    done = capsys.readouterr().out.count("done before")
    assert done == len(job.stages(whole, job.STAGES))


def test_a_second_round_learns_from_what_is_still_unwanted(
    whole, options, tmp_path, monkeypatch
):
    """It generates for the training inputs; for others it has what the model said."""
    run = Run(folder=str(tmp_path / "run"), **options)
    shutil.copytree(whole.folder, run.folder)
    generate, asked = job.generate, []

    def generate_for_training(run, model, when, split):
        asked.append((model, when, split))
        if split == "train":
            return generate(run, model, when, split)
        shutil.copytree(run.path("before", split), run.path(when, split))
        return 1

    monkeypatch.setattr(job, "generate", generate_for_training)
    results = job.run_all(run, rounds=2)
    before = [("updated", "round2/before", split) for split in ("train", "validation")]
    assert asked == [*before, ("round2/updated", "round2/after", "test")]
    said = records.read_predictions(run.predictions("round2/before", "train"))
    learnt = list(records.read_annotated(run.path("round2/annotated/train/annotated")))
    assert 0 < len(learnt) < len(list(said))
    assert all(row["annotations"] for row in learnt)
    gin = pathlib.Path(run.path("round2/updated/config.gin")).read_text()
    for name in ("annotated", "round2/annotated", "finetuned/checkpoint_12"):
        assert run.path(name) in gin
    first, second = results["rounds"].values()
    before = claims.findings(run.path("evaluate"))["scores"]
    assert all(before[name] == value for name, value in first.items())
    assert all(results[name] == value for name, value in second.items())
    assert "round 2" in pathlib.Path(run.path("report.html")).read_text()


@pytest.mark.parametrize(
    ("change", "says"),
    [({"seed": 7}, "seed was 0, now 7"), ({"method": "ul"}, "method was 'tnff'")],
)
def test_other_settings_are_refused(whole, options, change, says):
    with pytest.raises(UserError, match=says):
        job.run_all(Run(folder=whole.folder, **{**options, **change}))


def test_a_folder_of_something_else_is_refused(tmp_path):
    (tmp_path / "thesis.tex").write_text("chapter 1")
    with pytest.raises(UserError, match="has thesis.tex, but no settings.json"):
        job.run_all(Run(folder=str(tmp_path)))


@pytest.mark.parametrize(
    ("argv", "says"),
    [
        (["--method", "magic"], "there is nl, ul, tnff"),
        (["--methods", "tnff,magic"], "no method 'magic'"),
        (["--methods", ","], "no method"),
        (["--methods", "all", "--rounds", "2"], "leave it out with --methods"),
        (["--method", "filtered", "--rounds", "2"], "with filtered"),
        (["--data", "x.csv"], "go together"),
        ([*OWN, "--use-case", "hallucination"], "is for made-up data"),
        (OWN, "no such file"),
        (["--seed", "-1"], "negative"),
    ],
)
def test_wrong_options(argv, says, capsys):
    assert cli.main(["quickstart", *argv]) == 2
    assert says in capsys.readouterr().err
