"""`t5patches sweep`."""

from __future__ import annotations

import contextlib
import importlib.metadata
import os
import shlex
import subprocess
import sys
from collections.abc import Callable, Iterator

from t5patches import _engine
from t5patches.cli import starting
from t5patches.cli.annotate import make_annotator
from t5patches.cli.options import add_option, names, positive

_DESCRIPTION = """\
Updates a model with many methods and settings, and says which is better.

reads   a plan (TOML or JSON): what all updates share, how to generate and to judge,
        and a grid of methods × alphas × learning rates × seeds × seen or whole sets.
        The fine-tuned model, its generations for training, validation and test inputs
        and their annotations are there already (`train`, `generate`, `annotate`)
writes  to --output: points/POINT/ for each update (model, generations, results.json
        with every example, for `t5patches report`); results.json, report.html,
        report.png and report.csv of all of them

{plan}

A point starts from the checkpoint with the lowest validation loss of its update. Each
method's point is chosen on the validation inputs and reported on the test inputs.
Optional besides: in [evaluate] references and exact_update, by split; in [[grid]] name
and title (of a method with files or macros of its own), gin_files (read last), macros,
and control = true for updates that are to change nothing (methods = ["filtered"]),
which show the noise; and gin_files and macros in [distances], for `generate` with
runs/distances.gin, and in [relearn], for a short fine-tuning on the original data,
after which the chosen models are measured again.

A point that is done is never done again; one whose loss became infinite is marked and
the others go on. Typed again, the command goes on, with more points if the plan has
more. Typed several times at once (several GPUs, or machines with one file system), the
commands share the points; --devices and --processes start such commands."""


def sweep(argv: list[str]) -> None:
    """Runs `t5patches sweep`.

    Raises:
      UserError: the plan is wrong, a folder is another plan's, every update failed.
    """
    from t5patches.sweep import plan

    shape = (plan.__doc__ or "").split("\n\n", 1)[1].rpartition("\n\n")[0]
    parser = starting.parser("sweep", _DESCRIPTION.format(plan=shape.rstrip()))
    parser.add_argument("plan", metavar="PLAN", help="e.g. sweep.toml")
    add_option(parser, "--output", "FOLDER", "a folder of its own")
    several = parser.add_mutually_exclusive_group()
    text = "GPUs, e.g. 0,1,2,3: a process for each"
    add_option(several, "--devices", "LIST", text, type=names, default=None)
    text = "processes that share the points (default: 1)"
    add_option(several, "--processes", "N", text, type=positive, default=1)
    text = "do points, and leave the report to another command"
    add_option(parser, "--points-only", None, text, action="store_true")
    args = parser.parse_args(argv)
    found = plan.read(args.plan)
    annotator = make_annotator(found.annotate, f"{args.plan}: annotate")
    starting.prepare()
    from t5patches.interchange import claims
    from t5patches.run.stages import quiet
    from t5patches.sweep import running

    first, *others = [
        {"CUDA_VISIBLE_DEVICES": name} for name in args.devices or ()
    ] or ([{}] * args.processes)
    os.environ.update(first)
    done = running.Sweep(found, annotator, args.output)
    with quiet():
        if args.points_only:
            done.do_points()
            return
        command = ["sweep", args.plan, "--output", args.output, "--points-only"]
        made = {"plan": args.plan, "plan's digest": claims.file_digest(args.plan)}
        libraries = ("t5patches", "jax", "flax", "orbax-checkpoint", "seqio")
        about = {
            "commands": [shlex.join(["t5patches", "sweep", *argv])],
            "engine": _engine.name(),
            "versions": {name: importlib.metadata.version(name) for name in libraries},
        }
        with _started(command, others) as wait:
            running.run(done, made, about, wait=wait)


@contextlib.contextmanager
def _started(
    argv: list[str], environments: list[dict[str, str]]
) -> Iterator[Callable[[], None]]:
    """Has processes work on the points, too; yields what waits for them.

    What one of them leaves when it fails is done by typing the command again.
    """
    command = [sys.executable, "-m", "t5patches", *argv]
    started = [
        subprocess.Popen(command, env={**os.environ, **more}) for more in environments
    ]

    def wait() -> None:
        for process in started:
            process.wait()

    try:
        yield wait
    finally:
        for process in started:
            process.terminate()
