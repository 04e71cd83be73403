"""The files of launch/ ask t5patches for what it knows, without a cloud."""

import asyncio
import math
import os
import pathlib
import re
import shlex
import subprocess
import sys
import types

import pytest
import yaml

from t5patches.cli import annotate, starting
from t5patches.errors import UserError
from t5patches.run import scripts

ROOT = pathlib.Path(__file__).resolve().parents[1]
LAUNCH = ROOT / "launch"


def accepted(words):
    """Has a command read as far as its flags, gin files and macros go."""
    command, *arguments = words

    def stop(*_):
        raise UserError("read")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(starting, "prepare", stop)
        with pytest.raises(UserError, match="^read$"):
            if command == "annotate":
                annotate.annotate(arguments)
            else:
                script = {"generate": "infer"}.get(command, command)
                scripts.run(script, arguments, prepare=stop)


# ---- The image ----


def test_the_image_has_what_the_package_is_made_of():
    lines = (LAUNCH / "Dockerfile").read_text().splitlines()
    copied = {
        name
        for line in lines
        if line.startswith("COPY ")
        for name in line.split()[1:-1]
    }
    assert all((ROOT / name).exists() for name in copied)
    ignored = (LAUNCH / "Dockerfile.dockerignore").read_text().splitlines()
    assert {line[1:] for line in ignored if line.startswith("!")} == copied
    setup = (ROOT / "setup.py").read_text()
    read = re.findall(r'ROOT / "([\w.]+)', setup) + ["pyproject.toml", "gin", "tasks"]
    assert {*read, "setup.py", "t5x_embedded"} <= copied
    for jax in ["tpu", *re.findall("--build-arg JAX=(.+?) ", "\n".join(lines))]:
        assert f'"{jax}": ["jax[{jax}]"]' in setup


# ---- JobSet ----


@pytest.fixture(scope="module")
def job():
    """The specification of the jobset's one job."""
    spec = yaml.safe_load((LAUNCH / "jobset.yaml").read_text())["spec"]
    [replicated] = spec["replicatedJobs"]
    assert spec["failurePolicy"]["rules"][0]["onJobFailureReasons"] == [
        "PodFailurePolicy"
    ]
    return replicated["template"]["spec"]


def test_the_hosts_of_the_slice(job):
    pod = job["template"]["spec"]
    [container] = pod["containers"]
    topology = pod["nodeSelector"]["cloud.google.com/gke-tpu-topology"]
    chips = math.prod(map(int, topology.split("x")))
    per_host = container["resources"]["limits"]["google.com/tpu"]
    assert job["completions"] == job["parallelism"] == chips / per_host
    [partitions] = [
        word.partition("=")[2]
        for word in container["args"]
        if word.startswith("--gin.NUM_PARTITIONS=")
    ]
    assert chips % int(partitions) == 0


def test_what_the_hosts_are_told(job):
    [container] = job["template"]["spec"]["containers"]
    accepted(container["args"])
    assert "--multiprocess_gpu" in container["args"]
    # A run that SIGTERM stopped has failed as far as Kubernetes goes, and starts again.
    [codes] = [
        rule["onExitCodes"]
        for rule in job["podFailurePolicy"]["rules"]
        if "onExitCodes" in rule
    ]
    assert codes["containerName"] == container["name"]
    [status] = codes["values"]
    assert f"--stopped_status={status}" in container["args"]


# ---- Queued resources ----

GCLOUD = """#!/usr/bin/env bash
printf '%s\\037' "$@" >> gcloud.log
printf '\\036' >> gcloud.log
case "$4" in
  describe) head -1 states; sed -i 1d states ;;
esac
"""
TRAIN = """--gin_file=models/t5_1_1_xxl.gin --gin_file=runs/finetune.gin
  --gin_file=tasks/text.gin --gin.MODEL_DIR='gs://b/a folder'
  --gin.FILES={'train':'gs://b/*.jsonl','validation':'v','test':'t'}
  --gin.TASK_FEATURE_LENGTHS={'inputs':8,'targets':8}
  --gin.INITIAL_CHECKPOINT_PATH='c/checkpoint_1' --gin.TRAIN_STEPS_RELATIVE=1"""
FLAGS = re.split(r"\s+(?=--)", TRAIN)


def queued(folder, states, *words):
    """Runs the script beside a gcloud that writes down what it is told."""
    (folder / "gcloud").write_text(GCLOUD)
    (folder / "gcloud").chmod(0o755)
    (folder / "states").write_text("\n".join(states) + "\n")
    path = os.pathsep.join([str(folder), os.environ["PATH"]])
    env = {"PROJECT": "p", "ZONE": "z", "POLL_SECONDS": "0", "EXTRA": "--spot"}
    subprocess.run(
        [LAUNCH / "queued_resources.sh", "name", "v5litepod-64", *words],
        cwd=folder,
        env={**os.environ, **env, "PATH": path},
        check=True,
        capture_output=True,
    )
    calls = (folder / "gcloud.log").read_text().split("\x1e")[:-1]
    return [call.split("\x1f")[:-1] for call in calls]


def test_a_tpu_is_asked_for_and_trains_on_all_its_hosts(tmp_path):
    states = ["SUSPENDED", "NONE", "WAITING_FOR_RESOURCES", "ACTIVE"]
    calls = queued(tmp_path, states, "train", *FLAGS)
    verbs = [call[3] for call in calls]
    asked = "describe delete describe create describe describe scp ssh ssh"
    assert verbs == asked.split()
    assert calls[3][-1] == "--spot"
    assert "--worker=all" in calls[-1]
    binary, *words = shlex.split(calls[-1][-1].removeprefix("--command="))
    assert binary == "t5patches/.venv/bin/t5patches"
    assert words == ["train", *FLAGS, "--multiprocess_gpu", "--stopped_status=75"]
    accepted(words)


def test_other_commands_run_on_one_host(tmp_path):
    calls = queued(tmp_path, ["ACTIVE"], "annotate", "phrases", "--output", "a b")
    assert "--worker=0" in calls[-1]
    words = shlex.split(calls[-1][-1].removeprefix("--command="))
    assert words[1:] == ["annotate", "phrases", "--output", "a b"]


# ---- XManager ----


@pytest.fixture
def xm_launch(monkeypatch):
    monkeypatch.syspath_prepend(LAUNCH)
    import xm_launch

    return xm_launch


PIPELINE = """--xm_model=t5_1_1_tiny --xm_output=out --xm_methods=tnff,nl
  --xm_annotate=phrases --phrases=u.txt --vocabulary=bytes
  --xm_learning_rates=1e-3,1e-4 --gin.TASK_FEATURE_LENGTHS={'inputs':8,'targets':8}
  --finetune.gin_file=tasks/text.gin --generate.gin_file=tasks/text.gin
  --finetune.gin.INITIAL_CHECKPOINT_PATH=None --finetune.gin.TRAIN_STEPS_RELATIVE=4
  --update.gin.TRAIN_STEPS_RELATIVE=2"""
OF_TEXTS = ".gin.FILES={'train':'a','validation':'b','test':'c'}"


def pipeline(*more):
    words = re.sub(" --(phrases|vocabulary)", r" \1", PIPELINE)
    words = [
        re.sub(" (phrases|vocabulary)=", r" --\1=", word)
        for word in re.split(r"\s+(?=--)", words)
    ]
    return [*words, *(f"--{s}{OF_TEXTS}" for s in ("finetune", "generate")), *more]


def test_the_commands_of_a_pipeline(xm_launch, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "u.txt").write_text("fool\n")
    steps = xm_launch.stages(*xm_launch.parse_args(pipeline()))
    assert [len(step) for step in steps] == [1, 3, 2, 4]
    for step in steps:
        for command in step:
            accepted(command)
    folders = {word for [*words] in steps[3] for word in words if "MODEL_DIR" in word}
    assert len(folders) == 4
    [train] = xm_launch.stages(*xm_launch.parse_args(["--xm_command=train", *FLAGS]))
    assert train == [["train", *FLAGS]]


def test_a_step_waits_for_the_one_before(xm_launch, monkeypatch):
    """With as much of XManager as the launcher touches."""
    running, most, log = set(), [], []

    class Unit:
        def __init__(self, job):
            self.command = " ".join(job["args"][:2])
            running.add(self)
            most.append(len(running))

        async def wait_until_complete(self):
            await asyncio.sleep(0)
            running.discard(self)
            log.append(self.command)

    class Experiment:
        async def add(self, job):
            return Unit(job)

        def package(self, packageables):
            return [types.SimpleNamespace(**p) for p in packageables]

    class Executor:
        def __init__(self, requirements):
            assert requirements == {"tpu_v3": 8}

        Spec = staticmethod(lambda: "vertex")

    def container(spec, path, dockerfile):
        assert spec == "vertex" and (pathlib.Path(path) / "setup.py").is_file()
        assert pathlib.Path(dockerfile).is_file()
        return {}

    xm = types.SimpleNamespace(
        Job=dict, JobRequirements=dict, dockerfile_container=container
    )
    local = types.SimpleNamespace(Local=None, Vertex=Executor)
    fake = types.SimpleNamespace(xm=xm, xm_local=local)
    monkeypatch.setitem(sys.modules, "xmanager", fake)
    words = pipeline("--xm_executor=vertex", "--xm_requirements=tpu_v3=8")
    args, passed = xm_launch.parse_args(words)
    asyncio.run(xm_launch.launch(Experiment(), args, xm_launch.stages(args, passed)))
    assert most == [1, 1, 2, 3, 1, 2, 1, 2, 3, 4]
    assert [command.split()[0] for command in log] == (
        ["train"] + ["generate"] * 3 + ["annotate"] * 2 + ["train"] * 4
    )
