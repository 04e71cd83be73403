"""The engine's DecoderOnlyModel, and T5X's with our network, against T5X's."""

import decoder_only_cases as cases
import pytest

from t5patches.interchange import json_files
from t5patches.run import scripts
from tests.t5x_parity import processes

T5X_NETWORK = "t5x.examples.decoder_only.network"


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
    infer = {"t5x": scripts.run, "t5x_embedded": lambda *job: processes.embedded(job)}
    for engine in infer:
        folder = tmp_path / engine
        run = arguments(
            "generate",
            CHECKPOINT_PATH=f"{updated}/checkpoint_4",
            INFER_OUTPUT_DIR=str(folder),
        )
        infer[engine]("infer", run)
        (path,) = folder.glob("*.jsonl")
        engines.append([row for _, row in json_files.read_jsonl(path)])
    assert engines[0] == engines[1]
    assert len(engines[0]) == 24


def test_frozen_numbers_are_t5x_s():
    want = cases.flat(cases.run("t5x", T5X_NETWORK))
    cases.assert_same(cases.frozen(), want)


if __name__ == "__main__":
    cases.freeze(cases.flat(cases.run("t5x", T5X_NETWORK)))
