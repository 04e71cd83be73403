"""Launches t5patches with XManager, as T5X's xm_launch.py does T5X.

One command, its flags and gin overrides passed on:

    python launch/xm_launch.py --xm_command=train --xm_executor=vertex \\
      --xm_requirements=tpu_v3=8 --gin_file=models/t5_1_1_base.gin \\
      --gin_file=runs/finetune.gin --gin_file=job.gin --gin.MODEL_DIR="'gs://B/model'"

Or the whole job as one experiment: fine-tune, generate, annotate, update, of which each
split, and each method with each learning rate, is a work unit; those of a step run side
by side:

    python launch/xm_launch.py --xm_model=t5_1_1_base --xm_output=gs://B/job \\
      --xm_annotate="phrases --phrases=unwanted.txt --vocabulary=vocabulary.model" \\
      --xm_methods=tnff,tnrr --xm_learning_rates=1e-3,1e-4 --xm_executor=vertex \\
      --xm_requirements=tpu_v3=8 --gin_file=job.gin \\
      --finetune.gin_file=tasks/text.gin --generate.gin_file=tasks/text.gin \\
      --finetune.gin.TRAIN_STEPS_RELATIVE=10000 --update.gin.TRAIN_STEPS_RELATIVE=1000

A flag that begins with a step's name is for that step, others are for all that read gin
files. `--xm_executor=local` runs the t5patches of this environment (`--xm_binary`)
without Docker; vertex builds launch/Dockerfile, or takes `--xm_image`. XManager is not
among t5patches' requirements: pip install xmanager.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import pathlib
import shlex
import shutil
import sys
from collections.abc import Sequence
from typing import Any

ROOT = pathlib.Path(__file__).resolve().parents[1]
SPLITS = ("train", "validation", "test")
STEPS = ("finetune", "generate", "annotate", "update")
# A command: the words behind `t5patches`.
Command = list[str]


def parse_args(argv: Sequence[str]) -> tuple[argparse.Namespace, list[str]]:
    """Splits arguments into the launcher's and those that are passed on."""
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    names = lambda text: text.split(",")
    add = parser.add_argument
    add("--xm_command", default="pipeline", help="pipeline, or a t5patches command")
    add("--xm_title", default="t5patches", help="of the experiment")
    add("--xm_executor", choices=["local", "vertex"], default="local")
    add("--xm_requirements", default="", help="e.g. tpu_v3=8 or a100=8, with commas")
    add("--xm_image", help="a container image; default: launch/Dockerfile is built")
    add("--xm_binary", default=shutil.which("t5patches"), help="for local")
    add("--xm_output", help="folder of a pipeline's models and files")
    add("--xm_model", help="of gin/models, for a pipeline")
    add("--xm_annotate", help="words behind `t5patches annotate`, for a pipeline")
    add(
        "--xm_methods", type=names, default=["tnff"], help="of gin/methods, with commas"
    )
    add("--xm_learning_rates", type=names, default=["1e-4"], help="with commas")
    add("--xm_steps", type=names, default=list(STEPS), help="of a pipeline")
    args, passed = parser.parse_known_args(argv)
    if args.xm_command == "pipeline":
        for name in ("xm_output", "xm_model", "xm_annotate"):
            if not getattr(args, name):
                parser.error(f"a pipeline needs --{name}")
        if unknown := set(args.xm_steps) - set(STEPS):
            parser.error(f"--xm_steps: {', '.join(unknown)}? {', '.join(STEPS)}")
    return args, passed


def stages(args: argparse.Namespace, passed: Sequence[str]) -> list[list[Command]]:
    """Returns the commands: a list for each step, to be run side by side."""
    if args.xm_command != "pipeline":
        return [[[args.xm_command, *passed]]]
    made = {
        "finetune": _finetune,
        "generate": _generate,
        "annotate": _annotate,
        "update": _update,
    }
    return [made[step](args, _of_step(passed, step)) for step in args.xm_steps]


def _of_step(passed: Sequence[str], step: str) -> list[str]:
    """Returns the flags that a step is given: its own, and those of all."""
    found = []
    for word in passed:
        name, _, rest = word.removeprefix("--").partition(".")
        if name == step:
            found.append(f"--{rest}")
        elif name not in STEPS and step != "annotate":
            found.append(word)
    return found


def _files(args: argparse.Namespace, *names: str) -> Command:
    return [f"--gin_file={name}.gin" for name in (f"models/{args.xm_model}", *names)]


def _finetune(args: argparse.Namespace, flags: list[str]) -> list[Command]:
    folder = f"--gin.MODEL_DIR='{args.xm_output}/finetuned'"
    return [["train", *_files(args, "runs/finetune"), *flags, folder]]


def _generate(args: argparse.Namespace, flags: list[str]) -> list[Command]:
    return [
        [
            "generate",
            *_files(args, "runs/generate"),
            *flags,
            "--checkpoint=best",
            f"--gin.CHECKPOINT_PATH='{args.xm_output}/finetuned'",
            f"--gin.SPLIT='{split}'",
            f"--gin.INFER_OUTPUT_DIR='{args.xm_output}/before/{split}'",
        ]
        for split in SPLITS
    ]


def _annotate(args: argparse.Namespace, flags: list[str]) -> list[Command]:
    return [
        [
            "annotate",
            *shlex.split(args.xm_annotate),
            *flags,
            f"--predictions={args.xm_output}/before/{split}/*.jsonl",
            f"--output={args.xm_output}/annotated/{split}",
        ]
        for split in SPLITS[:2]
    ]


def _update(args: argparse.Namespace, flags: list[str]) -> list[Command]:
    files = {s: f"{args.xm_output}/annotated/{s}/*.tfrecord" for s in SPLITS[:2]}
    return [
        [
            "train",
            *_files(args, f"methods/{method}", "runs/update", "tasks/annotated"),
            *flags,
            f"--gin.FILES={files}",
            "--checkpoint=best",
            f"--gin.INITIAL_CHECKPOINT_PATH='{args.xm_output}/finetuned'",
            f"--gin.LEARNING_RATE={rate}",
            f"--gin.MODEL_DIR='{args.xm_output}/updated/{method}-{rate}'",
        ]
        for method in args.xm_methods
        for rate in args.xm_learning_rates
    ]


async def launch(experiment: Any, args: argparse.Namespace, commands: Any) -> None:
    """Adds a work unit for each command; a step waits for the one before.

    Args:
      experiment: XManager's.
      args: of the launcher.
      commands: of each step, as `stages` returns them.
    """
    from xmanager import xm, xm_local

    requirements = dict(r.split("=") for r in args.xm_requirements.split(",") if r)
    classes = {"local": xm_local.Local, "vertex": xm_local.Vertex}
    executor = classes[args.xm_executor](
        requirements=xm.JobRequirements(
            **{name: int(count) for name, count in requirements.items()}
        )
    )
    if args.xm_image:
        packageable = xm.container(executor.Spec(), image_path=args.xm_image)
    elif args.xm_executor == "local":
        packageable = xm.binary(executor.Spec(), path=os.path.abspath(args.xm_binary))
    else:
        packageable = xm.dockerfile_container(
            executor.Spec(), path=str(ROOT), dockerfile=str(ROOT / "launch/Dockerfile")
        )
    [executable] = experiment.package([packageable])
    for step in commands:
        units = [
            await experiment.add(
                xm.Job(executable=executable, executor=executor, args=command)
            )
            for command in step
        ]
        await asyncio.gather(*(unit.wait_until_complete() for unit in units))


def main(argv: Sequence[str]) -> None:
    """Makes the experiment."""
    from absl import app
    from xmanager import xm, xm_local

    args, passed = parse_args(argv)

    @xm.run_in_asyncio_loop
    async def run(_: Sequence[str]) -> None:
        title = args.xm_title
        async with xm_local.create_experiment(experiment_title=title) as experiment:
            await launch(experiment, args, stages(args, passed))

    app.run(run, argv=sys.argv[:1])


if __name__ == "__main__":
    main(sys.argv[1:])
