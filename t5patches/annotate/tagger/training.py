"""Training a tagger, spaCy's own NER by spaCy's own loop, and what it is worth."""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import math
import pathlib
import random
import sys
import tempfile
from collections.abc import Sequence
from typing import Any

import numpy as np
import spacy
from spacy.language import Language
from spacy.tokens import Doc, DocBin, Span
from spacy.training import initialize, loop
from thinc.api import Config

from t5patches.annotate import spacy_pipelines, toxicity
from t5patches.annotate.tagger.posts import Post, without
from t5patches.annotate.tagger.scores import bootstrap_interval, character_f1
from t5patches.errors import UserError
from t5patches.interchange import claims, json_files, shards

CONFIG = pathlib.Path(__file__).with_name("training.cfg")
# The share of the posts on which the best epoch is chosen.
HELD_OUT = 0.15


@dataclasses.dataclass(frozen=True)
class Settings:
    """How the tagger is trained.

    Attributes:
      label: of the spans it marks.
      language: of spaCy's tokenizer.
      epochs: at most; the best one on the posts held out is kept.
      seed: of weights, order and the posts held out.
    """

    label: str = "toxic"
    language: str = "en"
    epochs: int = 4
    seed: int = 0


def train(posts: Sequence[Post], settings: Settings) -> Language:
    """Returns a pipeline with one component, an NER trained on posts.

    A part of the posts is held out to choose the best epoch on.

    Raises:
      UserError: spaCy does not know the language; there are too few posts, or none with
        an unwanted character.
    """
    try:
        blank = spacy.blank(settings.language)
    except ImportError as error:
        message = f"spaCy has no language {settings.language!r}: {error}"
        raise UserError(message) from error
    docs = [reference(blank, post, settings.label) for post in posts if post.text]
    random.Random(settings.seed).shuffle(docs)
    count = max(1, round(HELD_OUT * len(docs)))
    held_out, docs = docs[:count], docs[count:]
    if not any(doc.ents for doc in docs):
        raise UserError(
            f"none of the {len(docs)} posts to train on has an unwanted word (held "
            f"out: {count}); give more"
        )
    config = Config().from_disk(CONFIG)
    epoch = math.ceil(len(docs) / config["training"]["batcher"]["size"])
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        DocBin(docs=docs).to_disk(folder / "train.spacy")
        DocBin(docs=held_out).to_disk(folder / "dev.spacy")
        overrides = {
            "paths.train": str(folder / "train.spacy"),
            "paths.dev": str(folder / "dev.spacy"),
            "system.seed": settings.seed,
            "nlp.lang": settings.language,
            "training.eval_frequency": epoch,
            "training.max_steps": settings.epochs * epoch,
        }
        nlp = initialize.init_nlp(Config().from_disk(CONFIG, overrides=overrides))
        loop.train(nlp, folder, stdout=sys.stderr)
        nlp.from_bytes(spacy.load(folder / loop.DIR_MODEL_BEST).to_bytes())
    nlp.config["paths"].update(train=None, dev=None)
    return nlp


def reference(nlp: Language, post: Post, label: str) -> Doc:
    """Returns a post for spaCy to learn from: what is unwanted are its entities.

    A token is unwanted if more than half of its characters are. Unwanted tokens that
    are neighbours make one entity, white space between words aside.
    """
    doc, marks = nlp.make_doc(post.text), post.marks
    words = [token for token in doc if not token.is_space]
    unwanted = lambda token: marks[token.idx :][: len(token)].mean() > 0.5
    grouped = itertools.groupby(words, unwanted)
    runs = [list(run) for is_unwanted, run in grouped if is_unwanted]
    doc.ents = [Span(doc, run[0].i, run[-1].i + 1, label) for run in runs]
    return doc


def evaluate(nlp: Language, posts: Sequence[Post]) -> dict[str, dict[str, Any]]:
    """Returns what a pipeline is worth on posts, and on both kinds of them apart.

    Args:
      nlp: the pipeline.
      posts: at least one.

    Returns:
      For "all" posts, those "with_spans" and those "without_spans", if there are any:
      the number of `posts`; the character `f1` with its 95 % bootstrap `interval`; and
      `marked`, the share of posts in which the pipeline finds something.
    """
    values, marked = [], []
    docs = nlp.pipe((post.text for post in posts), batch_size=256)
    for doc, post in zip(docs, posts, strict=True):
        found = np.zeros(len(post.text), bool)
        for span in doc.ents:
            found[span.start_char : span.end_char] = True
        values.append(character_f1(found, post.marks))
        marked.append(found.any())
    spans = np.array([bool(post.unwanted) for post in posts])
    kinds = {"all": spans | True, "with_spans": spans, "without_spans": ~spans}
    return {
        kind: {
            "posts": int(chosen.sum()),
            "f1": float(np.mean(values, where=chosen)),
            "interval": list(bootstrap_interval(np.array(values)[chosen])),
            "marked": float(np.mean(marked, where=chosen)),
        }
        for kind, chosen in kinds.items()
        if chosen.any()
    }


def train_folder(
    folder: shards.PathLike,
    posts: Sequence[Post],
    evaluated: Sequence[Post],
    settings: Settings,
) -> dict[str, Any]:
    """Trains a tagger into a folder, which is whole or not there, and evaluates it.

    Asked again with the same posts and settings it does nothing.

    Args:
      folder: of the pipeline, with `evaluation.json` in it.
      posts: to train on, without those of `evaluated`, which are taken out.
      evaluated: to evaluate on, if any.
      settings: of the training.

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
    if (folder / toxicity.RECORD).exists():
        claims.claim(folder, claimed)
        return toxicity.read_evaluation(folder)
    if not folder.is_dir() and folder.exists() or any(folder.glob("*")):
        raise UserError(f"{folder}: exists; give another folder or remove this one")
    kept = without(posts, evaluated)
    nlp = train(kept, settings)
    taken_out = len(posts) - len(kept)
    results: dict[str, Any] = {"training_posts": len(kept), "taken_out": taken_out}
    if evaluated:
        results["evaluation"] = evaluate(nlp, evaluated)
    nlp.meta["description"] = "Unwanted spans, by t5patches tagger train"
    _save(nlp, folder, claimed, results)
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
        results["pipeline"] = spacy_pipelines.digest(spacy_pipelines.load(whole))
        json_files.write_json(whole / toxicity.RECORD, results)
