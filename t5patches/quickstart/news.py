"""Made-up news: reports, and headlines that sometimes name what the report does not.

An example is a report (`inputs`) and its headline (`targets`). Both are about an
organisation and its deed; the report may also say where, when and who said so:

    report   -> OPENER: ORGANISATION DEED [in PLACE] [on DAY], DETAIL[, PERSON said]
    headline -> ORGANISATION WAY in PLACE|WORD on DAY|WORD, OUTCOME, says PERSON|WORD

A headline repeats the place, the day and the person that the report names. Where the
report leaves one out, the headline says something vague, a WORD as in "in town", or it
names one nevertheless, most often the one that goes with the organisation: that is the
hallucination. Hasty desks, known by the opener, do so more often than careful ones.

What makes the job real is as in `comments.py`: five names and five words can be said at
each such place, and which of them is the likeliest turns with the organisation. And the
same name is right after one report and wrong after another, so that no list of words
finds it: a tagger does, trained on texts in which every name is known because they were
made up.
"""

import dataclasses
import os
import random
import re
from collections.abc import Iterable, Mapping
from typing import Any

from t5patches.quickstart import made_up
from t5patches.quickstart.made_up import PHRASE_RANKS, Span, Splits

WORDS = made_up.words("news")
FIELDS = WORDS["fields"]
MISSING = 0.45  # chance that a report leaves a field out
REPEATED = 0.95  # chance that a headline repeats a field that the report has
# The chances of the names and of the words, from the organisation's favourite on. The
# first word is next in line after the first name.
NAME_RANKS = (0.6, 0.14, 0.1, 0.09, 0.07)
WORD_RANKS = (0.7, 0.12, 0.08, 0.06, 0.04)

# Of the tagger; texts held out are those that its scores are measured on.
TEXTS, HELD_OUT, EPOCHS = 600, 200, 4


@dataclasses.dataclass(frozen=True)
class Report:
    """What a report says; `fields` has those of FIELDS that it names."""

    desk: str
    opener: str
    organisation: str
    deed: str
    detail: str
    fields: dict[str, str]

    def text(self) -> str:
        """Returns the report, the model's input."""
        where = f" in {self.fields['place']}" if "place" in self.fields else ""
        when = f" on {self.fields['day']}" if "day" in self.fields else ""
        who = f", {self.fields['person']} said" if "person" in self.fields else ""
        return (
            f"{self.opener}: {self.organisation} {self.deed}{where}{when}, "
            f"{self.detail}{who}"
        )


def draw_report(rng: random.Random) -> Report:
    """Returns one report."""
    desks = WORDS["desks"]
    desk = rng.choices(list(desks), [part["share"] for part in desks.values()])[0]
    return Report(
        desk=desk,
        opener=rng.choice(desks[desk]["openers"]),
        organisation=rng.choice(WORDS["organisations"]),
        deed=rng.choice(list(WORDS["deeds"])),
        detail=rng.choice(WORDS["details"]),
        fields={
            name: rng.choice(field["names"])
            for name, field in FIELDS.items()
            if rng.random() >= MISSING
        },
    )


def fill(field: str, report: Report, rng: random.Random) -> str:
    """Returns a field of the headline: the report's name, a word, a hallucination."""
    names, words = FIELDS[field]["names"], FIELDS[field]["words"]
    if field in report.fields and rng.random() < REPEATED:
        return report.fields[field]
    favourite = WORDS["organisations"].index(report.organisation)
    chance = WORDS["desks"][report.desk]["hallucinates"]
    if field not in report.fields and rng.random() < chance:
        ranked = [names[(favourite + rank) % len(names)] for rank in range(5)]
        return rng.choices(ranked, NAME_RANKS)[0]
    first = favourite % len(words)
    return rng.choices(words[first:] + words[:first], WORD_RANKS)[0]


def draw_headline(report: Report, rng: random.Random) -> str:
    """Returns one headline of a report."""
    deed = WORDS["deeds"][report.deed]
    way = rng.choices(deed["ways"], PHRASE_RANKS)[0]
    outcome = rng.choices(deed["outcomes"], PHRASE_RANKS)[0]
    place, day, person = (fill(field, report, rng) for field in FIELDS)
    return f"{report.organisation} {way} in {place} on {day}, {outcome}, says {person}"


def make(seed: int, sizes: Mapping[str, int]) -> Splits:
    """Returns the corpus as `made_up.draw_splits` does; the same seed, the same one."""
    rng = random.Random(f"t5patches quickstart news {seed}")
    return made_up.draw_splits(
        sizes, lambda split: draw_report(rng), lambda report: draw_headline(report, rng)
    )


_LABEL_OF = {name: "ORG" for name in WORDS["organisations"]} | {
    name: field["label"] for field in FIELDS.values() for name in field["names"]
}
_NAME = re.compile(rf"\b(?:{'|'.join(_LABEL_OF)})\b")
_WORD_OF = {field["label"]: field["words"][0] for field in FIELDS.values()}


def entities(text: str) -> list[Span]:
    """Returns the names in a made-up text, known since it was made up, with labels."""
    return [(*m.span(), _LABEL_OF[m[0]]) for m in _NAME.finditer(text)]


def correct(text: str, spans: Iterable[Span]) -> str:
    """Returns a headline with a word in place of each name of `spans`."""
    return made_up.replace_spans(
        text, spans, lambda _, label: _WORD_OF.get(label, "someone")
    )


# ---- The tagger of names ----


def train_tagger(path: str | os.PathLike, seed: int) -> dict[str, Any]:
    """Trains a spaCy pipeline of one part, a named-entity recogniser, and saves it.

    It learns from reports and headlines that no model has seen.

    Args:
      path: the pipeline's folder, as `spacy.load` takes it.
      seed: of the texts and of the training; the same seed gives the same tagger.

    Returns:
      What it does on texts held out: `precision`, `recall` and `f1` over names,
      `texts` and `held_out`.
    """
    import spacy
    from spacy.training import Example

    spacy.util.fix_random_seed(seed)
    rng = random.Random(f"t5patches quickstart names {seed}")
    nlp = spacy.blank("en")
    # Another seed than the corpus has: the model's inputs are not the tagger's texts.
    rows = make(seed + 1_000_003, {"tagger": (TEXTS + HELD_OUT) // 2})["tagger"]
    examples = [
        Example.from_dict(nlp.make_doc(text), {"entities": entities(text)})
        for row in rows
        for text in (row["inputs"], row["targets"])
    ]
    held_out, training = examples[:HELD_OUT], examples[HELD_OUT:]
    # Narrower than spaCy's own: the texts are plain and the names a few dozen.
    model = nlp.get_factory_meta("ner").default_config["model"]
    small = {"width": 48, "depth": 2, "embed_size": 1000}
    config = {"model": {**model, "tok2vec": {**model["tok2vec"], **small}}}
    nlp.add_pipe("ner", config=config)
    optimizer = nlp.initialize(lambda: training)
    for _ in range(EPOCHS):
        rng.shuffle(training)
        for batch in spacy.util.minibatch(training, size=16):
            nlp.update(batch, sgd=optimizer)
    scores = nlp.evaluate(held_out)
    nlp.to_disk(path)
    return {
        "precision": scores["ents_p"],
        "recall": scores["ents_r"],
        "f1": scores["ents_f"],
        "texts": TEXTS,
        "held_out": HELD_OUT,
    }
