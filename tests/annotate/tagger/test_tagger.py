"""The tagger: its measure, its data, training, and the annotator that runs it."""

import json
import pickle
import random
import shutil

import numpy as np
import pytest
import seqio
import spacy
import tensorflow as tf
import tensorflow_datasets as tfds

from t5patches import cli
from t5patches.annotate import annotate_texts, toxicity
from t5patches.annotate.tagger import posts, scores, training
from t5patches.errors import UserError
from t5patches.interchange import json_files

BLANK = spacy.blank("en")
ONCE, KNOWS = training.Settings(epochs=1), training.Settings(epochs=5)
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


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Of a tagger that knows the words."""
    folder = tmp_path_factory.mktemp("taggers") / "tagger"
    training.train_folder(folder, list(made_up_posts(300)), [], KNOWS)
    return folder


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


@pytest.mark.parametrize(
    ("text", "unwanted", "expected"),
    [
        ("stupidest idea", {*range(6), 10}, "stupidest"),
        # spaCy lets entities not begin or end with a blank.
        ("you \n stupid  fool!", range(3, 18), "stupid  fool"),
        ("  you  fool, you!", {0, 2, 3, 4, 13, 14, 15}, "you|you"),
        ("a  b", {1, 2}, ""),
    ],
)
def test_a_token_is_unwanted_if_most_of_it_is(text, unwanted, expected):
    doc = training.reference(BLANK, posts.Post(text, frozenset(unwanted)), "toxic")
    assert "|".join(span.text for span in doc.ents) == expected
    assert {span.label_ for span in doc.ents} <= {"toxic"}


def test_training_finds_the_words(folder):
    annotator = toxicity.ToxicityAnnotator(folder)
    data = list(made_up_posts(80, seed=1))
    found = training.evaluate(annotator.nlp, data)
    # By hand, over sets of characters.
    one_by_one = {True: [], False: []}
    for post in data:
        spans = [range(start, end) for start, end, _ in annotator(post.text)]
        both, marked = len(post.unwanted), set().union(*spans)
        both += len(marked)
        f1 = 2 * len(marked & post.unwanted) / both if both else 1
        one_by_one[bool(post.unwanted)].append((f1, bool(marked)))
    one_by_one = {
        "all": one_by_one[True] + one_by_one[False],
        "with_spans": one_by_one[True],
        "without_spans": one_by_one[False],
    }
    assert found.keys() == one_by_one.keys()
    for kind, rows in one_by_one.items():
        (f1, marked), (low, high) = np.mean(rows, 0), found[kind]["interval"]
        assert found[kind]["posts"] == len(rows) and low <= f1 <= high
        assert [f1, marked] == pytest.approx([found[kind][k] for k in ("f1", "marked")])
        assert f1 > 0.9
    assert annotator.nlp.config["paths"]["train"] is None
    # Of one kind alone.
    (post,) = made_up_posts(1)
    assert training.evaluate(annotator.nlp, [post]).keys() == {"all", "without_spans"}


def test_the_annotator(folder):
    annotator = toxicity.ToxicityAnnotator(folder)
    text = "the day of a stupid fool, day"
    (found,) = annotator(text, "")
    assert text[found[0] : found[1]] == "stupid fool" and found[2] == "toxic"
    odd = ["", " ", "\n\n", "🎉", "idiot" * 500]
    pairs = [(t, "") for t in (text, "a nice day", f"🎉 {text}", *odd)]
    assert annotate_texts(annotator, pairs) == [annotator(t, "") for t, _ in pairs]
    again = pickle.loads(pickle.dumps(annotator))
    assert again(text, "") == [found] and again.settings == annotator.settings


def test_the_same_seed_gives_the_same_tagger():
    data, weights = list(made_up_posts(60)), []
    for seed in (1, 1, 2):
        nlp = training.train(data, training.Settings(epochs=1, seed=seed))
        weights.append(nlp.get_pipe("ner").model.to_bytes())
    assert weights[0] == weights[1] != weights[2]


def test_a_save_that_fails_leaves_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr(training, "train", lambda *args: BLANK)
    monkeypatch.setattr(BLANK, "to_disk", lambda path: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        training.train_folder(tmp_path / "out", [], [], ONCE)
    assert not list(tmp_path.iterdir())


def test_what_is_no_tagger(folder, tmp_path):
    BLANK.to_disk(tmp_path / "blank")
    for wrong in (tmp_path / "blank", tmp_path / "missing", "missing"):
        with pytest.raises(UserError, match="no such file.*`t5patches tagger train`"):
            toxicity.ToxicityAnnotator(wrong)
    changed = shutil.copytree(folder, tmp_path / "changed")
    with (changed / "config.cfg").open("a") as file:
        file.write("\n")
    with pytest.raises(UserError, match="not as `t5patches tagger train` wrote them"):
        toxicity.ToxicityAnnotator(changed)
    # As an earlier version wrote it.
    (changed / "evaluation.json").write_text('{"threshold": 0.04, "content": "x"}')
    with pytest.raises(UserError, match="earlier version did, train again"):
        toxicity.ToxicityAnnotator(changed)


def test_too_few_posts():
    with pytest.raises(UserError, match=r"none of the 2 posts .*held out: 1"):
        training.train([posts.Post("nice", frozenset())] * 3, ONCE)
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
    train = "tagger train --data train.jsonl held.jsonl --epochs 1 "
    train += "--evaluate held.jsonl --output"
    # Stopped in the training, and typed again, and again.
    real = training.train

    def stopped(posts, settings):
        raise KeyboardInterrupt

    monkeypatch.setattr(training, "train", stopped)
    assert command(f"{train} out")[0] == 130
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names == ["held.jsonl", "train.jsonl"]
    monkeypatch.setattr(training, "train", real)
    status, output, _ = command(f"{train} out")
    assert status == 0 and output.count("95 % interval") == 3
    monkeypatch.setattr(training, "train", stopped)
    assert command(f"{train} out")[:2] == (0, output)
    results = json_files.read_json("out/evaluation.json")
    assert results["training_posts"] == 60 and results["taken_out"] == 12
    assert {kind: of["posts"] for kind, of in results["evaluation"].items()} == {
        "all": 12,
        "with_spans": 9,
        "without_spans": 3,
    }

    # Other settings, or a folder that no training made.
    status, _, error = command(f"{train} out --seed 1")
    assert status == 2 and "made with other settings (seed was 0, now 1)" in error
    (tmp_path / "other").mkdir()
    (tmp_path / "other/file").touch()
    status, _, error = command(f"{train} other")
    assert status == 2 and "other: exists" in error

    evaluate = "tagger evaluate --tagger out --data held.jsonl"
    assert json.loads(command(evaluate)[1]) == results["evaluation"]
