"""The entity annotator: names, numbers and dates that the input does not mention."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from t5patches.annotate import occurrence, spacy_pipelines
from t5patches.annotate.alignment import Span
from t5patches.annotate.words import APOSTROPHES
from t5patches.errors import UserError

PIPELINE = "en_core_web_sm"

# What is not marked of an entity: an article before it, a possessive after it.
_ARTICLE = re.compile(r"(?:the|an?)\s+|\s+", re.IGNORECASE)
_POSSESSIVE = re.compile(rf"(?<!\d)[{APOSTROPHES}]s?$", re.IGNORECASE)  # Not 1990's.
# spaCy's components that entities do not depend on.
_NOT_NEEDED = frozenset(
    "tagger parser morphologizer lemmatizer trainable_lemmatizer attribute_ruler "
    "senter sentencizer entity_linker textcat textcat_multilabel".split()
)
# What no space parts from a quantity belongs to it: '-1' of '3-1', 'm' of '£5m'.
_REST = re.compile(r"(?<=\w)(?:[-–/]?\w|(?<=\d)[.,:](?=\d))*%?")
# An unknown piece beside an entity, and the word beyond it: 'M ⁇ ' of 'M ⁇ nchen'.
_JOINED_BEFORE = re.compile(rf"\w+\s?{occurrence.UNKNOWN}\s?$")
_JOINED_AFTER = re.compile(rf"\s?{occurrence.UNKNOWN}\s?\w+")

# Of which entities only the words are marked that the input does not have. Never of
# quantities: the words of a number or a date mean nothing by themselves.
WORDS_ONLY = ("persons", "names", "none")
# In summaries of articles whose names people have judged (EntFA), 99 % of a person's
# words that the article has were right, mostly a surname, and 94 % of the others wrong.
# Of other names 67 % of the words that it has were wrong, too.
DEFAULT_WORDS_ONLY = "persons"

# Raised by one whenever other words come to be marked, here or in `occurrence`.
RULES = 4


class EntityAnnotator(spacy_pipelines.SpacyAnnotator):
    """Marks the entities of a text that do not occur in its input.

    Entities are those of a spaCy pipeline; `t5patches.annotate.occurrence` says what
    'occur' means. The label is the entity's. An article before an entity and a
    possessive 's after it are not marked. What follows a quantity without a space
    belongs to it: 'm' in '£5m', though the pipeline finds only '£5'.

    Of persons only the words are marked that do not occur, 'John' of 'John Smith' where
    the input has 'Mr Smith'; if each occurs by itself, all are.
    """

    def __init__(
        self,
        pipeline: Any = PIPELINE,
        labels: Sequence[str] | None = None,
        batch_size: int = spacy_pipelines.BATCH_SIZE,
        unsupported_words_only: str = DEFAULT_WORDS_ONLY,
    ):
        """Takes a spaCy pipeline.

        Args:
          pipeline: by name or folder, or loaded; components that entities do not need
            are switched off.
          labels: entities to consider; all if None.
          batch_size: texts that go through the pipeline together.
          unsupported_words_only: of which entities the words that occur are not
            marked, one of `WORDS_ONLY`.

        Raises:
          UserError: the pipeline is missing, does not load, finds no entities, or none
            with one of `labels`.
        """
        nlp = spacy_pipelines.load(pipeline)
        found = _entity_labels(nlp)
        for label in labels or ():
            if found and label not in found:
                raise UserError(
                    f"{_name(nlp)}: has no entities {label!r}; it has "
                    f"{', '.join(sorted(found))}"
                )
        _switch_off(nlp)
        super().__init__(pipeline, nlp, batch_size)
        self.labels = None if labels is None else sorted(set(labels))
        self.unsupported_words_only = unsupported_words_only

    @property
    def settings(self) -> dict[str, Any]:
        """What tells this pipeline and these labels from others."""
        words_only = {"unsupported_words_only": self.unsupported_words_only}
        return {
            "annotator": "entities",
            "pipeline": spacy_pipelines.digest(self.nlp),
            "labels": self.labels,
            "rules": RULES,
            **(words_only if self.unsupported_words_only != "none" else {}),
        }

    def pipe(self, pairs: Iterable[tuple[str, str]]) -> Iterator[list[Span]]:
        """Yields the entities of each (text, inputs) that do not occur in `inputs`."""
        contexts = ((text, occurrence.Text(inputs)) for text, inputs in pairs)
        for doc, inputs in self.nlp.pipe(
            contexts, as_tuples=True, batch_size=self.batch_size
        ):
            yield self._unsupported(doc, inputs)

    def _unsupported(self, doc: Any, inputs: occurrence.Text) -> list[Span]:
        spans = []
        for entity in doc.ents:
            if self.labels is not None and entity.label_ not in self.labels:
                continue
            start, end = entity.start_char, entity.end_char
            is_quantity = entity.label_ in occurrence.QUANTITIES
            if is_quantity and (rest := _REST.match(doc.text, end)):
                end = rest.end()
            start, end = _trim(doc.text, start, end)
            text, whole = doc.text[start:end], _with_unknown(doc.text, start, end)
            if text and not (inputs.has(text, entity.label_) or inputs.spells(whole)):
                found = [(start, end)]
                if self._by_words(entity.label_):
                    found = _lacking(doc.text, start, end, inputs, entity.label_)
                spans += [(*span, entity.label_) for span in found]
        return spans

    def _by_words(self, label: str) -> bool:
        if self.unsupported_words_only == "names":
            return label not in occurrence.QUANTITIES
        return self.unsupported_words_only == "persons" and label in occurrence.PERSONS

    def __reduce__(self):
        arguments = self.source, self.labels, self.batch_size
        return EntityAnnotator, (*arguments, self.unsupported_words_only)


def _lacking(
    text: str, start: int, end: int, inputs: occurrence.Text, label: str
) -> list[tuple[int, int]]:
    """Returns the words of an entity that do not occur, neighbours as one; else all."""
    found: list[tuple[int, int]] = []
    for word in re.compile(r"\S+").finditer(text, start, end):
        if inputs.has(word[0], label):
            continue
        begin = word.start()
        if found and text[found[-1][1] : begin].isspace():
            begin = found.pop()[0]
        found.append((begin, word.end()))
    return found or [(start, end)]


def _trim(text: str, start: int, end: int) -> tuple[int, int]:
    if article := _ARTICLE.match(text, start, end):
        start = article.end()
    end = start + len(text[start:end].rstrip())
    possessive = _POSSESSIVE.search(text[:end], max(end - 2, start))
    return start, possessive.start() if possessive else end


def _with_unknown(text: str, start: int, end: int) -> str:
    """Returns an entity with the words that an unknown piece may join to it."""
    low = max(start - 40, 0)
    before, after = (
        _JOINED_BEFORE.search(text, low, start),
        _JOINED_AFTER.match(text, end),
    )
    return text[before.start() if before else start : after.end() if after else end]


def _entity_labels(nlp: Any) -> set[str]:
    components = [
        name
        for name in nlp.pipe_names
        if any(part.startswith("doc.ents") for part in nlp.get_pipe_meta(name).assigns)
    ]
    if not components:
        raise UserError(
            f"{_name(nlp)}: has no component that finds entities (it has: "
            f"{', '.join(nlp.pipe_names) or 'none'}); give a pipeline with 'ner'"
        )
    return {label for name in components for label in nlp.pipe_labels.get(name, ())}


def _switch_off(nlp: Any) -> None:
    """Disables what entities do not depend on: with en_core_web_sm, all but NER."""
    factories = {name: nlp.get_pipe_meta(name).factory for name in nlp.pipe_names}
    if {"entity_ruler", "span_ruler"} & set(factories.values()):
        return  # Rules may ask for any attribute of a word.
    off = {name for name, factory in factories.items() if factory in _NOT_NEEDED}
    for name, factory in factories.items():
        listeners = getattr(nlp.get_pipe(name), "listening_components", None)
        if factory in ("tok2vec", "transformer") and listeners is not None:
            off |= {name} if off.issuperset(listeners) else set()
    nlp.disable_pipes(*off)


def _name(nlp: Any) -> str:
    return os.fspath(nlp.path) if nlp.path else f"{nlp.meta['lang']}_{nlp.meta['name']}"
