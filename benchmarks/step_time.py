"""Time and memory of a training step: fine-tuning against TNFF, ours against T5X's.

    python -m benchmarks.step_time                  # T5-1.1-small shape
    python -m benchmarks.step_time --layers 2 --d_model 128 --vocab 1024 --steps 20
    python -m benchmarks.step_time --kinds forward,fill,finetune,tnff-cached

A step is a trainer's own, compiled and called as T5X's train loop does it:
`t5patches.trainer`'s for fine-tuning and TNFF on the embedded engine, metrics and
Adafactor included; once more with the frozen pass cached, with a whole set of 500
unwanted tokens at every position, and with both where these tokens' rows of the output
layer alone are trained, without dropout. `fill` runs the frozen model over a
batch and writes what is cached, to be compared with `forward`, an inference pass. All
kinds at once take the memory of all their parameters and states. T5X, where it is
installed, runs its own network, loss, trainer and Adafactor, with its one-hot
embeddings and with gathered ones; its TNFF is the paper's formula on T5X's cross
entropy against distributions, with our trainer to carry the frozen parameters.

Each engine has a process. Steps are interleaved, one of each case in turn, so that a
busy machine slows all alike; ratios are medians of the ratios within a round. The peak
memory of each case is that of a process that does nothing else, and XLA's own account
of the compiled step.
"""

import argparse
import contextlib
import functools
import importlib.util
import json
import operator
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from typing import Any
from unittest import mock

import ml_dtypes
import numpy as np

Z_LOSS = 1e-4
ALPHA = 1.0
LEARNING_RATE = 1e-3
MB = 1e6

FORWARD, FILL, FINETUNE, TNFF = "forward", "fill", "finetune", "tnff"
CACHED, SETS, ROWS = "tnff-cached", "tnff-sets", "tnff-rows"
UPDATES = (TNFF, CACHED, SETS, ROWS)
# All that are measured of ours, and those that T5X has, too.
KINDS, THEIRS = (FORWARD, FILL, FINETUNE, *UPDATES), (FORWARD, FINETUNE, TNFF)
SET_SIZE = 500
# Engine by the prefix of a case's name.
ENGINES = {"ours": "embedded", "t5x": "t5x", "t5x-gather": "t5x"}


# ---- In an engine's process ----


def make_model(prefix: str, kind: str, args: argparse.Namespace) -> Any:
    """Returns the T5X model of a case; only TNFF's have a frozen one beside it."""
    import seqio
    from t5x import adafactor
    from t5x import models as t5x_models

    from benchmarks import generate
    from t5patches import models, network

    classes = dict.fromkeys((FILL, *UPDATES), models.EncoderDecoderModelTNFF)
    if prefix != "ours":
        from t5x.examples.t5 import network

        classes = {TNFF: t5x_tnff()}
    shape = generate.network_shape(args)
    dropout = 0.0 if kind == ROWS else args.dropout
    config = network.T5Config(**shape | {"dtype": args.dtype, "dropout_rate": dropout})
    vocabulary = seqio.PassThroughVocabulary(args.vocab, eos_id=1)
    options = {"alpha": ALPHA} if kind in classes and prefix == "ours" else {}
    with tempfile.TemporaryDirectory() as folder:
        if kind in (SETS, ROWS):
            options["unwanted_sets"] = write_sets(folder, kind, args)
        if kind == ROWS:
            options["trainable"] = "unwanted_rows"
        if kind in (CACHED, ROWS):  # It has no dropout; what is cached is in the batch.
            options |= {"frozen_cache": folder, "frozen_dropout": False}
        model = classes.get(kind, t5x_models.EncoderDecoderModel)(
            module=network.Transformer(config),
            input_vocabulary=vocabulary,
            output_vocabulary=vocabulary,
            optimizer_def=adafactor.Adafactor(
                logical_factor_rules=adafactor.standard_logical_factor_rules()
            ),
            z_loss=Z_LOSS,
            **options,
        )
    plain = prefix == "ours" and kind not in classes
    return models.by_positions(model) if plain else model


def write_sets(folder: str, kind: str, args: argparse.Namespace) -> str:
    """Writes a table, of a set for each position or of one; returns its path."""
    from t5patches.interchange import unwanted_sets

    rng = np.random.default_rng(1)
    columns = -(-args.vocab // 32) * 32
    count = 1 if kind == ROWS else args.batch * args.targets
    sets = np.zeros((count + 1, columns), np.uint8)
    size = min(SET_SIZE, args.vocab // 2)
    for row in sets[1:]:
        row[rng.choice(np.arange(2, args.vocab), size, replace=False)] = 1
    bits = np.packbits(sets, axis=1, bitorder="little").view(np.uint32)
    unwanted_sets.write(folder, bits)
    return os.path.join(folder, unwanted_sets.FILE)


def t5x_tnff() -> type:
    """Returns TNFF as one would add it to T5X: the formula on T5X's own functions."""
    import jax
    import jax.numpy as jnp
    from t5x import losses, models

    class PlainTNFF(models.EncoderDecoderModel):
        def loss_fn(self, params, batch, dropout_rng, orig_params=None):
            targets, weights = (
                batch[f"decoder_{name}"] for name in ("target_tokens", "loss_weights")
            )
            logits, frozen_logits = (
                self._compute_logits(tree, batch, dropout_rng)
                for tree in (params, orig_params)
            )
            unwanted = jax.nn.one_hot(targets, logits.shape[-1])
            unwanted *= (weights < 0)[..., None]
            new = jax.nn.softmax(jax.lax.stop_gradient(frozen_logits)) * (1 - unwanted)
            new = new / new.sum(-1, keepdims=True)
            tokens, z_loss = losses.cross_entropy_with_logits(logits, new, self._z_loss)
            factors = jnp.where(weights < 0, ALPHA, weights)
            loss = jnp.sum(tokens * factors)
            metrics = self._compute_metrics(
                logits=logits,
                targets=targets,
                mask=jnp.abs(weights),
                loss=loss,
                z_loss=jnp.sum(z_loss * factors),
                segment_ids={
                    name: batch[name] != 0
                    for name in ("encoder_input_tokens", "decoder_target_tokens")
                },
            )
            return loss, metrics

    return PlainTNFF


def make_batch(kind: str, args: argparse.Namespace) -> dict[str, np.ndarray]:
    """Makes a batch without padding; every tenth target is unwanted, for TNFF."""
    rng = np.random.default_rng(0)
    inputs, targets = (
        rng.integers(1, args.vocab, (args.batch, length), dtype=np.int32)
        for length in (args.inputs, args.targets)
    )
    unwanted = (rng.random(targets.shape) < 0.1) & (kind in UPDATES)
    rows = np.arange(1, targets.size + 1, dtype=np.int32).reshape(targets.shape)
    more = {"unwanted_sets": rows} if kind == SETS else {}
    if kind == ROWS:
        more = {"unwanted_sets": np.ones_like(rows)}
    if kind in (CACHED, ROWS):
        states = rng.standard_normal((*targets.shape, args.d_model))
        more["frozen_states"] = states.astype(ml_dtypes.bfloat16)
    return {
        **more,
        "encoder_input_tokens": inputs,
        "decoder_input_tokens": np.pad(targets, ((0, 0), (1, 0)))[:, :-1],
        "decoder_target_tokens": targets,
        "decoder_loss_weights": np.where(unwanted, -1, 1).astype(np.int32),
    }


def keep(folder: str, batch: dict[str, np.ndarray], states: Any) -> None:
    """Writes states as `FROZEN_CACHE` keeps them, a file for the batch."""
    from t5patches.interchange import frozen_states

    pairs = zip(
        batch["encoder_input_tokens"], batch["decoder_target_tokens"], strict=True
    )
    keys = [frozen_states.key(*pair) for pair in pairs]
    frozen_states.write(folder, keys, np.asarray(states))


def gathered_embeddings() -> Any:
    """Returns the context in which T5X's network looks token embeddings up."""
    from t5x.examples.t5 import layers

    class GatheredEmbed(layers.Embed):
        def __call__(self, inputs):
            return self.embedding.astype(self.dtype)[inputs]

    return mock.patch.object(layers, "Embed", GatheredEmbed)


def peak_bytes(memory: Any) -> int:
    """Returns the peak that XLA's `memory_analysis` of a program comes to."""
    total = memory.argument_size_in_bytes + memory.output_size_in_bytes
    return total + memory.temp_size_in_bytes - memory.alias_size_in_bytes


class Case:
    """A compiled step and the state that it carries on.

    Attributes:
      facts: `parameters`, their bytes; `xla`, XLA's account of the peak (arguments,
        results and temporaries together, donated buffers counted once); `device`.
    """

    def __init__(self, name: str, args: argparse.Namespace):
        import jax
        import jax.numpy as jnp

        prefix, kind = name.split("/")
        gather = prefix.endswith("gather")
        with gathered_embeddings() if gather else contextlib.nullcontext():
            model, batch = make_model(prefix, kind, args), make_batch(kind, args)
            trainer = make_trainer(model, kind, batch)
            state = trainer.train_state
            parameters = sum(x.nbytes for x in jax.tree.leaves(state.params))
            self._state = None
            if kind == FORWARD:
                forward = functools.partial(model._compute_logits, batch=batch)
                key = jax.random.PRNGKey(1)
                lowered = jax.jit(forward).lower(state.params, dropout_rng=key)
                compiled = lowered.compile()
                self._run = functools.partial(compiled, state.params, dropout_rng=key)
            elif kind == FILL:
                pre_logits = lambda params: model.pre_logits(params, batch)
                states = lambda params: pre_logits(params).astype(jnp.bfloat16)
                compiled = jax.jit(states).lower(state.params).compile()
                self._run = lambda: keep(
                    self._folder.name, batch, compiled(state.params)
                )
                self._folder = tempfile.TemporaryDirectory()
            else:
                trainer.compile_train(batch)
                self._state, step = state, trainer._compiled_train_step
                # Of TNFF the program is inside what adds the frozen parameters.
                compiled = getattr(step, "_step", step)
                self._run = lambda: step(self._state, batch)
        xla = peak_bytes(compiled.memory_analysis())
        device = jax.devices()[0].device_kind
        self.facts = {"parameters": parameters, "xla": xla, "device": device}

    def run(self) -> float:
        """Returns the seconds that a step takes."""
        import jax

        start = time.perf_counter()
        result = jax.block_until_ready(self._run())
        seconds = time.perf_counter() - start
        if self._state is not None:
            self._state = result[0]
        return seconds


def make_trainer(model: Any, kind: str, batch: dict[str, np.ndarray]) -> Any:
    """Returns the trainer of gin/runs for the model, with a state from scratch."""
    import jax
    from t5x import partitioning, utils

    from t5patches import trainer

    partitioner = partitioning.PjitPartitioner(
        num_partitions=1, logical_axis_rules=partitioning.standard_logical_axis_rules()
    )
    initializer = utils.TrainStateInitializer(
        optimizer_def=model.optimizer_def,
        init_fn=model.get_initial_variables,
        input_shapes={name: x.shape for name, x in batch.items()},
        partitioner=partitioner,
    )
    frozen = kind in UPDATES
    cls = trainer.SelfDistillationTrainer if frozen else trainer.WatchedTrainer
    return cls(
        model=model,
        train_state=initializer.from_scratch(jax.random.PRNGKey(0)),
        partitioner=partitioner,
        eval_names=[],
        summary_dir=None,
        train_state_axes=initializer.train_state_axes,
        rng=jax.random.PRNGKey(1),
        learning_rate_fn=lambda step: LEARNING_RATE,
        num_microbatches=None,
    )


def serve(names: Sequence[str], args: argparse.Namespace) -> None:
    """Makes cases; then answers each of their names on stdin by running a step."""
    # Where T5X is not installed, the embedded engine answers to its name then.
    import t5patches  # noqa: F401

    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # Whatever libraries print is no answer.

    def answer(value):
        print(json.dumps(value), file=answers, flush=True)

    cases = {name: Case(name, args) for name in names}
    answer({name: case.facts for name, case in cases.items()})
    for line in sys.stdin:
        seconds = cases[line.strip()].run()
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        answer({"seconds": seconds, "rss": peak})


# ---- In the process that is asked for the table ----


class Worker:
    """A process with some of the cases, all of one engine.

    Attributes:
      facts: name of the case -> its `facts`.
    """

    def __init__(self, names: Sequence[str], argv: Sequence[str]):
        env = {"XLA_PYTHON_CLIENT_PREALLOCATE": "false", **os.environ}
        env["PYTHONPATH"] = os.pathsep.join(filter(None, sys.path))
        if ENGINES[names[0].split("/")[0]] == "embedded":
            env["T5PATCHES_ENGINE"] = "t5x_embedded"
        command = [sys.executable, os.path.abspath(__file__), *argv, "--serve", *names]
        self._process = subprocess.Popen(
            command, env=env, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        self.facts = self._answer()

    def _answer(self) -> Any:
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"a case failed: {self._process.args}")
        return json.loads(line)

    def run(self, name: str) -> dict[str, float]:
        """Runs a step of a case: its `seconds`, and `rss`, the process's peak bytes."""
        self._process.stdin.write(f"{name}\n")
        self._process.stdin.flush()
        return self._answer()

    def close(self) -> None:
        self._process.stdin.close()
        self._process.wait()


def measure(
    names: Sequence[str], steps: int, rss: bool, argv: Sequence[str]
) -> tuple[dict[str, list[float]], dict[str, dict[str, Any]]]:
    """Runs the cases.

    Args:
      names: of the cases.
      steps: rounds that are timed, after one to warm up.
      rss: whether to measure each case's peak in a process of its own first.
      argv: the flags.

    Returns:
      name -> seconds of every step, and name -> its `facts` and perhaps `rss`.
    """
    peaks = {}
    for name in names if rss else ():
        worker = Worker([name], argv)
        peaks[name] = [worker.run(name)["rss"] for _ in range(2)][-1]
        worker.close()
    by_engine: dict[str, list[str]] = {}
    for name in names:
        by_engine.setdefault(ENGINES[name.split("/")[0]], []).append(name)
    workers = [Worker(cases, argv) for cases in by_engine.values()]
    memory = {name: dict(w.facts[name]) for w in workers for name in w.facts}
    for name, peak in peaks.items():
        memory[name]["rss"] = peak
    times: dict[str, list[float]] = {name: [] for name in names}
    for step in range(steps + 1):
        for worker in workers:
            for name in worker.facts:
                seconds = worker.run(name)["seconds"]
                times[name] += [seconds] if step else []
    for worker in workers:
        worker.close()
    return times, memory


def summarise(
    times: dict[str, list[float]], memory: dict[str, dict[str, Any]], logits_bytes: int
) -> dict[str, float]:
    """Returns ratios, each the median over rounds of the ratio within a round."""

    def ratio(numerator, denominator):
        return float(np.median(np.array(numerator) / np.array(denominator)))

    ratios = {}
    for prefix in ENGINES:
        names = [f"{prefix}/{kind}" for kind in (FORWARD, FINETUNE, TNFF)]
        if any(name not in times for name in names):
            continue
        forward, finetune, tnff = (np.array(times[name]) for name in names)
        ratios[f"{prefix}: TNFF / fine-tuning, time"] = ratio(tnff, finetune)
        ratios[f"{prefix}: (TNFF - fine-tuning) / forward, time"] = ratio(
            tnff - finetune, forward
        )
        allowed = memory[names[0]]["parameters"] + logits_bytes
        for account in ("xla", "rss"):
            small, large = (memory[name].get(account) for name in names[1:])
            if small is None or large is None:
                continue
            ratios[f"{prefix}: TNFF / fine-tuning, {account} peak"] = large / small
            ratios[f"{prefix}: extra {account} peak / (frozen parameters + logits)"] = (
                large - small
            ) / allowed
    if {f"ours/{kind}" for kind in (FORWARD, FILL)} <= set(times):
        ratios["ours: filling the cache / forward, time"] = ratio(
            times[f"ours/{FILL}"], times[f"ours/{FORWARD}"]
        )
    for kind, what in {CACHED: "cached TNFF", ROWS: "cached TNFF of rows"}.items():
        case, finetune = f"ours/{kind}", f"ours/{FINETUNE}"
        if case not in times or finetune not in times:
            continue
        name = f"ours: {what} / fine-tuning,"
        ratios[f"{name} time"] = ratio(times[case], times[finetune])
        for account in ("xla", "rss"):
            if account in memory[case]:
                peaks = (memory[each][account] for each in (case, finetune))
                ratios[f"{name} {account} peak"] = operator.truediv(*peaks)
    if {f"ours/{kind}" for kind in (SETS, TNFF)} <= set(times):
        ratios["ours: TNFF with sets / without, time"] = ratio(
            times[f"ours/{SETS}"], times[f"ours/{TNFF}"]
        )
    for prefix in ENGINES:
        for kind in (FINETUNE, TNFF):
            mine, theirs = f"ours/{kind}", f"{prefix}/{kind}"
            if prefix != "ours" and mine in times and theirs in times:
                ratios[f"ours / {prefix}, {kind}, time"] = ratio(
                    times[mine], times[theirs]
                )
    return ratios


def print_report(times, memory, ratios) -> None:
    """Prints the table, the ratios, and README's table of them."""
    print(f"{'step':24}{'median s':>10}{'min s':>10}{'XLA MB':>10}{'RSS MB':>10}")
    for name, seconds in times.items():
        row = f"{name:24}{np.median(seconds):10.3f}{min(seconds):10.3f}"
        row += f"{memory[name]['xla'] / MB:10.0f}"
        rss = memory[name].get("rss")
        print(row + (f"{rss / MB:10.0f}" if rss else f"{'-':>10}"))
    print()
    for name, value in ratios.items():
        print(f"{name:60}{value:8.3f}")
    print("\n| | fine-tuning | TNFF | TNFF − fine-tuning |\n| --- | --- | --- | --- |")
    for prefix in ENGINES:
        if f"{prefix}: TNFF / fine-tuning, time" in ratios:
            finetune, tnff = (
                np.median(times[f"{prefix}/{kind}"]) for kind in (FINETUNE, TNFF)
            )
            extra = ratios[f"{prefix}: (TNFF - fine-tuning) / forward, time"]
            print(
                f"| {prefix} | {finetune:.2f} s | {tnff:.2f} s"
                f" | {extra:.2f} × one forward pass |"
            )


def add_shape(parser: argparse.ArgumentParser, dtype: str, **sizes: int) -> None:
    """Adds the flags of a model and its batches; `sizes` and `dtype` are defaults."""
    sizes = {"head_dim": 64, "vocab": 32128, "targets": 64, **sizes}
    for name, default in sizes.items():
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--dropout", type=float, default=0.1)
    parser.add_argument("--dtype", default=dtype, choices=["float32", "bfloat16"])


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Parses flags; the defaults are T5-1.1-small."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    sizes = dict(d_model=512, layers=8, heads=6, d_ff=1024, batch=8, inputs=256)
    add_shape(parser, "float32", **sizes, steps=7)
    parser.add_argument(
        "--engines",
        default="embedded,t5x" if _has_t5x() else "embedded",
        help="embedded, t5x, or both with a comma (default: those installed)",
    )
    parser.add_argument(
        "--kinds", default=",".join(KINDS), help="of steps, with commas (default: all)"
    )
    parser.add_argument(
        "--no_rss", action="store_true", help="skip the processes that measure memory"
    )
    parser.add_argument("--serve", nargs="*", help=argparse.SUPPRESS)
    args = parser.parse_args(argv)
    wanted = set(args.engines.split(","))
    if not wanted or wanted - set(ENGINES.values()):
        parser.error("--engines: embedded, t5x, or both with a comma")
    if "t5x" in wanted and not _has_t5x():
        parser.error("--engines: T5X is not installed here")
    if not set(args.kinds.split(",")) <= set(KINDS):
        parser.error(f"--kinds: some of {','.join(KINDS)}")
    return args


def _has_t5x() -> bool:
    # The embedded engine answers to the name too: look for what it does not have.
    try:
        return importlib.util.find_spec("t5x.examples.t5.network") is not None
    except ModuleNotFoundError:
        return False


def main(argv: Sequence[str] | None = None) -> None:
    """Runs the benchmark and prints the table."""
    argv = list(sys.argv[1:] if argv is None else argv)
    args = parse_args(argv)
    if args.serve:
        serve(args.serve, args)
        return
    names = [
        f"{prefix}/{kind}"
        for prefix, engine in ENGINES.items()
        for kind in args.kinds.split(",")
        if engine in args.engines.split(",") and (prefix == "ours" or kind in THEIRS)
    ]
    times, memory = measure(names, args.steps, not args.no_rss, argv)
    ratios = summarise(times, memory, args.batch * args.targets * args.vocab * 4)
    print_report(times, memory, ratios)


if __name__ == "__main__":
    main()
