"""Our decoder-only network and the engine's DecoderOnlyModel against T5X's."""

import json
import sys

import decoder_only_cases as cases
import jax
import numpy as np
import pytest
from t5x.examples.decoder_only import network as t5x_network

from t5patches import decoder_only
from t5patches.interchange import json_files
from t5patches.run import scripts
from tests.t5x_parity import processes

T5X_NETWORK = "t5x.examples.decoder_only.network"


def both(name):
    fields = cases.CONFIGS[name]
    theirs = t5x_network.DecoderWrapper(t5x_network.TransformerConfig(**fields))
    ours = decoder_only.DecoderWrapper(decoder_only.TransformerConfig(**fields))
    return theirs, ours


@pytest.mark.parametrize("name", cases.CONFIGS)
def test_initial_variables_are_t5x_s(name):
    expected, got = (cases.init(module) for module in both(name))
    assert jax.tree.structure(got) == jax.tree.structure(expected)
    assert got["params_axes"] == expected["params_axes"]
    jax.tree.map(np.testing.assert_array_equal, got["params"], expected["params"])


@pytest.mark.parametrize(
    ("name", "packed", "prefix", "dropout"),
    [
        ("gated", False, False, True),
        ("gated", True, True, False),
        ("tied", True, False, False),
        ("tied", False, True, True),
    ],
)
def test_forward_and_gradients(name, packed, prefix, dropout):
    params = cases.init(both(name)[0])["params"]
    batch = cases.batch(packed, prefix)
    (loss, logits, gradients), (our_loss, our_logits, our_gradients) = (
        cases.evaluate(module, params, batch, dropout) for module in both(name)
    )
    assert cases.relative_error(our_loss, loss) < 1e-5
    assert cases.relative_error(our_logits, logits) < 1e-5
    assert cases.worst_error(our_gradients, gradients) < 1e-5


def test_t5x_s_model_with_either_network():
    want = cases.flat(cases.run("t5x", T5X_NETWORK))
    cases.assert_same(cases.flat(cases.run("t5x")), want)


@pytest.mark.parametrize("prefix", [False, True])
def test_either_engine_s_model(prefix):
    want = cases.flat(cases.run("t5x", prefix=prefix))
    cases.assert_same(cases.flat(cases.run("t5x_embedded", prefix=prefix)), want)


def test_a_run_by_gin_generates_alike_on_both_engines(tmp_path):
    """Fine-tuned and updated under T5X; its checkpoints generate under either."""

    def arguments(name, **macros):
        return [
            f"--gin_search_paths={processes.ROOT}",
            f"--gin_file=tests/testdata/runs/decoder_only_{name}.gin",
            *(f"--gin.{macro}={value!r}" for macro, value in macros.items()),
        ]

    finetuned, updated = (str(tmp_path / name) for name in ("finetuned", "updated"))
    steps = {"TRAIN_STEPS_RELATIVE": 2, "EVAL_PERIOD": 2}
    scripts.run("train", arguments("finetune", MODEL_DIR=finetuned, **steps))
    start = f"{finetuned}/checkpoint_2"
    run = arguments("update", MODEL_DIR=updated, INITIAL_CHECKPOINT_PATH=start, **steps)
    scripts.run("train", run)
    engines = []
    for engine in ("t5x", "t5x_embedded"):
        folder = tmp_path / engine
        run = arguments(
            "generate",
            CHECKPOINT_PATH=f"{updated}/checkpoint_4",
            INFER_OUTPUT_DIR=str(folder),
        )
        if engine == "t5x":
            scripts.run("infer", run)
        else:
            processes.embedded(("infer", run))
        (path,) = folder.glob("*.jsonl")
        engines.append([row for _, row in json_files.read_jsonl(path)])
    assert engines[0] == engines[1]
    assert len(engines[0]) == 24


def test_frozen_numbers_are_t5x_s():
    want = cases.flat(cases.run("t5x", T5X_NETWORK))
    cases.assert_same(cases.frozen(), want)


def freeze() -> None:
    """Writes T5X's numbers for the tests that run without T5X."""
    numbers = cases.flat(cases.run("t5x", T5X_NETWORK))
    text = json.dumps({name: x.tolist() for name, x in numbers.items()})
    cases.FROZEN.write_text(text + "\n")


if __name__ == "__main__":
    sys.exit(freeze())
