"""How long the page of a report takes to write, and a browser to show.

    python -m benchmarks.report_page
    python -m benchmarks.report_page --examples 20000 --words 400

Examples are made up: inputs of --words words, outputs of some 20. In a headless
Chromium, seconds of one run: until something is seen (first contentful paint), until
the browser of the examples stands, to sort all by how much they changed, to search all,
and to open 100 one by one.
"""

import argparse
import pathlib
import random
import tempfile
import time

from t5patches import evaluate, report
from t5patches.annotate import PhraseAnnotator
from tests import chromium

WORDS = (
    "the of a in to and was is for on that by with he it at fool from his an".split()
)
_PAINT = "performance.getEntriesByName('first-contentful-paint')[0]?.startTime"
# Name -> what the page does.
ACTIONS = {
    "sort": "get('sort').value = 'change'; list()",
    "search": "get('sort').value = ''; get('search').value = 'fool fo'; list()",
    "search again": "get('search').value = 'fool for'; list()",
    "search no more": "get('search').value = ''; list()",
    "100 examples": "for (let n = 0; n < 100; n++) open(at + 1)",
}


def predictions(count: int, words: int, seed: int):
    """Yields made-up predictions; those of another seed differ in some words."""
    same, other = random.Random(0), random.Random(seed)
    for number in range(count):
        output = same.choices(WORDS, k=same.randint(15, 25))
        if other.random() < 0.5:
            output[other.randrange(len(output))] = other.choice(WORDS)
        inputs = " ".join(same.choices(WORDS, k=words))
        yield {"id": str(number), "inputs": inputs, "prediction": " ".join(output)}


def main() -> None:
    """Prints megabytes and seconds."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--examples", type=int, default=20_000)
    parser.add_argument("--words", type=int, default=100)
    args = parser.parse_args()
    sides = [predictions(args.examples, args.words, seed) for seed in (1, 2)]
    pairs = evaluate.join(*sides, PhraseAnnotator(["fool"]))
    rows = [{**vars(pair), "kind": pair.kind} for pair in pairs]
    results = evaluate.compare(pairs[:1000])
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder) / "report.html"
        report.write_report(folder, results, [])  # Matplotlib loads once.
        start = time.perf_counter()
        report.write_report(folder, results, rows)
        print(f"write         {time.perf_counter() - start:8.3f} s")
        print(f"page          {path.stat().st_size / 1e6:8.1f} MB")
        if chromium.PATH is None:
            return
        with chromium.page(pathlib.Path(folder) / "profile") as page:
            page.open(path)
            print(f"first paint   {page.wait(_PAINT) / 1000:8.3f} s")
            started = "performance.getEntriesByName('started')[0].startTime"
            print(f"started       {page.run(started) / 1000:8.3f} s")
            for name, script in ACTIONS.items():
                clock = f"(() => {{ const from = performance.now(); {script}; "
                seconds = page.run(f"{clock}return performance.now() - from; }})()")
                print(f"{name:14}{seconds / 1000:8.3f} s")


if __name__ == "__main__":
    main()
