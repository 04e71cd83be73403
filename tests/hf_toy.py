"""Small model folders in Hugging Face's form; the weights are parity_hf's."""

import io
import json

import numpy as np
import sentencepiece
from safetensors import numpy as safetensors_numpy

from benchmarks import parity_hf

CONFIG = dict(
    model_type="t5",
    vocab_size=96,
    d_model=16,
    d_kv=4,
    num_heads=3,
    d_ff=24,
    num_layers=1,
    num_decoder_layers=2,
    feed_forward_proj="gated-gelu",
    tie_word_embeddings=False,
)


def shapes(config, head):
    """Names and shapes as PyTorch has them, written out."""
    d, rows = config["d_model"], config["vocab_size"]
    inner, heads, ff = (
        config["num_heads"] * config["d_kv"],
        config["num_heads"],
        config["d_ff"],
    )
    found = {"shared.weight": (rows, d)}
    for side, count in (
        ("encoder", config["num_layers"]),
        ("decoder", config["num_decoder_layers"]),
    ):
        found[f"{side}.final_layer_norm.weight"] = (d,)
        for i in range(count):
            block = f"{side}.block.{i}.layer"
            attentions = ["0.SelfAttention"]
            if side == "decoder":
                attentions.append("1.EncDecAttention")
            for name in attentions:
                found[f"{block}.{name[0]}.layer_norm.weight"] = (d,)
                for part in "qkv":
                    found[f"{block}.{name}.{part}.weight"] = (inner, d)
                found[f"{block}.{name}.o.weight"] = (d, inner)
            if i == 0 or config["model_type"] == "umt5":
                name = f"{block}.0.SelfAttention.relative_attention_bias.weight"
                found[name] = (32, heads)
            last = len(attentions)
            found[f"{block}.{last}.layer_norm.weight"] = (d,)
            gated = config["feed_forward_proj"].startswith("gated")
            for part in ("wi_0", "wi_1") if gated else ("wi",):
                found[f"{block}.{last}.DenseReluDense.{part}.weight"] = (ff, d)
            found[f"{block}.{last}.DenseReluDense.wo.weight"] = (d, ff)
    if head:
        found["lm_head.weight"] = (rows, d)
    return found


def weights(config=CONFIG, head=True):
    return {k: parity_hf.weight(k, shape) for k, shape in shapes(config, head).items()}


def write(folder, config=CONFIG, tensors=None, tokenizer=True):
    """Writes a model folder; with ByT5's tokenizer, which has no file of its own."""
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(config))
    tensors = weights(config) if tensors is None else tensors
    path = folder / "model.safetensors"
    safetensors_numpy.save_file(tensors, path, {"format": "pt"})
    if tokenizer:
        settings = {"tokenizer_class": "ByT5Tokenizer", "extra_ids": 0}
        (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    return folder


def read(folder):
    return safetensors_numpy.load_file(folder / "model.safetensors")


def assert_same(one, other):
    assert one.keys() == other.keys()
    for key in one:
        assert one[key].dtype == other[key].dtype, key
        np.testing.assert_array_equal(one[key], other[key], key)


def pieces(**options):
    """A SentencePiece model as T5's is: its normaliser, special ids and unigrams."""
    model = io.BytesIO()
    lines = ["the cat sat on the mat", "der schöne Käse № 5, naïve ﬁsh {x}"] * 20
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(lines),
        model_writer=model,
        vocab_size=80,
        hard_vocab_limit=False,
        pad_id=0,
        eos_id=1,
        unk_id=2,
        bos_id=-1,
        minloglevel=2,
        **options,
    )
    return model.getvalue()
