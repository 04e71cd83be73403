"""The whole job, small: its files, its refusals, and runs that are killed."""

import json
import pathlib
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from t5patches import quickstart
from t5patches.errors import UserError
from t5patches.quickstart import pipeline

CHILD = """
import json, sys
from t5patches.quickstart import pipeline
pipeline.run_all(pipeline.Run(**json.loads(sys.argv[1])))
"""


def kill_when(options, folder, pattern):
    """Starts a run in a process of its own; kills it when a file matches `pattern`."""
    log = open(folder / "../killed.log", "w")
    child = subprocess.Popen(
        [sys.executable, "-c", CHILD, json.dumps({"folder": str(folder), **options})],
        stdout=log,
        stderr=log,
    )
    deadline = time.monotonic() + 300
    while not list(folder.glob(pattern)):
        assert child.poll() is None, pathlib.Path(log.name).read_text()[-3000:]
        assert time.monotonic() < deadline
        time.sleep(0.01)
    child.send_signal(signal.SIGKILL)
    child.wait()


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
    assert list(results["stage_seconds"]) == [stage.name for stage in pipeline.STAGES]
    assert results["share_with_unwanted"]["train"] > 0
    for name in ("report.html", "report.png"):
        assert (folder / name).stat().st_size > 1000


def test_the_update_starts_from_the_fine_tuned_model(whole):
    steps = [
        int(whole.checkpoint(model).rpartition("_")[2])
        for model in ("finetuned", "updated")
    ]
    assert steps == [12, 18]


def test_killed_while_fine_tuning_and_while_updating(whole, options, tmp_path):
    folder = tmp_path / "run"
    folder.mkdir()
    kill_when(options, folder, "finetuned/checkpoint_4")
    kill_when(options, folder, "updated/checkpoint_14")
    run = pipeline.Run(folder=str(folder), **options)
    pipeline.run_all(run)
    for model in ("finetuned", "updated"):
        for ours, theirs in zip(
            parameters(run, model), parameters(whole, model), strict=True
        ):
            np.testing.assert_array_equal(ours, theirs)
    for name in ("before/train", "after/test"):
        ours, theirs = (
            sorted(pathlib.Path(r.folder, name).glob("*.jsonl")) for r in (run, whole)
        )
        assert [p.read_bytes() for p in ours] == [p.read_bytes() for p in theirs]
    scores = [
        json.loads(pathlib.Path(r.path("stages/evaluate.json")).read_text())["scores"]
        for r in (run, whole)
    ]
    assert scores[0] == scores[1]


def test_done_stages_are_not_done_again(whole, capsys, monkeypatch):
    def never(run):
        raise AssertionError("done again")

    stages = [
        pipeline.Stage(stage.name, stage.what, never) for stage in pipeline.STAGES
    ]
    monkeypatch.setattr(pipeline, "STAGES", tuple(stages))
    pipeline.run_all(whole)
    assert capsys.readouterr().out.count("done before") == len(stages)


@pytest.mark.parametrize(
    ("change", "says"),
    [({"seed": 7}, "seed was 0, now it is 7"), ({"method": "ul"}, "method was 'tnff'")],
)
def test_other_settings_are_refused(whole, options, change, says):
    with pytest.raises(UserError, match=says):
        pipeline.run_all(pipeline.Run(folder=whole.folder, **{**options, **change}))


def test_a_folder_of_something_else_is_refused(tmp_path):
    (tmp_path / "thesis.tex").write_text("chapter 1")
    with pytest.raises(UserError, match="is not empty"):
        pipeline.run_all(pipeline.Run(folder=str(tmp_path)))


@pytest.mark.parametrize(
    ("argv", "says"),
    [
        (["--method", "magic"], "there is nl, ul, tnff"),
        (["--methods", "tnff,magic"], "no method 'magic'"),
        (["--methods", ","], "no method"),
        (["--data", "x.csv"], "go together"),
        (
            ["--data", "x", "--phrases", "y", "--use-case", "hallucination"],
            "is for made-up data",
        ),
        (["--data", "/no/x.csv", "--phrases", "/no/p.txt"], "no such file"),
        (["--seed", "-1"], "negative"),
    ],
)
def test_wrong_options(argv, says):
    import argparse

    parser = argparse.ArgumentParser()
    quickstart.add_arguments(parser)
    with pytest.raises(UserError, match=says):
        quickstart.main(parser.parse_args(argv))
