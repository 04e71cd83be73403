"""Commands of the documents, typed as they stand there, at a size for a test.

The shell expands the commands, loops and all, to lists of words; they run in this
process, so that what is imported and compiled once serves them all.
"""

import json
import pathlib
import re
import subprocess

from small_vocabulary import small_vocabulary

from t5patches import cli
from t5patches.tasks import references

ROOT = pathlib.Path(__file__).resolve().parents[1]
# A model and runs that take seconds, for every experiment. Dropout's random numbers are
# most of what a small model's step is compiled for; other tests have it. What such a
# model says need not have anything unwanted.
SMALL = """
from __gin__ import dynamic_registration
from t5patches import tasks
tasks.annotated_task.allow_nothing_unwanted = True
include 'experiments/small.gin'
VOCABULARY_SIZE = 384
TASK_FEATURE_LENGTHS = {'inputs': 24, 'targets': 12}
BATCH_SIZE = 8
TRAIN_STEPS_RELATIVE = 2
SAVE_PERIOD = 2
EVAL_PERIOD = 2
EVAL_STEPS = 1
DROPOUT_RATE = 0.0
EMB_DIM = 16
NUM_HEADS = 2
HEAD_DIM = 8
NUM_LAYERS = 1
MLP_DIM = 16
"""
WORDS = "hello stupid world you fool the day we talk about weather news".split()


def text(i, count):
    """A text of some of the vocabulary's words."""
    return " ".join(WORDS[(i * 5 + j * j) % len(WORDS)] for j in range(count))


def write_vocabulary(folder):
    model = pathlib.Path(small_vocabulary().sentencepiece_model_file).read_bytes()
    (folder / "sentencepiece.model").write_bytes(model)


def blocks(name, language=""):
    """The code blocks of a document that are of a language, or of none."""
    content = (ROOT / name).read_text()
    found = re.findall(r"^```(\w*)\n(.*?)^```$", content, re.M | re.S)
    return [block for kind, block in found if kind == language]


def words(commands, folder):
    """What the shell makes of commands: a list of words for each."""
    record = folder / "commands"
    shell = f"""
    log () {{ printf '%s\\037' "$@" >> {record}; printf '\\036' >> {record}; }}
    t5patches() {{ log t5patches "$@"; }}
    python() {{ log python "$@"; }}
    seqio_cache_tasks() {{ log seqio_cache_tasks "$@"; }}
    set -e
    {commands}"""
    subprocess.run(["bash", "-c", shell], check=True)
    typed = record.read_text().split("\x1e")[:-1]
    return [words.split("\x1f")[:-1] for words in typed]


def run(typed):
    """Runs commands, each a list of words."""
    for command, *arguments in typed:
        if command == "t5patches":
            assert cli.main(arguments) == 0, arguments
        else:
            assert arguments[:2] == ["-m", "t5patches.tasks.references"]
            assert references.main(arguments[2:]) == 0, arguments


def check_outputs(folder, examples):
    """Looks at what the last commands of a job have written."""
    results = json.loads((folder / "results.json").read_text())
    assert results["examples"] == examples
    assert (folder / "report.html").stat().st_size > 1000
    return results


def check_results(folder, examples, frozen):
    """Looks at that, and at what the update has taken for its original."""
    results = check_outputs(folder, examples)
    recorded = json.loads((folder / "updated" / "frozen.json").read_text())
    assert recorded["checkpoint"] == str(folder / "finetuned" / f"checkpoint_{frozen}")
    return results
