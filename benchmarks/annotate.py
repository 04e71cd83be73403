"""Annotated examples a second and core, for each annotator.

    python -m benchmarks.annotate
    python -m benchmarks.annotate --examples 20000 --pipeline en_core_web_sm

Predictions are made up in XSUM's shape: inputs of some 400 words, outputs of some 20, a
SentencePiece vocabulary of 4,000 pieces. `annotator` is the annotator alone; `job` is
what `t5patches annotate` does, from reading JSON lines to TFRecords and statistics.
Processor time is counted, so that a busy machine changes little. Without --pipeline the
entities are those of a network of spaCy's standard shape, trained for a moment on the
made-up names (a downloaded en_core_web_sm is of the same shape, and so is the tagger of
`annotate toxicity`).
"""

import argparse
import json
import pathlib
import random
import re
import tempfile
import time
from collections.abc import Callable, Iterator
from typing import Any

import spacy
from spacy.training import Example

from t5patches.annotate import annotate_files, annotate_texts, entities
from t5patches.annotate.phrases import PhraseAnnotator
from t5patches.interchange import json_files, records
from t5patches.quickstart import vocabulary as pieces

CHUNK = 256
SYLLABLES = "ba do ri ne tu la so mi ke va no pe li ra ti go fe su da mo".split()


def made_up_word(number: int) -> str:
    """Returns a word of two or three syllables; the same for the same number."""
    parts = [number % 20, number // 20 % 20, *([number // 400] if number > 399 else [])]
    return "".join(SYLLABLES[part % 20] for part in parts)


def made_up_examples(
    count: int, seed: int = 0, words_of_input: tuple[int, int] = (300, 500)
) -> Iterator[tuple[str, str]]:
    """Yields (text, input): words by Zipf's law, a name in twenty, some numbers."""
    generator = random.Random(seed)
    words = [made_up_word(number) for number in range(4000)]
    weights = [1 / (rank + 10) for rank in range(len(words))]

    def text(length: int) -> str:
        drawn = generator.choices(words, weights, k=length)
        for place in range(length):
            if generator.random() < 0.05:
                drawn[place] = drawn[place].title()
            elif generator.random() < 0.02:
                drawn[place] = str(generator.randint(1, 3000))
        return f"{' '.join(drawn)}."

    for _ in range(count):
        yield text(generator.randint(15, 25)), text(generator.randint(*words_of_input))


def made_up_vocabulary(folder: pathlib.Path, examples: list[tuple[str, str]]) -> Any:
    """Returns a SentencePiece vocabulary trained on the inputs."""
    path = folder / "vocabulary.model"
    pieces.train((inputs for _, inputs in examples[:1000]), path, 4000)
    return records.load_vocabulary(path)


def name_pipeline(examples: list[tuple[str, str]]) -> spacy.Language:
    """Returns spaCy's standard NER network, trained to find words with a capital."""
    nlp = spacy.blank("en")
    nlp.add_pipe("ner").add_label("NAME")
    trained = []
    for text, _ in examples[:300]:
        doc = nlp.make_doc(text)
        names = [(m.start(), m.end(), "NAME") for m in re.finditer("[A-Z][a-z]+", text)]
        trained.append(Example.from_dict(doc, {"entities": names}))
    optimizer = nlp.initialize(lambda: trained)
    for start in range(0, 10 * len(trained), 30):
        first = start % len(trained)
        nlp.update(trained[first : first + 30], sgd=optimizer)
    return nlp


def shouting(text: str, inputs: str) -> list[tuple[int, int, str]]:
    """A user's annotator: one regular expression."""
    del inputs
    return [(*match.span(), "number") for match in re.finditer(r"\d+", text)]


def per_second(run: Callable[[], Any], count: int) -> float:
    """Returns how many of `count` examples `run` does in a second of one core."""
    start = time.process_time()
    run()
    return count / (time.process_time() - start)


def main() -> None:
    """Prints a line of JSON for each annotator."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--examples", type=int, default=5000)
    parser.add_argument("--phrases", type=int, default=1000)
    parser.add_argument("--pipeline", help="spaCy's, by name or folder")
    args = parser.parse_args()
    examples = list(made_up_examples(args.examples))
    annotators = {
        "phrases": PhraseAnnotator(
            [made_up_word(2 * number) for number in range(args.phrases)]
        ),
        "custom": shouting,
        "entities": entities.EntityAnnotator(args.pipeline or name_pipeline(examples)),
    }
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        vocabulary = made_up_vocabulary(folder, examples)
        rows = (
            {
                "inputs": inputs,
                "prediction": text,
                "target_tokens": records.encode(vocabulary, text),
                "id": str(number),
            }
            for number, (text, inputs) in enumerate(examples)
        )
        json_files.write_jsonl(folder / "predictions.jsonl", rows)
        for name, annotator in annotators.items():
            measure(name, annotator, examples, folder, vocabulary)


def measure(
    name: str,
    annotator: Any,
    examples: list[tuple[str, str]],
    folder: pathlib.Path,
    vocabulary: Any,
) -> None:
    """Prints the speed of one annotator, alone and as a job."""
    annotate_texts(annotator, examples[:CHUNK])  # What happens only once.

    def alone() -> None:
        for start in range(0, len(examples), CHUNK):
            annotate_texts(annotator, examples[start : start + CHUNK])

    stats: dict[str, Any] = {}

    def job() -> None:
        predictions = folder / "predictions.jsonl"
        stats.update(
            annotate_files(
                predictions, annotator, folder / name, vocabulary, settings={}
            )
        )

    result = {
        "annotator": name,
        "annotator_per_second": round(per_second(alone, len(examples))),
        "job_per_second": round(per_second(job, len(examples))),
        "share_with_unwanted": round(stats["share_with_unwanted"], 3),
    }
    rate = result["job_per_second"]
    result["minutes_for_200000_on_one_core"] = round(200_000 / rate / 60, 1)
    print(json.dumps(result), flush=True)


if __name__ == "__main__":
    main()
