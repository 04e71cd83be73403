"""Do converted models say what Transformers says? Random small models of every kind.

    python -m benchmarks.parity_hf HF_PYTHON [HF_PYTHON …]

Each HF_PYTHON is the Python of an environment with torch and one version of
Transformers; `make parity-hf` makes two. In it the models are made and saved; here they
are converted, run, and converted back; there what came back is loaded again. Compared
are encoder states and logits (largest difference), greedy outputs (token for token) and
the weights that came back (bit for bit). The exit status is 1 if a model fails.
"""

from __future__ import annotations

import json
import pathlib
import subprocess
import sys
import tempfile

import numpy as np

TOLERANCE = 1e-4
STEPS = 12  # Of the greedy outputs.

SIZES = dict(
    d_model=64,
    d_kv=8,
    num_heads=6,
    d_ff=96,
    num_layers=2,
    num_decoder_layers=3,
    decoder_start_token_id=0,
)
V1_1 = dict(feed_forward_proj="gated-gelu", tie_word_embeddings=False)
# Kind -> class, what config.json says of it, whether lm_head is a table of its own.
KINDS = {
    "t5": ("T5", {"vocab_size": 1152}, False),
    "t5_v1_1": ("T5", V1_1 | {"vocab_size": 1152}, True),
    "t5_v1_1_tied": ("T5", V1_1 | {"vocab_size": 256, "tie_word_embeddings": True}, 0),
    "mt5": ("MT5", V1_1 | {"vocab_size": 512}, True),
    "umt5": ("UMT5", V1_1 | {"vocab_size": 512}, True),
    "umt5_tied": ("UMT5", {"vocab_size": 512}, False),
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
            torch.manual_seed(0)
            model = model_cls(config_cls(**SIZES | options))
            for key, x in model.named_parameters():
                x.normal_(std=1.0 if x.ndim == 1 or "bias" in key else 0.2)
            if own:
                head = torch.randn_like(model.shared.weight)
                model.lm_head.weight = torch.nn.Parameter(head)
            model.eval().save_pretrained(folder / kind / "theirs")
            np.savez(folder / kind / "inputs.npz", **_inputs(options["vocab_size"]))
        else:
            model = model_cls.from_pretrained(folder / kind / "back").eval()
            if name == "UMT5" and own:
                # Version 5 says that umT5's are tied, whatever the file says.
                model.config.tie_word_embeddings = False
        inputs = np.load(folder / kind / "inputs.npz")
        source = torch.from_numpy(inputs["inputs"])
        mask = (source != 0).long()
        found = model(
            input_ids=source,
            attention_mask=mask,
            decoder_input_ids=torch.from_numpy(inputs["decoder_inputs"]),
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
        np.savez(
            folder / kind / f"{role}.npz",
            encoded=found.encoder_last_hidden_state.numpy(),
            logits=found.logits.numpy(),
            greedy=greedy[:, 1:].numpy(),
            **{f"weights/{key}": value for key, value in state.items()},
        )


def _inputs(vocab_size: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    inputs = rng.integers(2, vocab_size, (3, 150))
    inputs[0, 40:] = inputs[1, 100:] = 0
    decoder_inputs = np.pad(rng.integers(2, vocab_size, (3, 139)), ((0, 0), (1, 0)))
    return {"inputs": inputs, "decoder_inputs": decoder_inputs}


# ---- Here ----


def _ours(folder: pathlib.Path) -> dict[str, np.ndarray]:
    """Converts a model there and back, and runs it."""
    import jax

    from t5patches import network
    from t5patches.convert import folders

    inputs = np.load(folder / "inputs.npz")
    (folder / "theirs" / "tokenizer_config.json").write_text(
        json.dumps({"tokenizer_class": "ByT5Tokenizer", "extra_ids": 0})
    )
    config = folders.hf_to_t5x(str(folder / "theirs"), str(folder / "ours"))
    folders.t5x_to_hf(str(folder / "ours"), str(folder / "back"))
    params = _restored(str(folder / "ours" / "checkpoint_0"))
    module = network.Transformer(config)
    encode = jax.jit(
        lambda x: module.apply(
            {"params": params}, x, enable_dropout=False, method=module.encode
        )
    )
    decode = jax.jit(
        lambda encoded, x, y: module.apply(
            {"params": params},
            encoded,
            x,
            y,
            jax.numpy.ones_like(y),
            enable_dropout=False,
            method=module.decode,
        )
    )
    source = inputs["inputs"]
    encoded = encode(source)
    greedy = np.zeros((len(source), STEPS + 1), np.int32)
    for step in range(STEPS):
        logits = np.array(decode(encoded, source, greedy))[:, step]
        logits[:, 1] = -np.inf  # Transformers was told not to end.
        greedy[:, step + 1] = logits.argmax(-1)
    logits = decode(encoded, source, inputs["decoder_inputs"])
    return {
        "encoded": np.asarray(encoded),
        "logits": np.asarray(logits),
        "greedy": greedy[:, 1:],
    }


def _restored(path: str) -> dict:
    import jax
    from t5x import checkpoints

    return jax.tree.map(
        jax.numpy.asarray, checkpoints.load_t5x_checkpoint(path)["target"]
    )


def _compare(kind: str, folder: pathlib.Path, ours: dict[str, np.ndarray]) -> bool:
    made, back = (np.load(folder / f"{role}.npz") for role in ("make", "check"))
    real = (np.load(folder / "inputs.npz")["inputs"] != 0)[:, :, None]
    there = [
        abs(made[name] - ours[name])[np.broadcast_to(mask, made[name].shape)].max()
        for name, mask in (("encoded", real), ("logits", True))
    ]
    same = np.array_equal(made["greedy"], ours["greedy"])
    same &= np.array_equal(made["greedy"], back["greedy"])
    again = abs(made["logits"] - back["logits"]).max()
    keys = [key for key in made if key.startswith("weights/")]
    equal = sum(np.array_equal(made[key], back[key]) for key in keys)
    scale = abs(made["logits"]).max()
    print(
        f"{kind}: encoder states {there[0]:.1e}, logits {there[1]:.1e} (of up to "
        f"{scale:.1f}), greedy {'equal' if same else 'DIFFERENT'}; back: logits "
        f"{again:.1e}, {equal} of {len(keys)} tensors equal bit for bit"
    )
    return max(there) < TOLERANCE and same and again == 0 and equal == len(keys)


def main(pythons: list[str]) -> int:
    """Compares with each of the environments; returns the exit status."""
    good = True
    for python in pythons:
        with tempfile.TemporaryDirectory() as place:
            version = "import transformers as t; print('Transformers', t.__version__)"
            subprocess.run([python, "-W", "ignore", "-c", version], check=True)
            subprocess.run([python, __file__, "make", place], check=True)
            ours = {kind: _ours(pathlib.Path(place, kind)) for kind in KINDS}
            subprocess.run([python, __file__, "check", place], check=True)
            for kind in KINDS:
                good &= _compare(kind, pathlib.Path(place, kind), ours[kind])
    return not good


if __name__ == "__main__":
    if sys.argv[1] in ("make", "check"):
        _theirs(sys.argv[1], pathlib.Path(sys.argv[2]))
    else:
        sys.exit(main(sys.argv[1:]))
