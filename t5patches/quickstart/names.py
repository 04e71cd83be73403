"""Trains the tagger of names for the made-up news: a small spaCy CNN.

It learns from texts in which every name is known because they were made up: reports and
headlines that no model has seen, drawn with a seed of their own.
"""

import os
import random
from typing import Any

from t5patches.quickstart import news

TEXTS = 600
HELD_OUT = 200
EPOCHS = 4
# Small: the texts are plain and the names a few dozen. spaCy's default width is 96.
_WIDTH, _DEPTH = 48, 2


def train(path: str | os.PathLike, seed: int) -> dict[str, Any]:
    """Trains a spaCy pipeline of one part, a named-entity recogniser, and saves it.

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
    texts = _texts(seed, TEXTS + HELD_OUT)
    examples = [
        Example.from_dict(nlp.make_doc(text), {"entities": news.entities(text)})
        for text in texts
    ]
    held_out, training = examples[:HELD_OUT], examples[HELD_OUT:]
    nlp.add_pipe("ner", config={"model": _model()})
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


def _texts(seed: int, count: int) -> list[str]:
    # Another seed than the corpus has: the model's inputs are not the tagger's texts.
    rows = news.make(seed + 1_000_003, {"tagger": count // 2})["tagger"]
    return [text for row in rows for text in (row["inputs"], row["targets"])]


def _model() -> dict[str, Any]:
    """spaCy's transition-based model over its hashed embeddings, narrower."""
    return {
        "@architectures": "spacy.TransitionBasedParser.v2",
        "state_type": "ner",
        "extra_state_tokens": False,
        "hidden_width": 64,
        "maxout_pieces": 2,
        "use_upper": True,
        "nO": None,
        "tok2vec": {
            "@architectures": "spacy.HashEmbedCNN.v2",
            "pretrained_vectors": None,
            "width": _WIDTH,
            "depth": _DEPTH,
            "embed_size": 1000,
            "window_size": 1,
            "maxout_pieces": 3,
            "subword_features": True,
        },
    }
