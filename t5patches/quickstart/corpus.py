"""A made-up corpus: comments, some of whose continuations carry rude words.

An example is a comment cut in two: `inputs` is its beginning, `targets` the rest.
The beginning names a mood, a person, a deed and a place; all four can be read off
its words. The rest is drawn from a probabilistic grammar given those four:

    rest     -> CHOICE, REASON, OUTCOME TAG
    CHOICE   -> that NOUN never asks first | what a ADJ idea | ...       (by deed)
    REASON   -> one of three reasons that go with the deed
    OUTCOME  -> one of three outcomes that go with the place
    TAG      -> nothing | ", what STUFF"                                 (by mood)
    NOUN, ADJ, STUFF -> a clean or a rude word                (by mood and person)

What makes the job real, and is measured again on the trained model by
`tests/quickstart`: in every mood both clean and rude words can be said; each slot takes
five rude and five clean words, and which of them is likeliest turns with the person,
so that taking one word away does not make a model polite; no word is certain; and
everything else that is said depends on the beginning too, so that a model that
forgets it is found out.
"""

import dataclasses
import random
from collections.abc import Iterable

# mood: (share of the comments, chance that a slot is filled rudely, openers)
MOODS = {
    "kind": (0.28, 0.10, ("happily", "to be fair", "good morning all", "kindly note")),
    "even": (0.30, 0.25, ("as i said", "it seems", "for the record", "so i hear")),
    "cross": (0.25, 0.56, ("once more", "as usual", "yet again", "of course")),
    "furious": (0.17, 0.61, ("enough is enough", "for the last time", "unbelievable")),
}

# Who the comment is about, in groups; a group has its own favourite words.
PEOPLE = {
    "office": ("the mayor", "the council", "the minister", "the clerk"),
    "trade": ("the plumber", "the driver", "the builder", "the landlord"),
    "school": ("the teacher", "the principal", "the coach", "the librarian"),
    "family": ("my cousin", "my brother", "my uncle", "my neighbor"),
    "news": ("the reporter", "the editor", "the host", "the blogger"),
}

# deed: (frame of the choice, three reasons, the first the likeliest)
DEEDS = {
    "closed the bridge": (
        "person",
        "the detour takes an hour",
        "the old one was safe",
        "nobody gets to work on time",
    ),
    "raised the rent": (
        "person",
        "half the street is packing",
        "wages have not moved in years",
        "the roof still leaks",
    ),
    "parked on the lawn": (
        "person",
        "there is a garage next door",
        "the grass will not grow back",
        "my roses were just planted",
    ),
    "lost the keys": (
        "person",
        "the spare set was left inside",
        "it happens twice a month",
        "we called a locksmith at night",
    ),
    "cut the trees": (
        "deed",
        "the birds used to nest there",
        "we have no shade in summer",
        "they were older than the church",
    ),
    "changed the schedule": (
        "deed",
        "the new one starts before sunrise",
        "my shift ends an hour later",
        "every copy says something else",
    ),
    "painted the fence": (
        "deed",
        "the colour was voted on in may",
        "the rain washed most of it off",
        "it dripped on every car",
    ),
    "cancelled the concert": (
        "deed",
        "all the tickets were sold",
        "the band had driven all night",
        "the children practised for months",
    ),
    "wrote a report": (
        "thing",
        "the numbers do not add up",
        "it repeats what we knew",
        "only three people will read it",
    ),
    "bought a statue": (
        "thing",
        "the money was for the library",
        "it blocks the view",
        "pigeons have moved in already",
    ),
    "fixed the heater": (
        "thing",
        "it was cold again by evening",
        "it rattles like a train",
        "the bill came to nine hundred",
    ),
    "ordered the lunch": (
        "thing",
        "everybody got soup and no spoon",
        "it came after we had left",
        "the bread was hard as stone",
    ),
}

# place: three outcomes, the first the likeliest
PLACES = {
    "downtown": (
        "the shops will be empty",
        "parking gets harder",
        "the square smells of tar",
    ),
    "near the station": (
        "i take the early train",
        "the platform is full of boxes",
        "travellers stop and stare",
    ),
    "by the river": (
        "the ducks do not mind",
        "the path floods when it rains",
        "we walk the dog elsewhere",
    ),
    "at the market": (
        "farmers are selling less cheese",
        "prices went up by a third",
        "every stall talks about it",
    ),
    "on our street": (
        "the neighbors hold a meeting",
        "we keep our windows shut",
        "the mail comes two days late",
    ),
    "at the harbor": (
        "boats leave half empty",
        "the ferry waits for nobody",
        "fishing is better in fog",
    ),
    "in the park": (
        "the picnic moves to our garden",
        "the swings are taped off",
        "joggers run around the mess",
    ),
    "up on the hill": (
        "the view is worth the climb",
        "wind will sort it out",
        "goats have eaten the signs",
    ),
}

TIMES = ("last week", "on monday", "this morning", "in june", "over the weekend")

# slot: (rude words, clean words), five of each
SLOTS = {
    "noun": (
        ("idiot", "moron", "jerk", "fool", "clown"),
        ("person", "worker", "planner", "fellow", "expert"),
    ),
    "adjective": (
        ("stupid", "dumb", "lousy", "pathetic", "moronic"),
        ("strange", "hasty", "costly", "bold", "simple"),
    ),
    "stuff": (
        ("crap", "garbage", "trash", "bull", "rubbish"),
        ("work", "news", "stuff", "progress", "business"),
    ),
}

# frame of the choice: (slot, three ways to say it; the first the likeliest)
FRAMES = {
    "person": (
        "noun",
        "that {} never asks first",
        "leave it to this {}",
        "no other {} does that",
    ),
    "deed": (
        "adjective",
        "it was a {} thing to do",
        "what a {} idea",
        "i call it a {} plan",
    ),
    "thing": (
        "stuff",
        "now we live with this {}",
        "nobody needs more {} like that",
        "the result is the same old {}",
    ),
}

# The chances of a slot's five words, from the group's favourite on. Rude language is
# the more varied.
RUDE_RANKS = (0.48, 0.16, 0.13, 0.12, 0.11)
CLEAN_RANKS = (0.54, 0.17, 0.12, 0.09, 0.08)
PHRASE_RANKS = (0.62, 0.24, 0.14)


# A rude word's correction: the clean word that the same people favour.
_CORRECTIONS = {
    bad: good
    for rude, clean in SLOTS.values()
    for bad, good in zip(rude, clean, strict=True)
}


@dataclasses.dataclass(frozen=True)
class Context:
    """What the beginning of a comment says."""

    mood: str
    opener: str
    group: str
    person: str
    deed: str
    place: str
    time: str

    def text(self) -> str:
        """The beginning of the comment, the model's input."""
        return f"{self.opener}, {self.person} {self.deed} {self.place} {self.time} and"


def rude_words() -> list[str]:
    """Every rude word of the grammar, in a fixed order: the phrase list."""
    return [word for rude, _ in SLOTS.values() for word in rude]


def correct(text: str, spans: Iterable[tuple[int, int, str]]) -> str:
    """A comment with the clean word that stands for each rude one of `spans`."""
    for start, end, _ in sorted(spans, reverse=True):
        text = text[:start] + _CORRECTIONS[text[start:end].lower()] + text[end:]
    return text


def draw_context(rng: random.Random) -> Context:
    """One beginning."""
    mood = rng.choices(list(MOODS), [share for share, _, _ in MOODS.values()])[0]
    group = rng.choice(list(PEOPLE))
    return Context(
        mood=mood,
        opener=rng.choice(MOODS[mood][2]),
        group=group,
        person=rng.choice(PEOPLE[group]),
        deed=rng.choice(list(DEEDS)),
        place=rng.choice(list(PLACES)),
        time=rng.choice(TIMES),
    )


def fill_slot(slot: str, context: Context, rng: random.Random) -> str:
    """A word for a slot: rude or clean by the mood, which one by the person's group."""
    rude, clean = SLOTS[slot]
    is_rude = rng.random() < MOODS[context.mood][1]
    words = rude if is_rude else clean
    favourite = list(PEOPLE).index(context.group)
    ranked = words[favourite:] + words[:favourite]
    return rng.choices(ranked, RUDE_RANKS if is_rude else CLEAN_RANKS)[0]


def draw_rest(context: Context, rng: random.Random) -> str:
    """One continuation of a beginning, from the grammar at the top of this module."""
    frame, *reasons = DEEDS[context.deed]
    slot, *ways = FRAMES[frame]
    choice = rng.choices(ways, PHRASE_RANKS)[0].format(fill_slot(slot, context, rng))
    reason = rng.choices(reasons, PHRASE_RANKS)[0]
    outcome = rng.choices(PLACES[context.place], PHRASE_RANKS)[0]
    # People in a temper like to have the last word.
    has_tag = rng.random() < (0.65 if context.mood in ("cross", "furious") else 0.2)
    tag = f", what {fill_slot('stuff', context, rng)}" if has_tag else ""
    return f"{choice}, {reason}, {outcome}{tag}"


def make(seed: int, sizes: dict[str, int]) -> dict[str, list[dict[str, str]]]:
    """The corpus.

    Args:
      seed: what it is drawn from; the same seed gives the same corpus.
      sizes: split name -> number of examples.

    Returns:
      split name -> examples `{"inputs", "targets"}`. No beginning occurs twice, in
      one split or in two.
    """
    rng = random.Random(f"t5patches quickstart {seed}")
    seen: set[str] = set()
    splits: dict[str, list[dict[str, str]]] = {name: [] for name in sizes}
    for name, size in sizes.items():
        while len(splits[name]) < size:
            context = draw_context(rng)
            if context.text() in seen:
                continue
            seen.add(context.text())
            splits[name].append(
                {"inputs": context.text(), "targets": draw_rest(context, rng)}
            )
    return splits
