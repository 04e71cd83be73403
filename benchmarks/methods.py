"""Every method at one point, on several seeds of a job of the quickstart's.

    python -m benchmarks.methods --output DIR --seeds 8 9 10
    python -m benchmarks.methods --output DIR --seeds 1 2 --data FILE --phrases FILE

The points are those that the validation inputs of seed 0 chose on the made-up comments
(docs/methods.md), so seeds but 0 are looked at once. Every seed has a corpus, a
fine-tuned model and a sweep of its own, which goes on where it was stopped. Writes the
table, of all seeds' test inputs together with 95 % intervals (a
bootstrap) and the least and the most of a seed.
"""

import argparse
import os
import statistics

import numpy as np

from t5patches.cli import starting
from t5patches.evaluate import intervals
from t5patches.quickstart import run_folder, sweep, use_cases
from t5patches.report import reading
from t5patches.sweep.plan import title

POINTS = {  # method -> alpha, learning rate
    "whole_sets": (0.25, 0.04),
    "tnff": (0.25, 0.001),
    "tnrr": (1.0, 0.001),
    "tnrf": (1.0, 0.001),
    "npo": (0.25, 0.001),
    "ftpo": (1.0, 0.001),
    "tnrll": (1.0, 0.001),
    "tnfll": (0.25, 0.001),
    "ul": (0.25, 0.001),
    "nl": (4.0, 0.001),
    "filtered": (None, 0.003),
    "filtered_original": (None, 0.0003),
    "corrective": (None, 0.003),
}


HEAD = (
    "method", "unwanted after", "by seed", "clean the same", "by seed", "BLEU",
    "ROUGE-L", "KL from the exact update", "total variation",
)  # fmt: skip


def points(method):
    """Returns what the plan's grid has for a method, or the control: one point."""
    alpha, learning_rate = POINTS.get(method, (None, 0.001))
    alphas = {} if alpha is None else {"alphas": [alpha]}
    return [{**alphas, "learning_rates": [learning_rate]}]


def pooled(results):
    """Returns method -> the columns of its test outputs, seed after seed.

    Args:
      results: folder of a seed -> its results.
    """
    found = {}
    for folder, of_seed in results.items():
        scores = {row["name"]: row["test"] for row in of_seed["points"]}
        paths = {n: os.path.join(folder, "points", n, "results.json") for n in scores}
        columns = reading.columns(paths, scores)
        for row in of_seed["points"]:
            found.setdefault(row["method"], []).append(columns[row["name"]])
    return {m: np.vstack(c) for m, c in found.items() if len(c) == len(results)}


def line(name, pairs, tests):
    """Returns a line of the table.

    Args:
      name: of the method.
      pairs: its columns of all seeds.
      tests: its scores, a seed each.
    """
    _, after, _, _, clean, _, bleu, rouge = intervals.measures(pairs.sum(axis=0))
    reach = intervals.intervals(pairs, None, seed=0)
    cells = [name]
    for value, path in (
        (after, ("prevalence", "after")),
        (clean, ("exact_match", "clean")),
    ):
        low, high = reach[path[0]][path[1]]
        seeds = [test[path[0]][path[1]] for test in tests]
        cells += [f"{value:.1%} ({100 * low:.1f}–{100 * high:.1f})"]
        cells += [f"{100 * min(seeds):.1f}–{100 * max(seeds):.1f}"]
    cells += [f"{bleu:.1f}", f"{rouge:.3f}"]
    for measure in ("kl_exact", "total_variation"):
        known = [test["distances"][measure] for test in tests]
        cells += [f"{statistics.mean(known):.2g}"]
    return cells


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", required=True)
    parser.add_argument("--seeds", type=int, nargs="+", required=True)
    parser.add_argument("--data")
    parser.add_argument("--phrases")
    args = parser.parse_args()
    starting.prepare()
    options = use_cases.find("comments", args.data).options
    results = {}
    for seed in args.seeds:
        folder = os.path.abspath(os.path.join(args.output, str(seed)))
        own = {"data": args.data, "phrases": args.phrases, **options}
        run = run_folder.Run(folder=folder, seed=seed, **own)
        results[folder] = sweep.run_all(run, [*POINTS], points=points)
    rows = [HEAD, ["---"] * len(HEAD)]
    for method, columns in pooled(results).items():
        every = (row for one in results.values() for row in one["points"])
        tests = [row["test"] for row in every if row["method"] == method]
        rows.append(line(title(method), columns, tests))
    print("\n".join(f"| {' | '.join(row)} |" for row in rows))


if __name__ == "__main__":
    main()
