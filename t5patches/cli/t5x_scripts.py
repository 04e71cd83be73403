"""`t5patches train|generate|infer|eval`: T5X's scripts, with help of our own."""

from __future__ import annotations

from t5patches.cli import starting

_GENERATE_GIN = "runs/generate.gin"
_OTHERS = ("generate_beam", "alternatives", "distances")
_GENERATE_GINS = (_GENERATE_GIN, *(f"runs/{name}.gin" for name in _OTHERS))

_HELP = """\
{what}

reads   the task's files and the checkpoint {checkpoint} (with --checkpoint
        best|latest|STEP: a checkpoint of the model folder that it names)
writes  {writes}

Takes the flags of T5X's scripts; --gin.NAME=VALUE sets a macro or a binding, as in
--gin.BATCH_SIZE=16. Gin files of t5patches are found by their names:
models/t5_1_1_small.gin, runs/finetune.gin, runs/update.gin, methods/tnff.gin …

macros of the gin files, what they take and what they mean:
{macros}
{flags}"""
_TRAIN = """\
checkpoints, TensorBoard scalars, config.gin, settings.json (what the run depends
        on), best.json (the checkpoint with the lowest validation loss) and, of an
        update, patches.json (the updates before it, and itself) to MODEL_DIR

SIGTERM ends it after the step, saved, with status 0 (or --stopped_status, for a
scheduler that takes 0 for done). Typed again, the command goes on.
With other settings, data, vocabulary or initial checkpoint it is refused, unless
--branch says to go on with them; steps, periods, partitions, paths may change.

example (an update of a fine-tuned model):
  t5patches train --gin_file=models/t5_1_1_small.gin --gin_file=methods/tnff.gin \\
    --gin_file=runs/update.gin --gin_file=my_task.gin --gin.MODEL_DIR="'updated'\""""
_CACHE = """\
what the frozen model's logits are made of, for every example of training and
        validation, to FROZEN_CACHE: its last layer's input, 2 bytes a number

Takes the flags of `train` with FROZEN_CACHE set; the update, told of the same folder,
then takes from the frozen model its output layer alone, and a step costs what one of
fine-tuning costs. `train` does the same by itself before it begins; this is for many
machines (--shard_id, --num_shards) and for T5X's own script. What is there already is
kept: outputs are found by their tokens, so that other annotations or more outputs can
use the same folder. There is no dropout in it: updates from it have DROPOUT_RATE = 0.0,
or, set on purpose, FROZEN_DROPOUT = False (docs/methods.md)."""
_GENERATE = """\
predictions, TASK-predict-00000-of-00001.jsonl, to INFER_OUTPUT_DIR:
        one JSON line each with inputs, prediction, target_tokens, id

runs/generate.gin is read after the models/ file, also if no --gin_file names it. It
says how to sample (TEMPERATURE, TOP_K, TOP_P) and to share the work between processes
(SHARD_ID, NUM_SHARDS); runs/generate_beam.gin searches with beams. Typed again, it
skips what is complete.

--forbid FILE decodes without the phrases of a file, one a line: no token that would
complete one is chosen, and the others keep their proportions. Of the original model it
is the exact token-level update, which `evaluate --exact-update` compares with.
--word-end piece|next says where a phrase ends, as in `annotate phrases`.

runs/alternatives.gin, without a file of tasks/, reads annotated predictions as FILES
and tries what the model would nearly have said where it said something unwanted (or
wherever it was unsure: UNSURE_BELOW), for `t5patches annotate --alternatives`.
runs/distances.gin, used alike, says of an update (CHECKPOINT_PATH) how far it is from
the exact update of ORIGINAL_CHECKPOINT_PATH, for `evaluate --distances`."""


def train(argv: list[str]) -> None:
    """Runs `t5patches train`."""
    what = "Fine-tunes or updates a model: the gin file says which."
    _run("train", argv, what, _TRAIN)


def cache(argv: list[str]) -> None:
    """Runs `t5patches cache`."""
    what = "Runs the frozen model of an update over its examples, once."
    _run("cache", argv, what, _CACHE)


def infer(argv: list[str]) -> None:
    """Runs `t5patches infer`."""
    what = "Runs a model over a task, as T5X's infer script does."
    _run("infer", argv, what, "JSON lines to INFER_OUTPUT_DIR")


def evaluate(argv: list[str]) -> None:
    """Runs `t5patches eval`."""
    what = "Computes a task's metrics for checkpoints, as T5X's eval script does."
    _run("eval", argv, what, "metrics and predictions to EVAL_OUTPUT_DIR")


def generate(argv: list[str]) -> None:
    """Runs `t5patches generate`: inference with a run file of ours."""
    what = (
        "Generates with a model on a task's split: greedily, or by sampling or beams."
    )
    _run("infer", _with_generate_gin(argv), what, _GENERATE)


def _run(script: str, argv: list[str], what: str, writes: str) -> None:
    from t5patches.run import macros, scripts

    if not argv or argv[0] in ("-h", "--help"):
        checkpoint = scripts.SCRIPTS[script].checkpoint
        text = _HELP.format(
            what=what,
            checkpoint=checkpoint,
            writes=writes,
            flags=scripts.flag_help(script),
            macros=macros.describe(script),
        )
        print(text)
        raise SystemExit(0 if argv else 2)
    starting.start_logging()
    scripts.run(script, argv, prepare=starting.import_tensorflow)


def _with_generate_gin(argv: list[str]) -> list[str]:
    """Puts the run file after the model's, whose required macros it sets."""
    values = [word.removeprefix("--gin_file=") for word in argv]
    named = any(v.endswith(_GENERATE_GINS) for v in values)
    if named or not argv or argv[0] in ("-h", "--help"):
        return argv
    models = [
        i
        for i, value in enumerate(values)
        if "models/" in value or value.endswith("model.gin")  # Of `convert`.
    ]
    place = models[-1] + 1 if models else 0
    return [*argv[:place], f"--gin_file={_GENERATE_GIN}", *argv[place:]]
