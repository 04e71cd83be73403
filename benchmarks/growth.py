"""What annotating, comparing and reporting cost as the predictions grow in number.

    python -m benchmarks.growth --sizes 10000 100000 1000000 --report-up-to 100000

The commands as they are typed, each a process of its own, on made-up predictions with
inputs of 20 to 40 words and outputs of 15 to 25, of which a third have one of 100
phrases; the new outputs are the old without it. Prints processor seconds, the most
memory that the process had, and by what power of the number both grow.
"""

import argparse
import json
import math
import pathlib
import re
import resource
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from typing import Any

from benchmarks import annotate
from t5patches.interchange import json_files, records

# By their ranks among the words a third of the outputs has one.
PHRASES = [annotate.made_up_word(rank) for rank in range(800, 900)]


def predictions(folder: pathlib.Path, count: int, new: bool) -> Iterator[dict]:
    """Yields made-up predictions, before or after an update."""
    vocabulary = records.load_vocabulary(folder / "vocabulary.model")
    phrases = {*PHRASES}
    examples = annotate.made_up_examples(count, words_of_input=(20, 40))
    for number, (text, inputs) in enumerate(examples):
        if new:
            text = " ".join(
                w for w in text.split() if w.strip(".").lower() not in phrases
            )
        ids = records.encode(vocabulary, text)
        row = {"id": str(number), "inputs": inputs, "prediction": text}
        yield {**row, "target_tokens": ids}


def commands(folder: pathlib.Path) -> dict[str, list[str]]:
    """Returns name -> what is typed."""
    phrases = ["--phrases", f"{folder}/phrases.txt"]
    vocabulary = ["--vocabulary", f"{folder}/vocabulary.model"]
    old, new = f"{folder}/old.jsonl", f"{folder}/new.jsonl"
    results = f"{folder}/results.json"
    return {
        "annotate": ["annotate", "phrases", *phrases, *vocabulary]
        + ["--predictions", old, "--output", f"{folder}/annotated"],
        "evaluate": ["evaluate", *phrases, "--old", old, "--new", new]
        + ["--output", results],
        "report": ["report", "--results", results, "--output", f"{folder}/report"],
    }


# What wait4 says of memory counts the process that started this one.
_COMMAND = """
import atexit, pathlib, runpy, sys
status = pathlib.Path("/proc/self/status")
atexit.register(lambda: print(status.read_text(), file=sys.__stderr__))
runpy.run_module("t5patches", run_name="__main__")
"""


def measure(arguments: list[str]) -> tuple[float, float]:
    """Runs a command; returns its processor seconds and its most memory in MB."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run(
        [sys.executable, "-c", _COMMAND, *arguments], capture_output=True, text=True
    )
    if done.returncode:
        raise SystemExit(f"{' '.join(arguments)}: {done.stderr}")
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    seconds = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    memory = re.findall(r"VmHWM:\s+(\d+) kB", done.stderr)[-1]
    return seconds, int(memory) / 1024


def main() -> None:
    """Prints a line for each command and size."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument(
        "--sizes", type=int, nargs="+", default=[1_000, 10_000, 100_000]
    )
    parser.add_argument("--report-up-to", type=int, default=100_000)
    args = parser.parse_args()
    before: dict[str, dict[str, Any]] = {}
    for size in args.sizes:
        with tempfile.TemporaryDirectory() as name:
            folder = pathlib.Path(name)
            annotate.made_up_vocabulary(folder, [*annotate.made_up_examples(1000)])
            (folder / "phrases.txt").write_text("\n".join(PHRASES))
            for new in (False, True):
                path = folder / f"{'new' if new else 'old'}.jsonl"
                json_files.write_jsonl(path, predictions(folder, size, new))
            for command, arguments in commands(folder).items():
                if command == "report" and size > args.report_up_to:
                    continue
                seconds, memory = measure(arguments)
                line = {"size": size, "seconds": round(seconds, 1), "MB": round(memory)}
                if last := before.get(command):
                    # The start of the command, which all have, counts with the rest.
                    grown = math.log(size / last["size"])
                    for what in ("seconds", "MB"):
                        power = math.log(line[what] / last[what]) / grown
                        line[f"power of {what}"] = round(power, 2)
                before[command] = line
                print(json.dumps({"command": command, **line}), flush=True)


if __name__ == "__main__":
    main()
