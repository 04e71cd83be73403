"""Do converted models say what Transformers says? Random small models of every kind.

    python -m benchmarks.parity_hf HF_PYTHON [HF_PYTHON …] [--freeze]

Each HF_PYTHON is the Python of an environment with torch and one version of
Transformers; `make parity-hf` makes two. In it the models are made and saved; here they
are converted, run, and converted back; there what came back is loaded again. Compared
are encoder states and logits (largest difference), greedy outputs (token for token) and
the weights that came back (bit for bit); of ByT5, whose tokenizer needs no file, also
CTranslate2's greedy outputs. The exit status is 1 if a model fails.

--freeze writes some of Transformers' numbers to tests/testdata/huggingface.json, for
the tests, which make the same weights of their names.
"""

from __future__ import annotations

import json
import pathlib
import subprocess
import sys
import tempfile
import zlib
from collections.abc import Mapping, Sequence

import numpy as np

FROZEN = pathlib.Path(__file__).parents[1] / "tests" / "testdata" / "huggingface.json"
TOLERANCE = 1e-4
STEPS = 12  # Of the greedy outputs.

SIZES = dict(
    d_model=16,
    d_kv=4,
    num_heads=3,
    d_ff=24,
    num_layers=2,
    num_decoder_layers=3,
    decoder_start_token_id=0,
)
V1_1 = dict(feed_forward_proj="gated-gelu", tie_word_embeddings=False)
# Kind -> class, what config.json says of it, whether lm_head is a table of its own.
KINDS = {
    "t5": ("T5", {"vocab_size": 96}, False),
    "t5_v1_1": ("T5", V1_1 | {"vocab_size": 96}, True),
    "t5_v1_1_tied": ("T5", V1_1 | {"vocab_size": 96, "tie_word_embeddings": True}, 0),
    "mt5": ("MT5", V1_1 | {"vocab_size": 128}, True),
    "umt5": ("UMT5", V1_1 | {"vocab_size": 128}, True),
    "umt5_tied": ("UMT5", {"vocab_size": 128}, False),
    "byt5": ("T5", V1_1 | {"vocab_size": 384, "num_layers": 4}, True),
}


# ---- In the environment with Transformers ----


def _theirs(role: str, folder: pathlib.Path) -> None:
    import torch
    import transformers
    from transformers.utils import logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()
    torch.set_grad_enabled(False)
    for kind, (name, options, own) in KINDS.items():
        model_cls = getattr(transformers, f"{name}ForConditionalGeneration")
        if role == "make":
            config_cls = getattr(transformers, f"{name}Config")
            model = model_cls(config_cls(**SIZES | options))
            if own:
                head = torch.empty_like(model.shared.weight)
                model.lm_head.weight = torch.nn.Parameter(head)
            for key, x in model.named_parameters():
                x.copy_(torch.from_numpy(weight(key, x.shape)))
            model.eval().save_pretrained(folder / kind / "theirs")
            np.savez(folder / kind / "inputs.npz", **inputs(options["vocab_size"]))
        else:
            model = model_cls.from_pretrained(folder / kind / "back").eval()
            if name == "UMT5" and own:
                # Version 5 says that umT5's are tied, whatever the file says.
                model.config.tie_word_embeddings = False
        given = np.load(folder / kind / "inputs.npz")
        source = torch.from_numpy(given["inputs"])
        mask = (source != 0).long()
        found = model(
            input_ids=source,
            attention_mask=mask,
            decoder_input_ids=torch.from_numpy(given["decoder_inputs"]),
        )
        greedy = model.generate(
            input_ids=source,
            attention_mask=mask,
            max_new_tokens=STEPS,
            min_new_tokens=STEPS,
            do_sample=False,
            num_beams=1,
            use_cache=False,  # Version 4's is as deep as the encoder.
        )
        state = {k: v.float().numpy() for k, v in model.state_dict().items()}
        served = {}
        if role == "check" and kind == "byt5":
            served["served"] = _served(folder / kind, given["inputs"])
        np.savez(
            folder / kind / f"{role}.npz",
            encoded=found.encoder_last_hidden_state.numpy(),
            logits=found.logits.numpy(),
            greedy=greedy[:, 1:].numpy(),
            **{f"weights/{key}": value for key, value in state.items()},
            **served,
        )


def _served(folder: pathlib.Path, source: np.ndarray) -> np.ndarray:
    """Returns the greedy outputs of CTranslate2."""
    import ctranslate2

    model = str(folder / "served")
    converter = ctranslate2.converters.TransformersConverter(str(folder / "back"))
    converter.convert(model, force=True)
    pieces = json.loads((folder / "served" / "shared_vocabulary.json").read_text())
    found = ctranslate2.Translator(model).translate_batch(
        [[pieces[i] for i in row if i] for row in source.tolist()],
        beam_size=1,
        min_decoding_length=STEPS,
        max_decoding_length=STEPS,
    )
    return np.array([[pieces.index(x) for x in out.hypotheses[0]] for out in found])


def weight(key: str, shape: Sequence[int]) -> np.ndarray:
    """Returns a float32 weight of no special kind, by its name."""
    x = np.random.default_rng(zlib.crc32(key.encode())).standard_normal(shape)
    if len(shape) == 1:
        x = 1 + 0.2 * x
    elif "relative_attention_bias" not in key and key != "shared.weight":
        x *= shape[1] ** (-0.75 if key.endswith("q.weight") else -0.5)
    return x.astype(np.float32)


def inputs(vocab_size: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    source = rng.integers(2, vocab_size, (3, 150))
    source[0, 40:] = source[1, 100:] = 0
    decoder_inputs = np.pad(rng.integers(2, vocab_size, (3, 139)), ((0, 0), (1, 0)))
    return {"inputs": source, "decoder_inputs": decoder_inputs}


# ---- Here ----


def _ours(folder: pathlib.Path) -> dict[str, np.ndarray]:
    """Converts a model there and back, and runs it."""
    from t5patches.convert import folders

    (folder / "theirs" / "tokenizer_config.json").write_text(
        json.dumps({"tokenizer_class": "ByT5Tokenizer", "extra_ids": 125})
    )
    config = folders.hf_to_t5x(str(folder / "theirs"), str(folder / "ours"))
    folders.t5x_to_hf(str(folder / "ours"), str(folder / "back"))
    given = np.load(folder / "inputs.npz")
    return run(config, str(folder / "ours" / "checkpoint_0"), given)


def run(config, path: str, given: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Returns encoder states, logits and greedy outputs of a checkpoint.

    Args:
      config: the network's.
      path: the checkpoint.
      given: what `inputs` returns.
    """
    import jax

    from t5patches import network

    module, params = network.Transformer(config), _restored(path)

    def call(method, *args):
        options = {"enable_dropout": False, "method": method}
        return module.apply({"params": params}, *args, **options)

    encode = jax.jit(lambda x: call(module.encode, x))
    decode = jax.jit(
        lambda encoded, x, y: call(module.decode, encoded, x, y, jax.numpy.ones_like(y))
    )
    source, decoder_inputs = given["inputs"], given["decoder_inputs"]
    encoded = encode(source)
    greedy = np.zeros(decoder_inputs.shape, decoder_inputs.dtype)
    for step in range(STEPS):
        logits = np.array(decode(encoded, source, greedy))[:, step]
        logits[:, 1] = -np.inf  # Transformers was told not to end.
        greedy[:, step + 1] = logits.argmax(-1)
    logits = decode(encoded, source, decoder_inputs)
    numbers = {"encoded": encoded, "logits": logits, "greedy": greedy[:, 1 : STEPS + 1]}
    return {name: np.asarray(x) for name, x in numbers.items()}


def _restored(path: str) -> dict:
    import jax
    import orbax.checkpoint as ocp

    tree = ocp.PyTreeCheckpointHandler().restore(pathlib.Path(path, "state"))
    return jax.tree.map(jax.numpy.asarray, tree["target"])


def _compare(kind: str, folder: pathlib.Path, ours: dict[str, np.ndarray]) -> bool:
    made, back = (np.load(folder / f"{role}.npz") for role in ("make", "check"))
    real = (np.load(folder / "inputs.npz")["inputs"] != 0)[:, :, None]
    there = [
        abs(made[name] - ours[name])[np.broadcast_to(mask, made[name].shape)].max()
        for name, mask in (("encoded", real), ("logits", True))
    ]
    same = np.array_equal(made["greedy"], ours["greedy"])
    for name in {"greedy", "served"} & {*back}:
        same = same and np.array_equal(made["greedy"], back[name])
    again = abs(made["logits"] - back["logits"]).max()
    keys = [key for key in made if key.startswith("weights/")]
    equal = sum(np.array_equal(made[key], back[key]) for key in keys)
    scale = abs(made["logits"]).max()
    print(
        f"{kind}: encoder states {there[0]:.1e}, logits {there[1]:.1e} (of up to "
        f"{scale:.1f}), greedy {'equal' if same else 'DIFFERENT'}; back: logits "
        f"{again:.1e}, {equal} of {len(keys)} tensors equal bit for bit"
    )
    # Version 5 divides the logits of umT5 by √d_model: it is in our lm_head.
    folded = kind == "umt5" and equal == len(keys) - 1
    equal += folded
    good = max(*there, again) < TOLERANCE  # Versions differ in the last digits.
    return good and same and equal == len(keys)


def frozen(numbers: Mapping[str, np.ndarray]) -> dict[str, list]:
    """Returns some of a model's numbers, as the file of frozen ones has them."""
    some = {
        "encoded": numbers["encoded"][:, :40:13, :3],
        "logits": numbers["logits"][:, ::46, :5],
    }
    return {k: np.round(np.float64(x), 6).tolist() for k, x in some.items()} | {
        "greedy": numbers["greedy"].tolist()
    }


def main(pythons: list[str]) -> int:
    """Compares with each of the environments; returns the exit status."""
    freeze = "--freeze" in pythons
    good, kept = True, {}
    pythons = pythons[: len(pythons) - freeze]
    for python in pythons:
        with tempfile.TemporaryDirectory() as place:
            version = "import transformers as t; print('Transformers', t.__version__)"
            command = [python, "-W", "ignore", "-c", version]
            said = subprocess.run(command, check=True, capture_output=True, text=True)
            print(said.stdout, end="")
            subprocess.run([python, __file__, "make", place], check=True)
            ours = {kind: _ours(pathlib.Path(place, kind)) for kind in KINDS}
            for reader in pythons:  # Whichever version has saved it.
                subprocess.run([reader, __file__, "check", place], check=True)
                for kind in KINDS:
                    folder = pathlib.Path(place, kind)
                    good &= _compare(kind, folder, ours[kind])
            for kind in KINDS:
                folder = pathlib.Path(place, kind)
                config = json.loads((folder / "theirs" / "config.json").read_text())
                numbers = frozen(np.load(folder / "make.npz"))
                kept[f"{kind}, {said.stdout.strip()}"] = {"config": config} | numbers
    if freeze:
        FROZEN.write_text(json.dumps(kept) + "\n")
    return not good


if __name__ == "__main__":
    if sys.argv[1] in ("make", "check"):
        _theirs(sys.argv[1], pathlib.Path(sys.argv[2]))
    else:
        sys.exit(main(sys.argv[1:]))
