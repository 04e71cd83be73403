"""The whole job in one run folder, stage by stage.

Each stage is a run of what a user's own job runs: T5X's train and infer functions with
the gin files of `experiments/quickstart`, the annotator, the evaluation, the report.

    RUN/plan.json           what the run was asked for; other settings are refused
    RUN/corpus/             SPLIT.jsonl, phrases.txt and vocabulary.model
    RUN/finetuned/          the model that the job starts from
    RUN/before/SPLIT/       its generations
    RUN/annotated/SPLIT/    the same with the unwanted words marked
    RUN/updated/            the updated model
    RUN/after/test/         its generations
    RUN/stages/STAGE.json   a stage that is done: its seconds and its findings
    RUN/results.json, report.html, report.png

A stage's record is written last, so a run that was killed goes on with the stage it was
in. Within a stage, training goes on from its last checkpoint and generation after its
last chunk; every random number is a function of the seed and the step, so the end is
the same, bit for bit.
"""

import contextlib
import dataclasses
import json
import logging
import os
import resource
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from etils import epath

from t5patches import records
from t5patches.errors import UserError
from t5patches.quickstart import corpus, own_data, vocabulary

SPLITS = ("train", "validation", "test")
SIZES = {"train": 12000, "validation": 400, "test": 500}
GIN = "experiments/quickstart"
# The methods that have a file in gin/methods.
METHODS = ("tnff",)

# Overrides of the gin files' macros by stage; 'shared' ones hold for every stage.
Macros = Mapping[str, Mapping[str, Any]]
VOCABULARY_SIZE = 1000

# Where one's own data differs from the made-up corpus: real text needs more pieces,
# longer features and more steps.
OWN_DATA: Mapping[str, Any] = {
    "pieces": 4096,
    "macros": {
        "shared": {
            "TASK_FEATURE_LENGTHS": {"inputs": 48, "targets": 48},
        },
        "finetune": {
            "TRAIN_STEPS_RELATIVE": 2000,
            "EVAL_PERIOD": 500,
            "SAVE_PERIOD": 250,
        },
    },
}


@dataclasses.dataclass(frozen=True)
class Run:
    """A run folder and what it is asked for.

    Attributes:
      folder: the run folder, absolute.
      seed: of the corpus, the initial parameters and the order of the data.
      method: of the update, a file of gin/methods.
      data: a file of one's own data, or None for the made-up corpus.
      phrases: a phrase file; required with `data`.
      sizes: examples per split of the made-up corpus.
      pieces: of the vocabulary.
      macros: overrides of the gin files' macros.
    """

    folder: str
    seed: int = 0
    method: str = "tnff"
    data: str | None = None
    phrases: str | None = None
    sizes: Mapping[str, int] = dataclasses.field(default_factory=lambda: SIZES)
    pieces: int = VOCABULARY_SIZE
    macros: Macros = dataclasses.field(default_factory=dict)

    def path(self, *parts: str) -> str:
        """A path in the run folder."""
        return os.path.join(self.folder, *parts)

    @property
    def vocabulary_path(self) -> str:
        return self.path("corpus", "vocabulary.model")

    @property
    def phrases_path(self) -> str:
        return self.path("corpus", "phrases.txt")

    def corpus_files(self) -> dict[str, str]:
        """Split -> file of the corpus."""
        return {split: self.path("corpus", f"{split}.jsonl") for split in SPLITS}

    def predictions(self, when: str, split: str = "test") -> str:
        """What names the generations of a split, `when` being 'before' or 'after'."""
        return self.path(when, split, "quickstart_comments-predict")

    def annotated(self, split: str) -> str:
        """What names the annotated generations of a split."""
        return self.path("annotated", split, "annotated")

    def checkpoint(self, model: str) -> str:
        """The last checkpoint of a model folder."""
        from t5patches import checks

        folder = self.path(model)
        steps = checks.checkpoint_steps(folder)
        if not steps:
            raise UserError(
                f"{folder}: no checkpoint in it, although the stage that makes it was "
                "done; remove the run folder and start again"
            )
        return os.path.join(folder, f"checkpoint_{steps[-1]}")

    def settings(self) -> dict[str, Any]:
        """What decides the results, for the plan."""
        from t5patches import scripts

        root = epath.Path(scripts.gin_root())
        parts = (f"{GIN}/*", "runs/*", "tasks/*", "models/*", f"methods/{self.method}")
        gin_files = [
            os.fspath(path)
            for part in parts
            for path in sorted(root.glob(f"{part}.gin"))
        ]
        return {
            "seed": self.seed,
            "method": self.method,
            "data": self.data and records.file_digest(self.data),
            "phrases": self.phrases and records.file_digest(self.phrases),
            "sizes": None if self.data else dict(self.sizes),
            "pieces": self.pieces,
            "macros": {stage: dict(values) for stage, values in self.macros.items()},
            "gin files": records.file_digest(gin_files),
        }


# ------------------------------------------------------------------------- the stages


def make_corpus(run: Run) -> dict[str, Any]:
    """Writes the splits, the phrase list and the vocabulary."""
    if run.data:
        from t5patches.annotate import phrases

        splits = own_data.read(run.data)
        words = phrases.read_phrases(run.phrases)
    else:
        splits = corpus.make(run.seed, dict(run.sizes))
        words = corpus.rude_words()
    for split, path in run.corpus_files().items():
        records.write_jsonl(
            path,
            (
                {"id": f"{split}-{index}", **example}
                for index, example in enumerate(splits[split])
            ),
        )
    with records.atomic_write(run.phrases_path) as file:
        file.writelines(f"{word}\n" for word in words)
    texts = (text for e in splits["train"] for text in (e["inputs"], e["targets"]))
    pieces = vocabulary.train(texts, run.vocabulary_path, run.pieces)
    return {
        "examples": {split: len(splits[split]) for split in SPLITS},
        "phrases": len(words),
        "vocabulary": pieces,
    }


def _script(run: Run, script: str, stage: str, files: list[str], **macros: Any) -> None:
    """Runs one of T5X's scripts with gin files and macros."""
    from t5patches import scripts

    macros = {
        "VOCABULARY_PATH": run.vocabulary_path,
        # Rows of the embedding table come in multiples of 128.
        "VOCABULARY_SIZE": -(-run.pieces // 128) * 128,
        **macros,
        **run.macros.get("shared", {}),
        **run.macros.get(stage, {}),
    }
    argv = [f"--gin_file={file}" for file in files]
    argv += [f"--gin.{name}={value!r}" for name, value in macros.items()]
    scripts.run(script, argv, description=stage)


def finetune(run: Run) -> dict[str, Any]:
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


def _generate(run: Run, model: str, when: str, split: str) -> int:
    output = run.predictions(when, split)
    _script(
        run,
        "infer",
        "generate",
        [f"{GIN}/generate.gin"],
        CHECKPOINT_PATH=run.checkpoint(model),
        INFER_OUTPUT_DIR=os.path.dirname(output),
        FILES=run.corpus_files(),
        SPLIT=split,
    )
    return sum(1 for _ in records.read_predictions(output))


def generate_before(run: Run) -> dict[str, Any]:
    """Generates with the fine-tuned model for every split."""
    return {
        "generations": {
            split: _generate(run, "finetuned", "before", split) for split in SPLITS
        }
    }


def annotate(run: Run) -> dict[str, Any]:
    """Marks the phrases in the generations; makes the update's training data."""
    from t5patches.annotate import annotate_files, phrases

    vocab = records.load_vocabulary(run.vocabulary_path)
    annotator = phrases.load(run.phrases_path)
    shares = {}
    for split in SPLITS:
        stats = annotate_files(
            run.predictions("before", split),
            annotator,
            run.path("annotated", split),
            vocab,
            settings={
                "annotator": "phrases",
                "phrases": records.file_digest(run.phrases_path),
            },
        )
        shares[split] = stats["share_with_unwanted"]
    if not shares["train"]:
        raise UserError(
            "no phrase occurs in what the fine-tuned model says: there is nothing to "
            f"update. The generations are in {run.path('before')}, the phrases in "
            f"{run.phrases_path}"
        )
    return {"share_with_unwanted": shares}


def update(run: Run) -> dict[str, Any]:
    """Updates the fine-tuned model on its own annotated generations."""
    _script(
        run,
        "train",
        "update",
        [
            "models/t5_1_1_tiny.gin",
            f"methods/{run.method}.gin",
            f"{GIN}/update.gin",
        ],
        MODEL_DIR=run.path("updated"),
        INITIAL_CHECKPOINT_PATH=run.checkpoint("finetuned"),
        FILES={
            split: run.annotated(split) + "-*.tfrecord"
            for split in ("train", "validation")
        },
        RANDOM_SEED=run.seed,
        DATA_SEED=run.seed,
    )
    return {"checkpoint": os.path.relpath(run.checkpoint("updated"), run.folder)}


def generate_after(run: Run) -> dict[str, Any]:
    """Generates with the updated model for the test inputs."""
    return {"generations": {"test": _generate(run, "updated", "after", "test")}}


def _measure(run: Run, annotator: Any) -> dict[str, float]:
    """The corpus's promises, measured on the fine-tuned model's test generations."""
    from t5patches.quickstart import properties

    output = run.path("choices", "quickstart_choices-score")
    _script(
        run,
        "infer",
        "choices",
        [f"{GIN}/choices.gin"],
        CHECKPOINT_PATH=run.checkpoint("finetuned"),
        INFER_OUTPUT_DIR=os.path.dirname(output),
        FILES={"test": run.predictions("before") + "-*.jsonl"},
    )
    rows = (
        row for path in records.expand(output) for _, row in records.read_jsonl(path)
    )
    vocab = records.load_vocabulary(run.vocabulary_path)
    return properties.measure(rows, annotator, annotator.phrases, vocab)


def evaluate(run: Run) -> dict[str, Any]:
    """Compares the generations of the two models on the test inputs."""
    from t5patches import evaluate as evaluation
    from t5patches.annotate import phrases

    annotator = phrases.load(run.phrases_path)
    scores, examples = evaluation.evaluate_files(
        run.predictions("before"),
        run.predictions("after"),
        annotator,
        references=run.corpus_files()["test"],
    )
    return {
        "scores": scores,
        "corpus_properties": _measure(run, annotator),
        "examples_to_show": examples,
    }


@dataclasses.dataclass(frozen=True)
class Stage:
    """A step of the job.

    Attributes:
      name: of its record.
      what: said to the user.
      work: does it; returns its findings, for the record.
    """

    name: str
    what: str
    work: Callable[[Run], dict[str, Any]]


STAGES = (
    Stage("corpus", "corpus and vocabulary", make_corpus),
    Stage("finetune", "fine-tune a small T5", finetune),
    Stage("generate_before", "generate with it", generate_before),
    Stage("annotate", "mark the unwanted words", annotate),
    Stage("update", "update the model", update),
    Stage("generate_after", "generate again", generate_after),
    Stage("evaluate", "compare", evaluate),
)


# --------------------------------------------------------------------------- the run


def _peak_memory_gb() -> float:
    # Linux counts in KiB, macOS in bytes.
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e9


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Leaves of the libraries' logs the warnings; the stages have a line each."""
    from absl import logging as absl_logging

    logger, before = logging.getLogger("absl"), absl_logging.get_verbosity()
    absl_logging.set_verbosity(absl_logging.WARNING)
    try:
        yield
    finally:
        absl_logging.set_verbosity(before)
        logger.setLevel(before)


def _claim(run: Run) -> None:
    """Makes the folder this run's, or refuses one that was made with other settings."""
    plan, wanted = epath.Path(run.path("plan.json")), run.settings()
    if not plan.exists():
        if epath.Path(run.folder).is_dir() and any(epath.Path(run.folder).iterdir()):
            raise UserError(
                f"{run.folder} is not empty and has no {plan.name}: it is no folder of "
                "a quickstart. Give another with --output"
            )
        records.write_json(plan, wanted)
        return
    try:
        found = json.loads(plan.read_text())
    except json.JSONDecodeError as error:
        raise UserError(f"{plan}: not JSON ({error}); remove {run.folder}") from error
    for name in wanted:
        if found.get(name) != wanted[name]:
            raise UserError(
                f"{run.folder} was made with other settings: {name} was "
                f"{found.get(name)!r}, now it is {wanted[name]!r}. Give another folder "
                "with --output, or remove this one"
            )


def _do(run: Run, stage: Stage, label: str) -> dict[str, Any]:
    """Does a stage, or reads the record of one that is done."""
    path = epath.Path(run.path("stages", f"{stage.name}.json"))
    if path.exists():
        record = json.loads(path.read_text())
        print(f"{label} done before ({record['seconds']:.0f} s)", flush=True)
        return record
    # On a terminal the stage's progress bars come below the label.
    bars = sys.stderr.isatty()
    print(f"{label} …", end="\n" if bars else " ", flush=True)
    start, cpu = time.monotonic(), time.process_time()
    findings = stage.work(run)
    record = {
        "seconds": time.monotonic() - start,
        "cpu_seconds": time.process_time() - cpu,
        "peak_memory_gb": _peak_memory_gb(),
        **findings,
    }
    records.write_json(path, record)
    print(f"{label if bars else ''} {record['seconds']:.0f} s".strip(), flush=True)
    return record


def results_of(run: Run, done: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """What `results.json` says, from the stages' records."""
    evaluation = done["evaluate"]
    return {
        "method": run.method,
        "seed": run.seed,
        **evaluation["scores"],
        "seconds": sum(record["seconds"] for record in done.values()),
        "cpu_seconds": sum(record["cpu_seconds"] for record in done.values()),
        "peak_memory_gb": max(record["peak_memory_gb"] for record in done.values()),
        "stage_seconds": {name: record["seconds"] for name, record in done.items()},
        "corpus_examples": done["corpus"]["examples"],
        "share_with_unwanted": done["annotate"]["share_with_unwanted"],
        "corpus_properties": evaluation["corpus_properties"],
    }


def run_all(run: Run) -> dict[str, Any]:
    """Does the whole job, or what of it is not done yet.

    Returns:
      The results, as in `results.json`.

    Raises:
      UserError: the folder was made with other settings, or the data are wrong.
    """
    from t5patches import report
    from t5patches.quickstart import properties

    _claim(run)
    done = {}
    with _quiet():
        for number, stage in enumerate(STAGES, start=1):
            label = f"[{number}/{len(STAGES)}] {stage.what}"
            done[stage.name] = _do(run, stage, label)
        results = results_of(run, done)
        records.write_json(run.path("results.json"), results)
        examples = done["evaluate"]["examples_to_show"]
        table = report.write_report(
            run.folder,
            results,
            examples,
            properties=properties.rows(results["corpus_properties"]),
            settings=run.settings(),
        )
    print(f"\n{table}\n\nThe report is {run.path('report.html')}", flush=True)
    return results
