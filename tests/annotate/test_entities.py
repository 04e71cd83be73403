"""The entity annotator, with pipelines small enough to make here."""

import functools
import pickle

import annotate_toy
import pytest
import spacy

from t5patches.annotate import annotate_texts, entities
from t5patches.errors import UserError

PATTERNS = [("PERSON", "John Smith"), ("PERSON", "Smith"), ("GPE", "Paris")]
ruler_pipeline = functools.partial(annotate_toy.ruler_pipeline, *PATTERNS)


def ner_pipeline(*others):
    """A trainable pipeline with weights at their start: what it finds is arbitrary."""
    nlp = spacy.blank("en")
    for name in others:
        nlp.add_pipe(name)
    nlp.add_pipe("ner").add_label("PERSON")
    nlp.initialize()
    return nlp


def marked(annotator, text, inputs):
    return [(text[s:e], label) for s, e, label in annotator(text, inputs)]


def test_what_the_input_does_not_mention():
    annotator = entities.EntityAnnotator(ruler_pipeline())
    text = "John Smith went to Paris"
    both = [("John", "PERSON"), ("Paris", "GPE")]
    assert marked(annotator, text, "Smith left") == both
    assert marked(annotator, text, "JOHN SMITH left") == [("Paris", "GPE")]
    assert marked(annotator, text, "John Smith in Paris's suburbs") == []
    assert annotator("", "John Smith") == []


@pytest.mark.parametrize(
    ("inputs", "person", "organisation"),
    [
        ("Smith, of Leeds, in 2015", ["Dr John"], ["University"]),
        ("John went to Bath in May", ["Dr", "Smith"], ["University of Leeds"]),
        ("Mr Smith of Hull", ["Dr John"], ["University", "Leeds"]),
        # Each stands there, but they are two others: all of it.
        ("Dr Ho saw John Becker and Alan Smith", ["Dr John Smith"], None),
    ],
)
def test_words_that_the_input_has(inputs, person, organisation):
    text = "Dr John Smith of the University of Leeds on 5 May 2015"
    whole = ["Dr John Smith", "University of Leeds", "5 May 2015"]
    labels = ["PERSON", "ORG", "DATE"]
    nlp = annotate_toy.ruler_pipeline(*zip(labels, whole, strict=True))
    expected = {
        "none": whole,
        "persons": [*person, *whole[1:]],
        "names": [*person, *(organisation or whole[1:2]), whole[2]],
    }
    default = entities.EntityAnnotator(nlp)
    assert default.unsupported_words_only == "persons"
    for words_only, texts in expected.items():
        annotator = entities.EntityAnnotator(nlp, unsupported_words_only=words_only)
        assert [word for word, _ in marked(annotator, text, inputs)] == texts
        same = annotator.settings == default.settings
        assert same == (words_only == "persons")


def test_what_the_vocabulary_does_not_know_may_belong_to_an_entity():
    annotator = entities.EntityAnnotator(annotate_toy.ruler_pipeline(("GPE", "nchen")))
    assert marked(annotator, "in M ⁇ nchen", "München") == []
    assert marked(annotator, "in M ⁇ nchen", "Manchester") == [("nchen", "GPE")]


@pytest.mark.parametrize(
    ("label", "entity", "rest", "expected"),
    [
        ("ORG", "the O‘Neill‘s", "", "O‘Neill"),
        ("GPE", "the Hague's", "", "Hague"),
        ("ORG", "an  apple's", "-red", "apple"),
        ("DATE", "the 1990's", "", "1990's"),
        ("ORG", "'s", "", None),
        ("CARDINAL", "3", "-1.", "3-1"),
        ("MONEY", "the £1", ".5m, then", "£1.5m"),
        ("DATE", "Monday", "'s", "Monday"),
        ("DATE", "Monday ", "it", "Monday"),
    ],
)
def test_what_is_marked_of_an_entity(label, entity, rest, expected):
    doc = spacy.blank("en").make_doc("x " + entity + rest)
    span = doc.char_span(2, 2 + len(entity), label, alignment_mode="expand")
    pattern = [{"ORTH": token.text} for token in span]
    nlp = annotate_toy.ruler_pipeline((label, pattern))
    spans = marked(entities.EntityAnnotator(nlp), doc.text, "")
    assert spans == ([(expected, label)] if expected else [])


def test_labels_are_an_option():
    annotator = entities.EntityAnnotator(ruler_pipeline(), ["GPE"])
    assert marked(annotator, "Smith in Paris", "") == [("Paris", "GPE")]
    with pytest.raises(UserError, match=r"no entities 'DATE'; it has GPE, PERSON"):
        entities.EntityAnnotator(ruler_pipeline(), ["DATE"])


def test_batches_give_what_single_calls_give():
    annotator = entities.EntityAnnotator(ruler_pipeline(), batch_size=3)
    pairs = [("Smith in Paris" * (i % 3), "Paris" * (i % 2)) for i in range(10)]
    expected = [annotator(*pair) for pair in pairs]
    assert annotate_texts(annotator, pairs) == expected


def test_a_text_that_spacy_refuses_is_that_text_s_error():
    nlp = ruler_pipeline()
    nlp.max_length = 30
    annotator = entities.EntityAnnotator(nlp)
    pairs = [("Paris", ""), ("Paris " * 10, ""), ("Smith", "")]
    first, second, third = annotate_texts(annotator, pairs)
    assert first == [(0, 5, "GPE")] and third == [(0, 5, "PERSON")]
    assert isinstance(second, UserError) and "ValueError" in str(second)


def test_a_pipeline_without_entities_is_refused():
    with pytest.raises(UserError, match=r"no component that finds entities \(.*none"):
        entities.EntityAnnotator(spacy.blank("en"))
    nlp = spacy.blank("en")
    nlp.add_pipe("sentencizer")
    with pytest.raises(UserError, match="it has: sentencizer"):
        entities.EntityAnnotator(nlp)


@spacy.Language.component("of_a_user")
def _of_a_user(doc):
    return doc


def test_what_entities_do_not_need_is_switched_off():
    nlp = ner_pipeline("tok2vec", "of_a_user", "sentencizer")
    before = [(e.start_char, e.label_) for e in nlp("John Smith went to Paris").ents]
    annotator = entities.EntityAnnotator(nlp)
    assert nlp.pipe_names == ["of_a_user", "ner"]
    text = "John Smith went to Paris"
    assert [(s, label) for s, _, label in annotator(text, "")] == before
    # A rule may ask for a sentence's start or a tag.
    nlp = ruler_pipeline()
    nlp.add_pipe("sentencizer", first=True)
    kept = entities.EntityAnnotator(nlp).nlp.pipe_names
    assert kept == ["sentencizer", "entity_ruler"]


def test_a_shared_tok2vec_stays_on():
    nlp = spacy.blank("en")
    nlp.add_pipe("tok2vec")
    listener = {"@architectures": "spacy.Tok2VecListener.v1", "width": 96}
    nlp.add_pipe("ner", config={"model": {"tok2vec": listener}}).add_label("PERSON")
    nlp.initialize()
    entities.EntityAnnotator(nlp)
    assert nlp.pipe_names == ["tok2vec", "ner"]


def test_load_by_path(tmp_path):
    ruler_pipeline().to_disk(tmp_path / "pipeline")
    annotator = entities.EntityAnnotator(tmp_path / "pipeline", ["GPE"])
    assert marked(annotator, "Smith in Paris", "") == [("Paris", "GPE")]
    again = pickle.loads(pickle.dumps(annotator))
    assert marked(again, "Smith in Paris", "") == [("Paris", "GPE")]
    assert again.settings == annotator.settings
    all_labels = entities.EntityAnnotator(tmp_path / "pipeline")
    assert all_labels.settings != annotator.settings


def test_a_missing_pipeline_is_named_with_the_command(tmp_path):
    with pytest.raises(UserError, match="python -m spacy download no_such_pipeline"):
        entities.EntityAnnotator("no_such_pipeline")
    with pytest.raises(UserError, match="no such spaCy pipeline"):
        entities.EntityAnnotator(tmp_path / "nothing")
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="empty: spaCy cannot load it"):
        entities.EntityAnnotator(tmp_path / "empty")


def test_pipelines_without_files_are_told_apart_by_what_is_in_them():
    def digest(pattern):
        nlp = annotate_toy.ruler_pipeline(("X", pattern))
        annotator = entities.EntityAnnotator(nlp)
        before = annotator.settings
        annotator("words that were never seen", "")
        assert annotator.settings == before
        return before

    assert digest("Paris") == digest("Paris") != digest("Rome")
