"""Predictions to annotate, and pipelines that find what they are told to."""

import spacy

from t5patches.interchange import records


def prediction(vocabulary, text, name, inputs="talk"):
    """What a model said, as a line of predictions; `name` is its id."""
    ids = records.encode(vocabulary, text)
    text = vocabulary.decode(ids)
    return dict(inputs=inputs, prediction=text, target_tokens=ids, id=str(name))


def ruler_pipeline(*patterns):
    """A spaCy pipeline that finds each (label, pattern)."""
    nlp = spacy.blank("en")
    nlp.add_pipe("entity_ruler").add_patterns(
        [{"label": label, "pattern": pattern} for label, pattern in patterns]
    )
    return nlp
