"""SeqIO's own script, on Beam, caches tasks: the example of docs/xsum.md, typed."""

import os
import subprocess
import sys

import numpy as np
import seqio
import typed_commands
from small_vocabulary import small_vocabulary

from t5patches import tasks
from t5patches.interchange import json_files, tfrecords

LENGTHS = {"inputs": 16, "targets": 16}


def test_cached_tasks(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    typed_commands.write_vocabulary(tmp_path)
    for split in ("train", "validation", "test"):
        rows = [{"document": f"hello {i}", "summary": f"you {i}"} for i in range(8)]
        json_files.write_jsonl(tmp_path / "xsum" / f"{split}.jsonl", rows)
        marks = [
            {"inputs": [8, 1], "targets": [5 + i, 1], "target_annotations": [i % 2, 0]}
            for i in range(5)
        ]
        path = tmp_path / "annotated" / split / "annotated-00000-of-00001.tfrecord"
        path.parent.mkdir(parents=True)
        tfrecords.write(path, marks)
    (module,) = typed_commands.blocks("docs/xsum.md", "python")
    (tmp_path / "my_tasks.py").write_text(module)
    (commands,) = typed_commands.blocks("docs/xsum.md", "sh")
    cache, train = typed_commands.words(commands, tmp_path)
    both = [word.replace("=xsum", "=xsum,annotated_xsum") for word in cache[1:]]
    paths = [".", str(typed_commands.ROOT), os.environ.get("PYTHONPATH", "")]
    subprocess.run(
        [sys.executable, "-m", "seqio.scripts.cache_tasks_main", *both],
        check=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(paths)},
    )
    seqio.add_global_cache_dirs([str(tmp_path / "cache")])
    # The same files, spelt otherwise, and what stands in the cache.
    vocabulary = small_vocabulary()
    splits = {"train": str(tmp_path / "xsum/train.jsonl")}
    tasks.xsum_task("xsum", vocabulary, splits)
    splits = {"train": str(tmp_path / "annotated/train/annotated")}
    tasks.annotated_task("annotated_xsum", splits, vocabulary)
    for name, count in {"xsum": 8, "annotated_xsum": 5}.items():
        cached, anew = examples(name, True), examples(name, False)
        assert cached == anew and len(cached) == count
    # Training reads the cache: the articles are gone.
    (job, *_) = typed_commands.blocks("docs/xsum.md")
    (tmp_path / "job.gin").write_text(typed_commands.SMALL + job)
    (tmp_path / "xsum" / "train.jsonl").unlink()
    typed_commands.run([train])
    assert (tmp_path / "finetuned" / "checkpoint_2").is_dir()


def examples(name, use_cached):
    """The examples in an order of their own, features by name."""
    task = seqio.get_mixture_or_task(name)
    ds = task.get_dataset(LENGTHS, use_cached=use_cached, shuffle=False)
    return sorted(
        sorted((key, np.asarray(value).tolist()) for key, value in row.items())
        for row in ds.as_numpy_iterator()
    )
