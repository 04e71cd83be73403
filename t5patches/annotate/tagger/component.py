"""The spaCy component: a probability for each token, spans by two thresholds."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
import spacy
from scipy.special import expit
from spacy.language import Language
from spacy.ml.models import build_hash_embed_cnn_tok2vec
from spacy.pipeline import TrainablePipe
from spacy.tokens import Doc, Span
from spacy.training import Example
from spacy.util import minibatch
from thinc.api import Linear, Model, chain, concatenate, with_array

from t5patches.annotate.tagger.scores import character_f1

Array = np.ndarray

FACTORY = "t5patches_span_tagger"
ARCHITECTURE = "t5patches.TokenProbabilities.v1"
# What is tried where the two thresholds are chosen.
THRESHOLDS = tuple((np.arange(1, 13) / 25).tolist())
RATIOS = tuple((np.arange(2, 9) / 10).tolist())


@spacy.registry.architectures(ARCHITECTURE)
def token_probabilities(
    width: int = 96, depth: int = 3, embed_size: int = 5000, members: int = 2
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


@Language.factory(
    FACTORY,
    assigns=["doc.spans"],
    default_config={
        "label": "unwanted",
        "threshold": 0.2,
        "ratio": 0.5,
        "model": {"@architectures": ARCHITECTURE},
    },
    default_score_weights={"character_f1": 1.0, "threshold": 0.0, "ratio": 0.0},
)
def make_span_tagger(
    nlp: Language, name: str, model: Model, label: str, threshold: float, ratio: float
) -> SpanTagger:
    """Makes the component for a pipeline's config."""
    cfg = {"label": label, "threshold": threshold, "ratio": ratio}
    return SpanTagger(nlp.vocab, model, name, **cfg)


class SpanTagger(TrainablePipe):
    """Writes the unwanted spans of a text to `doc.spans[label]`.

    A token is unwanted if its probability is at least `threshold` and at least `ratio`
    times that of the likeliest token of the text: where something is plainly meant, the
    words around it are let off. Unwanted tokens that are neighbours make one span.

    Attributes:
      cfg: `label`, `threshold` and `ratio`, which are saved with the pipeline.
    """

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
        return [expit(logits).mean(-1) for logits in self.model.predict(docs)]

    def set_annotations(self, docs: Sequence[Doc], scores: Sequence[Array]) -> None:
        """Writes `doc.spans[label]`."""
        for doc, probabilities in zip(docs, scores, strict=True):
            cut = lowest(probabilities, self.cfg["threshold"], self.cfg["ratio"])
            doc.spans[self.label] = runs(doc, probabilities >= cut, self.label)

    def initialize(
        self, get_examples: Callable[[], Iterable[Example]], *, nlp: Any = None
    ) -> None:
        """Fixes the shapes of the network from some examples."""
        examples = itertools.islice(get_examples(), 10)
        docs = [example.reference for example in examples]
        self.model.initialize(X=[doc for doc in docs if len(doc)])

    def get_loss(self, examples: Any, scores: list[Array]) -> tuple[float, list[Array]]:
        """Returns the binary cross entropy of each token's logits, and its gradient.

        Args:
          examples: spaCy Examples; the entities of `reference` are unwanted.
          scores: logits, float32 [tokens, members], of each.

        Returns:
          The sum over tokens and members; its gradient by `scores`, which is scaled so
          that a batch of any size has the weight of a few tokens.
        """
        loss, gradients = 0.0, []
        scale = 1 / (40 * max(len(scores), 1))
        for example, logits in zip(examples, scores, strict=True):
            wanted = unwanted(example.reference)[:, None]
            # log(1 + e^x) - x y, without overflow.
            loss += float((np.logaddexp(0, logits) - logits * wanted).sum())
            gradients.append(((expit(logits) - wanted) * scale).astype(np.float32))
        return loss, gradients

    def score(self, examples: Iterable[Example], **unused: Any) -> dict[str, float]:
        """Returns the best character F1 over `THRESHOLDS` and `RATIOS`, and for which.

        Args:
          examples: spaCy Examples; the entities of `reference` are unwanted.
          unused: spaCy's settings for all scorers.

        Returns:
          `character_f1`, the mean over the texts; `threshold` and `ratio`.
        """
        pairs = np.array(list(itertools.product(THRESHOLDS, RATIOS)))
        values = []
        for batch in minibatch(examples, 256):
            found = self.predict([example.predicted for example in batch])
            for example, probabilities in zip(batch, found, strict=True):
                cuts = lowest(probabilities, *pairs.T)[:, None]
                marked = characters(example.predicted, probabilities) >= cuts
                gold = characters(example.reference, unwanted(example.reference))
                values.append(character_f1(marked, gold))
        tried = zip(np.mean(values, 0), pairs.tolist(), strict=True)
        f1, (threshold, ratio) = max(tried)
        return {"character_f1": float(f1), "threshold": threshold, "ratio": ratio}


def unwanted(reference: Doc) -> Array:
    """Returns which tokens are of an entity, bool [tokens]."""
    return reference.to_array("ENT_TYPE") > 0


def lowest(
    probabilities: Array, threshold: float | Array, ratio: float | Array
) -> float | Array:
    """Returns the probability from which a token of a text is unwanted."""
    return np.maximum(threshold, ratio * probabilities.max(initial=0))


def runs(doc: Doc, chosen: Sequence[bool] | Array, label: str) -> list[Span]:
    """Returns the runs of chosen tokens, white space between words aside.

    Args:
      doc: a text of some tokens.
      chosen: bool [tokens].
      label: of the spans.
    """
    words = [token.i for token in doc if not token.is_space]
    marked = itertools.groupby(words, lambda index: bool(chosen[index]))
    found = [list(run) for is_chosen, run in marked if is_chosen]
    return [Span(doc, run[0], run[-1] + 1, label) for run in found]


def characters(doc: Doc, probabilities: Array) -> Array:
    """Returns for each character the lowest cut that leaves it out of the spans.

    A token's characters have its probability. Those between two words have the lower
    one of the two, since they are in a span if both are.
    """
    found = np.zeros(len(doc.text), probabilities.dtype)
    words = [token for token in doc if not token.is_space]
    for word in words:
        found[word.idx : word.idx + len(word)] = probabilities[word.i]
    for left, right in itertools.pairwise(words):
        lower = min(probabilities[left.i], probabilities[right.i])
        found[left.idx + len(left) : right.idx] = lower
    return found
