"""Time and memory of a training step: fine-tuning against TNFF, ours against T5X's.

    python -m benchmarks.step_time                  # T5-1.1-small shape
    python -m benchmarks.step_time --layers 2 --d_model 128 --vocab 1024 --steps 20

The compiled step is the trainer's, `t5patches.train_step` with `t5patches.losses` and
the embedded engine's Adafactor, less the metrics for logging. T5X, where it is
installed, runs its own network, loss and Adafactor in the same step function, with its
one-hot embeddings and with gathered ones; its TNFF is the paper's formula on T5X's
cross entropy against distributions. TensorFlow and seqio are needed by T5X alone.

Steps are interleaved, one of each in turn, so that a busy machine slows all alike;
ratios are medians of the ratios within a round. The peak memory of each is that of a
process that does nothing else, and XLA's own account of the compiled step.
"""

import argparse
import contextlib
import dataclasses
import functools
import importlib.util
import json
import os
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np

Z_LOSS = 1e-4
ALPHA = 1.0
LEARNING_RATE = 1e-3
MB = 1e6

FORWARD, FINETUNE, TNFF = "forward", "finetune", "tnff"
# Engine by the prefix of a case's name.
ENGINES = {"ours": "embedded", "t5x": "t5x", "t5x-gather": "t5x"}


@dataclasses.dataclass
class Engine:
    """What a step is made of.

    Attributes:
      module: the network.
      adafactor: makes the optimizer definition.
      create_state: (optimizer definition, variables) -> train state.
      cross_entropy: (logits, targets, weights) -> loss.
      tnff: (logits, frozen logits, targets, weights) -> loss.
      tracing: makes the context in which the network must be traced.
    """

    module: Any
    adafactor: Callable[[], Any]
    create_state: Callable[..., Any]
    cross_entropy: Callable[..., jax.Array]
    tnff: Callable[..., jax.Array]
    tracing: Callable[[], Any] = contextlib.nullcontext


def ours(shape: dict[str, Any]) -> Engine:
    """The step as `t5patches train` runs it on the embedded engine."""
    from t5patches import losses, network
    from t5x_embedded import adafactor, train_state
    from t5x_embedded import losses as engine_losses

    def cross_entropy(logits, targets, weights):
        return engine_losses.compute_weighted_cross_entropy(
            logits, targets, weights, z_loss=Z_LOSS
        )[0]

    def tnff(*arrays):
        method = losses.METHODS["tnff"]
        return losses.targeted_loss(method, *arrays, alpha=ALPHA, z_loss=Z_LOSS)[0]

    return Engine(
        network.Transformer(network.T5Config(**shape)),
        adafactor.Adafactor,
        train_state.FlaxOptimTrainState.create,
        cross_entropy,
        tnff,
    )


def t5x(shape: dict[str, Any], gather: bool = False) -> Engine:
    """T5X's network, loss and optimizer.

    Args:
      shape: fields of T5Config.
      gather: look token embeddings up instead of T5X's one-hot product.
    """
    from t5x import adafactor, losses, train_state
    from t5x.examples.t5 import layers, network

    class GatheredEmbed(layers.Embed):
        def __call__(self, inputs):
            return self.embedding.astype(self.dtype)[inputs]

    def cross_entropy(logits, targets, weights):
        return losses.compute_weighted_cross_entropy(
            logits, targets, weights, z_loss=Z_LOSS
        )[0]

    def tnff(logits, frozen_logits, targets, weights):
        unwanted = jax.nn.one_hot(targets, logits.shape[-1]) * (weights < 0)[..., None]
        new = jax.nn.softmax(jax.lax.stop_gradient(frozen_logits)) * (1.0 - unwanted)
        new = new / new.sum(-1, keepdims=True)
        loss, _ = losses.cross_entropy_with_logits(logits, new, z_loss=Z_LOSS)
        return jnp.sum(loss * jnp.where(weights < 0, ALPHA, weights))

    patched = functools.partial(mock.patch.object, layers, "Embed", GatheredEmbed)
    return Engine(
        network.Transformer(network.T5Config(**shape)),
        adafactor.Adafactor,
        train_state.FlaxOptimTrainState.create,
        cross_entropy,
        tnff,
        patched if gather else contextlib.nullcontext,
    )


def make_engine(name: str, shape: dict[str, Any]) -> Engine:
    """The engine whose cases have names that start with `name`."""
    return ours(shape) if name == "ours" else t5x(shape, gather=name.endswith("gather"))


def make_batch(args: argparse.Namespace, seed: int = 0) -> dict[str, jax.Array]:
    """A batch without padding whose every tenth target is unwanted."""
    rng = np.random.default_rng(seed)
    inputs, targets = (
        rng.integers(1, args.vocab, (args.batch, length), dtype=np.int32)
        for length in (args.inputs, args.targets)
    )
    weights = np.where(rng.random(targets.shape) < 0.1, -1, 1).astype(np.int32)
    shifted = np.pad(targets, ((0, 0), (1, 0)))[:, :-1]
    batch = {
        "encoder_input_tokens": inputs,
        "decoder_input_tokens": shifted,
        "decoder_target_tokens": targets,
        "decoder_loss_weights": weights,
    }
    return {name: jnp.asarray(x) for name, x in batch.items()}


class Case:
    """A compiled step and the state that it carries on.

    Attributes:
      name: "engine/kind".
      memory: XLA's account, bytes: `arguments`, `temporary`, `peak` (of arguments,
        results and temporaries together, donated buffers counted once).
      param_bytes: size of the parameters.
    """

    def __init__(self, name: str, args: argparse.Namespace):
        self.name = name
        prefix, kind = name.split("/")
        engine = make_engine(prefix, network_shape(args))
        batch = make_batch(args)
        tokens = tuple(list(batch.values())[:3])
        with engine.tracing():
            state = jax.jit(functools.partial(_initial_state, engine))(*tokens)
            self.param_bytes = sum(p.nbytes for p in jax.tree.leaves(state.params))
            key = jax.random.PRNGKey(1)
            if kind == FORWARD:
                step = functools.partial(_forward, engine.module)
                self._carry, self._rest = state.params, (batch, key)
            else:
                step = functools.partial(_train, engine, kind)
                frozen = None
                if kind == TNFF:
                    frozen = jax.tree.map(jnp.copy, state.params)
                self._carry, self._rest = state, (batch, key, frozen)
            del state
            donated = () if kind == FORWARD else (0,)
            lowered = jax.jit(step, donate_argnums=donated).lower(
                self._carry, *self._rest
            )
            self._step = lowered.compile()
        self._carries = kind != FORWARD
        self.memory = _xla_memory(self._step)

    def run(self) -> float:
        """Seconds that a step takes."""
        start = time.perf_counter()
        result = jax.block_until_ready(self._step(self._carry, *self._rest))
        seconds = time.perf_counter() - start
        if self._carries:
            self._carry = result
        return seconds


def _initial_state(engine, *tokens):
    key = jax.random.PRNGKey(0)
    variables = engine.module.init(key, *tokens, enable_dropout=False)
    return engine.create_state(engine.adafactor(), variables)


def _logits(module, params, batch, key):
    names = ("encoder_input", "decoder_input", "decoder_target")
    tokens = [batch[f"{name}_tokens"] for name in names]
    return module.apply(
        {"params": params}, *tokens, enable_dropout=True, rngs={"dropout": key}
    )


def _forward(module, params, batch, key):
    return _logits(module, params, batch, key)


def _train(engine, kind, state, batch, key, frozen):
    from t5patches import train_step

    targets, weights = batch["decoder_target_tokens"], batch["decoder_loss_weights"]

    def loss_fn(params, batch, key):
        logits = _logits(engine.module, params, batch, key)
        if kind == FINETUNE:
            return engine.cross_entropy(logits, targets, jnp.abs(weights)), {}
        # The same dropout masks for both, as the trainer has it.
        frozen_logits = _logits(engine.module, frozen, batch, key)
        return engine.tnff(logits, frozen_logits, targets, weights), {}

    return train_step.train_step(
        state, batch, key, loss_fn=loss_fn, learning_rate=LEARNING_RATE
    )[0]


def _xla_memory(compiled) -> dict[str, int]:
    stats = compiled.memory_analysis()
    total = (
        stats.argument_size_in_bytes
        + stats.output_size_in_bytes
        - stats.alias_size_in_bytes
        + stats.temp_size_in_bytes
    )
    return {
        "arguments": stats.argument_size_in_bytes,
        "temporary": stats.temp_size_in_bytes,
        "peak": total,
    }


def network_shape(args: argparse.Namespace) -> dict[str, Any]:
    """Fields of T5Config, the same for both engines."""
    return {
        "vocab_size": args.vocab,
        "dtype": args.dtype,
        "emb_dim": args.d_model,
        "num_heads": args.heads,
        "num_encoder_layers": args.layers,
        "num_decoder_layers": args.layers,
        "head_dim": args.head_dim,
        "mlp_dim": args.d_ff,
        "mlp_activations": ("gelu", "linear"),
        "dropout_rate": args.dropout,
    }


def measure_times(cases: Sequence[Case], steps: int) -> dict[str, list[float]]:
    """Seconds of every step: one of each case in turn, after one to warm up."""
    for case in cases:
        case.run()
    times = {case.name: [] for case in cases}
    for _ in range(steps):
        for case in cases:
            times[case.name].append(case.run())
    return times


def peak_of_this_process(case: str, args: argparse.Namespace) -> int:
    """Peak resident bytes of this process after two steps of one case."""
    built = Case(case, args)
    built.run()
    built.run()
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def peak_of_own_process(case: str, argv: Sequence[str]) -> int:
    """The same in a process of its own."""
    command = [sys.executable, os.path.abspath(__file__), *argv, "--peak_of", case]
    env = dict(os.environ, PYTHONPATH=os.pathsep.join(filter(None, sys.path)))
    done = subprocess.run(command, env=env, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"measuring {case} failed:\n{done.stderr}")
    return json.loads(done.stdout.splitlines()[-1])["peak"]


def summarise(
    times: dict[str, list[float]],
    memory: dict[str, dict[str, int]],
    param_bytes: int,
    logits_bytes: int,
) -> dict[str, float]:
    """Ratios, each the median over rounds of the ratio within a round."""

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
        allowed = param_bytes + logits_bytes
        for account in ("xla", "rss"):
            small, large = (memory[name].get(account) for name in names[1:])
            if small is None or large is None:
                continue
            ratios[f"{prefix}: TNFF / fine-tuning, {account} peak"] = large / small
            ratios[f"{prefix}: extra {account} peak / (frozen parameters + logits)"] = (
                large - small
            ) / allowed
    for prefix in ENGINES:
        for kind in (FINETUNE, TNFF):
            mine, theirs = f"ours/{kind}", f"{prefix}/{kind}"
            if prefix != "ours" and mine in times and theirs in times:
                ratios[f"ours / {prefix}, {kind}, time"] = ratio(
                    times[mine], times[theirs]
                )
    return ratios


def print_report(times, memory, ratios) -> None:
    """The table on stdout."""
    print(f"{'step':24}{'median s':>10}{'min s':>10}{'XLA MB':>10}{'RSS MB':>10}")
    for name, seconds in times.items():
        row = f"{name:24}{np.median(seconds):10.3f}{min(seconds):10.3f}"
        row += f"{memory[name]['xla'] / MB:10.0f}"
        rss = memory[name].get("rss")
        print(row + (f"{rss / MB:10.0f}" if rss else f"{'-':>10}"))
    print()
    for name, value in ratios.items():
        print(f"{name:60}{value:8.3f}")


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Flags; the defaults are T5-1.1-small."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    for name, default in {
        "d_model": 512,
        "layers": 8,
        "heads": 6,
        "head_dim": 64,
        "d_ff": 1024,
        "vocab": 32128,
        "batch": 8,
        "inputs": 256,
        "targets": 64,
        "steps": 7,
    }.items():
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--dropout", type=float, default=0.1)
    parser.add_argument("--dtype", default="float32", choices=["float32", "bfloat16"])
    parser.add_argument(
        "--engines",
        default="embedded,t5x" if _has_t5x() else "embedded",
        help="embedded, t5x, or both with a comma (default: those installed)",
    )
    parser.add_argument(
        "--no_rss", action="store_true", help="skip the processes that measure memory"
    )
    parser.add_argument("--json", help="file to write the numbers to")
    parser.add_argument("--peak_of", help=argparse.SUPPRESS)
    args = parser.parse_args(argv)
    wanted = set(args.engines.split(","))
    if not wanted or wanted - set(ENGINES.values()):
        parser.error("--engines: embedded, t5x, or both with a comma")
    if "t5x" in wanted and not _has_t5x():
        parser.error("--engines: T5X is not installed here")
    return args


def _has_t5x() -> bool:
    # The embedded engine answers to the name too: look for what it does not have.
    try:
        return importlib.util.find_spec("t5x.examples.t5.network") is not None
    except ModuleNotFoundError:
        return False


def main(argv: Sequence[str] | None = None) -> dict[str, Any]:
    """Runs the benchmark, prints the table and returns its numbers."""
    argv = list(sys.argv[1:] if argv is None else argv)
    args = parse_args(argv)
    if args.peak_of:
        result = {"peak": peak_of_this_process(args.peak_of, args)}
        print(json.dumps(result))
        return result
    engines = args.engines.split(",")
    names = [
        f"{prefix}/{kind}"
        for prefix, engine in ENGINES.items()
        for kind in (FORWARD, FINETUNE, TNFF)
        if engine in engines
    ]
    memory: dict[str, dict[str, int]] = {name: {} for name in names}
    if not args.no_rss:
        for name in names:
            memory[name]["rss"] = peak_of_own_process(name, argv)
    cases = [Case(name, args) for name in names]
    for case in cases:
        memory[case.name]["xla"] = case.memory["peak"]
    times = measure_times(cases, args.steps)
    logits_bytes = args.batch * args.targets * args.vocab * 4
    ratios = summarise(times, memory, cases[0].param_bytes, logits_bytes)
    print_report(times, memory, ratios)
    result = {
        "arguments": vars(args),
        "seconds": times,
        "memory": memory,
        "ratios": ratios,
        "jax": jax.__version__,
        "device": jax.devices()[0].device_kind,
    }
    if args.json:
        with open(args.json, "w") as file:
            json.dump(result, file, indent=2)
    return result


if __name__ == "__main__":
    main()
