"""A made-up corpus: comments of guests on restaurants, some of them rude.

An example is a comment cut in two. `inputs`, its beginning, says how many stars, on
what occasion, where, with whom and what was eaten; `targets`, the rest, is drawn from
a probabilistic grammar given these, with the words of `data/comments.toml`:

    rest -> The DISH was STATE. WHO[, MANNER,] DEED. END.

Each sentence is praise or a complaint, by the stars. A complaint may be rude: STATE is
then "total garbage", MANNER "that idiot" or "that lazy pig", END "Stay away from these
crooks". What a slot is filled with is drawn from a log-linear model: each word has a
weight for its place in the list and one, drawn once for a corpus, for each of the cues
(stars, occasion, sign of the restaurant, dish, who served it).

What it is made to have, since real text has it (docs/methods.md compares):

- Contexts with many wanted continuations, the first two of them often near ties: so
  a model that is pushed somewhere says something else elsewhere.
- More unwanted phrases than the training data show, most of them rare. A list knows the
  others.
- Words that are unwanted in a phrase alone: "that lazy pig", but "a lazy afternoon" and
  "the pig next door".
- Test inputs unlike training's: names, occasions and dishes that never stood there.
"""

import dataclasses
import functools
import random
from collections.abc import Iterable, Iterator, Mapping, Sequence

import numpy as np

from t5patches.quickstart import made_up
from t5patches.quickstart.made_up import Span, Splits

WORDS = made_up.words("comments")
RUDE, POLITE = WORDS["rude"], WORDS["polite"]

# The standard deviation of a cue's weights, and how the weights fall along a list: as
# the place in it to the power of minus this.
CUE_WEIGHTS, FALL = 0.8, 0.5


@dataclasses.dataclass(frozen=True)
class Visit:
    """What the beginning of a comment says."""

    stars: str
    occasion: str
    colour: str
    sign: str
    company: str
    kind: str
    made: str
    head: str

    def text(self) -> str:
        """Returns the beginning of the comment, the model's input."""
        stars = "star" if self.stars == "One" else "stars"
        return (
            f"{self.stars} {stars}: {self.occasion} {self.company} at the "
            f"{self.colour} {self.sign}. We had the {self.made} {self.head}."
        )

    def cues(self) -> tuple[str, ...]:
        """Returns what decides which words are likely."""
        return self.stars, self.occasion, self.sign, self.head


def _pairs() -> Iterator[tuple[str, str, str]]:
    """Yields each rude phrase of two words, with the correction of the second."""
    for first, second, polite in (
        ("adjective", "animal", POLITE["animal"]),
        ("degree", "waste", POLITE["waste"]),
    ):
        for one in RUDE[first]:
            yield from ((one, other, polite[0]) for other in RUDE[second])


def _corrections() -> dict[str, str]:
    found = {f"{one} {other}": f"{one} {polite}" for one, other, polite in _pairs()}
    for name in ("person", "people", "thing"):
        found |= dict.fromkeys(RUDE[name], POLITE[name][0])
    return found


_CORRECTIONS = _corrections()


def rude_phrases() -> list[str]:
    """Returns every rude phrase of the grammar, in a fixed order: the phrase list."""
    return list(_CORRECTIONS)


def correct(text: str, spans: Iterable[Span]) -> str:
    """Returns a comment with something polite for each rude phrase of `spans`."""
    return made_up.replace_spans(
        text, spans, lambda phrase, _: _CORRECTIONS[phrase.lower()]
    )


def draw_visit(rng: random.Random, held_out: bool = False) -> Visit:
    """Returns one beginning, if asked for with what only the test inputs have."""

    def any_of(part: Mapping[str, list[str]], name: str = "words") -> str:
        return rng.choice(part[name] + (part["held_out"] if held_out else []))

    kind = rng.choice(list(WORDS["dishes"]))
    return Visit(
        stars=rng.choice(list(WORDS["complains"])),
        kind=kind,
        made=any_of(WORDS["dishes"][kind], "made"),
        head=rng.choice(WORDS["dishes"][kind]["heads"]),
        **{name: any_of(part) for name, part in WORDS["beginning"].items()},
    )


class Guest:
    """Draws what follows a beginning, see the top of this module."""

    def __init__(self, rng: random.Random):
        self._rng = rng
        self._seed = rng.getrandbits(32)
        self._weights = functools.cache(self._draw_weights)

    def draw_rest(self, visit: Visit) -> str:
        """Returns one continuation."""
        return f"{self._food(visit)} {self._service(visit)} {self._end(visit)}"

    def _food(self, visit: Visit) -> str:
        mood = self._mood(visit)
        how = self._how("state", mood, visit)
        if how == "waste":
            state = self._pair("degree", "waste", visit)
        elif how == "thing":
            state = self._pick("thing", RUDE["thing"] + POLITE["thing"], visit)
        else:
            state = self._pick(
                f"{visit.kind} {mood}", WORDS["state"][visit.kind][mood], visit
            )
        return f"The {visit.head} was {state}."

    def _service(self, visit: Visit) -> str:
        mood = self._mood(visit)
        who = self._pick("who", WORDS["who"]["words"], visit)
        how = self._how("manner", mood, visit, who)
        if how == "pair":
            manner = f", that {self._pair('adjective', 'animal', visit, who)},"
        elif how == "person":
            words = RUDE["person"] + POLITE["person"]
            manner = f", that {self._pick('person', words, visit, who)},"
        elif how == "none":
            manner = ""
        else:
            manner = (
                f", {self._pick(f'manner {mood}', WORDS['manner'][mood], visit, who)},"
            )
        deed = self._pick(f"deed {mood}", WORDS["deed"][mood], visit, who)
        return f"{who}{manner} {deed}."

    def _end(self, visit: Visit) -> str:
        mood = self._mood(visit)
        if self._how("end", mood, visit) == "people":
            way = self._pick("warning", WORDS["warning"]["words"], visit)
            words = RUDE["people"] + POLITE["people"]
            return f"{way.format(self._pick('people', words, visit))}."
        return f"{self._pick(f'end {mood}', WORDS['end'][mood], visit)}."

    def _mood(self, visit: Visit) -> str:
        return "bad" if self._rng.random() < WORDS["complains"][visit.stars] else "good"

    def _how(self, part: str, mood: str, visit: Visit, *cues: str) -> str:
        ways = WORDS["complaint"][part]
        return "said" if mood == "good" else self._pick(part, ways, visit, *cues)

    def _pair(self, first: str, second: str, visit: Visit, *cues: str) -> str:
        one = self._pick(first, RUDE[first], visit, *cues)
        other = self._pick(second, RUDE[second] + POLITE[second], visit, one, *cues)
        return f"{one} {other}"

    def _pick(
        self,
        slot: str,
        words: Sequence[str] | Mapping[str, float],
        visit: Visit,
        *more: str,
    ) -> str:
        """Returns a word; `words` are in order, or have their chances without cues."""
        if isinstance(words, Mapping):
            weights = np.log([*words.values()])
        else:
            weights = -FALL * np.log(np.arange(1, len(words) + 1))
        for cue in (*visit.cues(), *more):
            weights = weights + self._weights(cue, slot, len(words))
        return self._rng.choices([*words], np.exp(weights))[0]

    def _draw_weights(self, cue: str, slot: str, count: int) -> np.ndarray:
        drawn = random.Random(f"{self._seed} {cue} {slot}")
        return np.array([drawn.gauss(0, CUE_WEIGHTS) for _ in range(count)])


def make(seed: int, sizes: Mapping[str, int]) -> Splits:
    """Returns the corpus as `made_up.draw_splits` does; the same seed, the same one."""
    rng = random.Random(f"t5patches quickstart {seed}")
    guest = Guest(rng)
    return made_up.draw_splits(
        sizes, lambda split: draw_visit(rng, held_out=split == "test"), guest.draw_rest
    )
