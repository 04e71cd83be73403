"""The Hugging Face side of `benchmarks.generate`: needs torch and transformers alone.

    python generate_huggingface.py FOLDER

FOLDER has args.json, params.npz (T5X's tree, flat) and inputs.npy. Each line read makes
one `generate`, whose tokens are printed as JSON.
"""

import json
import pathlib
import sys

import numpy as np
import torch
import transformers


def make_model(args: dict, params: dict[str, np.ndarray]):
    """A T5 1.1 with the parameters of T5X's tree."""
    config = transformers.T5Config(
        vocab_size=args["vocab"],
        d_model=args["d_model"],
        d_kv=args["head_dim"],
        d_ff=args["d_ff"],
        num_layers=args["layers"],
        num_decoder_layers=args["layers"],
        num_heads=args["heads"],
        dropout_rate=0.0,
        feed_forward_proj="gated-gelu",
        tie_word_embeddings=False,
        decoder_start_token_id=0,
        pad_token_id=0,
        eos_token_id=None,
    )
    model = transformers.T5ForConditionalGeneration(config).eval()
    state = {"shared.weight": params["token_embedder/embedding"]}
    for side in ("encoder", "decoder"):
        state[f"{side}.embed_tokens.weight"] = state["shared.weight"]
        state[f"{side}.final_layer_norm.weight"] = params[f"{side}/{side}_norm/scale"]
        for i in range(args["layers"]):
            _layer(state, params, side, i)
        bias = f"{side}.block.0.layer.0.SelfAttention.relative_attention_bias.weight"
        state[bias] = params[f"{side}/relpos_bias/rel_embedding"].T
    tensors = {k: torch.from_numpy(np.array(v)) for k, v in state.items()}
    # Transformers 5 ties logits to embeddings whatever the config says.
    logits = torch.from_numpy(np.array(params["decoder/logits_dense/kernel"].T))
    model.lm_head.weight = torch.nn.Parameter(logits)
    model.load_state_dict({**tensors, "lm_head.weight": logits}, strict=True)
    return model


def _layer(state: dict, params: dict[str, np.ndarray], side: str, i: int) -> None:
    ours, theirs = f"{side}/layers_{i}", f"{side}.block.{i}.layer"
    parts = [("attention", "SelfAttention", "pre_attention_layer_norm")]
    if side == "decoder":
        parts = [
            ("self_attention", "SelfAttention", "pre_self_attention_layer_norm"),
            (
                "encoder_decoder_attention",
                "EncDecAttention",
                "pre_cross_attention_layer_norm",
            ),
        ]
    for j, (name, module, norm) in enumerate(parts):
        for source, target in zip(
            ("query", "key", "value", "out"), "qkvo", strict=True
        ):
            kernel = params[f"{ours}/{name}/{source}/kernel"]
            state[f"{theirs}.{j}.{module}.{target}.weight"] = kernel.T
        state[f"{theirs}.{j}.layer_norm.weight"] = params[f"{ours}/{norm}/scale"]
    last = f"{theirs}.{len(parts)}"
    for name in ("wi_0", "wi_1", "wo"):
        kernel = params[f"{ours}/mlp/{name}/kernel"]
        state[f"{last}.DenseReluDense.{name}.weight"] = kernel.T
    scale = params[f"{ours}/pre_mlp_layer_norm/scale"]
    state[f"{last}.layer_norm.weight"] = scale


def main() -> None:
    folder = pathlib.Path(sys.argv[1])
    args = json.loads((folder / "args.json").read_text())
    model = make_model(args, dict(np.load(folder / "params.npz")))
    inputs = torch.from_numpy(np.load(folder / "inputs.npy")).long()
    length = args["targets"]
    print(f"transformers {transformers.__version__}, torch {torch.__version__}")
    sys.stdout.flush()
    for _ in sys.stdin:
        with torch.no_grad():
            tokens = model.generate(
                inputs,
                attention_mask=torch.ones_like(inputs),
                max_new_tokens=length,
                min_new_tokens=length,
                do_sample=False,
            )
        print(json.dumps(tokens[:, 1:].tolist()))
        sys.stdout.flush()


if __name__ == "__main__":
    main()
