"""Training and evaluating the tagger; the thresholds are chosen on posts held out."""

from __future__ import annotations

import dataclasses
import os
import pathlib
import random
import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import spacy
from absl import logging
from spacy.tokens import Doc
from spacy.training import Example
from spacy.util import minibatch
from thinc.api import Adam, fix_random_seed, set_dropout_rate

from t5patches import progress
from t5patches.annotate.tagger import component
from t5patches.annotate.tagger.posts import Post, spans_of
from t5patches.annotate.tagger.scores import bootstrap_interval, character_f1
from t5patches.errors import UserError
from t5patches.interchange import json_files, shards

RECORD = "evaluation.json"
# What is tried when the thresholds are chosen.
THRESHOLDS = tuple(np.arange(1, 13) / 25)
RATIOS = tuple(np.arange(2, 9) / 10)


@dataclasses.dataclass(frozen=True)
class Settings:
    """How the tagger is trained.

    Attributes:
      label: of the spans it marks.
      language: of spaCy's tokenizer.
      members: networks whose probabilities are averaged.
      width, depth, embed_size: see `component.token_probabilities`.
      epochs: at most; the best one on the posts held out is kept.
      patience: epochs without a better one after which training stops.
      batch_size: posts.
      learning_rate: at the start; it falls linearly to a twentieth.
      weight_decay: of Adam.
      dropout: of the hidden layers.
      held_out: share of the posts on which epoch and thresholds are chosen.
      seed: of weights, order and the posts held out.
    """

    label: str = "toxic"
    language: str = "en"
    members: int = 2
    width: int = 96
    depth: int = 3
    embed_size: int = 5000
    epochs: int = 4
    patience: int = 2
    batch_size: int = 32
    learning_rate: float = 1e-3
    weight_decay: float = 0.01
    dropout: float = 0.3
    held_out: float = 0.15
    seed: int = 0


def train(posts: Sequence[Post], settings: Settings | None = None) -> spacy.Language:
    """Returns a pipeline with a trained `component.SpanTagger`.

    Weights are averaged over the steps (Polyak). After each epoch the two thresholds
    that give the best F1 on the posts held out are found; the epoch, with its
    thresholds, of the best F1 is kept.

    Raises:
      UserError: there are too few posts, or none with an unwanted character.
    """
    settings = settings or Settings()
    fix_random_seed(settings.seed)
    posts = list(posts)
    random.Random(settings.seed).shuffle(posts)
    count = max(1, round(settings.held_out * len(posts)))
    held_out, posts = posts[:count], posts[count:]
    if not any(post.unwanted for post in posts):
        raise UserError(
            f"none of the {len(posts)} posts to train on has an unwanted character "
            f"(held out: {count}); give more"
        )
    nlp = _new_pipeline(settings)
    examples = [example_of(nlp, post, settings.label) for post in posts]
    examples = [example for example in examples if len(example.reference)]
    nlp.initialize(lambda: examples)
    docs = [nlp.make_doc(post.text) for post in held_out]
    _fit(
        nlp.get_pipe(component.FACTORY),
        examples,
        settings,
        lambda probabilities: best_thresholds(docs, probabilities, held_out),
        docs,
    )
    return nlp


def _new_pipeline(settings: Settings) -> spacy.Language:
    try:
        nlp = spacy.blank(settings.language)
    except ImportError as error:
        raise UserError(
            f"spaCy has no language {settings.language!r}: {error}"
        ) from error
    model = {
        "@architectures": component.ARCHITECTURE,
        "width": settings.width,
        "depth": settings.depth,
        "embed_size": settings.embed_size,
        "members": settings.members,
    }
    config = {"label": settings.label, "model": model}
    nlp.add_pipe(component.FACTORY, config=config)
    nlp.meta["description"] = "Unwanted spans, by t5patches tagger train"
    return nlp


def example_of(nlp: spacy.Language, post: Post, label: str) -> Example:
    """Returns a post as spaCy's training example: `reference.spans[label]`.

    A token is unwanted if more than half of its characters are.
    """
    doc = nlp.make_doc(post.text)
    chosen = np.array(
        [
            2 * sum(at in post.unwanted for at in range(t.idx, t.idx + len(t))) > len(t)
            for t in doc
        ],
        bool,
    )
    doc.spans[label] = [
        spacy.tokens.Span(doc, start, end, label)
        for start, end in component.token_spans(doc, chosen)
    ]
    return Example(nlp.make_doc(post.text), doc)


def _fit(
    tagger: component.SpanTagger,
    examples: list[Example],
    settings: Settings,
    choose: Callable[[list[np.ndarray]], tuple[float, float, float]],
    held_out: list[Doc],
) -> None:
    """Trains, and leaves the best epoch's weights and thresholds in the component."""
    model = tagger.model
    optimizer = Adam(
        settings.learning_rate,
        L2=settings.weight_decay,
        L2_is_weight_decay=True,
        grad_clip=1.0,
        use_averages=True,
    )
    per_epoch = -(-len(examples) // settings.batch_size)
    shuffler = random.Random(settings.seed)
    best, best_epoch, weights = -1.0, 0, b""
    step = 0
    for epoch in range(settings.epochs):
        shuffler.shuffle(examples)
        set_dropout_rate(model, settings.dropout)
        loss = 0.0
        batches = minibatch(examples, settings.batch_size)
        for batch in progress.track(batches, f"epoch {epoch + 1}", per_epoch):
            logits, backpropagate = model.begin_update([e.reference for e in batch])
            batch_loss, gradients = tagger.get_loss(batch, logits)
            backpropagate(gradients)
            rate = max(0.05, 1 - step / (per_epoch * settings.epochs))
            optimizer.learn_rate = settings.learning_rate * rate
            model.finish_update(optimizer)
            loss += batch_loss
            step += 1
        with model.use_params(optimizer.averages):
            f1, threshold, ratio = choose(_probabilities(tagger, held_out))
            logging.info(
                "epoch %d: loss %.2f a post, F1 %.4f on %d posts held out "
                "(threshold %.2f, ratio %.1f)",
                epoch + 1,
                loss / len(examples),
                f1,
                len(held_out),
                threshold,
                ratio,
            )
            if f1 > best:
                best, best_epoch, weights = f1, epoch, model.to_bytes()
                tagger.cfg.update(threshold=threshold, ratio=ratio, held_out_f1=f1)
        if epoch - best_epoch >= settings.patience:
            break
    model.from_bytes(weights)


def _probabilities(tagger: component.SpanTagger, docs: list[Doc]) -> list[np.ndarray]:
    return [p for batch in minibatch(docs, 256) for p in tagger.predict(batch)]


def best_thresholds(
    docs: Sequence[Doc], probabilities: Sequence[np.ndarray], posts: Sequence[Post]
) -> tuple[float, float, float]:
    """Returns the best F1 on `posts`, and the threshold and ratio that give it."""
    tables = [_Characters(doc, post) for doc, post in zip(docs, posts, strict=True)]
    scored = []
    for threshold in THRESHOLDS:
        for ratio in RATIOS:
            values = [
                table.f1(component.choose(p, threshold, ratio))
                for table, p in zip(tables, probabilities, strict=True)
            ]
            scored.append((float(np.mean(values)), float(threshold), float(ratio)))
    return max(scored)


class _Characters:
    """Counts of characters of a post's tokens: F1 of many choices, quickly.

    Each count is a pair: all characters, and those of them that are unwanted.
    """

    def __init__(self, doc: Doc, post: Post):
        unwanted = np.zeros(len(post.text) + 1, np.int64)
        unwanted[1 + np.array(sorted(post.unwanted), int)] = 1
        before = np.stack([np.arange(len(unwanted)), unwanted.cumsum()])
        words = [token for token in doc if not token.is_space]
        starts = np.array([token.idx for token in words], int)
        ends = starts + np.array([len(token) for token in words], int)
        self.words = np.array([token.i for token in words], int)
        self.inside = before[:, ends] - before[:, starts]
        # Between a word and the next: in a span if both words are.
        self.between = before[:, starts[1:]] - before[:, ends[:-1]]
        self.gold = len(post.unwanted)

    def f1(self, chosen: np.ndarray) -> float:
        """Returns what `character_f1` gives for the spans of chosen tokens."""
        chosen = chosen[self.words]
        joined = chosen[1:] & chosen[:-1]
        found, right = self.inside @ chosen + self.between @ joined
        return 2 * right / (found + self.gold) if found + self.gold else 1.0


def evaluate(
    find: Callable[[Iterable[str]], Iterator[list[tuple[int, int]]]],
    posts: Sequence[Post],
) -> dict[str, Any]:
    """Returns the character F1 of a tagger on posts, with a 95 % bootstrap interval.

    Args:
      find: yields for each text the spans of unwanted characters.
      posts: at least one.

    Returns:
      `f1`, its `interval`, the number of `posts`, and `marked`, the share of them in
      which the tagger finds something.
    """
    found = list(find(post.text for post in posts))
    values = [
        character_f1({i for span in spans for i in range(*span)}, post.unwanted)
        for spans, post in zip(found, posts, strict=True)
    ]
    return {
        "f1": float(np.mean(values)),
        "interval": list(bootstrap_interval(values)),
        "posts": len(posts),
        "marked": float(np.mean([bool(spans) for spans in found])),
    }


def span_finder(
    nlp: spacy.Language, key: str | None = None
) -> Callable[[Iterable[str]], Iterator[list[tuple[int, int]]]]:
    """Returns `find` of `evaluate`: spans of `doc.spans[key]`, or entities if None."""

    def find(texts: Iterable[str]) -> Iterator[list[tuple[int, int]]]:
        for doc in nlp.pipe(texts, batch_size=256):
            spans = doc.ents if key is None else doc.spans[key]
            yield [(span.start_char, span.end_char) for span in spans]

    return find


def train_plain_ner(
    posts: Sequence[Post], epochs: int = 4, seed: int = 0
) -> spacy.Language:
    """Returns spaCy's own NER trained on the same posts: the yardstick.

    Blank English, default architecture, dropout 0.2, batches of 64 posts.
    """
    fix_random_seed(seed)
    nlp = spacy.blank("en")
    nlp.add_pipe("ner").add_label("TOXIC")
    examples = []
    for post in posts:
        doc = nlp.make_doc(post.text)
        doc.ents = _entities(doc, post)
        examples.append(Example(nlp.make_doc(post.text), doc))
    optimizer = nlp.initialize(lambda: examples)
    shuffler = random.Random(seed)
    for epoch in range(epochs):
        shuffler.shuffle(examples)
        for batch in progress.track(minibatch(examples, 64), f"plain NER {epoch + 1}"):
            nlp.update(batch, drop=0.2, sgd=optimizer)
    return nlp


def _entities(doc: Doc, post: Post) -> list[spacy.tokens.Span]:
    """Returns what is unwanted as entities, which spaCy lets not begin or end blank."""
    entities = []
    for start, end in spans_of(post.unwanted):
        span = doc.char_span(start, end, "TOXIC", alignment_mode="contract")
        words = [token.i for token in span or () if not token.is_space]
        if words:
            entities.append(spacy.tokens.Span(doc, words[0], words[-1] + 1, "TOXIC"))
    return entities


def save(
    nlp: spacy.Language, folder: shards.PathLike, results: shards.Row | None = None
) -> None:
    """Writes a pipeline as a folder that appears when it is whole.

    Args:
      nlp: the pipeline.
      folder: where it shall stand.
      results: what `evaluation.json` shall have; there is none if None.

    Raises:
      UserError: the folder is there already.
    """
    text = os.fspath(folder)
    if os.path.exists(text):
        raise UserError(f"{text}: exists; give another folder or remove this one")
    target = pathlib.Path(text)
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.parent / f".{target.name}.tmp"
    shutil.rmtree(temporary, ignore_errors=True)
    try:
        nlp.to_disk(temporary)
        if results is not None:
            json_files.write_json(temporary / RECORD, results)
        temporary.replace(target)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
