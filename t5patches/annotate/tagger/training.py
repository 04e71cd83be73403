"""Training the tagger with spaCy's loop, and what it and plain NER are worth."""

from __future__ import annotations

import contextlib
import dataclasses
import math
import pathlib
import random
import sys
import tempfile
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import spacy
from spacy.language import Language
from spacy.tokens import Doc, DocBin
from spacy.training import initialize, loop
from thinc.api import Config

from t5patches.annotate import spacy_pipelines
from t5patches.annotate.tagger import component
from t5patches.annotate.tagger.posts import Post, without
from t5patches.annotate.tagger.scores import bootstrap_interval, character_f1
from t5patches.errors import UserError
from t5patches.interchange import claims, json_files, shards

RECORD = "evaluation.json"
BATCH_SIZE = 32
CONFIG = pathlib.Path(__file__).with_name("training.cfg")
# The share of the posts on which epoch and thresholds are chosen.
HELD_OUT = 0.15


@dataclasses.dataclass(frozen=True)
class Settings:
    """How the tagger is trained.

    Attributes:
      label: of the spans it marks.
      language: of spaCy's tokenizer.
      epochs: at most; the best one on the posts held out is kept.
      seed: of weights, order and the posts held out.
      network: other values of `component.token_probabilities` than the default ones.
    """

    label: str = "toxic"
    language: str = "en"
    epochs: int = 4
    seed: int = 0
    network: Mapping[str, Any] = dataclasses.field(default_factory=dict)


def train(posts: Sequence[Post], settings: Settings) -> Language:
    """Returns a pipeline with a trained `component.SpanTagger`.

    After each epoch the two thresholds that give the best F1 on the posts held out are
    found; the epoch, with its thresholds, of the best F1 is kept.

    Raises:
      UserError: there are too few posts, or none with an unwanted character.
    """
    config = {"label": settings.label, "model": dict(settings.network)}
    nlp = fit(posts, settings, component.FACTORY, config)
    nlp.meta["description"] = "Unwanted spans, by t5patches tagger train"
    best = nlp.meta["performance"]
    cfg = nlp.get_pipe(component.FACTORY).cfg
    cfg.update(threshold=best["threshold"], ratio=best["ratio"])
    return nlp


def fit(
    posts: Sequence[Post], settings: Settings, factory: str, config: dict[str, Any]
) -> Language:
    """Returns a pipeline with one component, trained on posts.

    Args:
      posts: to learn from; a part of them is held out to choose the best epoch on.
      settings: of the training; the label and network are the span tagger's.
      factory: spaCy's name for the component, e.g. "ner".
      config: of the component.

    Raises:
      UserError: see `train`.
    """
    try:
        blank = spacy.blank(settings.language)
    except ImportError as error:
        message = f"spaCy has no language {settings.language!r}: {error}"
        raise UserError(message) from error
    blank.add_pipe(factory, config=config)
    docs = [reference(blank, post, settings.label) for post in posts if post.text]
    random.Random(settings.seed).shuffle(docs)
    count = max(1, round(HELD_OUT * len(docs)))
    held_out, docs = docs[:count], docs[count:]
    if not any(doc.ents for doc in docs):
        raise UserError(
            f"none of the {len(docs)} posts to train on has an unwanted word (held "
            f"out: {count}); give more"
        )
    epoch = math.ceil(len(docs) / BATCH_SIZE)
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        DocBin(docs=docs).to_disk(folder / "train.spacy")
        DocBin(docs=held_out).to_disk(folder / "dev.spacy")
        overrides = {
            "paths.train": str(folder / "train.spacy"),
            "paths.dev": str(folder / "dev.spacy"),
            "system.seed": settings.seed,
            "training.batcher.size": BATCH_SIZE,
            "training.eval_frequency": epoch,
            "training.patience": 2 * epoch,
            "training.max_steps": settings.epochs * epoch,
        }
        ours = Config().from_disk(CONFIG, overrides=overrides)
        nlp = initialize.init_nlp(blank.config.merge(ours))
        loop.train(nlp, folder, stdout=sys.stderr)
        nlp.from_bytes(spacy.load(folder / loop.DIR_MODEL_BEST).to_bytes())
    nlp.config["paths"].update(train=None, dev=None)
    return nlp


def reference(nlp: Language, post: Post, label: str) -> Doc:
    """Returns a post for spaCy to learn from: what is unwanted are its entities.

    A token is unwanted if more than half of its characters are.
    """
    doc, marks = nlp.make_doc(post.text), post.marks
    chosen = [marks[token.idx :][: len(token)].mean() > 0.5 for token in doc]
    doc.ents = component.runs(doc, chosen, label)
    return doc


def evaluate(
    nlp: Language, posts: Sequence[Post], key: str | None = None
) -> dict[str, Any]:
    """Returns the character F1 of a pipeline on posts, with a 95 % bootstrap interval.

    Args:
      nlp: the pipeline.
      posts: at least one.
      key: what it finds is in `doc.spans[key]`, or in the entities if None.

    Returns:
      `f1`, its `interval`, the number of `posts`, and `marked`, the share of them in
      which the pipeline finds something.
    """
    values, marked = [], []
    docs = nlp.pipe((post.text for post in posts), batch_size=256)
    for doc, post in zip(docs, posts, strict=True):
        found = np.zeros(len(post.text), bool)
        for span in doc.ents if key is None else doc.spans[key]:
            found[span.start_char : span.end_char] = True
        values.append(character_f1(found, post.marks))
        marked.append(found.any())
    return {
        "f1": float(np.mean(values)),
        "interval": list(bootstrap_interval(values)),
        "posts": len(posts),
        "marked": float(np.mean(marked)),
    }


def train_folder(
    folder: shards.PathLike,
    posts: Sequence[Post],
    evaluated: Sequence[Post],
    settings: Settings,
    annotating: float,
    compare: bool = False,
) -> dict[str, Any]:
    """Trains a tagger into a folder, which is whole or not there, and evaluates it.

    Asked again with the same posts and settings it does what is not done yet.

    Args:
      folder: of the pipeline, with `evaluation.json` in it.
      posts: to train on, without those of `evaluated`, which are taken out.
      evaluated: to evaluate on, if any.
      settings: of the training.
      annotating: the threshold of `annotate toxicity`, with which the tagger is
        evaluated too.
      compare: whether spaCy's own NER is trained on the same posts, in the same way,
        and evaluated.

    Returns:
      What `evaluation.json` has.

    Raises:
      UserError: the folder is there and of other posts or settings.
    """
    folder = pathlib.Path(folder)
    claimed = dataclasses.asdict(settings)
    for name, some in (("posts", posts), ("evaluated", evaluated)):
        texts = [(post.text, sorted(post.unwanted)) for post in some]
        claimed[name] = claims.fingerprint({name: texts})
    kept = without(posts, evaluated)
    if (folder / RECORD).exists():
        claims.claim(folder, claimed)
        wanted = ("evaluation", "annotating") if evaluated else ()
        fields: dict[str, type] = dict.fromkeys(wanted, dict)
        remedy = f"remove {folder} and train again"
        results = json_files.read_record(folder / RECORD, fields, remedy)
    elif not folder.is_dir() and folder.exists() or any(folder.glob("*")):
        raise UserError(f"{folder}: exists; give another folder or remove this one")
    else:
        nlp = train(kept, settings)
        cfg = nlp.get_pipe(component.FACTORY).cfg
        threshold = cfg["threshold"]
        results = {
            "training_posts": len(kept),
            "taken_out": len(posts) - len(kept),
            "threshold": threshold,
            "ratio": cfg["ratio"],
            "held_out_f1": nlp.meta["performance"]["character_f1"],
        }
        if evaluated:
            results["evaluation"] = evaluate(nlp, evaluated, settings.label)
            cfg["threshold"] = annotating
            results["annotating"] = evaluate(nlp, evaluated, settings.label)
            cfg["threshold"] = threshold
        nlp.meta["performance"] = dict(results)
        _save(nlp, folder, claimed, results)
    if compare and "plain_ner" not in results:
        plain = fit(kept, settings, "ner", {})
        results["plain_ner"] = evaluate(plain, evaluated)
        json_files.write_json(folder / RECORD, results)
    return results


def _save(
    nlp: Language, folder: pathlib.Path, claimed: shards.Row, results: dict[str, Any]
) -> None:
    """Writes a pipeline as a folder that appears when it is whole."""
    with contextlib.suppress(OSError):
        folder.rmdir()  # If it is empty.
    with shards.atomic_path(folder) as name:
        whole = pathlib.Path(name)
        claims.claim(whole, claimed)
        nlp.to_disk(whole)
        results["content"] = spacy_pipelines.digest(spacy_pipelines.load(whole))
        json_files.write_json(whole / RECORD, results)
