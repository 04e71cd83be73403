"""Tasks can be cached by SeqIO's own script, which runs on Apache Beam."""

import os
import pathlib
import subprocess
import sys

import numpy as np
import seqio
from small_vocabulary import small_vocabulary

from t5patches import tasks
from t5patches.interchange import json_files, tfrecords

TESTS = pathlib.Path(__file__).parent.parent
MODULE = """
import seqio, t5patches
from t5patches import tasks
VOCABULARY = seqio.SentencePieceVocabulary({vocabulary!r})
tasks.xsum_task("c_xsum", VOCABULARY, {{"train": {articles!r}}})
tasks.annotated_task("c_annotated", {{"train": {annotated!r}}}, VOCABULARY)
"""


def test_cached_tasks(tmp_path):
    vocabulary = small_vocabulary()
    articles, annotated = tmp_path / "train.jsonl", tmp_path / "a.tfrecord"
    rows = [{"document": f"hello {i}", "summary": f"you {i}"} for i in range(5)]
    json_files.write_jsonl(articles, rows)
    marks = [
        {"inputs": [8, 1], "targets": [5 + i, 1], "target_annotations": [i % 2, 0]}
        for i in range(5)
    ]
    tfrecords.write(annotated, marks)
    (tmp_path / "my_tasks.py").write_text(
        MODULE.format(
            vocabulary=vocabulary.sentencepiece_model_file,
            articles=str(articles),
            annotated=str(annotated),
        )
    )
    cache = tmp_path / "cache"
    paths = [str(tmp_path), str(TESTS.parent), os.environ.get("PYTHONPATH", "")]
    subprocess.run(
        [
            *(sys.executable, "-m", "seqio.scripts.cache_tasks_main"),
            "--module_import=my_tasks",
            "--tasks=c_xsum,c_annotated",
            f"--output_cache_dir={cache}",
            "--pipeline_options=--runner=DirectRunner",
        ],
        check=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(paths)},
    )
    seqio.add_global_cache_dirs([str(cache)])
    tasks.xsum_task("c_xsum", vocabulary, {"train": str(articles)})
    tasks.annotated_task("c_annotated", {"train": str(annotated)}, vocabulary)
    for name in ("c_xsum", "c_annotated"):
        cached, anew = examples(name, True), examples(name, False)
        assert cached == anew and len(cached) == 5


def examples(name, use_cached):
    """The examples in an order of their own, features by name."""
    task = seqio.get_mixture_or_task(name)
    ds = task.get_dataset(
        {"inputs": 16, "targets": 16}, use_cached=use_cached, shuffle=False
    )
    return sorted(
        sorted((key, np.asarray(value).tolist()) for key, value in row.items())
        for row in ds.as_numpy_iterator()
    )
