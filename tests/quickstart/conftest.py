"""One small run of the whole job, which several tests look at."""

import pathlib
import shutil
import time

import pytest

from t5patches import watch
from t5patches.interchange import claims, json_files
from t5patches.quickstart import comments, job
from t5patches.quickstart.run_folder import Run

MACROS = {
    "finetune": {"TRAIN_STEPS_RELATIVE": 12, "EVAL_PERIOD": 12, "SAVE_PERIOD": 12},
    "update": {"TRAIN_STEPS_RELATIVE": 6, "EVAL_PERIOD": 6, "SAVE_PERIOD": 2},
    "shared": {
        "TASK_FEATURE_LENGTHS": {"inputs": 24, "targets": 12},
        "NUM_LAYERS": 1,
        **{"EMB_DIM": 16, "MLP_DIM": 16, "NUM_HEADS": 2, "HEAD_DIM": 8},
    },
}

# Twelve steps teach nobody to swear: the phrases of these runs are what an untrained
# model says. They come as someone's own.
PHRASES = ["the", "it", "a", "what", "this"]


@pytest.fixture(scope="session")
def options(tmp_path_factory):
    """What every run here is asked for, but for the folder."""
    folder = tmp_path_factory.mktemp("own")
    rows = comments.make(0, {"train": 260})["train"]
    json_files.write_jsonl(folder / "data.jsonl", rows)
    (folder / "phrases.txt").write_text(
        "\n".join([*PHRASES, *comments.rude_phrases()[:5]])
    )
    return {
        "data": str(folder / "data.jsonl"),
        "phrases": str(folder / "phrases.txt"),
        "pieces": 700,
        "macros": MACROS,
    }


@pytest.fixture(scope="session")
def killed(tmp_path_factory):
    """A folder as a kill would leave it: what is on the disk while `whole` updates."""
    return tmp_path_factory.mktemp("killed") / "run"


@pytest.fixture(scope="session")
def whole(options, killed, tmp_path_factory):
    """A run that nobody disturbs."""
    run = Run(folder=str(tmp_path_factory.mktemp("whole")), **options)
    received = watch.StopSignal.received

    def look(self, step):
        if step == 15 and not killed.exists():
            deadline = time.monotonic() + 100
            while not pathlib.Path(run.path("updated", "checkpoint_14")).exists():
                assert time.monotonic() < deadline
                time.sleep(0.01)
            shutil.copytree(run.folder, killed)
        return received(self, step)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(watch.StopSignal, "received", look)
        job.run_all(run)
    return run


@pytest.fixture(scope="session")
def before_update(whole, options, tmp_path_factory):
    """Makes runs that have done of `whole` what comes before the update."""

    def copy(settings):
        run = Run(folder=str(tmp_path_factory.mktemp("copy") / "run"), **options)
        claims.claim(run.folder, settings)
        for name in job.stages(whole, (*job.SHARED_STAGES, job.EXACT)):
            claims.mark_done(run.path(name), claims.findings(whole.path(name)))
        folders = ("corpus", "finetuned", "before", "annotated", "exact")
        for name in (*folders, job.ANNOTATED_EXACT):
            shutil.copytree(whole.path(name), run.path(name))
        return run

    return copy
