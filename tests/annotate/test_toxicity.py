"""The toxicity annotator over one pipeline with several thresholds.

What a trained tagger finds is in `tests/tagger`.
"""

import spacy
from spacy.training import Example

from t5patches.annotate import annotate_texts, toxicity
from t5patches.annotate.tagger import component


def test_annotators_of_one_pipeline_keep_their_thresholds():
    nlp = spacy.blank("en")
    model = {"width": 8, "depth": 1, "embed_size": 50, "members": 1}
    nlp.add_pipe(
        component.FACTORY,
        config={
            "threshold": 0.3,
            "model": {"@architectures": component.ARCHITECTURE, **model},
        },
    )
    nlp.initialize(lambda: [Example(doc, doc) for doc in [nlp.make_doc("a fool")]])
    # No word is certain, and the likeliest one of a text is marked or none.
    low, high = (toxicity.ToxicityAnnotator(nlp, t) for t in (0.0, 1.0))
    pairs = [("a fool", ""), ("hm", "")]
    found = annotate_texts(low, pairs)
    assert all(found) and found == [low(text) for text, _ in pairs]
    assert annotate_texts(high, pairs) == [high("a fool"), high("hm")] == [[], []]
    assert low.settings != high.settings
    assert nlp.get_pipe(component.FACTORY).cfg["threshold"] == 0.3
