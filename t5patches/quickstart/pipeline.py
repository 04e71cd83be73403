"""The whole job in one run folder, stage by stage.

Each stage is a run of what a user's own job runs: T5X's train and infer functions with
the gin files of `experiments/quickstart`, the annotator, the evaluation, the report.

    RUN/plan.json           what the run was asked for; other settings are refused
    RUN/corpus/             SPLIT.jsonl and vocabulary.model
    RUN/corpus/phrases.txt  what is unwanted, or
    RUN/tagger/             the tagger that finds it, by use case
    RUN/finetuned/          the model that the job starts from
    RUN/before/SPLIT/       its generations
    RUN/annotated/SPLIT/    the same with what is unwanted marked
    RUN/baselines/METHOD/   SPLIT.jsonl, what a baseline is trained on
    RUN/updated/            the updated model
    RUN/after/test/         its generations
    RUN/stages/STAGE.json   a stage that is done: its seconds and its findings
    RUN/results.json, report.html, report.png

Within a stage that was stopped, training goes on from its last checkpoint and
generation after its last chunk; every random number is a function of the seed and the
step, so the end is the same, bit for bit.
"""

import dataclasses
import functools
import os
from collections.abc import Callable, Mapping
from typing import Any

from etils import epath

from t5patches import losses
from t5patches.errors import UserError
from t5patches.interchange import claims, json_files, records
from t5patches.quickstart import baselines, stages, use_cases, vocabulary

SPLITS = ("train", "validation", "test")
SIZES = {"train": 12000, "validation": 400, "test": 500}
GIN = "experiments/quickstart"
VOCABULARY_SIZE = 1000

# The family, each method a file of gin/methods, and what it is compared with.
METHODS = (*losses.METHODS, *baselines.BASELINES)

# Overrides of the gin files' macros by stage; 'shared' ones hold for every stage.
Macros = Mapping[str, Mapping[str, Any]]


@dataclasses.dataclass(frozen=True)
class Run:
    """A run folder and what it is asked for.

    Attributes:
      folder: the run folder, absolute.
      seed: of the corpus, the initial parameters and the order of the data.
      method: of the update, one of METHODS.
      use_case: of the made-up data, as `use_cases.find` takes it.
      data: a file of one's own data, or None for a made-up corpus.
      phrases: a phrase file; required with `data`.
      sizes: examples per split of the made-up corpus.
      pieces: of the vocabulary.
      macros: overrides of the gin files' macros.
    """

    folder: str
    seed: int = 0
    method: str = "tnff"
    use_case: str = "comments"
    data: str | None = None
    phrases: str | None = None
    sizes: Mapping[str, int] = dataclasses.field(default_factory=lambda: SIZES)
    pieces: int = VOCABULARY_SIZE
    macros: Macros = dataclasses.field(default_factory=dict)

    @property
    def job(self) -> use_cases.UseCase:
        """What the use case has of its own."""
        return use_cases.find(self.use_case, self.data)

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
        """What names the generations of a split, in the folder `when`."""
        return self.path(when, split, "quickstart_comments-predict")

    def annotated(self, split: str) -> str:
        """What names the annotated generations of a split."""
        return self.path("annotated", split, "annotated")

    def checkpoint(self, model: str) -> str:
        """The last checkpoint of a model folder."""
        from t5patches.checkpoints import finding

        folder = self.path(model)
        steps = finding.steps(folder)
        if not steps:
            raise UserError(
                f"{folder}: no checkpoint in it, although the stage that makes it was "
                "done; remove the run folder and start again"
            )
        return os.path.join(folder, f"checkpoint_{steps[-1]}")

    def gin_files(self, methods: str) -> list[str]:
        """The gin files that decide the results, `methods` being a name or '*'."""
        from t5patches.run import scripts

        root = epath.Path(scripts.gin_root())
        parts = (f"{GIN}/*", "runs/*", "tasks/*", "models/*", f"methods/{methods}")
        return [
            os.fspath(path)
            for part in parts
            for path in sorted(root.glob(f"{part}.gin"))
        ]

    def settings(self) -> dict[str, Any]:
        """What decides the results, for the plan."""
        files = self.gin_files(baselines.METHOD_FILES.get(self.method, self.method))
        return {
            "seed": self.seed,
            "method": self.method,
            "use case": self.job.name,
            "data": self.data and claims.file_digest(self.data),
            "phrases": self.phrases and claims.file_digest(self.phrases),
            "sizes": None if self.data else dict(self.sizes),
            "pieces": self.pieces,
            "macros": {stage: dict(values) for stage, values in self.macros.items()},
            "gin files": claims.file_digest(files),
        }


# ------------------------------------------------------------------------- the stages


def make_corpus(run: Run) -> dict[str, Any]:
    """Writes the splits, the vocabulary and what the annotator needs."""
    splits = run.job.make(run)
    for split, path in run.corpus_files().items():
        json_files.write_jsonl(
            path,
            (
                {"id": f"{split}-{index}", **example}
                for index, example in enumerate(splits[split])
            ),
        )
    texts = (text for e in splits["train"] for text in (e["inputs"], e["targets"]))
    pieces = vocabulary.train(texts, run.vocabulary_path, run.pieces)
    return {
        "examples": {split: len(splits[split]) for split in SPLITS},
        "vocabulary": pieces,
        **run.job.prepare(run),
    }


def _script(run: Run, script: str, stage: str, files: list[str], **macros: Any) -> None:
    """Runs one of T5X's scripts with gin files and macros."""
    from t5patches.run import scripts

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


def generate(run: Run, model: str, when: str, split: str) -> int:
    """Generates with a model's last checkpoint; returns how many outputs.

    Args:
      run: the run.
      model: the model's folder, in the run folder.
      when: the folder for the outputs, there too.
      split: whose inputs.
    """
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
            split: generate(run, "finetuned", "before", split) for split in SPLITS
        }
    }


def annotate(run: Run) -> dict[str, Any]:
    """Marks what is unwanted in the generations; makes the update's training data."""
    from t5patches.annotate import annotate_files

    vocab = records.load_vocabulary(run.vocabulary_path)
    annotator = run.job.annotator(run)
    shares = {}
    for split in SPLITS:
        stats = annotate_files(
            run.predictions("before", split),
            annotator,
            run.path("annotated", split),
            vocab,
        )
        shares[split] = stats["share_with_unwanted"]
    if not shares["train"]:
        raise UserError(
            "nothing unwanted is in what the fine-tuned model says: there is nothing "
            f"to update. The generations are in {run.path('before')}"
        )
    return {"share_with_unwanted": shares}


def update_model(run: Run, method: str, model: str) -> str:
    """Updates the fine-tuned model; returns the checkpoint, relative to the folder.

    Args:
      run: the run.
      method: one of METHODS.
      model: the new model's folder, in the run folder.
    """
    if method in baselines.BASELINES:
        experiment, files = "update_text", baselines.write(run, method)
    else:
        experiment = "update"
        files = {
            split: run.annotated(split) + "-*.tfrecord"
            for split in ("train", "validation")
        }
    _script(
        run,
        "train",
        "update",
        [
            "models/t5_1_1_tiny.gin",
            f"methods/{baselines.METHOD_FILES.get(method, method)}.gin",
            f"{GIN}/{experiment}.gin",
        ],
        MODEL_DIR=run.path(model),
        INITIAL_CHECKPOINT_PATH=run.checkpoint("finetuned"),
        FILES=files,
        RANDOM_SEED=run.seed,
        DATA_SEED=run.seed,
    )
    return os.path.relpath(run.checkpoint(model), run.folder)


def update(run: Run) -> dict[str, Any]:
    """Updates the fine-tuned model on its own annotated generations."""
    return {"checkpoint": update_model(run, run.method, "updated")}


def generate_after(run: Run) -> dict[str, Any]:
    """Generates with the updated model for the test inputs."""
    return {"generations": {"test": generate(run, "updated", "after", "test")}}


def compare(
    run: Run, when: str, split: str
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Compares the generations in the folder `when` with the fine-tuned model's.

    Returns:
      The results of `evaluate.compare` and the examples of `evaluate.pick_examples`.
    """
    from t5patches import evaluate as evaluation

    annotator = run.job.annotator(run)
    return evaluation.evaluate_files(
        run.predictions("before", split),
        run.predictions(when, split),
        annotator,
        references=run.corpus_files()[split],
    )


def evaluate(run: Run) -> dict[str, Any]:
    """Compares the generations of the two models on the test inputs."""
    scores, examples = compare(run, "after", "test")
    return {
        "scores": scores,
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
    Stage("annotate", "mark what is unwanted", annotate),
    Stage("update", "update the model", update),
    Stage("generate_after", "generate again", generate_after),
    Stage("evaluate", "compare", evaluate),
)
# What comes before the update, whatever its method.
SHARED_STAGES = STAGES[:4]


# --------------------------------------------------------------------------- the run


def results_of(run: Run, done: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """What `results.json` says, from the stages' records."""
    evaluation = done["evaluate"]
    return {
        "method": run.method,
        "use_case": run.job.name,
        "seed": run.seed,
        **evaluation["scores"],
        "seconds": sum(record["seconds"] for record in done.values()),
        "cpu_seconds": sum(record["cpu_seconds"] for record in done.values()),
        "peak_memory_gb": max(record["peak_memory_gb"] for record in done.values()),
        "stage_seconds": {name: record["seconds"] for name, record in done.items()},
        "corpus_examples": done["corpus"]["examples"],
        "share_with_unwanted": done["annotate"]["share_with_unwanted"],
    }


def run_all(run: Run) -> dict[str, Any]:
    """Does the whole job, or what of it is not done yet.

    Returns:
      The results, as in `results.json`.

    Raises:
      UserError: the folder was made with other settings, or the data are wrong.
    """
    from t5patches import report

    stages.claim(run.folder, run.settings())
    done = {}
    with stages.quiet():
        for number, stage in enumerate(STAGES, start=1):
            label = f"[{number}/{len(STAGES)}] {stage.what}"
            work = functools.partial(stage.work, run)
            done[stage.name] = stages.do(run.folder, stage.name, label, work)
        results = results_of(run, done)
        json_files.write_json(run.path("results.json"), results)
        examples = done["evaluate"]["examples_to_show"]
        table = report.write_report(
            run.folder,
            results,
            examples,
            settings=run.settings(),
        )
    print(f"\n{table}\n\nThe report is {run.path('report.html')}", flush=True)
    return results
