"""The tagger: its measure, its data, training, and the annotator that runs it."""

import json
import pickle
import random

import numpy as np
import pytest
import seqio
import spacy
import tensorflow as tf
import tensorflow_datasets as tfds
from hypothesis import given, settings
from hypothesis import strategies as st
from spacy.training import Example

from t5patches import cli
from t5patches.annotate import annotate_texts, toxicity
from t5patches.annotate.tagger import component, posts, scores, training
from t5patches.errors import UserError
from t5patches.interchange import json_files

BLANK = spacy.blank("en")
SMALL = {"width": 16, "depth": 1, "embed_size": 200}
TINY = training.Settings(network=SMALL)
RUDE = ["idiot", "moron", "stupid fool", "dumb"]


def made_up_posts(count, seed=0):
    """Posts where some words are always unwanted."""
    generator = random.Random(seed)
    for number in range(count):
        words = generator.choices("the a news of day we talk about today".split(), k=6)
        text = f"{' '.join(words)} {number} "
        rude = generator.choice(RUDE) if number % 4 else ""
        unwanted = range(len(text), len(text) + len(rude))
        yield posts.Post(text + rude + f", {words[0]}", frozenset(unwanted))


def marked(nlp, text):
    """The offsets of what a tagger marks."""
    doc = nlp(text)  # The spans live as long as it does.
    spans = [range(span.start_char, span.end_char) for span in doc.spans["toxic"]]
    return set().union(*spans)


@pytest.fixture(scope="module")
def trained():
    return training.train(list(made_up_posts(300)), TINY)


@pytest.fixture(scope="module")
def tagger(trained):
    return trained.get_pipe(component.FACTORY)


@pytest.mark.parametrize(
    ("predicted", "gold", "expected"),
    [
        ([], [], 1),
        ([], [1], 0),
        ([1], [], 0),
        ([1, 2, 3], [1, 2, 3], 1),
        # Precision 1/2, recall 1/3.
        ([1, 9], [1, 2, 3], 2 * (1 / 2) * (1 / 3) / (1 / 2 + 1 / 3)),
        ([1], [2], 0),
    ],
)
def test_character_f1(predicted, gold, expected):
    predicted, gold = (np.isin(np.arange(10), places) for places in (predicted, gold))
    assert scores.character_f1(predicted, gold) == pytest.approx(expected)
    both = scores.character_f1(np.stack([predicted, gold]), gold)
    assert both == pytest.approx([expected, 1])


def test_bootstrap_interval():
    values = np.random.default_rng(0).normal(0.5, 0.1, 400)
    low, high = scores.bootstrap_interval(values, draws=2000)
    # The normal approximation: the mean and 1.96 standard errors.
    error = 1.96 * values.std() / 20
    assert low == pytest.approx(values.mean() - error, abs=0.002)
    assert high == pytest.approx(values.mean() + error, abs=0.002)
    assert scores.bootstrap_interval([1.0, 1.0]) == (1.0, 1.0)


def test_posts_of_tfds(tmp_path, monkeypatch):
    texts, spans = ["abc é", "nice"], [[0, 4], []]
    offsets = tfds.features.Tensor(shape=(None,), dtype=np.int32)
    columns = dict(text=texts, spans=tf.ragged.constant(spans, tf.int32))
    tfds.dataset_builders.store_as_tfds_dataset(
        name="civil_comments",
        version="1.2.4",
        config="CivilCommentsToxicSpans",
        features=tfds.features.FeaturesDict(
            dict(text=tfds.features.Text(), spans=offsets)
        ),
        split_datasets={"train": tf.data.Dataset.from_tensor_slices(columns)},
        data_dir=str(tmp_path),
    )
    # The setting is the process's: put back when the test ends.
    monkeypatch.setattr(seqio.utils, "_TFDS_DATA_DIR_OVERRIDE", None)
    name = "tfds:civil_comments/CivilCommentsToxicSpans:1.2.4"
    expected = map(posts.Post, texts, map(frozenset, spans))
    assert set(posts.read_posts([f"{name}/train"], tmp_path)) == set(expected)
    for wrong, message in (
        (f"{name}/test", "Unknown split"),
        ("tfds:x", "NAME/SPLIT"),
        ("tfds:x/train", "a version is missing"),
        ("tfds:none:1.0.0/train", "has no none:1.0.0"),
    ):
        with pytest.raises(UserError, match=message):
            posts.read_posts([wrong])


def test_posts_of_csv_and_json_lines(tmp_path):
    (tmp_path / "a.csv").write_text(
        'spans,text\n"[0, 1, 2, 5]","abc, d\nnew line"\n[],nice\n', encoding="utf-8"
    )
    (tmp_path / "b.jsonl").write_text('{"text": "bad 🎉", "spans": [4]}\n')
    read = posts.read_posts([tmp_path / "a.csv", tmp_path / "b.jsonl"])
    assert read == [
        posts.Post("abc, d\nnew line", frozenset({0, 1, 2, 5})),
        posts.Post("nice", frozenset()),
        posts.Post("bad 🎉", frozenset({4})),
    ]
    assert read[0].marks.nonzero()[0].tolist() == [0, 1, 2, 5]
    assert read[1].marks.tolist() == [False] * 4
    assert posts.without(read, [posts.Post("NICE ", frozenset())]) == [read[0], read[2]]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.csv", b"spans,text\n", "no posts in it"),
        ("a.csv", b"spans,words\n[],x\n", "a.csv:2: field 'text' is missing"),
        ("a.csv", b"spans,text\n[0],x\n(1),y\n", "a.csv:3: field 'spans' must be"),
        ("a.csv", b'spans,text\n"[True]",x\n', "a.csv:2: field 'spans' must be"),
        ("a.csv", b"spans,text\n[-1],x\n", "a.csv:2: field 'spans' has offset -1"),
        ("a.csv", b"spans,text\n" + b"[" * 10**5 + b",x\n", "2: field 'spans' must be"),
        ("a.csv", b"spans,text\n[" + b"9" * 5000 + b"],x\n", "field 'spans' must be"),
        ("a.csv", b"txt,text\n1,x\n", "'spans' is missing; the line has txt, text"),
        ("b.jsonl", b'{"text": "x"}\n', "b.jsonl:1: field 'spans' is missing"),
        ("b.jsonl", b'{"text": "x", "spans": 3}\n', "field 'spans' must be a list"),
        ("b.jsonl", b'{"text": "x", "spans": [0.0]}\n', "field 'spans' must be"),
    ],
)
def test_wrong_posts(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError) as caught:
        posts.read_posts([tmp_path / name])
    assert message in str(caught.value)


def test_spans_of_tokens():
    doc = BLANK("you   stupid  fool, you!")
    for words, expected in (
        ({"stupid", "fool"}, ["stupid  fool"]),
        ({"  ", " "}, []),
        ({"you", "fool"}, ["you", "fool", "you"]),
    ):
        found = component.runs(doc, [token.text in words for token in doc], "toxic")
        assert [span.text for span in found] == expected
        assert {span.label_ for span in found} <= {"toxic"}


def test_choice_by_both_thresholds():
    probabilities = np.array([0.1, 0.3, 0.5, 0.9])
    choose = lambda *args: probabilities >= component.lowest(probabilities, *args)
    assert choose(0.2, 0.0).tolist() == [False, True, True, True]
    assert choose(0.2, 0.5).tolist() == [False, False, True, True]
    assert not choose(0.95, 0.0).any()
    assert component.lowest(np.zeros(0), 0.1, 0.5) == 0.1


@settings(max_examples=50, deadline=None)
@given(data=st.data())
def test_characters_are_those_of_the_spans(data):
    """The choice of thresholds counts what the tagger would mark."""
    doc = BLANK.make_doc(data.draw(st.text("ab  ,.é\n🎉", max_size=30)))
    likely = st.lists(st.sampled_from([0.1, 0.5, 0.9]), min_size=len(doc))
    probabilities = np.array(data.draw(likely), np.float32)[: len(doc)]
    found = np.zeros(len(doc.text), bool)
    for span in component.runs(doc, probabilities >= 0.4, "toxic"):
        found[span.start_char : span.end_char] = True
    assert ((component.characters(doc, probabilities) >= 0.4) == found).all()


def test_chosen_thresholds_are_the_best(trained, tagger, monkeypatch):
    data = list(made_up_posts(40, seed=2))
    docs = [training.reference(trained, post, "toxic") for post in data]
    best = tagger.score([Example(trained.make_doc(doc.text), doc) for doc in docs])

    def f1(threshold, ratio):
        chosen = {**tagger.cfg, "threshold": threshold, "ratio": ratio}
        monkeypatch.setattr(tagger, "cfg", chosen)
        return training.evaluate(trained, data, "toxic")["f1"]

    assert best["character_f1"] == pytest.approx(f1(best["threshold"], best["ratio"]))
    for pair in [(0.04, 0.2), (0.12, 0.5), (0.36, 0.8), (0.48, 0.3)]:
        assert f1(*pair) <= best["character_f1"] + 1e-9


@pytest.mark.parametrize(
    ("text", "unwanted", "expected"),
    [
        ("stupidest idea", {*range(6), 10}, "stupidest"),
        # spaCy lets entities not begin or end with a blank.
        ("you \n stupid  fool!", range(3, 18), "stupid  fool"),
    ],
)
def test_a_token_is_unwanted_if_most_of_it_is(text, unwanted, expected):
    doc = training.reference(BLANK, posts.Post(text, frozenset(unwanted)), "toxic")
    assert [(span.text, span.label_) for span in doc.ents] == [(expected, "toxic")]


def test_gradient_of_the_loss(tagger):
    """Against finite differences of the loss."""
    doc = training.reference(BLANK, posts.Post("you fool", {4, 5, 6, 7}), "toxic")
    example = Example(doc, doc)
    logits = np.array([[0.3, -2.0], [1.5, 40.0]])
    _, (gradient,) = tagger.get_loss([example], [logits])
    for step in np.eye(4).reshape(4, 2, 2) * 1e-4:
        up, _ = tagger.get_loss([example], [logits + step])
        down, _ = tagger.get_loss([example], [logits - step])
        # Scaled by 40 times the batch.
        there = gradient[step > 0] * 40
        assert there == pytest.approx((up - down) / 2e-4, abs=1e-4)


def test_training_finds_the_words(trained):
    held_out = list(made_up_posts(80, seed=1))
    result = training.evaluate(trained, held_out, "toxic")
    low, high = result["interval"]
    assert low <= result["f1"] <= high and result["posts"] == 80
    assert result["f1"] > 0.9
    # By hand, over sets of characters.
    pairs = [(marked(trained, post.text), post.unwanted) for post in held_out]
    one_by_one = [
        2 * len(found & gold) / (len(found) + len(gold)) if found | gold else 1
        for found, gold in pairs
    ]
    assert np.mean(one_by_one) == pytest.approx(result["f1"])
    # What the training chose and measured on the posts that it held out.
    assert trained.meta["performance"]["character_f1"] > 0.9
    assert trained.config["paths"]["train"] is None


def test_the_same_seed_gives_the_same_tagger(trained, tagger):
    again = training.train(list(made_up_posts(300)), TINY).get_pipe(component.FACTORY)
    doc = trained.make_doc("you dumb idiot of the day")
    np.testing.assert_array_equal(tagger.predict([doc])[0], again.predict([doc])[0])
    assert tagger.cfg == again.cfg


def test_members_are_averaged(trained, tagger):
    doc = trained.make_doc("you dumb idiot of the day")
    logits = [member.predict([doc])[0][:, 0] for member in tagger.model.layers]
    assert len(logits) == 2 and not np.allclose(*logits)
    expected = np.mean([1 / (1 + np.exp(-x)) for x in logits], axis=0)
    np.testing.assert_allclose(tagger.predict([doc])[0], expected, rtol=1e-5)


def test_odd_texts(trained):
    for text in ("", " ", "\n\n", "🎉", "idiot" * 500):
        assert marked(trained, text) <= set(range(len(text)))


def test_saved_and_loaded(trained, tagger, tmp_path):
    trained.to_disk(tmp_path / "tagger")
    loaded = spacy.load(tmp_path / "tagger")
    assert loaded.get_pipe(component.FACTORY).cfg == tagger.cfg
    annotator = toxicity.ToxicityAnnotator(tmp_path / "tagger")
    text = "what a stupid fool you are 🎉"
    (found,) = annotator(text, "")
    assert text[found[0] : found[1]] == "stupid fool" and found[2] == "toxic"
    pairs = [(text, ""), ("a nice day", ""), (f"🎉 {text}", "")]
    assert annotate_texts(annotator, pairs) == [annotator(t, "") for t, _ in pairs]
    again = pickle.loads(pickle.dumps(annotator))
    assert again(text, "") == [found] and again.settings == annotator.settings
    # No word is certain, and the likeliest one of a text is marked or none.
    pairs = [("a fool", ""), ("hm", "")]
    low, high = (toxicity.ToxicityAnnotator(tmp_path / "tagger", t) for t in (0.0, 1.0))
    assert all(annotate_texts(low, pairs)) and annotate_texts(high, pairs) == [[], []]
    assert low.settings != high.settings != annotator.settings
    with pytest.raises(UserError, match="not between 0 and 1"):
        toxicity.ToxicityAnnotator(tmp_path / "tagger", threshold=3.0)


def test_a_save_that_fails_leaves_nothing(trained, tmp_path, monkeypatch):
    monkeypatch.setattr(training, "train", lambda *args: trained)
    monkeypatch.setattr(trained, "to_disk", lambda path: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        training.train_folder(tmp_path / "out", [], [], TINY, 0.5)
    assert not list(tmp_path.iterdir())


def test_what_is_no_tagger(tmp_path):
    spacy.blank("en").to_disk(tmp_path / "blank")
    with pytest.raises(UserError, match="t5patches tagger train"):
        toxicity.ToxicityAnnotator(tmp_path / "blank")
    for missing in (tmp_path / "missing", "missing"):
        with pytest.raises(UserError, match="missing: no such.*t5patches tagger train"):
            toxicity.ToxicityAnnotator(missing)


def test_too_few_posts():
    with pytest.raises(UserError, match=r"none of the 2 posts .*held out: 1"):
        training.train([posts.Post("nice", frozenset())] * 3, TINY)
    with pytest.raises(UserError, match="no language"):
        training.train(list(made_up_posts(20)), training.Settings(language="xx_no"))


@pytest.fixture
def command(tmp_path, monkeypatch, capsys):
    """Runs a command beside train.jsonl and held.jsonl: (status, out, err)."""
    for name, data in (("train", made_up_posts(60)), ("held", made_up_posts(12, 1))):
        rows = [{"text": p.text, "spans": sorted(p.unwanted)} for p in data]
        json_files.write_jsonl(tmp_path / f"{name}.jsonl", rows)
    monkeypatch.chdir(tmp_path)
    return lambda words: (cli.main(words.split()), *capsys.readouterr())


def test_commands(tmp_path, command, monkeypatch):
    train = "tagger train --data train.jsonl held.jsonl --epochs 1 --members 1 "
    status, _, error = command(f"{train} --output out --compare")
    assert status == 2 and "--compare needs the posts of --evaluate" in error

    # Stopped in the training of the plain NER, and typed again.
    train += "--evaluate held.jsonl --output"
    real, trained = training.fit, []

    def stopped(posts, settings, factory, config):
        trained.append(factory)
        if trained == [component.FACTORY, "ner"]:
            raise KeyboardInterrupt
        return real(posts, settings, factory, config)

    monkeypatch.setattr(training, "fit", stopped)
    assert command(f"{train} out --compare")[0] == 130
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names == ["held.jsonl", "out", "train.jsonl"]
    results = json_files.read_json("out/evaluation.json")
    made = toxicity.ToxicityAnnotator("out").settings
    assert results["training_posts"] == 60 and results["taken_out"] == 12
    status, output, _ = command(f"{train} out --compare")
    assert status == 0 and output.count("95 % interval") == 3
    assert trained == [component.FACTORY, "ner", "ner"]
    compared = json_files.read_json("out/evaluation.json")
    assert results == {k: v for k, v in compared.items() if k != "plain_ner"}
    assert results["evaluation"]["posts"] == compared["plain_ner"]["posts"] == 12
    # To `annotate` it is the same tagger: what was compared says nothing of it.
    assert toxicity.ToxicityAnnotator("out").settings == made

    # Other settings, or a folder that no training made.
    status, _, error = command(f"{train} out --seed 1")
    assert status == 2 and "made with other settings (seed was 0, now 1)" in error
    (tmp_path / "other").mkdir()
    (tmp_path / "other/file").touch()
    status, _, error = command(f"{train} other")
    assert status == 2 and "other: exists" in error

    evaluate = "tagger evaluate --tagger out --data held.jsonl"
    assert json.loads(command(evaluate)[1]) == results["evaluation"]
    at = lambda threshold: command(f"{evaluate} --threshold {threshold}")
    assert json.loads(at(toxicity.THRESHOLD)[1]) == results["annotating"]
    assert json.loads(at(1.0)[1])["marked"] == 0
    status, _, error = at(1.5)
    assert status == 2 and "not between 0 and 1" in error
