"""The spaCy component: a probability for each token, spans by two thresholds."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
import spacy
from spacy.ml.models import build_hash_embed_cnn_tok2vec
from spacy.pipeline import TrainablePipe
from spacy.tokens import Doc
from spacy.training import validate_examples
from thinc.api import Linear, Model, chain, concatenate, with_array

Array = np.ndarray

FACTORY = "t5patches_span_tagger"
ARCHITECTURE = "t5patches.TokenProbabilities.v1"


@spacy.registry.architectures(ARCHITECTURE)
def token_probabilities(
    width: int, depth: int, embed_size: int, members: int
) -> Model[list[Doc], list[Array]]:
    """Returns `members` networks side by side; each gives a logit for each token.

    A member is spaCy's convolutional tok2vec (hashed norm, prefix, suffix and shape of
    each token, `depth` layers that look one token to either side) and a linear layer.

    Args:
      width: of the hidden layers.
      depth: how many convolutions.
      embed_size: rows of the table of norms; the other tables have half as many.
      members: how many networks, which differ in their initial weights alone.
    """
    networks = [
        chain(
            build_hash_embed_cnn_tok2vec(
                width=width,
                depth=depth,
                embed_size=embed_size,
                window_size=1,
                maxout_pieces=3,
                subword_features=True,
                pretrained_vectors=None,
            ),
            with_array(Linear(1, width)),
        )
        for _ in range(members)
    ]
    return concatenate(*networks) if members > 1 else networks[0]


@spacy.Language.factory(
    FACTORY,
    assigns=["doc.spans"],
    default_config={
        "label": "unwanted",
        "threshold": 0.2,
        "ratio": 0.5,
        "model": {
            "@architectures": ARCHITECTURE,
            "width": 96,
            "depth": 3,
            "embed_size": 5000,
            "members": 2,
        },
    },
)
def make_span_tagger(
    nlp: spacy.Language,
    name: str,
    model: Model,
    label: str,
    threshold: float,
    ratio: float,
) -> SpanTagger:
    """Makes the component for a pipeline's config."""
    return SpanTagger(nlp.vocab, model, name, label, threshold, ratio)


class SpanTagger(TrainablePipe):
    """Writes the unwanted spans of a text to `doc.spans[label]`.

    A token is unwanted if its probability is at least `threshold` and at least `ratio`
    times that of the likeliest token of the text: where something is plainly meant, the
    words around it are let off. Unwanted tokens that are neighbours make one span.
    """

    def __init__(
        self,
        vocab: spacy.vocab.Vocab,
        model: Model,
        name: str = FACTORY,
        label: str = "unwanted",
        threshold: float = 0.2,
        ratio: float = 0.5,
    ):
        """See `make_span_tagger`."""
        self.vocab = vocab
        self.model = model
        self.name = name
        # Saved with the pipeline.
        self.cfg: dict[str, Any] = {
            "label": label,
            "threshold": threshold,
            "ratio": ratio,
        }

    @property
    def label(self) -> str:
        """The one label, and the key of `doc.spans`."""
        return self.cfg["label"]

    def predict(self, docs: Iterable[Doc]) -> list[Array]:
        """Returns each token's probability of being unwanted, the members' mean.

        Returns:
          float32 [tokens] for each of `docs`.
        """
        docs = list(docs)
        if not any(len(doc) for doc in docs):
            return [np.zeros(len(doc), np.float32) for doc in docs]
        return [sigmoid(logits).mean(-1) for logits in self.model.predict(docs)]

    def set_annotations(self, docs: Sequence[Doc], scores: Sequence[Array]) -> None:
        """Writes `doc.spans[label]`."""
        for doc, probabilities in zip(docs, scores, strict=True):
            chosen = choose(probabilities, self.cfg["threshold"], self.cfg["ratio"])
            doc.spans[self.label] = [
                spacy.tokens.Span(doc, start, end, self.label)
                for start, end in token_spans(doc, chosen)
            ]

    def initialize(
        self,
        get_examples: Callable[[], Iterable[Any]],
        *,
        nlp: spacy.Language | None = None,
    ) -> None:
        """Fixes the shapes of the network from some examples."""
        del nlp
        examples = itertools.islice(get_examples(), 10)
        docs = [example.reference for example in examples]
        docs = [doc for doc in docs if len(doc)]
        self.model.initialize(X=docs)

    def get_loss(self, examples: Any, scores: list[Array]) -> tuple[float, list[Array]]:
        """Returns the binary cross entropy of each token's logits, and its gradient.

        Args:
          examples: spaCy Examples; `reference.spans[label]` is what is unwanted.
          scores: logits, float32 [tokens, members], of each.

        Returns:
          The sum over tokens and members; its gradient by `scores`, which is scaled so
          that a batch of any size has the weight of a few tokens.
        """
        validate_examples(examples, "SpanTagger.get_loss")
        loss, gradients = 0.0, []
        scale = 1 / (40 * max(len(scores), 1))
        for example, logits in zip(examples, scores, strict=True):
            wanted = np.zeros((len(example.reference), 1), np.float32)
            for span in example.reference.spans.get(self.label, ()):
                wanted[span.start : span.end] = 1
            # log(1 + e^x) - x y, without overflow.
            loss += float((np.logaddexp(0, logits) - logits * wanted).sum())
            gradients.append(((sigmoid(logits) - wanted) * scale).astype(np.float32))
        return loss, gradients


def sigmoid(logits: Array) -> Array:
    """Returns probabilities of logits."""
    return 0.5 * (1 + np.tanh(0.5 * logits))


def choose(probabilities: Array, threshold: float, ratio: float) -> Array:
    """Returns which tokens of a text are unwanted, bool [tokens]."""
    if not len(probabilities):
        return np.zeros(0, bool)
    return (probabilities >= threshold) & (probabilities >= ratio * probabilities.max())


def token_spans(doc: Doc, chosen: Array) -> list[tuple[int, int]]:
    """Returns runs of chosen tokens, white space aside, as (start, end) in tokens."""
    spans: list[tuple[int, int]] = []
    goes_on = False
    for token in doc:
        if token.is_space:
            continue
        if chosen[token.i]:
            start = spans.pop()[0] if goes_on else token.i
            spans.append((start, token.i + 1))
        goes_on = bool(chosen[token.i])
    return spans
