"""Temporary memory and time of each method's loss and gradient, ours and upstream's.

    python -m benchmarks.loss_memory                      # T5's and mT5's vocabulary
    python -m benchmarks.loss_memory --dtype bfloat16
    python -m benchmarks.loss_memory --shapes 8x64x32128 --time 8x64x32128 --steps 9

What is compiled takes both models' logits, [batch, length, vocab], and gives the loss
(ours with its metrics) and its gradient with respect to the first; arguments and
results are not temporary.
Memory is XLA's own account of the compiled program, for which nothing is allocated:
any shape will do. Times are at the shapes of `--time`, which take several times the
memory of their logits; programs run in turn, so that a busy machine slows all alike,
and ratios are medians of the ratios within a round.

Upstream's formulas (google/t5patches) are written plainly, with one-hot targets,
`jax.nn.softmax` and JAX's own derivative. "cross entropy" is optax's, with integer
labels: what fine-tuning costs.
"""

import argparse
import functools
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from t5patches import losses

ALPHA = 1.0
FINETUNE = "cross entropy"
MB = 1e6
# The methods that upstream has, too.
UPSTREAM = [name for name in losses.METHODS if name not in losses.RIVALS]
# (logits, frozen logits, targets, weights) -> loss, metrics.
Loss = Callable[..., tuple[jax.Array, dict[str, Any]]]


def cross_entropy(logits, frozen, targets, weights):
    """Softmax cross entropy, as fine-tuning has it; `frozen` is not used."""
    tokens = optax.softmax_cross_entropy_with_integer_labels(
        logits.astype(jnp.float32), targets
    )
    return jnp.sum(tokens * jnp.abs(weights)), {}


def ours(name: str) -> Loss:
    """The loss of `t5patches.losses` and its metrics by the name of its method."""
    method = losses.METHODS[name]

    def loss(logits, frozen, targets, weights):
        annotation = losses.read_annotation(targets, weights)
        return losses.targeted_loss(
            method, logits, frozen, targets, annotation, alpha=ALPHA
        )

    return loss


def upstream(name: str) -> Loss:
    """Upstream's formula for the same method."""
    negative, positive = {
        "nl": ("likelihood", "likelihood"),
        "ul": ("unlikelihood", "likelihood"),
        "tnff": ("forward", "forward"),
        "tnrr": ("reverse", "reverse"),
        "tnrf": ("reverse", "forward"),
        "tnfll": ("forward", "label"),
        "tnrll": ("reverse", "label"),
    }[name]

    def loss(logits, frozen, targets, weights):
        log_p = jax.nn.log_softmax(logits.astype(jnp.float32))
        labels = jax.nn.one_hot(targets, logits.shape[-1])
        unwanted = weights < 0
        likelihood = jnp.sum(labels * log_p, axis=-1)
        if name == "nl":
            factor = jnp.where(unwanted, ALPHA, 1.0)
            return jnp.sum(jnp.minimum(-likelihood * weights * factor, 10.3)), {}
        if name == "ul":
            p = jnp.clip(jnp.exp(likelihood), 0, 1 - 1e-7)
            at_unwanted = -ALPHA * jnp.log(1 - p)
            tokens = jnp.where(unwanted, at_unwanted, -likelihood * weights)
            return jnp.sum(tokens), {}
        p_o = jax.nn.softmax(frozen.astype(jnp.float32))
        aim = jnp.where(unwanted[..., None], p_o - labels * p_o, p_o)
        if positive == "label":
            aim = jnp.where(unwanted[..., None], aim, labels)
        aim = aim / jnp.sum(aim, axis=-1, keepdims=True)
        if negative == "reverse":
            aim = aim + 1e-6
            aim = aim / jnp.sum(aim, axis=-1, keepdims=True)
        terms = {"forward": lambda: -jnp.sum(aim * log_p, axis=-1)}
        terms["label"] = terms["forward"]
        terms["reverse"] = lambda: jnp.sum(
            jnp.exp(log_p) * (log_p - jnp.log(aim)), axis=-1
        )
        tokens = jnp.where(
            unwanted, ALPHA * terms[negative](), terms[positive]() * weights
        )
        return jnp.sum(tokens), {}

    return loss


def programs(methods: Sequence[str]) -> dict[str, Loss]:
    """Every loss by its name in the table: "ours/tnff", "upstream/tnff", ..."""
    result = {FINETUNE: cross_entropy}
    for name in methods:
        result |= {f"ours/{name}": ours(name), f"upstream/{name}": upstream(name)}
    return result


def compiled(loss: Loss, shape: Sequence[int], dtype: str):
    """The compiled loss and gradient at [batch, length, vocab]; nothing runs."""
    logits = jax.ShapeDtypeStruct(tuple(shape), jnp.dtype(dtype))
    tokens = jax.ShapeDtypeStruct(tuple(shape[:2]), jnp.int32)
    step = jax.jit(jax.value_and_grad(loss, has_aux=True))
    return step.lower(logits, logits, tokens, tokens).compile()


def temporary_bytes(program) -> int:
    """XLA's account of what a compiled program needs beside arguments and results."""
    return program.memory_analysis().temp_size_in_bytes


def make_arguments(shape: Sequence[int], dtype: str) -> tuple[jax.Array, ...]:
    """Random logits of both models, and targets of which every tenth is unwanted."""
    keys = jax.random.split(jax.random.PRNGKey(0), 4)
    draw = functools.partial(jax.random.normal, shape=tuple(shape), dtype=dtype)
    targets = jax.random.randint(keys[2], tuple(shape[:2]), 1, shape[2])
    unwanted = jax.random.bernoulli(keys[3], 0.1, tuple(shape[:2]))
    weights = jnp.where(unwanted, -1, 1).astype(jnp.int32)
    return draw(keys[0]), draw(keys[1]), targets.astype(jnp.int32), weights


def measure_times(steps: dict[str, Any], arguments, rounds: int):
    """Seconds of every run: one of each program in turn, after one to warm up."""
    times: dict[str, list[float]] = {name: [] for name in steps}
    for index in range(rounds + 1):
        for name, step in steps.items():
            start = time.perf_counter()
            jax.block_until_ready(step(*arguments))
            if index:
                times[name].append(time.perf_counter() - start)
    return times


def measure(
    shape: Sequence[int], methods: Sequence[str], dtype: str, rounds: int = 0
) -> dict[str, Any]:
    """Memory of every program at one shape and, with `rounds`, its times.

    Returns:
      "shape", "logits" (bytes of one model's), "temporary" ({program: bytes}) and
      "seconds" ({program: [each round's]}, empty without rounds).
    """
    steps = {
        name: compiled(loss, shape, dtype) for name, loss in programs(methods).items()
    }
    return {
        "shape": list(shape),
        "logits": int(np.prod(shape)) * jnp.dtype(dtype).itemsize,
        "temporary": {name: temporary_bytes(step) for name, step in steps.items()},
        "seconds": measure_times(steps, make_arguments(shape, dtype), rounds)
        if rounds
        else {},
    }


def print_report(result: dict[str, Any], methods: Sequence[str]) -> None:
    """One shape's table on stdout, a row per method."""
    temporary, seconds = result["temporary"], result["seconds"]
    logits = result["logits"]
    print(f"\n{result['shape']}, logits of {logits / MB:.0f} MB")
    print(f"{'':6}{'temporary MB':>14}{'/ logits':>10}{'/ upstream':>12}", end="")
    if seconds:
        print(f"{'median s':>12}{'/ upstream':>12}{'/ CE':>8}", end="")
    print()
    for method in (None, *methods):
        mine = f"ours/{method}" if method else FINETUNE
        theirs = f"upstream/{method}" if method else None
        row = f"{method or 'CE':6}{temporary[mine] / MB:14.1f}"
        row += f"{temporary[mine] / logits:10.2f}"
        row += f"{temporary[mine] / temporary[theirs]:12.3f}" if theirs else f"{'':12}"
        if seconds:
            row += f"{np.median(seconds[mine]):12.3f}"
            for base in (theirs, FINETUNE):
                ratio = _ratio(seconds, mine, base) if base else ""
                row += f"{ratio:>{12 if base == theirs else 8}}"
        print(row)


def _ratio(seconds, numerator, denominator) -> str:
    rounds = np.array(seconds[numerator]) / np.array(seconds[denominator])
    return f"{np.median(rounds):.2f}"


def parse_shape(text: str) -> tuple[int, int, int]:
    """ "32x64x32128" as (32, 64, 32128)."""
    shape = tuple(int(size) for size in text.split("x"))
    if len(shape) != 3 or min(shape) < 1:
        raise ValueError(text)
    return shape


def parse_args(argv: Sequence[str]) -> argparse.Namespace:
    """Flags."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    shapes = {"nargs": "*", "type": parse_shape, "metavar": "BxLxV"}
    parser.add_argument(
        "--shapes",
        default=[(32, 64, 32128), (32, 64, 250112)],
        help="compiled for XLA's account of their memory",
        **shapes,
    )
    parser.add_argument(
        "--time", default=[(4, 64, 32128)], help="run and timed", **shapes
    )
    parser.add_argument("--methods", nargs="*", default=[*UPSTREAM])
    parser.add_argument("--dtype", default="float32", choices=["float32", "bfloat16"])
    parser.add_argument("--steps", type=int, default=7, help="rounds that are timed")
    args = parser.parse_args(argv)
    unknown = set(args.methods) - set(UPSTREAM)
    if unknown:
        parser.error(f"--methods: {unknown} are none of {UPSTREAM}")
    return args


def main(argv: Sequence[str] | None = None) -> None:
    """Runs the benchmark and prints the tables."""
    args = parse_args(sys.argv[1:] if argv is None else argv)
    device = jax.devices()[0].device_kind
    print(f"jax {jax.__version__} on {device}, logits in {args.dtype}")
    for shape in dict.fromkeys([*args.shapes, *args.time]):
        rounds = args.steps if shape in args.time else 0
        print_report(measure(shape, args.methods, args.dtype, rounds), args.methods)


if __name__ == "__main__":
    main()
