"""Made-up news: reports, and headlines that sometimes name what the report does not.

An example is a report (`inputs`) and its headline (`targets`). Both are about an
organisation and its deed; the report may also say where, when and who said so:

    report   -> OPENER: ORGANISATION DEED [in PLACE] [on DAY], DETAIL[, PERSON said]
    headline -> ORGANISATION WAY in PLACE|WORD on DAY|WORD, OUTCOME, says PERSON|WORD

A headline repeats the place, the day and the person that the report names. Where the
report leaves one out, the headline says something vague, a WORD as in "in town", or it
names one nevertheless, most often the one that goes with the organisation: that is the
hallucination. Hasty desks, known by the opener, do so more often than careful ones.

What makes the job real is as in `corpus.py`: five names and five words can be said at
each such place, which of them is the likeliest turns with the organisation, and
and the same name is right after one
report and wrong after another, so that no list of words finds it.
"""

import dataclasses
import random
import re
from collections.abc import Iterable

from t5patches.quickstart import corpus

# desk: (share of the reports, chance to name what the report leaves out, openers)
DESKS = {
    "hasty": (0.5, 0.6, ("breaking", "just in", "flash", "live")),
    "careful": (0.5, 0.15, ("analysis", "review", "background", "in depth")),
}

ORGANISATIONS = (
    "Northrail", "Solvex", "Medira", "Transway", "Agrimont", "Finbanc",
    "Lumenco", "Portline", "Steelcor", "Veridian", "Windara", "Zentra",
)  # fmt: skip
PLACES = (
    "Aldery", "Brenford", "Calder", "Dunmore", "Elmstead", "Farrow", "Glenby",
    "Harlow", "Ingleby", "Jarrow", "Kelso", "Lorne", "Marlow", "Norwick", "Oakham",
)  # fmt: skip
PEOPLE = (
    "Adler", "Becker", "Chen", "Dalton", "Ekberg", "Fischer", "Gupta", "Hassan",
    "Ivanov", "Jensen", "Lindgren", "Moreau", "Novak", "Okafor", "Rossi",
)  # fmt: skip
DAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")

# field: (spaCy's label, its names, what a headline says that names none)
FIELDS = {
    "place": ("GPE", PLACES, ("town", "private", "public", "stages", "haste")),
    "day": ("DATE", DAYS, ("schedule", "time", "request", "paper", "trial")),
    "person": (
        "PERSON",
        PEOPLE,
        ("staff", "management", "unions", "rivals", "lawyers"),
    ),
}
LABELS = ("ORG", *(label for label, _, _ in FIELDS.values()))
MISSING = 0.45  # chance that a report leaves a field out
REPEATED = 0.95  # chance that a headline repeats a field that the report has
# The chances of the names and of the words, from the organisation's favourite on. The
# first word is next in line after the first name.
NAME_RANKS = (0.6, 0.14, 0.1, 0.09, 0.07)
WORD_RANKS = (0.7, 0.12, 0.08, 0.06, 0.04)

# deed: three ways to say it in a headline, three outcomes; the first the likeliest
DEEDS = {
    "has opened a clinic": (
        ("opens a clinic", "has a new clinic", "cuts a ribbon"),
        ("doctors are pleased", "queues get shorter", "nurses are still missing"),
    ),
    "has closed a factory": (
        ("closes a factory", "sends workers home", "shuts the gates"),
        ("hundreds lose their jobs", "the machines are sold", "the town worries"),
    ),
    "has raised its prices": (
        ("raises prices", "wants more money", "charges a third more"),
        ("customers complain", "others may follow", "shares go up"),
    ),
    "has bought a newspaper": (
        ("buys a newspaper", "takes over a newspaper", "owns the press now"),
        ("editors resign", "readers are puzzled", "nobody knows the price"),
    ),
    "has recalled its cars": (
        ("recalls cars", "calls its cars back", "repairs faulty cars"),
        ("the brakes are to blame", "drivers have to wait", "nobody was hurt"),
    ),
    "has won a contract": (
        ("wins a contract", "beats all rivals", "signs a big deal"),
        ("the work begins soon", "details stay secret", "two hundred are hired"),
    ),
    "has sued a partner": (
        ("sues a partner", "goes to court", "asks for damages"),
        ("millions are at stake", "a judge will decide", "the quarrel is old"),
    ),
    "has tested a train": (
        ("tests a train", "tries a new train", "sets a speed record"),
        ("it runs without a driver", "the track held", "tickets stay cheap"),
    ),
    "has planted a forest": (
        ("plants a forest", "plants trees", "turns fields green"),
        ("birds come back", "farmers want the land", "schools lend a hand"),
    ),
    "has lost some files": (
        ("loses files", "admits a leak", "cannot find its files"),
        ("customers were warned", "the police are asking", "copies exist"),
    ),
    "has built a bridge": (
        ("builds a bridge", "finishes a bridge", "spans the river"),
        ("the ferry stops", "tolls pay for it", "trucks must wait"),
    ),
    "has hired a choir": (
        ("hires a choir", "sings at work", "pays for songs"),
        ("the staff may join", "neighbours close windows", "a concert follows"),
    ),
}
DETAILS = (
    "after months of talks",
    "as had been expected",
    "to the surprise of many",
    "with little ceremony",
    "without much debate",
    "against some advice",
)


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
        """The report, the model's input."""
        where = f" in {self.fields['place']}" if "place" in self.fields else ""
        when = f" on {self.fields['day']}" if "day" in self.fields else ""
        who = f", {self.fields['person']} said" if "person" in self.fields else ""
        return (
            f"{self.opener}: {self.organisation} {self.deed}{where}{when}, "
            f"{self.detail}{who}"
        )


def draw_report(rng: random.Random) -> Report:
    """One report."""
    desk = rng.choices(list(DESKS), [share for share, _, _ in DESKS.values()])[0]
    return Report(
        desk=desk,
        opener=rng.choice(DESKS[desk][2]),
        organisation=rng.choice(ORGANISATIONS),
        deed=rng.choice(list(DEEDS)),
        detail=rng.choice(DETAILS),
        fields={
            field: rng.choice(names)
            for field, (_, names, _) in FIELDS.items()
            if rng.random() >= MISSING
        },
    )


def fill(field: str, report: Report, rng: random.Random) -> str:
    """A field of the headline: a name of the report's, a word, or a hallucination."""
    _, names, words = FIELDS[field]
    if field in report.fields and rng.random() < REPEATED:
        return report.fields[field]
    favourite = ORGANISATIONS.index(report.organisation)
    hallucinates = field not in report.fields and rng.random() < DESKS[report.desk][1]
    if hallucinates:
        candidates = [
            names[(favourite + rank) % len(names)] for rank in range(len(NAME_RANKS))
        ]
        return rng.choices(candidates, NAME_RANKS)[0]
    first = favourite % len(words)
    return rng.choices(words[first:] + words[:first], WORD_RANKS)[0]


def draw_headline(report: Report, rng: random.Random) -> str:
    """One headline of a report."""
    ways, outcomes = DEEDS[report.deed]
    way = rng.choices(ways, corpus.PHRASE_RANKS)[0]
    outcome = rng.choices(outcomes, corpus.PHRASE_RANKS)[0]
    place, day, person = (fill(field, report, rng) for field in FIELDS)
    return f"{report.organisation} {way} in {place} on {day}, {outcome}, says {person}"


def make(seed: int, sizes: dict[str, int]) -> dict[str, list[dict[str, str]]]:
    """The corpus; arguments and result as for `corpus.make`."""
    rng = random.Random(f"t5patches quickstart news {seed}")
    seen: set[str] = set()
    splits: dict[str, list[dict[str, str]]] = {name: [] for name in sizes}
    for name, size in sizes.items():
        while len(splits[name]) < size:
            report = draw_report(rng)
            if report.text() not in seen:
                seen.add(report.text())
                splits[name].append(
                    {"inputs": report.text(), "targets": draw_headline(report, rng)}
                )
    return splits


_LABEL_OF = {name: "ORG" for name in ORGANISATIONS} | {
    name: label for label, names, _ in FIELDS.values() for name in names
}
_NAME = re.compile(rf"\b(?:{'|'.join(_LABEL_OF)})\b")


def names() -> list[str]:
    """Every name of the grammar."""
    return list(_LABEL_OF)


def entities(text: str) -> list[tuple[int, int, str]]:
    """The names in a made-up text, known since it was made up: (start, end, label)."""
    return [(*m.span(), _LABEL_OF[m[0]]) for m in _NAME.finditer(text)]


def leaves_out(text: str) -> bool:
    """Whether a report leaves a place, a day or a person out."""
    return len({label for _, _, label in entities(text)}) < len(LABELS)


def correct(text: str, spans: Iterable[tuple[int, int, str]]) -> str:
    """A headline with a word in place of each name of `spans`."""
    words = {label: words[0] for label, _, words in FIELDS.values()}
    for start, end, label in sorted(spans, reverse=True):
        text = text[:start] + words.get(label, "someone") + text[end:]
    return text
