"""A training step and generation on an accelerator, with jax, flax and optax alone.

    python -m benchmarks.accelerator --peak 989       # H100: dense bfloat16 TFLOP/s
    python -m benchmarks.accelerator --d_model 64 --layers 2 --heads 4 --d_ff 128 \
      --vocab 512 --batch 4 --inputs 32 --targets 16 --dtype float32    # to try it

T5-1.1-base shape, batch 32, 512 and 64 tokens, bfloat16 activations. Cases are
`finetune` and each method, `/cached` with the frozen model's last states given,
`/chunked` with logits of a quarter of the positions at a time, `/both`. A step is loss,
gradient and Adafactor on donated state. Each case has a process, so that its peak of
the device's memory is its own; `XLA GB` is XLA's account. FLOPs are XLA's count of the
compiled step (too few where it has loops: their bodies count once), and the limit
beside the time is the larger of FLOPs by --peak and bytes by --bandwidth. Needs no
TensorFlow, SeqIO or T5X.
"""

import argparse
import functools
import json
import subprocess
import sys
import time
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from benchmarks import generate, step_time
from t5patches import layers, losses, network
from t5x_embedded import decoding

FINETUNE, GENERATE = "finetune", "generate"
VARIANTS = ("", "/cached", "/chunked", "/both")


def network_of(args: argparse.Namespace) -> network.Transformer:
    """Returns T5 1.1 of the flags' shape."""
    own = {"dtype": args.dtype, "dropout_rate": args.dropout}
    return network.Transformer(network.T5Config(**generate.network_shape(args) | own))


def make_batch(args: argparse.Namespace) -> dict[str, jax.Array]:
    """Makes a batch without padding; every tenth target is unwanted."""
    rng = np.random.default_rng(0)
    inputs, targets = (
        rng.integers(2, args.vocab, (args.batch, length), dtype=np.int32)
        for length in (args.inputs, args.targets)
    )
    weights = np.where(rng.random(targets.shape) < 0.1, -1, 1).astype(np.int32)
    states = rng.standard_normal((*targets.shape, args.d_model), np.float32)
    shifted = np.pad(targets, ((0, 0), (1, 0)))[:, :-1]
    found = dict(inputs=inputs, shifted=shifted, targets=targets, weights=weights)
    arrays = {name: jnp.asarray(value) for name, value in found.items()}
    return {**arrays, "states": jnp.asarray(states, jnp.bfloat16)}


def states_of(module: Any, params: Any, batch: Any, key: Any) -> jax.Array:
    """Returns what the logits are made of."""
    tokens = batch["inputs"], batch["shifted"], batch["targets"]
    options = {"enable_dropout": True, "rngs": {"dropout": key}}
    variables = {"params": params}
    found = module.apply(variables, *tokens, mutable=["intermediates"], **options)
    return found[1]["intermediates"]["decoder"]["pre_logits"][0]


def make_step(case: str, module: Any, args: argparse.Namespace) -> Any:
    """Returns (params, state, frozen, batch, key) -> (params, state, loss)."""
    name, _, variant = case.partition("/")
    plain, cached = name == FINETUNE, variant in ("cached", "both")
    # Without unwanted tokens its loss is the cross entropy.
    method = losses.METHODS["nl" if plain else name]
    size = -(-args.targets // 4) if variant in ("chunked", "both") else args.targets
    head = lambda params: params["decoder"]["logits_dense"]["kernel"]

    def loss_fn(params, frozen, batch, key):
        frozen_states = frozen_head = None
        if method.frozen:
            frozen_head = frozen if cached else head(frozen)
            frozen_states = batch["states"]
            if not cached:
                frozen_states = states_of(module, frozen, batch, key)
        weights = abs(batch["weights"]) if plain else batch["weights"]
        annotation = losses.read_annotation(batch["targets"], weights)

        def of_some(states, weight, tokens, frozen_head):
            frozen_states, targets, annotation = tokens
            logits = [
                None if x is None else layers.head_logits(x, w, tied=False)
                for x, w in ((states, weight), (frozen_states, frozen_head))
            ]
            options = {"alpha": 1.0, "z_loss": 1e-4}
            return losses.targeted_loss(method, *logits, targets, annotation, **options)

        if size < args.targets:
            of_some = losses.in_chunks(of_some, size)
        tokens = frozen_states, batch["targets"], annotation
        states = states_of(module, params, batch, key)
        return of_some(states, head(params), tokens, frozen_head)

    def step(params, state, frozen, batch, key):
        gradient = jax.value_and_grad(loss_fn, has_aux=True)
        (loss, _), gradients = gradient(params, frozen, batch, key)
        updates, state = optax.adafactor(1e-3).update(gradients, state, params)
        return optax.apply_updates(params, updates), state, loss

    return step


def make_generation(module: Any, args: argparse.Namespace) -> Any:
    """Returns (params, inputs) -> greedy ids [batch, targets]; EOS cannot be said."""

    def greedy(params, inputs):
        variables = {"params": params}
        off = {"enable_dropout": False}
        encoded = module.apply(variables, inputs, method=module.encode, **off)
        start = jnp.zeros((args.batch, args.targets), jnp.int32)
        decode = functools.partial(
            module.apply, method=module.decode, mutable=["cache"]
        )
        options = {"decode": True, "max_decode_length": args.targets, **off}
        _, made = decode(variables, encoded, inputs, start, start, **options)

        def logits_of(state):
            token = state.cur_token
            found = {**variables, "cache": state.cache}
            logits, new = decode(found, encoded, inputs, token, token, **options)
            return logits[:, 0], new["cache"]

        said, _ = decoding.temperature_sample(
            start, made["cache"], logits_of, eos_id=args.vocab, temperature=0.0
        )
        return said

    return greedy


def run_case(case: str, args: argparse.Namespace) -> dict[str, float]:
    """Compiles a case and runs it."""
    module, batch, key = network_of(args), make_batch(args), jax.random.PRNGKey(0)
    tokens = batch["inputs"], batch["shifted"], batch["targets"]
    init = jax.jit(functools.partial(module.init, enable_dropout=False))
    params = init(key, *tokens)["params"]
    if case == GENERATE:
        function, given = make_generation(module, args), (params, batch["inputs"])
        compiled = jax.jit(function).lower(*given).compile()
        run = lambda: compiled(*given)
    else:
        name, _, variant = case.partition("/")
        frozen = None
        if name != FINETUNE:
            frozen = jax.tree.map(jnp.copy, params)
            if variant in ("cached", "both"):
                frozen = frozen["decoder"]["logits_dense"]["kernel"]
        state = optax.adafactor(1e-3).init(params)
        step = jax.jit(make_step(case, module, args), donate_argnums=(0, 1))
        compiled = step.lower(params, state, frozen, batch, key).compile()
        carried = [params, state]

        def run():
            *carried[:], loss = compiled(*carried, frozen, batch, key)
            return loss

    jax.block_until_ready(run())
    seconds = []
    for _ in range(args.steps):
        start = time.perf_counter()
        jax.block_until_ready(run())
        seconds.append(time.perf_counter() - start)
    cost = compiled.cost_analysis()
    cost = cost[0] if isinstance(cost, list) else cost
    peak = (jax.devices()[0].memory_stats() or {}).get(
        "peak_bytes_in_use", float("nan")
    )
    return {
        "seconds": float(np.median(seconds)),
        "flops": cost.get("flops", float("nan")),
        "bytes": cost.get("bytes accessed", float("nan")),
        "xla": step_time.peak_bytes(compiled.memory_analysis()),
        "peak": peak,
        "device": jax.devices()[0].device_kind,
    }


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Parses flags; the defaults are T5-1.1-base."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    sizes = dict(d_model=768, layers=12, heads=12, d_ff=2048, batch=32, inputs=512)
    step_time.add_shape(parser, "bfloat16", **sizes, steps=10)
    parser.add_argument("--peak", type=float, help="TFLOP/s of the device")
    parser.add_argument("--bandwidth", type=float, help="GB/s of its memory")
    parser.add_argument("--cases", nargs="*", help="e.g. finetune tnff tnff/cached")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    args = parser.parse_args(argv)
    frozen = [name for name, method in losses.METHODS.items() if method.frozen]
    others = [name for name in losses.METHODS if name not in frozen]
    names = [FINETUNE, f"{FINETUNE}/chunked", *others]
    names += [name + variant for name in frozen for variant in VARIANTS]
    args.cases = args.cases or [*names, GENERATE]
    return args


def main(argv: Sequence[str] | None = None) -> None:
    """Runs the cases, each in a process, and prints the table."""
    argv = list(sys.argv[1:] if argv is None else argv)
    args = parse_args(argv)
    if args.one:
        print(json.dumps(run_case(args.one, args)))
        return
    finetune = None
    print(f"{'case':16}{'ms':>9}{'/ finetune':>12}{'TFLOP/s':>9}{'of peak':>9}", end="")
    print(f"{'limit ms':>10}{'XLA GB':>8}{'peak GB':>9}")
    for case in args.cases:
        command = [sys.executable, "-m", "benchmarks.accelerator", *argv, "--one", case]
        answer = subprocess.run(command, stdout=subprocess.PIPE, text=True)
        if answer.returncode:
            print(f"{case:16} failed")
            continue
        found = json.loads(answer.stdout.splitlines()[-1])
        seconds, rate = found["seconds"], found["flops"] / found["seconds"] / 1e12
        finetune = seconds if case == FINETUNE else finetune
        limits = [
            found[what] / (of * scale)
            for what, of, scale in (
                ("flops", args.peak, 1e12),
                ("bytes", args.bandwidth, 1e9),
            )
            if of
        ]
        relative = f"{seconds / finetune:12.3f}" if finetune else f"{'-':>12}"
        share = f"{rate / args.peak:9.1%}" if args.peak else f"{'-':>9}"
        limit = f"{1e3 * max(limits):10.1f}" if limits else f"{'-':>10}"
        row = f"{case:16}{1e3 * seconds:9.1f}{relative}{rate:9.2f}{share}{limit}"
        print(f"{row}{found['xla'] / 1e9:8.2f}{found['peak'] / 1e9:9.2f}", flush=True)
        if case == GENERATE:
            tokens = args.batch * args.targets
            print(f"{tokens / seconds:,.0f} tokens/s generated")
    print(found["device"])


if __name__ == "__main__":
    main()
