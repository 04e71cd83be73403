"""A made-up corpus: comments, some of whose continuations carry rude words.

An example is a comment cut in two: `inputs` is its beginning, `targets` the rest.
The beginning names a mood, a person, a deed and a place; all four can be read off
its words. The rest is drawn from a probabilistic grammar given those four, with the
words of `data/comments.toml`:

    rest     -> CHOICE, REASON, OUTCOME TAG
    CHOICE   -> that NOUN never asks first | what a ADJ idea | ...       (by deed)
    REASON   -> one of three reasons that go with the deed
    OUTCOME  -> one of three outcomes that go with the place
    TAG      -> nothing | ", what STUFF"                                 (by mood)
    NOUN, ADJ, STUFF -> a clean or a rude word                (by mood and person)

What makes the job real: in every mood both clean and rude words can be said; each slot
takes five rude and five clean words, and which of them is likeliest turns with the
person, so that taking one word away does not make a model polite; no word is certain;
and everything else that is said depends on the beginning too, so that a model that
forgets it is found out.
"""

import dataclasses
import random
from collections.abc import Iterable, Mapping

from t5patches.quickstart import made_up
from t5patches.quickstart.made_up import PHRASE_RANKS, Span, Splits

WORDS = made_up.words("comments")

# The chances of a slot's five words, from the group's favourite on. Rude language is
# the more varied.
RUDE_RANKS = (0.48, 0.16, 0.13, 0.12, 0.11)
CLEAN_RANKS = (0.54, 0.17, 0.12, 0.09, 0.08)

# A rude word's correction: the clean word that the same people favour.
_CORRECTIONS = {
    bad: good
    for slot in WORDS["slots"].values()
    for bad, good in zip(slot["rude"], slot["clean"], strict=True)
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
        """Returns the beginning of the comment, the model's input."""
        return f"{self.opener}, {self.person} {self.deed} {self.place} {self.time} and"


def rude_words() -> list[str]:
    """Returns every rude word of the grammar, in a fixed order: the phrase list."""
    return list(_CORRECTIONS)


def correct(text: str, spans: Iterable[Span]) -> str:
    """Returns a comment with the clean word for each rude one of `spans`."""
    return made_up.replace_spans(
        text, spans, lambda word, _: _CORRECTIONS[word.lower()]
    )


def draw_context(rng: random.Random) -> Context:
    """Returns one beginning."""
    moods, people = WORDS["moods"], WORDS["people"]
    mood = rng.choices(list(moods), [part["share"] for part in moods.values()])[0]
    group = rng.choice(list(people))
    return Context(
        mood=mood,
        opener=rng.choice(moods[mood]["openers"]),
        group=group,
        person=rng.choice(people[group]),
        deed=rng.choice(list(WORDS["deeds"])),
        place=rng.choice(list(WORDS["places"])),
        time=rng.choice(WORDS["times"]),
    )


def fill_slot(slot: str, context: Context, rng: random.Random) -> str:
    """Returns a word: rude or clean by the mood, which one by the person's group."""
    is_rude = rng.random() < WORDS["moods"][context.mood]["rude"]
    words = WORDS["slots"][slot]["rude" if is_rude else "clean"]
    favourite = list(WORDS["people"]).index(context.group)
    ranked = words[favourite:] + words[:favourite]
    return rng.choices(ranked, RUDE_RANKS if is_rude else CLEAN_RANKS)[0]


def draw_rest(context: Context, rng: random.Random) -> str:
    """Returns one continuation, drawn from the grammar at the top of this module."""
    deed = WORDS["deeds"][context.deed]
    frame = WORDS["frames"][deed["frame"]]
    way = rng.choices(frame["ways"], PHRASE_RANKS)[0]
    choice = way.format(fill_slot(frame["slot"], context, rng))
    reason = rng.choices(deed["reasons"], PHRASE_RANKS)[0]
    outcome = rng.choices(WORDS["places"][context.place], PHRASE_RANKS)[0]
    # People in a temper like to have the last word.
    has_tag = rng.random() < (0.65 if context.mood in ("cross", "furious") else 0.2)
    tag = f", what {fill_slot('stuff', context, rng)}" if has_tag else ""
    return f"{choice}, {reason}, {outcome}{tag}"


def make(seed: int, sizes: Mapping[str, int]) -> Splits:
    """Returns the corpus as `made_up.draw_splits` does; the same seed, the same one."""
    rng = random.Random(f"t5patches quickstart {seed}")
    return made_up.draw_splits(rng, sizes, draw_context, draw_rest)
