"""How alike texts are: against the libraries' own commands."""

import csv
import subprocess
import sys

import numpy as np
import pytest
import sacrebleu

from t5patches.evaluate import similarity

OLD = [
    "The lamb was pure trash, and the waiter knew it.",
    "A fine day for a walk in the park.",
    "Nobody came to the second table all night",
    "It's a 2nd-rate, snake_case TEST (really).",
]
NEW = [
    "The lamb was pure nonsense, and the waiter knew it.",
    "A fine day for a walk in the park.",
    "all night nobody came to a table",
    "really",
]


def scores(old, new):
    return similarity.scores(similarity.table(zip(old, new, strict=True)))


@pytest.fixture
def files(tmp_path):
    for name, lines in {"old": OLD, "new": NEW}.items():
        (tmp_path / name).write_text("".join(f"{line}\n" for line in lines))
    return tmp_path


def command(folder, *words):
    done = subprocess.run(
        [sys.executable, "-m", *words], cwd=folder, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_bleu_is_what_sacrebleus_command_says(files):
    said = command(files, "sacrebleu", "old", "-i", "new", "-b", "-w", "6")
    assert scores(OLD, NEW)["bleu"] == pytest.approx(float(said), abs=1e-6)
    # The command has no option for the effective order, which changes nothing here.
    signature = str(sacrebleu.BLEU(references=[OLD]).get_signature())
    own = similarity.bleu_signature()
    assert own.replace("eff:yes", "eff:no") in (signature, f"nrefs:1|{signature}")


def test_rouge_is_what_rouge_scores_command_says(files):
    names = ["--target_filepattern=old", "--prediction_filepattern=new"]
    command(
        files, "rouge_score.rouge", *names, "--output_filename=out", "--noaggregate"
    )
    rows = list(csv.DictReader((files / "out").open()))
    found = scores(OLD, NEW)
    for name in similarity.ROUGE:
        column = [float(row[f"{name}-F"]) for row in rows]
        assert found[name] == pytest.approx(np.mean(column))


def test_edits():
    """Counted by hand: a word put in place of another; two of eight stay, in order."""
    assert scores(OLD[:1], NEW[:1])["token_edit_rate"] == 1 / 10
    assert scores(["a b c"], ["c b a"])["token_edit_rate"] == 2 / 3
    both = scores(["a b c", "d"], ["c b a", "d e f"])
    assert both["token_edit_rate"] == (2 + 2) / (3 + 1)
    assert scores([""], [""])["token_edit_rate"] is None


@pytest.mark.parametrize("text", [*OLD, "", "!?", "one", "новый день", "a b a b a b"])
def test_equal_texts_count_as_the_library_counts_them(text):
    (found,) = similarity.table([(text, text)])
    score = sacrebleu.BLEU(effective_order=True).sentence_score(text, [text])
    expected = [score.sys_len, score.ref_len, *score.counts, *score.totals]
    assert found["bleu"].tolist() == expected
    assert (found["rouge"] == 1).all() and found["edits"] == 0


def test_bleu_of_sums_is_that_of_the_corpus():
    for old, new in (
        (OLD, NEW),
        (["a b c d e f", "a"], ["a b x d e f", "b"]),
        (["the cat sat on the mat today"], ["the cat sat on a mat today"]),
    ):
        expected = sacrebleu.corpus_bleu(new, [old]).score
        assert scores(old, new)["bleu"] == pytest.approx(expected)
    assert scores(["hello you", "day"], ["hello you", "day"])["bleu"] == 100


def test_rouge_tokenizer_is_rouge_scores_own_on_ascii_and_knows_other_scripts():
    from rouge_score import tokenize

    own = similarity.UnicodeTokenizer()
    assert own.tokenize(OLD[3]) == tokenize.tokenize(OLD[3], None)
    assert scores(["новый день"], ["новый год"])["rougeL"] == 0.5
    assert scores(["!?", ""], ["!?", ""])["rougeL"] == 1
    assert scores([], [])["rougeL"] is None
