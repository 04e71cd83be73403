"""An update of someone's own model, stage by stage, in one folder.

    PATCHED/run/settings.json      what it was asked for; other settings are refused
    PATCHED/run/STAGE.done.json    a stage that is done: its seconds and its findings
    PATCHED/run/model/             the model in T5X's form, if it came in another
    PATCHED/run/inputs/            SPLIT.jsonl: the texts, by a hash
    PATCHED/run/marked/            SPLIT.jsonl: the marks of --annotated
    PATCHED/run/before/SPLIT/      the model's generations, and annotated/SPLIT/
    PATCHED/run/exact/SPLIT/       without the phrases, and annotated_exact/SPLIT/
    PATCHED/run/alternatives/SPLIT/  what it nearly said, and annotated_alternatives/
    PATCHED/run/search/            the updates of --search; search.json is their plan
    PATCHED/run/updated/           the training run
    PATCHED/run/after/test/        the updated model's generations
    PATCHED/run/*.gin              of each run of T5X's scripts all that it is given
    PATCHED/run/commands.txt       the commands that do the same by hand
    PATCHED/results.json, report.html, …, README.md, and the model, which comes last

Every training and generation is a gin file that includes those of the package, run as
the commands run it.
"""

from __future__ import annotations

import functools
import itertools
import os
import shlex
import shutil
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from t5patches.annotate import Annotator, annotate_files
from t5patches.annotate.spans import SpanAnnotator
from t5patches.checkpoints import finding
from t5patches.errors import UserError
from t5patches.interchange import claims, json_files, records, results_files, shards
from t5patches.patch import asked, card, commands, duration, model, search
from t5patches.patch import inputs as texts
from t5patches.patch.asked import Patch
from t5patches.run import scripts
from t5patches.run.stages import Record, do_stage, quiet, total_costs
from t5patches.sweep import plan
from t5patches.sweep.plan import Command

TRAINING = ("train", "validation")
_SIDES = ("before", "after")


class _Job:
    """The stages of a patch, and the commands that would do them."""

    def __init__(self, patch: Patch, rows: texts.Rows):
        self.patch = patch
        self.rows = rows
        self.commands: list[str] = []  # Of the stage that is at work.
        self.done: dict[str, Record] = {}
        self.stages: dict[str, tuple[str, Callable[[], Record]]] = {
            "inputs": ("split the texts", self.write_inputs),
            "model": ("read the model", self.read_model),
            "before": ("generate with it", self.before),
            "annotate": ("mark what is unwanted", self.annotate),
            "exact": ("generate with it without the phrases", self.exact),
            "alternatives": ("try what it would say instead", self.alternatives),
            "search": ("try learning rates and alphas", self.search),
            "update": ("update the model", self.update),
            "after": ("generate again", self.after),
            "evaluate": ("compare", self.evaluate),
            "finish": ("write the model", self.finish),
        }
        if patch.annotated:
            del self.stages["before"]
        if not (patch.phrases and patch.whole):
            del self.stages["exact"]
        if patch.annotated or patch.whole:
            del self.stages["alternatives"]
        if not patch.search:
            del self.stages["search"]

    def do(self, name: str) -> Record:
        """Does a stage, or reads the record of one that is done."""
        what, method = self.stages[name]
        number = [*self.stages].index(name) + 1
        label = f"[{number}/{len(self.stages)}] {what}"
        record = do_stage(
            self.patch.path(name), label, functools.partial(self._at, method)
        )
        self.done[name] = record
        return record

    def _at(self, method: Callable[[], Record]) -> Record:
        self.commands = []
        return {**method(), "commands": self.commands}

    def all_commands(self) -> list[str]:
        """Returns the commands of the stages that are done, and of the one at work."""
        return [
            *itertools.chain(*(r["commands"] for r in self.done.values())),
            *self.commands,
        ]

    # ------------------------------------------------------------------- the stages

    def write_inputs(self) -> Record:
        """Writes the texts by split; of marked outputs what was said and the marks."""
        patch = self.patch
        for split, rows in self.rows.items():
            pairs = ({"id": row["id"], "inputs": row["inputs"]} for row in rows)
            json_files.write_jsonl(patch.path("inputs", f"{split}.jsonl"), pairs)
            if patch.annotated:
                left_out = {"annotations", "target_annotations"}
                said = (
                    {k: v for k, v in row.items() if k not in left_out} for row in rows
                )
                path = shards.shard_path(patch.predictions("before", split), 0, 1)
                json_files.write_jsonl(path, said)
                spans = ({"id": r["id"], "spans": r["annotations"]} for r in rows)
                json_files.write_jsonl(patch.path("marked", f"{split}.jsonl"), spans)
        return {"examples": {split: len(rows) for split, rows in self.rows.items()}}

    def read_model(self) -> Record:
        """Finds or makes the checkpoint, and measures the texts."""
        patch = self.patch
        folder = patch.path("model")
        found = model.prepare(patch.model, folder, patch.vocabulary)
        if model.form_of(patch.model) == "hf":
            self._typed("convert", "hf-to-t5x", os.path.abspath(patch.model), folder)
        vocabulary = commands.vocabulary(found.gin_file)
        pieces = getattr(vocabulary, "sentencepiece_model_file", "bytes")
        every = itertools.chain(*self.rows.values())
        longest = commands.longest(vocabulary, (row["inputs"] for row in every))
        rows = model.check_partitions(found.checkpoint, patch.partitions).vocab_size
        return {
            **found._asdict(),
            "parameters": model.size(found.checkpoint),
            "rows": rows,
            "vocabulary": pieces,
            "extra_ids": vocabulary.extra_ids,
            "longest_inputs": longest,
            "inputs_length": commands.padded(longest),
        }

    def generate(self, when: str, splits: Iterable[str], **macros: Any) -> Record:
        """Generates for splits; returns how many outputs there are."""
        counts = {}
        for split in splits:
            output = self.patch.predictions(when, split)
            given = {"INFER_OUTPUT_DIR": os.path.dirname(output), "SPLIT": split}
            command = self._generating().plus(**given, **macros)
            self._run("infer", f"{when}_{split}", command)
            counts[split] = sum(1 for _ in records.read_predictions(output))
        return {"generations": counts}

    def before(self) -> Record:
        """Generates with the model as it is."""
        return self.generate("before", texts.SPLITS, **self._original())

    def annotate(self) -> Record:
        """Marks what is unwanted, for training."""
        patch = self.patch
        stats = {split: self._annotate("before", split) for split in TRAINING}
        shares = {split: found["share_with_unwanted"] for split, found in stats.items()}
        if not shares["train"]:
            raise UserError(
                "nothing unwanted is in what the model says: there is nothing to "
                f"update. Its outputs are in {patch.path('before')}"
            )
        return {"share_with_unwanted": shares}

    def exact(self) -> Record:
        """Generates without the phrases: for the test texts, and to be trained on.

        It is what would be said in the place of what is unwanted, which no output of
        the model shows.
        """
        patch = self.patch
        assert patch.phrases is not None  # Else there is no such stage.
        end = getattr(patch.annotator, "settings", {}).get("word_end", "piece")
        forbid = {"FORBID": os.path.abspath(patch.phrases), "WORD_END": end}
        forbid |= self._original()
        for split in TRAINING:
            said = records.read_annotated(f"{self._marked(split)}/annotated")
            rows = (row for row in said if row["annotations"])
            texts_of = ({"id": row["id"], "inputs": row["inputs"]} for row in rows)
            path = patch.path("exact", f"{split}_inputs.jsonl")
            if json_files.write_jsonl(path, texts_of):
                self.generate("exact", [split], **forbid, FILES={split: path})
                self._annotate("exact", split)
        return self.generate("exact", ["test"], **forbid)

    def alternatives(self) -> Record:
        """Marks what the model nearly said in place of what is unwanted, too."""
        found = {}
        for split in TRAINING:
            output = self.patch.path("alternatives", split)
            command = self._model.plus(
                ["runs/alternatives.gin"],
                FILES={split: f"{self._marked(split)}/annotated"},
                INFER_OUTPUT_DIR=output,
                SPLIT=split,
                **self._original(),
            )
            self._run("infer", f"alternatives_{split}", command)
            tried = os.path.join(output, "alternatives-predict_with_aux")
            stats = self._annotate("before", split, tried)
            names = ("alternatives_tried", "unwanted_alternatives")
            found[split] = {name: stats[name] for name in names}
        return found

    def search(self) -> Record:
        """Tries learning rates and alphas; the best is the update's."""
        patch = self.patch
        steps = max(1, int(search.SHARE * patch.steps))
        # A point that is stopped starts again: one checkpoint, of the end, is enough.
        update = self._updating(steps, None).plus(EVAL_PERIOD=steps, SAVE_PERIOD=steps)
        path = search.write(patch, update, self._generating())
        if patch.annotator is not None:
            self._typed("sweep", path, "--output", patch.path("search"))
        print(flush=True)  # The points have lines of their own.
        return {"steps": steps, **search.run(patch, path, self._judge(*plan.SPLITS))}

    def update(self) -> Record:
        """Trains; returns the checkpoint with the lowest validation loss."""
        settings, folder = self._settings(), self.patch.path("updated")
        own = commands.settings(settings["alpha"], settings["learning_rate"])
        command = self._updating(self.patch.steps, self.patch.method)
        command = command.plus(MODEL_DIR=folder, **own)
        self._run("train", "update", command)
        best = finding.choose_checkpoint(folder, "best")
        # It may be larger than everything else.
        shutil.rmtree(self.patch.path("frozen_states"), ignore_errors=True)
        return {"checkpoint": best, "step": finding.step_of(best)}

    def after(self) -> Record:
        """Generates with the updated model."""
        updated = self.done["update"]["checkpoint"]
        return self.generate("after", ["test"], CHECKPOINT_PATH=updated)

    def evaluate(self) -> Record:
        """Compares on the test inputs; writes the results and the report."""
        from t5patches import evaluate, report

        patch = self.patch
        before, after = said = [patch.predictions(when) for when in _SIDES]
        exact = patch.predictions("exact") if "exact" in self.done else None
        found, examples = evaluate.evaluate_files(
            before, after, self._judge("test"), exact_update=exact
        )
        if patch.annotator is not None:
            self._type_evaluation(said, exact)
        output = os.path.join(patch.output, "results.json")
        table = report.terminal_table(found)
        results = {
            "method": patch.method,
            "seed": patch.seed,
            **found,
            "model": os.path.join("run", "updated"),
            **total_costs([*self.done.values()]),
            "stage_seconds": {n: record["seconds"] for n, record in self.done.items()},
            "share_with_unwanted": self.done["annotate"]["share_with_unwanted"],
            "commands": self.all_commands(),
        }
        if "search" in self.done:
            names = ("chosen", "rule", "steps", "points")
            results["search"] = {name: self.done["search"][name] for name in names}
        results_files.write(output, results, examples)
        report.write_report(patch.output, results, [*examples], self._settings())
        return {"table": table}

    def finish(self) -> Record:
        """Writes the model, with its card."""
        patch, found = self.patch, self.done["model"]
        with shards.atomic_write(patch.path("commands.txt")) as file:
            file.writelines(f"{line}\n" for line in self.all_commands())
        results = json_files.read_json(os.path.join(patch.output, "results.json"))
        section = card.section(results, self._settings(), self.done)
        model.export(
            patch.to or model.form_of(patch.model),
            self.done["update"]["checkpoint"],
            model.Model(found["checkpoint"], found["gin_file"]),
            patch.output,
            records.load_vocabulary(found["vocabulary"], found["extra_ids"]),
            section,
        )
        return {}

    # ---------------------------------------------------------------- what they share

    def _settings(self) -> dict[str, Any]:
        """Returns the settings, with those that a search chose."""
        settings, found = self.patch.settings(), self.done.get("search")
        if found is None:
            return settings
        tried = search.told(found["points"], found["steps"])
        return settings | found["chosen"] | {"learning rates tried": tried}

    def _original(self) -> dict[str, str]:
        return {"CHECKPOINT_PATH": self.done["model"]["checkpoint"]}

    @property
    def _model(self) -> Command:
        found, patch = self.done["model"], self.patch
        sizes = patch.targets_length, patch.batch_size, patch.partitions
        return commands.model(found["gin_file"], found["longest_inputs"], *sizes)

    def _judge(self, *splits: str) -> Annotator:
        """Returns what finds the unwanted in outputs for the texts of splits."""
        rows = itertools.chain(*(self.rows[split] for split in splits))
        return self.patch.annotator or texts.MarkedBefore(rows)

    def _generating(self) -> Command:
        files = {s: self.patch.path("inputs", f"{s}.jsonl") for s in self.rows}
        return commands.generate(self._model, files)

    def _updating(self, steps: int, method: str | None) -> Command:
        patch = self.patch
        first = "alternatives" if "alternatives" in self.done else "before"
        folders = {
            split: [self._marked(split, when) for when in (first, "exact")]
            for split in TRAINING
        }
        files = {
            split: [f"{folder}/annotated" for folder in some if os.path.isdir(folder)]
            for split, some in folders.items()
        }
        count = self.done["inputs"]["examples"]["validation"]
        command = commands.update(
            self._model, method, patch.whole, files, count, steps, patch.seed
        )
        return command.plus(
            INITIAL_CHECKPOINT_PATH=self.done["model"]["checkpoint"],
            FROZEN_CACHE=self.patch.path("frozen_states"),
        )

    def _run(self, script: str, name: str, command: Command) -> None:
        """Runs one of T5X's scripts with a gin file that has everything in it."""
        path = self.patch.path(f"{name}.gin")
        command.write(path)
        self._typed(script, f"--gin_file={path}")
        scripts.run(script, [f"--gin_file={path}"], description=name.replace("_", " "))

    def _marked(self, split: str, when: str = "before") -> str:
        folder = "annotated" if when == "before" else f"annotated_{when}"
        return self.patch.path(folder, split)

    def _annotate(
        self, when: str, split: str, alternatives: str | None = None
    ) -> dict[str, Any]:
        """Marks what is unwanted in generations; returns the statistics."""
        patch, found = self.patch, self.done["model"]
        words, annotator = shlex.split(patch.words), patch.annotator
        if patch.annotated:
            marks = patch.path("marked", f"{split}.jsonl")
            words, annotator = ["spans", "--spans", marks], SpanAnnotator(marks)
        assert annotator is not None
        self._type_annotate(words, when, split, alternatives)
        vocabulary = records.load_vocabulary(found["vocabulary"], found["extra_ids"])
        said = patch.predictions(when, split)
        folder = self._marked(split, "alternatives" if alternatives else when)
        # It warns of texts without anything unwanted, which are meant.
        with quiet("error"):
            return annotate_files(
                said, annotator, folder, vocabulary, alternatives=alternatives
            )

    def _type_annotate(
        self,
        words: Sequence[str],
        when: str,
        split: str,
        alternatives: str | None = None,
    ) -> None:
        found, more = self.done["model"], []
        if alternatives:
            more = ["--alternatives", alternatives]
        folder = self._marked(split, "alternatives" if alternatives else when)
        self._typed(
            *("annotate", *words, "--predictions", self.patch.predictions(when, split)),
            *("--output", folder, "--vocabulary", found["vocabulary"]),
            *("--extra-ids", str(found["extra_ids"]), *more),
        )

    def _type_evaluation(self, said: Sequence[str], exact: str | None) -> None:
        """Notes how to judge by hand; but by phrases of annotated outputs."""
        patch, more = self.patch, []
        if patch.phrases:
            more += ["--phrases", patch.phrases]
        else:
            for when in _SIDES:
                self._type_annotate(shlex.split(patch.words), when, "test")
            folders = (self._marked("test", when) for when in _SIDES)
            said = [os.path.join(folder, "annotated") for folder in folders]
        if exact:
            more += ["--exact-update", exact]
        more += ["--output", patch.path("results.json")]
        self._typed("evaluate", "--old", said[0], "--new", said[1], *more)

    def _typed(self, *words: str) -> None:
        self.commands.append(shlex.join(["t5patches", *words]))


def run(patch: Patch) -> None:
    """Does all of a patch, or what of it is not done yet.

    Raises:
      UserError: the model or the texts are not what they should be, nothing unwanted is
        said, or the folder is another patch's.
    """
    rows = asked.check(patch)
    with claims.lock(patch.path("patch")), quiet():
        claims.claim(patch.path(), patch.settings(), results=("*.done.json",))
        job = _Job(patch, rows)
        for name in job.stages:
            job.do(name)
            if name == "model":
                minutes = duration.minutes(patch, job.done, duration.speed())
                print(asked.introduction(patch, job.done, minutes), flush=True)
        table = job.done["evaluate"]["table"]
    page = os.path.join(patch.output, "report.html")
    print(
        f"\n{table}\n\nThe model is in {patch.output}, the report is {page}", flush=True
    )
