"""Memory and arithmetic of a training step, per device, on meshes that are not here.

    python -m benchmarks.pod_memory --models t5_1_1_small --devices 8,16
    python -m benchmarks.pod_memory --models t5_1_1_xxl --topologies v5e:8x8 \\
        --partitions 16 --gin PARAMETER_PARTITIONING_DIMS=2
    python -m benchmarks.pod_memory --growth       # 1 to 8 devices, work in proportion

A step is a trainer's own, as gin/runs configures it for a model of gin/models, lowered
by its partitioner for a mesh of (data, model) devices, from shapes alone: nothing is
allocated. What XLA's compiler says of the program of one device is printed: `arguments`
(the train state, the frozen parameters, the batch), `temporary` (activations,
gradients), `peak` (all of it and the results, donated buffers counted once), FLOPs.

The devices are this machine's CPU, taken for many (`--devices`), or with `--topologies`
those of a Cloud TPU, e.g. v5e:4x8: the step is lowered as there and compiled by the
TPU's own compiler; that needs `pip install libtpu` in the version of jax[tpu], and no
TPU. It refuses what does not fit its memory and says by how much; CPUs have no bfloat16
arithmetic, so that there the activations are counted larger than they are on a TPU. Of
a loop (logits in parts) FLOPs are counted once.

Each case is compiled in a process of its own.
"""

import argparse
import contextlib
import itertools
import json
import math
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from typing import Any
from unittest import mock

from benchmarks import step_time

GB = 1e9
KINDS = {
    step_time.FINETUNE: ["runs/finetune.gin"],
    step_time.TNFF: ["methods/tnff.gin", "runs/update.gin"],
}
# What a run is asked for; none of it is in the step.
JOB = """
from __gin__ import dynamic_registration
import seqio
from t5x import partitioning

VOCABULARY = @seqio.PassThroughVocabulary()
seqio.PassThroughVocabulary.size = %VOCABULARY_SIZE
MIXTURE_OR_TASK_NAME = 'none'
TASK_FEATURE_LENGTHS = {}
MODEL_DIR = 'none'
INITIAL_CHECKPOINT_PATH = 'none'
TRAIN_STEPS_RELATIVE = 1
TRAIN_STEPS = 1

PARAMETER_PARTITIONING_DIMS = 1
ACTIVATION_PARTITIONING_DIMS = 1
partitioning.standard_logical_axis_rules:
  parameter_partitioning_dims = %PARAMETER_PARTITIONING_DIMS
  activation_partitioning_dims = %ACTIVATION_PARTITIONING_DIMS
"""


# ---- In a case's process ----


@contextlib.contextmanager
def on_topology(name: str | None) -> Iterator[None]:
    """Has a Cloud TPU's devices, which are not here, be those that jax knows of.

    The mesh is made of them; and the network and the loss, which are not the same
    everywhere, ask jax what they are traced for, and for how many devices.

    Args:
      name: of a topology, e.g. v5e:4x8; None: what jax knows of stays as it is.
    """
    if name is None:
        yield
        return
    import jax
    from jax.experimental import topologies

    devices = topologies.get_topology_desc(name, "tpu").devices
    with (
        mock.patch.object(jax, "devices", lambda backend=None: devices),
        mock.patch.object(jax, "device_count", lambda backend=None: len(devices)),
        mock.patch.object(jax, "default_backend", lambda: "tpu"),
    ):
        yield


def lower_step(args: argparse.Namespace) -> Any:
    """Returns the train step of a case, lowered."""
    import t5patches  # noqa: F401  Where T5X is missing, its name is bound now.
    from t5patches.run import scripts

    with tempfile.TemporaryDirectory() as folder:
        job = os.path.join(folder, "job.gin")
        with open(job, "w") as file:
            file.write(JOB)
        files = [f"models/{args.model}.gin", *KINDS[args.kind], job]
        sizes = {"BATCH_SIZE": args.batch, "NUM_PARTITIONS": args.partitions}
        bindings = [*(f"{name} = {size}" for name, size in sizes.items()), *args.gin]
        with scripts.configuration("train", files, bindings) as config:
            args.vocab = config.macro("VOCABULARY_SIZE")
            batch = step_time.make_batch(args.kind, args)
            with on_topology(args.topology):
                return _lowered(config.arguments(), batch, args.kind)


def _lowered(arguments: Any, batch: Any, kind: str) -> Any:
    import jax
    import numpy as np
    from t5x import train_state, utils

    model, partitioner = arguments["model"], arguments["partitioner"]
    initializer = utils.TrainStateInitializer(
        optimizer_def=model.optimizer_def,
        init_fn=model.get_initial_variables,
        input_shapes={name: x.shape for name, x in batch.items()},
        partitioner=partitioner,
    )
    state = initializer.global_train_state_shape
    # The schedule's numbers are computed of it when the step is lowered.
    state = state.replace_step(np.int32(0))
    frozen = {}
    if kind == step_time.TNFF:
        frozen["orig_train_state"] = train_state.InferenceState(step=None, params={})
    trainer = arguments["trainer_cls"](
        model=model,
        train_state=state,
        partitioner=partitioner,
        eval_names=[],
        summary_dir=None,
        train_state_axes=initializer.train_state_axes,
        rng=jax.random.PRNGKey(0),
        **frozen,
    )
    if frozen:
        trainer.frozen_params = state.params
    return trainer._partitioned_train_step.lower(state, batch)


def facts(args: argparse.Namespace) -> dict[str, Any]:
    """Compiles a case's step: `arguments`, `temporary`, `peak` bytes, `flops`, …"""
    start = time.perf_counter()
    try:
        lowered = lower_step(args)
        step = lowered.compile()
    except Exception as error:  # XLA's own, whose class is no public name.
        used = re.search(r"Used (\S+) of (\S+) hbm", str(error))
        if used is None:
            raise
        return {"needs": used[1], "of": used[2]}
    step = getattr(step, "_step", step)
    memory = step.memory_analysis()
    return {
        "arguments": memory.argument_size_in_bytes,
        "temporary": memory.temp_size_in_bytes,
        "peak": step_time.peak_bytes(memory),
        "flops": step.cost_analysis()["flops"],
        "compile_seconds": time.perf_counter() - start,
    }


# ---- In the process that is asked for the table ----


def run_case(case: dict[str, Any]) -> dict[str, Any]:
    """Compiles a case in a process of its own; returns it with its `facts`."""
    env = {**os.environ, "JAX_PLATFORMS": "cpu", "TF_CPP_MIN_LOG_LEVEL": "2"}
    if case["topology"]:
        env["TPU_SKIP_MDS_QUERY"] = "1"  # There is no TPU to ask.
    else:
        count = f"--xla_force_host_platform_device_count={case['devices']}"
        env["XLA_FLAGS"] = f"{env.get('XLA_FLAGS', '')} {count}"
    command = [sys.executable, "-m", "benchmarks.pod_memory", "--case"]
    done = subprocess.run(
        [*command, json.dumps(case)], env=env, stdout=subprocess.PIPE, text=True
    )
    if done.returncode:
        raise RuntimeError(f"a case failed: {case}")
    return {**case, **json.loads(done.stdout.splitlines()[-1])}


def cases(args: argparse.Namespace) -> list[dict[str, Any]]:
    """Returns every combination of models, devices, partitions and steps."""
    shared = {name: getattr(args, name) for name in ("inputs", "targets", "gin")}
    if args.growth:
        return [
            {
                **shared,
                "model": model,
                "kind": kind,
                "topology": None,
                "devices": devices,
                "partitions": 1,
                "batch": args.growth * devices,
            }
            for model in args.models
            for kind in args.kinds
            for devices in (1, 2, 4, 8)
        ]
    places = [(None, int(n)) for n in args.devices]
    places += [(name, math.prod(_shape(name))) for name in args.topologies]
    return [
        {
            **shared,
            "model": model,
            "kind": kind,
            "topology": topology,
            "devices": devices,
            "partitions": int(partitions),
            "batch": args.batch,
        }
        for model, (topology, devices), partitions, kind in itertools.product(
            args.models, places, args.partitions, args.kinds
        )
    ]


def _shape(topology: str) -> list[int]:
    return [int(n) for n in topology.partition(":")[2].split("x")]


def print_row(row: dict[str, Any]) -> None:
    """Prints a line of the table."""
    place = row["topology"] or f"{row['devices']} CPU"
    mesh = f"{row['devices'] // row['partitions']} x {row['partitions']}"
    text = f"{row['model']:14}{place:12}{mesh:>9}{row['batch']:7}  {row['kind']:10}"
    if "needs" in row:
        print(f"{text}does not fit: {row['needs']} of {row['of']}", flush=True)
        return
    sizes = (row[name] / GB for name in ("arguments", "temporary", "peak"))
    text += "".join(f"{size:11.3f}" for size in sizes)
    print(f"{text}{row['flops'] / 1e12:12.3f}{row['compile_seconds']:8.0f}", flush=True)


def growth_exponents(rows: Sequence[dict[str, Any]]) -> dict[str, float]:
    """Returns the exponents of memory and FLOPs per device in the number of devices."""
    import numpy as np

    devices = np.log([row["devices"] for row in rows])
    return {
        name: float(np.polyfit(devices, np.log([row[name] for row in rows]), 1)[0])
        for name in ("arguments", "temporary", "peak", "flops")
    }


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Parses flags."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    names = lambda text: [name for name in text.split(",") if name]
    parser.add_argument("--models", type=names, default=["t5_1_1_small"])
    parser.add_argument("--devices", type=names, default=[])
    parser.add_argument("--topologies", type=names, default=[])
    parser.add_argument("--partitions", type=names, default=["1"])
    parser.add_argument("--kinds", type=names, default=list(KINDS))
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--inputs", type=int, default=512)
    parser.add_argument("--targets", type=int, default=64)
    parser.add_argument(
        "--gin", action="append", default=[], help="a binding, NAME=VALUE; repeatable"
    )
    parser.add_argument(
        "--growth", type=int, nargs="?", const=8, help="examples per device, 1 to 8"
    )
    parser.add_argument("--json", help="file to append the rows to, as JSON lines")
    parser.add_argument("--case", type=json.loads, help=argparse.SUPPRESS)
    args = parser.parse_args(argv)
    if set(args.kinds) - set(KINDS):
        parser.error(f"--kinds: {', '.join(KINDS)}")
    if not (args.devices or args.topologies or args.growth or args.case):
        args.devices = ["8"]
    return args


def main(argv: Sequence[str] | None = None) -> list[dict[str, Any]]:
    """Runs the benchmark, prints the table and returns its rows."""
    args = parse_args(argv)
    if args.case:
        print(json.dumps(facts(argparse.Namespace(**args.case))))
        return []
    columns = ("arguments", "temporary", "peak GB")
    print(f"{'model':14}{'devices':12}{'mesh':>9}{'batch':>7}  {'step':10}", end="")
    print("".join(f"{name:>11}" for name in columns) + f"{'TFLOP':>12}{'s':>8}")
    rows = []
    for case in cases(args):
        rows.append(run_case(case))
        print_row(rows[-1])
        if args.json:
            with open(args.json, "a") as file:
                file.write(json.dumps(rows[-1]) + "\n")
    for model, kind in (
        itertools.product(args.models, args.kinds) if args.growth else ()
    ):
        found = [row for row in rows if (row["model"], row["kind"]) == (model, kind)]
        for name, exponent in growth_exponents(found).items():
            print(f"{model} {kind}: {name} per device ~ devices^{exponent:.3f}")
    return rows


if __name__ == "__main__":
    main()
