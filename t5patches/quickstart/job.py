"""The whole job in one run folder, stage by stage.

Each stage is what a user's own job runs: T5X's train and infer functions with the gin
files of `experiments/quickstart`, the annotator, the evaluation, the report.

Within a stage that was stopped, training goes on from its last checkpoint and
generation after its last chunk; every random number is a function of the seed and the
step, so the end is the same, bit for bit.
"""

import functools
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from etils import epath

from t5patches import losses
from t5patches.errors import UserError
from t5patches.interchange import claims, json_files, records
from t5patches.quickstart import use_cases, vocabulary
from t5patches.quickstart.run_folder import SPLITS, Run
from t5patches.run.stages import Record, do_stage, quiet, total_costs
from t5patches.sweep.plan import Command

GIN = "experiments/quickstart"
MODEL = "models/t5_1_1_tiny.gin"
ROWS = "runs/unwanted_rows.gin"
# What an update is trained on and watched by.
TRAINING = ("train", "validation")

# What the methods are compared with, plain training on other texts, and its file of
# gin/methods:
#   filtered           the model's own outputs in which nothing is unwanted
#   filtered_original  the original data, left out where its target is unwanted
#   corrective         the model's own outputs, corrected where something is unwanted
BASELINES = {
    "filtered": "filtered",
    "filtered_original": "filtered",
    "corrective": "corrective",
}
# The stage of the exact update, and that of what was nearly said: use cases with a list
# of phrases have the first, the others the second.
EXACT = "generate_exact"
ALTERNATIVES = "alternatives"
ANNOTATED_EXACT = "annotated_exact"
# The family, each method a file of gin/methods, and the baselines.
METHODS = (*losses.METHODS, *BASELINES)


class NothingLeftError(UserError):
    """A baseline has nothing to be trained on."""


def settings(run: Run, methods: str | None = None) -> dict[str, Any]:
    """Returns what decides the results, for the folder's claim.

    Args:
      run: the run.
      methods: pattern of the files of gin/methods that the run may use, if it is not
        for its method alone.
    """
    from t5patches.run import scripts

    root = epath.Path(scripts.gin_root())
    methods_of_run = methods or BASELINES.get(run.method, run.method)
    folders = (f"{GIN}/*", "runs/*", "tasks/*", "models/*", f"methods/{methods_of_run}")
    files = [path for part in folders for path in sorted(root.glob(f"{part}.gin"))]
    return {
        "step": "quickstart",
        "seed": run.seed,
        "method": "several" if methods else run.method,
        "use case": use_cases.find(run.use_case, run.data).name,
        "data": run.data and claims.file_digest(run.data),
        "phrases": run.phrases and claims.file_digest(run.phrases),
        "sizes": None if run.data else dict(run.sizes),
        "pieces": run.pieces,
        "macros": {stage: dict(values) for stage, values in run.macros.items()},
        "gin files": claims.file_digest(files),
    }


def claim(run: Run, asked: Mapping[str, Any]) -> None:
    """Makes the folder this run's, or checks that it is.

    A run of which no stage was done, as with data that it refused, leaves the folder to
    another.
    """
    begun = epath.Path(run.path(claims.SETTINGS)).is_file()
    results = ("*.done.json",) if begun else ("*",)
    claims.claim(run.folder, asked, results=results)


# ------------------------------------------------------------------------- the stages


def make_corpus(run: Run) -> Record:
    """Writes the splits, the vocabulary and what the annotator needs."""
    use_case = use_cases.find(run.use_case, run.data)
    splits = use_case.make(run)
    texts = (text for e in splits["train"] for text in (e["inputs"], e["targets"]))
    vocabulary.train(texts, run.vocabulary_path, run.pieces)
    for split, path in run.corpus_files().items():
        numbered = enumerate(splits[split])
        rows = ({"id": f"{split}-{index}", **example} for index, example in numbered)
        json_files.write_jsonl(path, rows)
    return {
        "examples": {split: len(splits[split]) for split in SPLITS},
        "vocabulary": run.pieces,
        **use_case.prepare(run),
    }


def _script(run: Run, script: str, stage: str, files: list[str], **macros: Any) -> None:
    """Runs one of T5X's scripts with gin files and macros."""
    Command(files, macros_of(run, stage, **macros)).run(script, stage)


def macros_of(run: Run, stage: str, **macros: Any) -> dict[str, Any]:
    """Returns the macros of a stage: what all have, those given, the run's own."""
    return {
        "VOCABULARY_PATH": run.vocabulary_path,
        # Rows of the embedding table come in multiples of 128.
        "VOCABULARY_SIZE": -(-run.pieces // 128) * 128,
        **macros,
        **run.macros.get("shared", {}),
        **run.macros.get(stage, {}),
    }


def finetune(run: Run) -> Record:
    """Trains the model that has the unwanted behaviour."""
    _script(
        run,
        "train",
        "finetune",
        [f"{GIN}/finetune.gin"],
        MODEL_DIR=run.path("finetuned"),
        FILES=run.corpus_files(),
        RANDOM_SEED=run.seed,
        DATA_SEED=run.seed,
    )
    return {"checkpoint": os.path.relpath(run.checkpoint("finetuned"), run.folder)}


def generate(
    run: Run,
    model: str,
    when: str,
    split: str,
    files: Mapping[str, str] | None = None,
    **macros: Any,
) -> int:
    """Generates with a model's last checkpoint; returns how many outputs.

    Args:
      run: the run.
      model: the model's folder, in the run folder.
      when: the folder for the outputs, there too.
      split: whose inputs.
      files: split -> file of the inputs; None for the corpus.
      **macros: of the gin files.
    """
    output = run.predictions(when, split)
    _script(
        run,
        "infer",
        "generate",
        [f"{GIN}/generate.gin"],
        CHECKPOINT_PATH=run.checkpoint(model),
        INFER_OUTPUT_DIR=os.path.dirname(output),
        FILES=files or run.corpus_files(),
        SPLIT=split,
        **macros,
    )
    return sum(1 for _ in records.read_predictions(output))


def of_round(number: int, name: str) -> str:
    """Returns where a round of the update has something of its own, in the folder."""
    return name if number == 1 else f"round{number}/{name}"


def generate_before(run: Run, number: int = 1) -> Record:
    """Generates with the fine-tuned model for every split.

    A further round generates with the model of the round before, for what it is trained
    on.
    """
    model, splits = "finetuned", SPLITS
    if number > 1:
        model, splits = of_round(number - 1, "updated"), TRAINING
    when = of_round(number, "before")
    return {"generations": {s: generate(run, model, when, s) for s in splits}}


def _annotate(
    run: Run, predictions: str, folder: str, **options: Any
) -> dict[str, Any]:
    """Annotates predictions; returns the statistics."""
    from t5patches.annotate import annotate_files

    vocab = records.load_vocabulary(run.vocabulary_path)
    annotator = use_cases.find(run.use_case, run.data).annotator(run)
    # It warns of texts without ids or without anything unwanted; here both are meant.
    with quiet("error"):
        return annotate_files(predictions, annotator, folder, vocab, **options)


def annotate(run: Run, number: int = 1) -> Record:
    """Marks what is unwanted in the generations; makes the update's training data.

    A further round adds to it what is unwanted now: most of the rest is there already.
    """
    when, folder = (of_round(number, name) for name in ("before", "annotated"))
    shares = {
        split: _annotate(
            run,
            run.predictions(when, split),
            run.path(folder, split),
            only_annotated=number > 1,
        )["share_with_unwanted"]
        for split in (SPLITS if number == 1 else TRAINING)
    }
    if not shares["train"] and number == 1:
        raise UserError(
            "nothing unwanted is in what the fine-tuned model says: there is nothing "
            f"to update. The generations are in {run.path('before')}"
        )
    return {"share_with_unwanted": shares}


def generate_exact(run: Run) -> Record:
    """Generates with the fine-tuned model without the phrases: the exact update.

    Where something unwanted was said the update is trained on what would have been said
    instead, too: what follows that no output of the original shows.
    """
    phrases = use_cases.find(run.use_case, run.data).phrases
    assert phrases is not None  # Else `stages` leaves it out.
    counts = {}
    for split, path in run.corpus_files().items():
        if split in TRAINING:
            annotated = records.read_annotated(run.annotated(split))
            marked = {row["id"] for row in annotated if row["annotations"]}
            rows = (
                row for _, row in json_files.read_jsonl(path) if row["id"] in marked
            )
            path = run.path("exact", f"{split}_inputs.jsonl")
            if not json_files.write_jsonl(path, rows):
                continue
        macros = {"files": {split: path}, "FORBID": phrases(run)}
        counts[split] = generate(run, "finetuned", "exact", split, **macros)
        if split in TRAINING:
            _annotate(
                run, run.predictions("exact", split), run.path(ANNOTATED_EXACT, split)
            )
    return {"generations": counts}


def try_alternatives(run: Run, number: int = 1) -> Record:
    """Marks what the original nearly said in place of what is unwanted, too."""
    found = {}
    for split in TRAINING:
        output = run.path(of_round(number, "alternatives"), split)
        _script(
            run,
            "infer",
            "alternatives",
            [MODEL, "runs/alternatives.gin", f"{GIN}/_shared.gin"],
            CHECKPOINT_PATH=run.checkpoint("finetuned"),
            INFER_OUTPUT_DIR=output,
            FILES={split: run.path(of_round(number, "annotated"), split, "annotated")},
            SPLIT=split,
            BATCH_SIZE=128,
        )
        stats = _annotate(
            run,
            run.predictions(of_round(number, "before"), split),
            run.path(of_round(number, "annotated_alternatives"), split),
            only_annotated=number > 1,
            alternatives=os.path.join(output, "alternatives-predict_with_aux"),
        )
        names = ("alternatives_tried", "unwanted_alternatives")
        found[split] = {name: stats[name] for name in names}
    return found


def training_files(run: Run, method: str, split: str) -> str:
    """Returns the prefix of the TFRecords that a method is trained on, made if needed.

    Args:
      run: a run whose generations are annotated.
      method: one of METHODS.
      split: 'train' or 'validation'.

    Raises:
      NothingLeftError: a baseline leaves no example of the split.
    """
    if method not in BASELINES:
        return run.annotated(split)
    folder, predictions = run.path("annotated", split), run.predictions("before", split)
    examples = 1
    if method != "filtered":
        folder = run.path("baselines", method, split)
        predictions = f"{folder}.jsonl"
        rows = _rows_to_annotate(run, method, split)
        examples = json_files.write_jsonl(predictions, rows)
    # A filtered task leaves out what has something unwanted, which may be all.
    share = 0.0
    if examples:
        share = _annotate(run, predictions, folder)["share_with_unwanted"]
    if not examples or (share == 1 and BASELINES[method] == "filtered"):
        raise NothingLeftError(
            f"{folder}: {method} leaves nothing of the {split} split; there is too "
            "little without anything unwanted"
        )
    return os.path.join(folder, "annotated")


def _rows_to_annotate(run: Run, method: str, split: str) -> Iterable[Mapping[str, Any]]:
    if method == "filtered_original":
        from t5patches.tasks import references

        yield from references.predictions(
            [run.corpus_files()[split]], "inputs", "targets", "id"
        )
        return
    use_case = use_cases.find(run.use_case, run.data)
    for row in records.read_annotated(run.annotated(split)):
        spans = [(s["start"], s["end"], s["label"]) for s in row["annotations"]]
        if not spans:  # What the model generated, id by id, is its own correction.
            yield row
        elif corrected := use_case.correct(row["prediction"], spans):
            yield {**row, "corrected": corrected}


def update_files(
    run: Run, method: str, whole: bool = False, rounds: int = 1
) -> dict[str, list[str]]:
    """Returns split -> what an update is trained on, made if needed.

    Args:
      run: a run whose generations are annotated.
      method: one of METHODS.
      whole: whether to leave out everything that is known to be unwanted at a position.
      rounds: whose annotated generations it is trained on.

    Raises:
      NothingLeftError: a baseline leaves no example of a split.
    """
    phrases = use_cases.find(run.use_case, run.data).phrases is not None
    made = "annotated" if phrases or not whole else "annotated_alternatives"
    rest = [of_round(number, made) for number in range(2, rounds + 1)]
    rest += [ANNOTATED_EXACT] * (whole and phrases)
    files = {}
    for split in TRAINING:
        first = run.path(made, split, "annotated")
        first = first if whole else training_files(run, method, split)
        folders = (run.path(folder, split) for folder in rest)
        more = [f"{folder}/annotated" for folder in folders if os.path.isdir(folder)]
        files[split] = [first, *more]
    return files


def update(run: Run, number: int = 1) -> Record:
    """Updates the fine-tuned model on annotated generations, in every round anew.

    What phrases say is unwanted is learned by the output layer's rows alone.
    """
    whole, model = run.method in losses.METHODS, of_round(number, "updated")
    rows = whole and use_cases.find(run.use_case, run.data).phrases is not None
    kind = BASELINES.get(run.method, run.method)
    _script(
        run,
        "train",
        "update",
        [MODEL, f"methods/{kind}.gin", f"{GIN}/update.gin", *([ROWS] if rows else [])],
        MODEL_DIR=run.path(model),
        INITIAL_CHECKPOINT_PATH=run.checkpoint("finetuned"),
        FROZEN_CACHE=run.path("frozen_states"),
        FILES=update_files(run, run.method, whole, number),
        RANDOM_SEED=run.seed,
        DATA_SEED=run.seed,
    )
    return {"checkpoint": os.path.relpath(run.checkpoint(model), run.folder)}


def generate_after(run: Run, number: int = 1) -> Record:
    """Generates with the updated model for the test inputs."""
    model, when = (of_round(number, name) for name in ("updated", "after"))
    return {"generations": {"test": generate(run, model, when, "test")}}


def evaluate(run: Run, number: int = 1) -> Record:
    """Compares the generations of the two models on the test inputs."""
    from t5patches import evaluate as evaluation

    use_case = use_cases.find(run.use_case, run.data)
    scores, examples = evaluation.evaluate_files(
        run.predictions("before"),
        run.predictions(of_round(number, "after")),
        use_case.annotator(run),
        references=run.corpus_files()["test"],
        exact_update=run.predictions("exact") if use_case.phrases else None,
    )
    return {"scores": scores, "examples_to_show": [*examples]}


# Stage -> (what it does, said to the user; the function that does it).
STAGES: dict[str, tuple[str, Callable[..., Record]]] = {
    "corpus": ("corpus and vocabulary", make_corpus),
    "finetune": ("fine-tune a small T5", finetune),
    "generate_before": ("generate with it", generate_before),
    "annotate": ("mark what is unwanted", annotate),
    EXACT: ("generate with it without the phrases", generate_exact),
    ALTERNATIVES: ("try what it would say instead", try_alternatives),
    "update": ("update the model", update),
    "generate_after": ("generate again", generate_after),
    "evaluate": ("compare", evaluate),
}
# What comes before the update, whatever its method.
SHARED_STAGES = [*STAGES][:4]
# What a further round has of these, with its number.
ROUND_STAGES = [name for name in [*STAGES][2:] if name != EXACT]


# --------------------------------------------------------------------------- the run


def stages(run: Run, names: Iterable[str]) -> list[str]:
    """Returns those that a run has: where phrases say all the exact update is known."""
    known = use_cases.find(run.use_case, run.data).phrases is not None
    left_out = {ALTERNATIVES} if known else {EXACT}
    if run.method not in losses.METHODS:
        left_out.add(ALTERNATIVES)
    return [name for name in names if name not in left_out]


def do_stages(
    run: Run, names: Iterable[str], label: str, which: int = 1
) -> dict[str, Record]:
    """Does stages, or reads the records of those that are done.

    Args:
      run: the run.
      names: keys of STAGES, in order.
      label: what is said to the user, with `{what}` and the stage's `{number}`.
      which: the round; names of ROUND_STAGES if it is a further one.

    Returns:
      `of_round` of the name -> record.
    """
    records_by_name = {}
    for number, name in enumerate(names, start=1):
        what, work = STAGES[name]
        further = [which] if which > 1 else []  # Not every stage takes the round.
        name = of_round(which, name)
        records_by_name[name] = do_stage(
            run.path(name),
            label.format(number=number, what=what),
            functools.partial(work, run, *further),
        )
    return records_by_name


def _further_rounds(run: Run, rounds: int) -> Iterator[dict[str, Record]]:
    """Does the rounds behind the first, while there is something new to learn from."""
    for number in range(2, rounds + 1):
        names = stages(run, ROUND_STAGES)
        label = f"[round {number} of {rounds}] {{what}}"
        done = do_stages(run, names[:2], label, number)
        yield done
        if not done[of_round(number, "annotate")]["share_with_unwanted"]["train"]:
            print(f"Nothing unwanted is left for round {number} to learn from")
            return
        yield do_stages(run, names[2:], label, number)


def _by_round(evaluated: Iterable[Record]) -> dict[str, Any]:
    fields = ("prevalence", "exact_match", "bleu", "rougeL")
    return {
        str(number): {field: record["scores"][field] for field in fields}
        for number, record in enumerate(evaluated, start=1)
    }


def run_all(run: Run, rounds: int = 1) -> dict[str, Any]:
    """Does the whole job, or what of it is not done yet.

    Args:
      run: the run.
      rounds: how many updates, each from the fine-tuned model: those behind the first
        are also trained on what the update before still says that is unwanted. A
        folder takes more of them later.

    Returns:
      The results, as in `results.json`.

    Raises:
      UserError: the folder was made with other settings, or the data are wrong.
    """
    from t5patches import report

    asked = settings(run)
    claim(run, asked)
    with quiet():
        names = stages(run, STAGES)
        done = do_stages(run, names, f"[{{number}}/{len(names)}] {{what}}")
        for further in _further_rounds(run, rounds):
            done |= further
        evaluated = [done[name] for name in done if name.endswith("evaluate")]
        results = {
            "method": run.method,
            "use_case": asked["use case"],
            "seed": run.seed,
            **evaluated[-1]["scores"],
            "model": of_round(len(evaluated), "updated"),
            **({"rounds": _by_round(evaluated)} if rounds > 1 else {}),
            **total_costs([*done.values()]),
            "stage_seconds": {name: record["seconds"] for name, record in done.items()},
            "corpus_examples": done["corpus"]["examples"],
            "share_with_unwanted": done["annotate"]["share_with_unwanted"],
        }
        json_files.write_json(run.path("results.json"), results)
        examples = evaluated[-1]["examples_to_show"]
        table = report.write_report(run.folder, results, examples, asked)
    print(f"\n{table}\n\nThe report is {run.path('report.html')}", flush=True)
    return results
