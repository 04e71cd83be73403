"""Generated tokens per second: ours against T5X's inference and Hugging Face's.

    python -m benchmarks.generate                      # T5-1.1-small shape
    python -m benchmarks.generate --hf-python VENV/bin/python
    python -m benchmarks.generate --batch 32 --rows 256 --lengths 8,64

Greedy (or `--how beam|sample --decodes N`), the same random weights for all, a full
batch whose sequences never end, so that every engine makes batch × decodes × targets
tokens. With `--lengths` outputs are as long as drawn evenly between two numbers, which
each has at the head of its inputs and the network counts down from, on top of what it
computes anyway; there may then be more `--rows` than the batch has, which T5X decodes
batch by batch and ours in the places of rows that have ended.

T5X takes part where it is importable, as it is and with token embeddings gathered;
Hugging Face where `--hf-python` (this Python by default) has torch and transformers, in
a process of its own. The engines take turns, one call of each, so that a busy machine
slows all alike; ratios are medians within a round. That the tokens are the same is
printed with the times.
"""

import argparse
import contextlib
import functools
import json
import pathlib
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from unittest import mock

import flax
import jax
import jax.numpy as jnp
import numpy as np

from t5patches import _engine

Run = Callable[[], np.ndarray]


def network_shape(args: argparse.Namespace) -> dict:
    """Fields of T5Config of a T5 1.1."""
    return dict(
        vocab_size=args.vocab,
        emb_dim=args.d_model,
        num_heads=args.heads,
        num_encoder_layers=args.layers,
        num_decoder_layers=args.layers,
        head_dim=args.head_dim,
        mlp_dim=args.d_ff,
        mlp_activations=("gelu", "linear"),
        dropout_rate=0.0,
        dtype=jnp.float32,
    )


def make_batch(args: argparse.Namespace) -> dict[str, jax.Array]:
    """Random inputs without padding."""
    rng = np.random.default_rng(0)
    rows = args.rows or args.batch
    tokens = rng.integers(2, args.vocab, (rows, args.inputs))
    if args.lengths:
        tokens[:, 0] = rng.integers(args.lengths[0], args.lengths[1] + 1, rows)
    return {
        "encoder_input_tokens": jnp.asarray(tokens, jnp.int32),
        "decoder_input_tokens": jnp.zeros((rows, args.targets), jnp.int32),
    }


def counting(transformer: type) -> type:
    """Returns a network that says n, n - 1, …, 1 to inputs that begin with n."""

    class Counting(transformer):
        def decode(self, encoded, inputs, tokens, *args, **options):
            logits = super().decode(encoded, inputs, tokens, *args, **options)
            following = jnp.where(tokens[:, 0] == 0, inputs[:, 0], tokens[:, 0] - 1)
            return logits.at[jnp.arange(len(tokens)), 0, following].add(1e6)

    return Counting


class _Vocabulary:
    """All that a model asks of a vocabulary to decode.

    Its EOS is where counting ends, or with `endless` cannot be generated.
    """

    def __init__(self, size: int, endless: bool):
        self.eos_id = size if endless else 1
        self.vocab_size = size


def ours(args, params) -> Run:
    """The decoding that `t5patches generate` runs on the embedded engine."""
    from t5patches import network
    from t5x_embedded import decoding, models

    return _t5x_run(args, params, network, decoding, models)


def t5x(args, params, gather: bool) -> Run:
    """T5X's network, model and decoding."""
    from t5x import decoding, models
    from t5x.examples.t5 import layers, network

    class GatheredEmbed(layers.Embed):
        def __call__(self, inputs):
            return self.embedding.astype(self.dtype)[inputs]

    tracing = contextlib.nullcontext()
    if gather:
        tracing = mock.patch.object(layers, "Embed", GatheredEmbed)
    with tracing:
        return _t5x_run(args, params, network, decoding, models)


def _t5x_run(args, params, network, decoding, models) -> Run:
    vocabulary = _Vocabulary(args.vocab, endless=not args.lengths)
    transformer = network.Transformer
    transformer = counting(transformer) if args.lengths else transformer
    decode_fn = {
        "greedy": functools.partial(decoding.temperature_sample, temperature=0.0),
        "sample": functools.partial(decoding.temperature_sample, topk=40),
        "beam": decoding.beam_search,
    }[args.how]
    model = models.EncoderDecoderModel(
        transformer(network.T5Config(**network_shape(args))),
        vocabulary,
        vocabulary,
        None,
        decode_fn=decode_fn,
    )
    batch = make_batch(args)
    options = {"num_decodes": args.decodes}
    size = args.batch
    if args.rows and getattr(model, "takes_queue", lambda: False)():
        options, size = {"places": args.batch}, args.rows
    predict = functools.partial(
        model.predict_batch_with_aux, return_all_decodes=True, **options
    )
    step = jax.jit(lambda params, batch: predict(params, batch)[0])
    starts = range(0, args.rows or args.batch, size)
    batches = [{k: x[i : i + size] for k, x in batch.items()} for i in starts]
    compiled = step.lower(params, batches[0]).compile()
    return lambda: np.concatenate([compiled(params, batch) for batch in batches])


def initial_params(args: argparse.Namespace):
    """Random parameters in T5X's tree."""
    from t5patches import network

    module = network.Transformer(network.T5Config(**network_shape(args)))
    batch = make_batch(args)
    targets = batch["decoder_input_tokens"]
    init = functools.partial(module.init, enable_dropout=False)
    variables = jax.jit(init)(
        jax.random.PRNGKey(0), batch["encoder_input_tokens"], targets, targets
    )
    return flax.core.unfreeze(variables["params"])


# ---- Hugging Face, in a process of its own ----


class HuggingFace:
    """A process that generates when told to."""

    def __init__(self, python: str, args: argparse.Namespace, params):
        self._folder = tempfile.TemporaryDirectory()
        folder = pathlib.Path(self._folder.name)
        flat = flax.traverse_util.flatten_dict(params, sep="/")
        batch = make_batch(args)
        np.savez(folder / "params.npz", **flat)
        np.save(folder / "inputs.npy", np.asarray(batch["encoder_input_tokens"]))
        (folder / "args.json").write_text(json.dumps(vars(args)))
        worker = pathlib.Path(__file__).with_name("generate_huggingface.py")
        self._process = subprocess.Popen(
            [python, str(worker), str(folder)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        ready = self._process.stdout.readline()
        self.version = ready.strip()
        if not ready:
            raise RuntimeError("the Hugging Face process did not start")

    def __call__(self) -> np.ndarray:
        self._process.stdin.write("go\n")
        self._process.stdin.flush()
        return np.array(json.loads(self._process.stdout.readline()))

    def close(self) -> None:
        self._process.stdin.close()
        self._process.wait()
        self._folder.cleanup()


def has_huggingface(python: str) -> bool:
    """Whether this Python has torch and transformers."""
    code = "import importlib.util as u; assert u.find_spec('torch'); "
    code += "assert u.find_spec('transformers')"
    done = subprocess.run([python, "-c", code], capture_output=True)
    return done.returncode == 0


# ---- The comparison ----


def measure(runs: dict[str, Run], rounds: int) -> dict[str, list[float]]:
    """Seconds of each run in each round, in turn."""
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(rounds):
        for name, run in runs.items():
            start = time.perf_counter()
            run()
            seconds[name].append(time.perf_counter() - start)
    return seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    sizes = dict(batch=8, inputs=256, targets=64, layers=8, heads=6, head_dim=64)
    sizes |= dict(d_model=512, d_ff=1024, vocab=32128, decodes=1, rounds=5)
    for name, default in sizes.items():
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--rows", type=int, default=0, help="0: the batch")
    parser.add_argument(
        "--lengths",
        type=lambda text: [int(n) for n in text.split(",")],
        help="LOW,HIGH; without it outputs do not end",
    )
    parser.add_argument("--how", choices=("greedy", "sample", "beam"), default="greedy")
    parser.add_argument("--hf-python", default=sys.executable)
    args = parser.parse_args()
    if args.rows and args.rows % args.batch or args.decodes > 1 and args.rows:
        parser.error("--rows: a multiple of --batch, with one decode")
    if args.lengths and not 2 <= args.lengths[0] <= args.lengths[1] <= args.targets:
        parser.error("--lengths: LOW,HIGH with 2 <= LOW <= HIGH <= --targets")

    params = initial_params(args)
    runs: dict[str, Run] = {"ours": ours(args, params)}
    if _engine.name() == "t5x":
        runs["t5x"] = t5x(args, params, gather=False)
        runs["t5x-gather"] = t5x(args, params, gather=True)
    worker = None
    greedy = args.how == "greedy" and args.decodes == 1 and not args.lengths
    if greedy and has_huggingface(args.hf_python):
        worker = runs["huggingface"] = HuggingFace(args.hf_python, args, params)
        print(worker.version)

    tokens = {name: run() for name, run in runs.items()}  # Also warms up.
    seconds = measure(runs, args.rounds)
    size = tokens["ours"].size
    count = np.count_nonzero(tokens["ours"]) if args.lengths else size
    print(f"{'engine':14}{'tokens/s':>10}{'ours / it':>11}{'same tokens':>13}")
    for name, times in seconds.items():
        ratio = np.median(np.array(times) / np.array(seconds["ours"]))
        same = (tokens[name].reshape(size) == tokens["ours"].reshape(size)).mean()
        print(f"{name:14}{count / np.median(times):10.0f}{ratio:11.2f}{same:13.1%}")
    if worker:
        worker.close()


if __name__ == "__main__":
    main()
