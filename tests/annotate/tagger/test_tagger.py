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

from t5patches import cli
from t5patches.annotate import annotate_texts, toxicity
from t5patches.annotate.tagger import component, posts, scores, training
from t5patches.errors import UserError

BLANK = spacy.blank("en")
TINY = training.Settings(width=16, depth=1, embed_size=200, epochs=4, dropout=0.1)
RUDE = ["idiot", "moron", "stupid fool", "dumb"]


def made_up_posts(count, seed=0):
    """Posts where some words are always unwanted."""
    generator = random.Random(seed)
    made = []
    for number in range(count):
        words = generator.choices("the a news of day we talk about today".split(), k=6)
        text = f"{' '.join(words)} {number}"
        unwanted = set()
        if number % 4:
            rude = generator.choice(RUDE)
            unwanted = set(range(len(text) + 1, len(text) + 1 + len(rude)))
            text += f" {rude}, {generator.choice(words)}"
        made.append(posts.Post(text, frozenset(unwanted)))
    return made


@pytest.fixture(scope="module")
def trained():
    return training.train(made_up_posts(300), TINY)


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
    assert scores.character_f1(predicted, gold) == pytest.approx(expected)


def test_bootstrap_interval():
    values = np.random.default_rng(0).normal(0.5, 0.1, 400)
    low, high = scores.bootstrap_interval(values, draws=2000)
    # The normal approximation: the mean and 1.96 standard errors.
    error = 1.96 * values.std() / 20
    assert low == pytest.approx(values.mean() - error, abs=0.002)
    assert high == pytest.approx(values.mean() + error, abs=0.002)
    assert scores.bootstrap_interval([1.0, 1.0]) == (1.0, 1.0)


def test_posts_of_tfds(tmp_path, monkeypatch):
    data = [("abc é", [0, 4]), ("nice", [])]
    tfds.dataset_builders.store_as_tfds_dataset(
        name="civil_comments",
        version="1.2.4",
        config="CivilCommentsToxicSpans",
        features=tfds.features.FeaturesDict(
            dict(
                text=tfds.features.Text(),
                spans=tfds.features.Tensor(shape=(None,), dtype=np.int32),
            )
        ),
        split_datasets={
            "train": tf.data.Dataset.from_tensor_slices(
                dict(
                    text=[text for text, _ in data],
                    spans=tf.ragged.constant([s for _, s in data], tf.int32),
                )
            )
        },
        data_dir=str(tmp_path),
    )
    # The setting is the process's: put back when the test ends.
    monkeypatch.setattr(seqio.utils, "_TFDS_DATA_DIR_OVERRIDE", None)
    name = "tfds:civil_comments/CivilCommentsToxicSpans:1.2.4"
    expected = {posts.Post(text, frozenset(spans)) for text, spans in data}
    assert set(posts.read_posts(f"{name}/train", tmp_path)) == expected
    for wrong, message in (
        (f"{name}/test", "Unknown split"),
        ("tfds:x", "NAME/SPLIT"),
        ("tfds:x/train", "a version is missing"),
        ("tfds:none:1.0.0/train", "has no none:1.0.0"),
    ):
        with pytest.raises(UserError, match=message):
            posts.read_posts(wrong)


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
    assert posts.spans_of({0, 1, 2, 5}) == [(0, 3), (5, 6)]
    assert posts.spans_of([]) == [] and posts.spans_of([3, 3]) == [(3, 4)]
    assert posts.without(read, [posts.Post("NICE ", frozenset())]) == [read[0], read[2]]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.csv", b"spans,text\n", "no posts in it"),
        ("a.csv", b"spans,words\n[],x\n", "a.csv:2: field 'text' is missing"),
        ("a.csv", b"spans,text\n[0],x\n(1),y\n", "a.csv:3: field 'spans' must be"),
        ("a.csv", b'spans,text\n"[True]",x\n', "a.csv:2: field 'spans' must be"),
        ("a.csv", b"spans,text\n[1],x\n", "a.csv:2: field 'spans' has offset 1, out"),
        ("a.csv", b"spans,text\n[-1],x\n", "a.csv:2: field 'spans' has offset -1"),
        ("a.csv", b"spans,text\n" + b"[" * 10**5 + b",x\n", "2: field 'spans' must be"),
        ("a.csv", b"spans,text\n[" + b"9" * 5000 + b"],x\n", "field 'spans' must be"),
        ("a.csv", b"spans,text\n[0],\xe9\n", "a.csv:2: not UTF-8"),
        ("a.csv", b"txt,text\n1,x\n", "'spans' is missing; the line has txt, text"),
        ("b.jsonl", b'{"text": "x"}\n', "b.jsonl:1: field 'spans' is missing"),
        ("b.jsonl", b'{"text": "x", "spans": 3}\n', "field 'spans' must be a list"),
        ("b.jsonl", b'{"text": "x", "spans": [0.0]}\n', "field 'spans' must be"),
        ("b.jsonl", b"{\n", "b.jsonl:1: not valid JSON"),
    ],
)
def test_wrong_posts(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError) as caught:
        posts.read_posts(tmp_path / name)
    assert message in str(caught.value)


def test_spans_of_tokens():
    doc = spacy.blank("en")("you   stupid  fool, you!")
    words = [token.text for token in doc]
    chosen = np.array([word in ("stupid", "fool") for word in words])
    assert [doc[s:e].text for s, e in component.token_spans(doc, chosen)] == [
        "stupid  fool"
    ]
    chosen = np.array([token.is_space for token in doc])
    assert component.token_spans(doc, chosen) == []
    chosen = np.array([word in ("you", "fool") for word in words])
    assert [doc[s:e].text for s, e in component.token_spans(doc, chosen)] == [
        "you",
        "fool",
        "you",
    ]


def test_choice_by_both_thresholds():
    probabilities = np.array([0.1, 0.3, 0.5, 0.9])
    choose = lambda *args: component.choose(probabilities, *args).tolist()
    assert choose(0.2, 0.0) == [False, True, True, True]
    assert choose(0.2, 0.5) == [False, False, True, True]
    assert choose(0.95, 0.0) == [False] * 4
    assert component.choose(np.zeros(0), 0.1, 0.5).shape == (0,)


@settings(max_examples=100, deadline=None)
@given(st.data())
def test_quick_scores_are_the_scores(data):
    """The choice of thresholds counts as the measure does."""
    text = data.draw(st.text(alphabet="ab  ,.é\n🎉", max_size=30))
    places = st.frozensets(st.integers(0, max(len(text) - 1, 0)))
    post = posts.Post(text, data.draw(places) if text else frozenset())
    doc = BLANK.make_doc(text)
    flags = st.lists(st.booleans(), min_size=len(doc), max_size=len(doc))
    chosen = np.array(data.draw(flags), bool)
    spans = [doc[s:e] for s, e in component.token_spans(doc, chosen)]
    found = {i for span in spans for i in range(span.start_char, span.end_char)}
    quick = training._Characters(doc, post).f1(chosen)
    assert quick == pytest.approx(scores.character_f1(found, post.unwanted))


def test_a_token_is_unwanted_if_most_of_it_is():
    nlp = spacy.blank("en")
    post = posts.Post("stupidest idea", frozenset(range(0, 6)) | {10})
    example = training.example_of(nlp, post, "toxic")
    assert [s.text for s in example.reference.spans["toxic"]] == ["stupidest"]


def test_gradient_of_the_loss():
    """Against finite differences of the loss."""
    nlp = training._new_pipeline(TINY)
    tagger = nlp.get_pipe(component.FACTORY)
    example = training.example_of(nlp, posts.Post("you fool", {4, 5, 6, 7}), "toxic")
    logits = np.array([[0.3, -2.0], [1.5, 40.0]])
    _, (gradient,) = tagger.get_loss([example], [logits])
    for index in np.ndindex(2, 2):
        step = np.zeros((2, 2))
        step[index] = 1e-4
        up, _ = tagger.get_loss([example], [logits + step])
        down, _ = tagger.get_loss([example], [logits - step])
        # Scaled by 40 times the batch.
        assert gradient[index] * 40 == pytest.approx((up - down) / 2e-4, abs=1e-4)


def test_training_finds_the_words(trained):
    held_out = made_up_posts(80, seed=1)
    result = training.evaluate(training.span_finder(trained, "toxic"), held_out)
    low, high = result["interval"]
    assert low <= result["f1"] <= high and result["posts"] == 80
    assert result["f1"] > 0.9
    # By hand, over sets of characters.
    find = training.span_finder(trained, "toxic")
    one_by_one = []
    for post in held_out:
        ((spans),) = find([post.text])
        found = {i for start, end in spans for i in range(start, end)}
        one_by_one.append(scores.character_f1(found, post.unwanted))
    assert np.mean(one_by_one) == pytest.approx(result["f1"])


def test_the_same_seed_gives_the_same_tagger(trained):
    again = training.train(made_up_posts(300), TINY)
    first, second = (n.get_pipe(component.FACTORY) for n in (trained, again))
    doc = trained.make_doc("you dumb idiot of the day")
    np.testing.assert_array_equal(first.predict([doc])[0], second.predict([doc])[0])
    assert first.cfg == second.cfg


def test_members_are_averaged(trained):
    tagger = trained.get_pipe(component.FACTORY)
    doc = trained.make_doc("you dumb idiot of the day")
    logits = [member.predict([doc])[0][:, 0] for member in tagger.model.layers]
    assert len(logits) == 2 and not np.allclose(*logits)
    expected = np.mean([1 / (1 + np.exp(-x)) for x in logits], axis=0)
    np.testing.assert_allclose(tagger.predict([doc])[0], expected, rtol=1e-5)


def test_odd_texts(trained):
    for text in ("", " ", "\n\n", "🎉", "idiot" * 500):
        assert isinstance(list(training.span_finder(trained, "toxic")([text]))[0], list)


def test_saved_and_loaded(trained, tmp_path):
    training.save(trained, tmp_path / "tagger")
    assert not [p for p in tmp_path.iterdir() if p.name != "tagger"]
    loaded = spacy.load(tmp_path / "tagger")
    assert loaded.get_pipe(component.FACTORY).cfg == (
        trained.get_pipe(component.FACTORY).cfg
    )
    with pytest.raises(UserError, match="tagger: exists"):
        training.save(trained, tmp_path / "tagger")
    annotator = toxicity.ToxicityAnnotator(tmp_path / "tagger")
    text = "what a stupid fool you are 🎉"
    (found,) = annotator(text, "")
    assert text[found[0] : found[1]] == "stupid fool" and found[2] == "toxic"
    pairs = [(text, ""), ("a nice day", ""), (f"🎉 {text}", "")]
    assert annotate_texts(annotator, pairs) == [annotator(t, "") for t, _ in pairs]
    again = pickle.loads(pickle.dumps(annotator))
    assert again(text, "") == [found] and again.settings == annotator.settings
    nothing = toxicity.ToxicityAnnotator(tmp_path / "tagger", threshold=1.0)
    assert nothing(text, "") == [] and nothing.settings != annotator.settings
    with pytest.raises(UserError, match="not between 0 and 1"):
        toxicity.ToxicityAnnotator(tmp_path / "tagger", threshold=3.0)


def test_a_save_that_fails_leaves_nothing(trained, tmp_path, monkeypatch):
    monkeypatch.setattr(trained, "to_disk", lambda path: (path.mkdir(), 1 / 0))
    with pytest.raises(ZeroDivisionError):
        training.save(trained, tmp_path / "tagger")
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
        training.train(made_up_posts(20), training.Settings(language="xx_no"))


def test_entities_of_the_yardstick():
    text = "you \n stupid  fool!"
    unwanted = frozenset(range(3, 18))  # With the blanks around it.
    doc = BLANK.make_doc(text)
    found = training._entities(doc, posts.Post(text, unwanted))
    assert [entity.text for entity in found] == ["stupid  fool"]
    nlp = training.train_plain_ner([posts.Post(text, unwanted)] * 4, epochs=1)
    assert nlp.pipe_names == ["ner"]


def test_commands(tmp_path, capsys, monkeypatch):
    for name, data in (("train", made_up_posts(60)), ("held", made_up_posts(12, 1))):
        with open(tmp_path / f"{name}.jsonl", "w") as file:
            for post in data:
                row = {"text": post.text, "spans": sorted(post.unwanted)}
                file.write(json.dumps(row) + "\n")
    monkeypatch.chdir(tmp_path)
    words = "tagger train --data train.jsonl held.jsonl --evaluate held.jsonl"
    options = "--output out --epochs 1 --members 1 --compare"
    assert cli.main([*words.split(), *options.split()]) == 0
    results = json.loads((tmp_path / "out/evaluation.json").read_text())
    assert results["training_posts"] == 60 and results["taken_out"] == 12
    assert results["evaluation"]["posts"] == results["plain_ner"]["posts"] == 12
    assert "95 % interval" in capsys.readouterr().out
    evaluate = "tagger evaluate --tagger out --data held.jsonl".split()
    assert cli.main(evaluate) == 0
    assert json.loads(capsys.readouterr().out) == results["evaluation"]
    assert cli.main([*evaluate, "--threshold", str(toxicity.THRESHOLD)]) == 0
    assert json.loads(capsys.readouterr().out) == results["annotating"]
    assert cli.main([*evaluate, "--threshold", "1.0"]) == 0
    assert json.loads(capsys.readouterr().out)["marked"] == 0
    assert cli.main([*evaluate, "--threshold", "1.5"]) == 2
    assert "not between 0 and 1" in capsys.readouterr().err
    assert cli.main([*words.split(), *options.split()]) == 2
    assert "out: exists" in capsys.readouterr().err
