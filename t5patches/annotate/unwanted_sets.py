"""The whole set of unwanted next ids, for every prefix of an output.

An update moves the model towards p_new ∝ p_o · 1[x is not unwanted], where *every* id
that is unwanted after a prefix has no probability, not only the one that the model
happened to say. For a list of phrases these ids are known without the model: they
complete a phrase there, however the vocabulary cuts it into pieces.

An automaton reads the output character by character. Its state says which phrases have
begun and whether a word may begin; each state has a row, the set of its ids.
"""

from __future__ import annotations

import functools
import re
import sys
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from t5patches.annotate import alignment
from t5patches.annotate.letters import literal, word_class

_Nodes = frozenset[int]  # Of the trie of phrases; 0 is its root.
_Trie = dict[str, Any]
_NONE: _Nodes = frozenset()
_EVERYTHING = "".join(map(chr, (*range(0xD800), *range(0xE000, sys.maxunicode + 1))))
# The classes of characters that no phrase has; those of phrases come after them.
_OTHER, _WORD = range(2)


class PhraseSets:
    """The ids that complete a phrase of a list, for every prefix of an output.

    An id is in the set of a prefix exactly where the annotator marks a character of it
    in what prefix and id decode to. A phrase is complete there although the next id
    might go on with the word ('stupid', 'stupid|ly'): `word_end` says what counts.

    Example, with a vocabulary of the pieces "▁you", "▁du", "mm", "y", "my" and the
    phrase "dummy": after "▁you" the set is empty, after "▁you ▁du" it is {my}, after
    "▁you ▁du mm" it is {y}.

    The sets are rows of one table, whose order follows from phrases and vocabulary
    alone. Its first row is the empty set.
    """

    def __init__(self, forms: Sequence[str], vocabulary: Any, word_end: str = "piece"):
        """Builds the automaton.

        Args:
          forms: the phrases in all their spellings, but for the case of letters.
          vocabulary: `seqio.SentencePieceVocabulary` or `seqio.ByteVocabulary`.
          word_end: 'piece': the id with a phrase's last character is in the set;
            'next': the id that ends its word is, the end of a sequence too, so that
            longer words stay possible. Bytes of wider characters end no word.

        Raises:
          UserError: `vocabulary` is of another kind.
        """
        self._phrases = _Phrases(forms)
        self._pieces = alignment.Pieces(vocabulary)
        self._at_next = word_end == "next"
        self._trie = _trie(self._pieces.texts)
        self._states: dict[_State, int] = {}
        self._next: list[list[int]] = []  # State, class of a character -> state.
        self._find_states()
        self._known: dict[int, frozenset[int]] = {}
        # Ids that hold a phrase by themselves, after a character of a word or not.
        bases = [{*self._completed(_NONE, word, True)} for word in (False, True)]
        breaks = {*self._ending(self._trie), vocabulary.eos_id}
        self._bases = [set(), *bases, *(base | breaks for base in bases)]
        self._row_of: dict[tuple[int, frozenset[int]], int] = {(0, frozenset()): 0}
        self._rows = [self._row(state) for state in self._states]
        # Bytes that are the last of a character that completes a phrase.
        self._begun: dict[tuple[int, bytes], int] = {}
        for (state, begun), ids in self._last_bytes().items():
            at = [*self._states][self._read_bytes(state, begun)]
            self._begun[state, begun] = self._row(at, ids)
        self._read: dict[tuple[int, bytes, int], tuple[int, bytes]] = {}

    def of(self, ids: Sequence[int]) -> list[int]:
        """Returns the row of each id's position: what is unwanted instead of it."""
        rows, state, begun = [], 0, b""
        for token in ids:
            row = self._begun.get((state, begun)) if begun else self._rows[state]
            if row is None:
                row = self._rows[self._read_bytes(state, begun)]
            rows.append(row)
            known = state, begun, int(token)
            if known not in self._read:
                self._read[known] = self._after(*known)
            state, begun = self._read[known]
        return rows

    @functools.cached_property
    def rows(self) -> list[frozenset[int]]:
        """The distinct sets."""
        return [frozenset(self._bases[base] | ids) for base, ids in self._row_of]

    def leave_nothing(self) -> bool:
        """Returns whether no id with something to read is left after some prefix."""
        pieces = self._pieces
        said = {
            token
            for token, text in enumerate(pieces.texts)
            if text != pieces.text(len(pieces.texts)) and text.strip().isprintable()
            if text.strip()
        }
        left = [said - base for base in self._bases]
        return any(left[base] <= ids for base, ids in self._row_of)

    def bits(self) -> np.ndarray:
        """Returns the rows as bits, as `interchange.unwanted_sets` has them."""
        size = -(-len(self._pieces.texts) // 32) * 32

        def packed(sets):
            flags = np.zeros((len(sets), size), np.uint8)
            for row, ids in enumerate(sets):
                flags[row, [*ids]] = 1
            return np.packbits(flags, axis=1, bitorder="little").view("<u4")

        table = packed(self._bases)[[base for base, _ in self._row_of]]
        for row, (_, ids) in enumerate(self._row_of):
            for token in ids:
                table[row, token // 32] |= np.uint32(1 << token % 32)
        return table

    def tables(self) -> Tables:
        """Returns the automaton as arrays, for decoding."""
        texts, phrases = self._pieces.texts, self._phrases
        stays = len(phrases.words)  # A class that leaves the state as it is.
        classes = np.full((len(texts), max(map(len, texts))), stays, np.int32)
        for token, text in enumerate(texts):
            classes[token, : len(text)] = [*map(phrases.class_of, text)]
        wide = {t: b for b, t in self._pieces.byte_ids.items() if b >= 128}
        values = np.zeros(len(texts), np.int32)
        values[[*wide]] = [*wide.values()]
        begun = [(q, *_point(b), row) for (q, b), row in self._begun.items()]
        broken = self._pieces.replacement
        return Tables(
            next=np.c_[np.array(self._next, np.int32), np.arange(len(self._next))],
            classes=classes,
            rows=np.array(self._rows, np.int32),
            bits=self.bits(),
            bytes=values,
            points=phrases.points() if wide else np.zeros(1, np.int32),
            begun=np.array([(-1, 0, 0, 0), *begun], np.int32),
            broken=np.int32(phrases.class_of(broken) if broken else stays),
        )

    # ---- The automaton ----

    def _find_states(self) -> None:
        """Makes the states that can be reached, breadth first."""
        phrases = self._phrases
        self._states[_State(_NONE, False)] = 0
        for state in (found := [*self._states]):
            row = []
            for kind, word in enumerate(phrases.words):
                reached = _State(phrases.step(state.started, kind), word)
                if reached not in self._states:
                    self._states[reached] = len(self._states)
                    found.append(reached)
                row.append(self._states[reached])
            self._next.append(row)

    def _row(self, state: _State, more: frozenset[int] = frozenset()) -> int:
        ends = self._at_next and bool(state.nodes & self._phrases.ends)
        base = 1 + state.word + 2 * ends
        ids = more.union(*map(self._completes, state.nodes)) - self._bases[base]
        return self._row_of.setdefault((base, ids), len(self._row_of))

    def _completes(self, node: int) -> frozenset[int]:
        """Returns the ids that go on from a node of the phrases to an end of one."""
        if node not in self._known:
            found = self._completed(frozenset([node]), True, False)
            self._known[node] = frozenset(found)
        return self._known[node]

    def _completed(self, nodes: _Nodes, word: bool, fresh: bool) -> Iterator[int]:
        """Yields ids with the end of a phrase.

        Args:
          nodes: where phrases are that have begun.
          word: whether the character before is of a word.
          fresh: whether phrases may begin within the id.
        """
        phrases = self._phrases
        stack = [(self._trie, _State(nodes, word))]
        while stack:
            below, state = stack.pop()
            nodes = state.started if fresh else state.nodes
            for character in below if fresh else phrases.letters(nodes) & below.keys():
                if not character:
                    continue
                kind = phrases.class_of(character)
                reached = _State(phrases.step(nodes, kind), phrases.words[kind])
                if reached.nodes & phrases.ends:
                    yield from self._ending(below[character])
                    if not self._at_next:
                        yield from below[character].get("", ())
                if fresh or reached.nodes:
                    stack.append((below[character], reached))

    def _ending(self, below: _Trie) -> Iterator[int]:
        """Yields the ids that go on with a character that is of no word."""
        stack = [
            rest
            for character, rest in below.items()
            if character and not self._phrases.words[self._phrases.class_of(character)]
        ]
        while stack:
            below = stack.pop()
            yield from below.get("", ())
            stack += [rest for character, rest in below.items() if character]

    def _last_bytes(self) -> dict[tuple[int, bytes], frozenset[int]]:
        """Returns, by state and bytes that begin a character, the ids of last bytes."""
        phrases, found = self._phrases, {}
        if not self._pieces.byte_ids or self._at_next:
            return {}
        wide = [c for c in phrases.characters if len(c.encode()) > 1]
        for state, number in self._states.items():
            for character in wide:
                kind = phrases.class_of(character)
                if phrases.step(state.started, kind) & phrases.ends:
                    *begun, last = character.encode()
                    ids = found.setdefault((number, bytes(begun)), set())
                    ids.add(self._pieces.byte_ids[last])
        return {key: frozenset(ids) for key, ids in found.items()}

    # ---- Reading ----

    def _after(self, state: int, begun: bytes, token: int) -> tuple[int, bytes]:
        """Returns the state after an id, and bytes that begin a character."""
        byte = self._pieces.byte_of(token)
        if byte is None:
            text = self._pieces.text(token)
            state = self._read_bytes(state, begun) if text else state
            return self._read_text(state, text), b"" if text else begun
        data = b""
        for start in dict.fromkeys((begun, b"")):
            if begun and not start:
                state = self._read_bytes(state, begun)
            data = start + bytes([byte])
            try:
                return self._read_text(state, data.decode()), b""
            except UnicodeDecodeError as error:
                if error.reason == "unexpected end of data":
                    return state, data
        return self._read_bytes(state, data), b""

    def _read_bytes(self, state: int, data: bytes) -> int:
        """Returns the state after bytes that are no character."""
        return self._read_text(state, self._pieces.replacement * len(data))

    def _read_text(self, state: int, text: str) -> int:
        for character in text:
            state = self._next[state][self._phrases.class_of(character)]
        return state


class Tables(NamedTuple):
    """The automaton as arrays, int32 but for `bits`.

    Attributes:
      next: [states, classes + 1], the state after a character; the last class is that
        of no character.
      classes: [ids, characters], the classes of an id's characters, then of none.
      rows: [states], the row of each state's set.
      bits: uint32 [rows, ids / 32], see `interchange.unwanted_sets`.
      bytes: [ids], the byte that an id is, if it is of a wider character; else 0.
      points: [code points], their classes; of one entry where no id is a byte.
      begun: [n, 4], state, the bits so far and the missing bytes of a character that
        has begun, and the row that holds there.
      broken: [], the class of a byte that is of no character.
    """

    next: np.ndarray
    classes: np.ndarray
    rows: np.ndarray
    bits: np.ndarray
    bytes: np.ndarray
    points: np.ndarray
    begun: np.ndarray
    broken: np.int32


def _point(begun: bytes) -> tuple[int, int]:
    """Returns the bits of bytes that begin a character, and how many it misses."""
    lead, *more = begun
    width = 8 - (lead ^ 0xFF).bit_length()  # As many as ones in front.
    point = lead & (0x3F >> (width - 1))
    for byte in more:
        point = point << 6 | byte & 0x3F
    return point, width - len(begun)


class _State(NamedTuple):
    """Where phrases are that have begun, and whether a word is going on."""

    nodes: _Nodes
    word: bool

    @property
    def started(self) -> _Nodes:
        """With the phrases that may begin here."""
        return self.nodes if self.word else self.nodes | {0}


class _Phrases:
    """The trie of a list of phrases, read as the annotator's regular expression does.

    Attributes:
      ends: nodes where a phrase ends.
      words: whether the characters of each class are of words.
      characters: those that phrases have, in all their forms, with their classes.
    """

    def __init__(self, forms: Sequence[str]):
        self.ends: set[int] = set()
        self.words = [False, True]
        self.characters: dict[str, int] = {}
        self._children: list[dict[str, int]] = [{}]
        self._spaces: set[int] = set()  # Nodes behind white space, of any width.
        for form in forms:
            self._add(form)
        self._is_word = re.compile(word_class())
        self._literals: list[frozenset[str]] = [frozenset()] * 2  # Of each class.
        self._matching = {
            x: frozenset(
                re.findall(literal(x)[: 2 if x == " " else None], _EVERYTHING, re.I)
            )
            for x in sorted({x for children in self._children for x in children})
        }
        classes: dict[Any, int] = {}
        for character in sorted(frozenset[str]().union(*self._matching.values())):
            literals = (x for x, same in self._matching.items() if character in same)
            kind = frozenset(literals), self._is_word.match(character) is not None
            if kind not in classes:
                classes[kind] = len(self.words)
                self._literals.append(kind[0])
                self.words.append(kind[1])
            self.characters[character] = classes[kind]

    def _add(self, form: str) -> None:
        node = 0
        for character in form:
            children = self._children[node]
            if character not in children:
                children[character] = len(self._children)
                self._children.append({})
            node = children[character]
            if character == " ":
                self._spaces.add(node)
        self.ends.add(node)

    def class_of(self, character: str) -> int:
        """Returns the class of a character."""
        known = self.characters.get(character)
        if known is None:
            known = _WORD if self._is_word.match(character) else _OTHER
        return known

    def step(self, nodes: _Nodes, kind: int) -> _Nodes:
        """Returns the nodes that a character of a class leads to."""
        literals, found = self._literals[kind], set()
        for node in nodes:
            children = self._children[node]
            found.update(children[x] for x in literals if x in children)
            if " " in literals and node in self._spaces:
                found.add(node)
        return frozenset(found)

    def points(self) -> np.ndarray:
        """Returns the class of each code point, int32."""
        found = np.full(sys.maxunicode + 1, _OTHER, np.int32)
        for match in re.finditer(f"{word_class()}+", _EVERYTHING):
            points = [ord(match[0][0]), ord(match[0][-1])]
            found[points[0] : points[1] + 1] = _WORD
        for character, kind in self.characters.items():
            found[ord(character)] = kind
        return found

    def letters(self, nodes: _Nodes) -> set[str]:
        """Returns the characters that lead on from any of the nodes."""
        literals = {x for node in nodes for x in self._children[node]}
        literals |= {" "} if nodes & self._spaces else set()
        return set().union(*map(self._matching.__getitem__, literals))


def _trie(texts: Sequence[str]) -> _Trie:
    """Returns the ids of texts by their characters, under "" where one ends."""
    root: _Trie = {}
    for token, text in enumerate(texts):
        node = root
        for character in text:
            node = node.setdefault(character, {})
        if text:
            node.setdefault("", []).append(token)
    return root
