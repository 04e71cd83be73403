"""Annotating on Apache Beam's DirectRunner gives the files of the plain call."""

import os

import annotate_toy
import pytest
import seqio
from small_vocabulary import small_vocabulary

from t5patches import cli
from t5patches.annotate import beam, entities, job, phrases, spans
from t5patches.errors import UserError
from t5patches.interchange import json_files, shards

FLAGS = ["--runner=DirectRunner"]
TEXTS = ["you stupid fool", "the news of the day", "hello world", "what a fool 🎉"]
SUFFIXES = (".jsonl", ".tfrecord", ".done.json")


def write(folder, vocabulary, count=3):
    for shard in range(count):
        rows = [
            annotate_toy.prediction(vocabulary, text, f"{shard}:{i}")
            for i, text in enumerate(TEXTS)
        ]
        json_files.write_jsonl(shards.shard_path(folder / "old", shard, count), rows)
    return folder / "old"


def contents(folder):
    return {name: (folder / name).read_bytes() for name in sorted(os.listdir(folder))}


def entity_annotator(tmp_path):
    nlp = annotate_toy.ruler_pipeline(("THING", "news"))
    nlp.to_disk(tmp_path / "pipeline")
    return entities.EntityAnnotator(tmp_path / "pipeline")


def span_annotator(tmp_path):
    rows = [{"id": f"{shard}:0", "start": 4, "end": 10} for shard in range(3)]
    json_files.write_jsonl(tmp_path / "spans.jsonl", rows)
    return spans.SpanAnnotator(tmp_path / "spans.jsonl")


@pytest.mark.parametrize(
    ("make", "vocabulary"),
    [
        (lambda path: phrases.PhraseAnnotator(["fool"]), small_vocabulary()),
        (entity_annotator, seqio.ByteVocabulary()),
        (span_annotator, seqio.ByteVocabulary()),
    ],
)
def test_same_output(tmp_path, make, vocabulary):
    predictions, annotator = write(tmp_path, vocabulary), make(tmp_path)
    jobs = [
        job.Job(predictions, annotator, tmp_path / n, vocabulary, only_annotated=True)
        for n in ("plain", "beam")
    ]
    plain = jobs[0].run()
    assert plain == beam.run(jobs[1], FLAGS) and plain["written"] > 0
    assert contents(tmp_path / "plain") == contents(tmp_path / "beam")


def test_a_wrong_line_is_named_once_and_the_other_files_are_done(tmp_path):
    vocabulary = small_vocabulary()
    predictions = write(tmp_path, vocabulary)
    with open(shards.shard_path(predictions, 1, 3), "a") as file:
        file.write("{\n")
    arguments = (predictions, phrases.PhraseAnnotator(["fool"]), tmp_path / "out")
    with pytest.raises(UserError, match=r"00001-of-00003\.jsonl:5: not valid JSON"):
        beam.run(job.Job(*arguments, vocabulary), FLAGS)
    done = [f"annotated-0000{i}-of-00003{s}" for i in (0, 2) for s in SUFFIXES]
    assert sorted(os.listdir(tmp_path / "out")) == sorted([*done, "settings.json"])
    stats = beam.run(job.Job(*arguments, vocabulary, on_error="skip"), FLAGS)
    assert stats["skipped"] == 1 and stats["examples"] == 12


def test_command(tmp_path, monkeypatch, capsys):
    write(tmp_path, seqio.ByteVocabulary())
    (tmp_path / "rude.txt").write_text("fool\n")
    words = ["--phrases", "rude.txt", "--predictions", "old", "--vocabulary", "bytes"]
    flags = ["--output", "out", "--runner=DirectRunner", "--direct_num_workers=1"]
    monkeypatch.chdir(tmp_path)
    assert cli.main(["annotate", "phrases", *words, *flags]) == 0
    assert "12 predictions, 50.0 %" in capsys.readouterr().out
