"""`t5patches generate` with a small model: shards, buckets, ways to decode."""

import jax
import loss_reference
import numpy as np
import pytest
from small_vocabulary import small_vocabulary

from t5patches import network
from t5patches.annotate import job as job_of
from t5patches.annotate import phrases
from t5patches.errors import UserError
from t5patches.interchange import alternatives, json_files, records, unwanted_sets
from t5patches.run import scripts
from t5x_embedded import checkpoints
from tests import tfrecord_rows

VOCABULARY = small_vocabulary()
WORDS = "hello stupid world you fool the day we talk about weather".split()
# Of two lengths: a bucket each, and each is a program to compile.
ROWS = [
    {
        "inputs": " ".join(
            WORDS[(i + j) % len(WORDS)] for j in range(1 + 21 * (i % 2))
        ),
        "targets": f"you {WORDS[i % len(WORDS)]}",
        "id": f"n{i}",
    }
    for i in range(20)
]
SHORT = ROWS[::4]  # All of one length.


@pytest.fixture(scope="module")
def job(tmp_path_factory):
    """A folder with data, a gin file and checkpoint_2 of a small model."""
    folder = tmp_path_factory.mktemp("job")
    json_files.write_jsonl(folder / "rows.jsonl", ROWS)
    json_files.write_jsonl(folder / "short.jsonl", SHORT)
    files = {"train": "rows", "validation": "short", "test": "rows"}
    files = {split: f"{folder}/{name}.jsonl" for split, name in files.items()}
    (folder / "job.gin").write_text(
        f"""from __gin__ import dynamic_registration
from t5patches import network
VOCABULARY_PATH = '{VOCABULARY.sentencepiece_model_file}'
VOCABULARY_SIZE = 384
TASK_FEATURE_LENGTHS = {{'inputs': 128, 'targets': 8}}
FILES = {files}
BATCH_SIZE = 4
network.T5Config:
  emb_dim = 16
  num_heads = 2
  head_dim = 8
  mlp_dim = 16
  num_encoder_layers = 1
  num_decoder_layers = 1
"""
    )
    run(
        folder,
        "train",
        "runs/finetune.gin",
        MODEL_DIR=str(folder / "model"),
        INITIAL_CHECKPOINT_PATH=None,
        TRAIN_STEPS_RELATIVE=2,
        LEARNING_RATE=0.1,
    )
    return folder


@pytest.fixture(scope="module")
def greedy(job):
    """The predictions in the folder `greedy`, by id."""
    return generate(job, "greedy")


def run(folder, script, run_file, *more, task="tasks/text.gin", **macros):
    files = ["models/t5_1_1_tiny.gin", run_file, task, f"{folder}/job.gin"]
    arguments = [f"--gin_file={name}" for name in files if name]
    arguments += [f"--gin.{name}={value!r}" for name, value in macros.items()]
    scripts.run(script, [*arguments, *more])


def generate(job, name, *more, run_file="runs/generate.gin", step=2, **macros):
    """Predictions by id, of the shards that were made."""
    run(
        *(job, "infer", run_file, *more),
        CHECKPOINT_PATH=str(job / "model" / f"checkpoint_{step}"),
        INFER_OUTPUT_DIR=str(job / name),
        **macros,
    )
    paths = sorted((job / name).glob("text-predict-*.jsonl"))  # None of T5X's own.
    rows = [row for path in paths for _, row in json_files.read_jsonl(path)]
    assert all(len(row["target_tokens"]) <= 8 for row in rows)
    return {row["id"]: row for row in rows}


def test_shards_and_buckets_change_nothing(job, greedy):
    # In the order of the data, though batches are by length.
    assert list(greedy) == [row["id"] for row in ROWS]
    assert [row["inputs"] for row in greedy.values()] == [row["inputs"] for row in ROWS]
    generate(job, "parts", "--shard_id=0", NUM_SHARDS=2)
    parts = generate(job, "parts", SHARD_ID=1, NUM_SHARDS=2, BATCH_SIZE=3)
    names = [path.name for path in (job / "parts").glob("*.jsonl")]
    assert sorted(names) == [f"text-predict-0000{i}-of-00002.jsonl" for i in range(2)]
    assert parts == greedy
    # Asked again, a complete shard is not made again.
    before = (job / "parts" / names[0]).stat().st_mtime_ns
    generate(job, "parts", SHARD_ID=0, NUM_SHARDS=2)
    assert (job / "parts" / names[0]).stat().st_mtime_ns == before


def test_ways_to_decode(job, greedy):
    short = {row["id"]: greedy[row["id"]] for row in SHORT}
    split = dict(SPLIT="validation")
    assert generate(job, "top_1", **split, TEMPERATURE=1.0, TOP_K=1) == short
    nucleus = generate(job, "nucleus", **split, TEMPERATURE=2.0, TOP_P=0.9)
    beams = generate(job, "beams", **split, run_file="runs/generate_beam.gin")
    assert nucleus.keys() == beams.keys() == short.keys()
    assert nucleus != short and beams != short


def test_results_of_another_inference_are_refused(job, greedy):
    for change, named in (
        (dict(step=0), "checkpoint was 'checkpoint_2:"),
        (dict(TEMPERATURE=1.0), "TEMPERATURE was '0.0', now '1.0'"),
        (dict(SPLIT="train"), "SPLIT was"),
        (dict(NUM_SHARDS=2), "num_shards was 1, now 2"),
        (dict(run_file="runs/generate_beam.gin"), "decode_fn was"),
    ):
        with pytest.raises(UserError, match=f"other settings .*{named}"):
            generate(job, "greedy", **change)
    # What does not change the results may change.
    assert generate(job, "greedy", BATCH_SIZE=2) == greedy
    # A file that was removed is made again.
    (prediction,) = (job / "greedy").glob("text-predict-*.jsonl")
    prediction.unlink()
    assert generate(job, "greedy") == greedy
    rows = [*ROWS, {**ROWS[0], "id": "new"}]
    before = (job / "rows.jsonl").read_bytes()
    json_files.write_jsonl(job / "rows.jsonl", rows)
    try:
        with pytest.raises(UserError, match="data was"):
            generate(job, "greedy")
    finally:
        (job / "rows.jsonl").write_bytes(before)


def test_what_is_forbidden_is_not_said(job, greedy):
    said = [row["prediction"].split() for row in greedy.values()]
    phrase = max(sum(said, []), key=lambda word: (len(word), word))
    annotator = phrases.PhraseAnnotator([phrase])
    (job / "rude.txt").write_text(f"{phrase}\n")
    rude = f"--forbid={job}/rude.txt"
    exact = generate(job, "exact", rude)
    assert any(annotator(row["prediction"]) for row in greedy.values())
    for key, row in exact.items():
        before = greedy[key]["prediction"]
        assert not annotator(row["prediction"])
        assert annotator(before) or row["prediction"] == before
    # What counts is the phrases.
    (job / "rude.txt").write_text(f"# Mine.\n{phrase}\n")
    assert generate(job, "exact", rude) == exact
    with pytest.raises(UserError, match="forbidden word_end was None, now 'next'"):
        generate(job, "exact", rude, "--word-end", "next")
    with pytest.raises(UserError, match=r"forbidden phrases was '\w+', now None"):
        generate(job, "exact")
    (job / "rude.txt").write_text("the\n")
    with pytest.raises(UserError, match=r"forbidden phrases was '\w+', now '\w+'"):
        generate(job, "exact", rude)
    with pytest.raises(UserError, match="FORBID is set, but .* another DECODE_FN"):
        generate(job, "other", rude, "--gin.DECODE_FN=@decoding.temperature_sample")


def test_the_files_of_t5x_can_be_annotated(job, greedy):
    """T5X's own writer, with the generated ids and without."""
    for name, given in (("with", True), ("without", False)):
        generate(job, name, run_file="runs/infer.gin", OUTPUT_IDS=given)
        rows = list(records.read_predictions(job / name / "text-predict", VOCABULARY))
        assert [row["inputs"] for row in rows] == [x["inputs"] for x in ROWS]
        assert [row["id"] for row in rows] == list(greedy)
        assert all(row.get("reencoded", False) != given for row in rows)
        if given:
            expected = [row["target_tokens"] for row in greedy.values()]
            assert [row["target_tokens"] for row in rows] == expected


def stopping_at(chunk):
    """Returns a `write_jsonl` that fails for a chunk."""
    write = json_files.write_jsonl

    def stopping(path, rows):
        if chunk in str(path):
            raise RuntimeError("stopped")
        return write(path, rows)

    return stopping


def test_a_stopped_inference_goes_on(job, monkeypatch):
    with pytest.raises(UserError, match="another architecture"):
        generate(job, "stopped", VOCABULARY_SIZE=512)
    # The settings of a run that made nothing do not bind.
    with monkeypatch.context() as patch, pytest.raises(RuntimeError, match="stopped"):
        patch.setattr(json_files, "write_jsonl", stopping_at("chunk00002"))
        generate(job, "stopped", CHUNK_BATCHES=1)
    with pytest.raises(UserError, match="checkpoint was"):
        generate(job, "stopped", step=0, CHUNK_BATCHES=1)
    other = small_vocabulary(model_type="bpe").sentencepiece_model_file
    with pytest.raises(UserError, match="was trained with the vocabulary Sent"):
        generate(job, "stopped", VOCABULARY_PATH=other)
    # Of another batch size the chunks would not fit together: they are made anew.
    assert list(generate(job, "stopped", CHUNK_BATCHES=1, BATCH_SIZE=8)) == [
        row["id"] for row in ROWS
    ]


def test_alternatives_go_into_the_annotation(job, greedy):
    """Of an annotator that finds every 'e': those with one, at the positions tried."""

    def find(text, inputs):
        del inputs
        return [(i, i + 1, "e") for i, c in enumerate(text) if c == "e"]

    def annotate(name, **options):
        predictions, settings = job / "greedy" / "text-predict", {"letters": "e"}
        folder = job / name
        stats = job_of.annotate_files(
            predictions, find, folder, VOCABULARY, settings=settings, **options
        )
        return stats, list(records.read_annotated(folder / "annotated", VOCABULARY))

    _, rows = annotate("marked")
    out = job / "alternatives"
    run(
        *(job, "infer", "runs/alternatives.gin"),
        task=None,
        CHECKPOINT_PATH=str(job / "model" / "checkpoint_2"),
        INFER_OUTPUT_DIR=str(out),
        FILES={"train": str(job / "marked" / "annotated")},
        SPLIT="train",
        NUM_ALTERNATIVES=40,
        UNSURE_BELOW=0.3,
    )
    (path,) = out.glob("alternatives-*.jsonl")
    tried = {each.id: each.alternatives for each in alternatives.read(path)}
    stats, found = annotate("more", alternatives=path)
    assert stats["alternatives_tried"] == sum(map(len, tried.values()))
    assert 0 < stats["unwanted_alternatives"] < stats["alternatives_tried"]
    assert [row["target_annotations"] for row in found] == [
        row["target_annotations"] for row in rows
    ]
    at_fine = 0
    for row in found:
        expected = []
        for each in tried.get(row["id"], []):
            own, mark = (
                row[key][each.position]
                for key in ("target_tokens", "target_annotations")
            )
            at_fine += not mark
            assert own != each.tokens[0]
            # A token is unwanted that has an 'e' itself.
            if "e" in VOCABULARY.decode(each.tokens[:1]):
                expected.append((each.position, each.tokens[0]))
        pairs = [(e["position"], e["tokens"][0]) for e in row["unwanted_alternatives"]]
        assert pairs == expected
    assert at_fine
    # They were tried in these outputs.
    other = [{**row, "prediction": "", "target_tokens": [1]} for row in rows]
    json_files.write_jsonl(job / "other.jsonl", other)
    with pytest.raises(UserError, match="tried in another output"):
        job_of.annotate_files(
            *(job / "other.jsonl", find, job / "none", VOCABULARY),
            settings={},
            alternatives=path,
        )


@pytest.fixture(scope="module")
def annotated(job, greedy):
    """The prefix of the outputs, annotated with a phrase that they have."""
    said = sum((row["prediction"].split() for row in greedy.values()), [])
    phrase = max(said, key=lambda word: (said.count(word), word))
    annotator = phrases.PhraseAnnotator([phrase])
    predictions = job / "greedy" / "text-predict"
    job_of.annotate_files(predictions, annotator, job / "said", VOCABULARY)
    return job / "said" / "annotated"


def distances(job, annotated, name, *more, original=2, **macros):
    """Distances by id of checkpoint_0 from an original one, of the shards made."""
    run(
        *(job, "infer", "runs/distances.gin", *more),
        task=None,
        CHECKPOINT_PATH=str(job / "model" / "checkpoint_0"),
        ORIGINAL_CHECKPOINT_PATH=str(job / "model" / f"checkpoint_{original}"),
        INFER_OUTPUT_DIR=str(job / name),
        FILES={"test": str(annotated)},
        **macros,
    )
    paths = sorted((job / name).glob("distances-score-*.jsonl"))
    rows = [row for path in paths for _, row in json_files.read_jsonl(path)]
    return {row.pop("id"): row for row in rows}


def logits_of(job, steps, inputs, targets):
    """What checkpoints say of ids [rows, length], float32 [rows, length, 384] each."""
    sizes = dict(emb_dim=16, num_heads=2, head_dim=8, mlp_dim=16, vocab_size=384)
    layers = dict(num_encoder_layers=1, num_decoder_layers=1, dropout_rate=0.0)
    more = dict(mlp_activations=("gelu", "linear"), dtype="float32")
    module = network.Transformer(network.T5Config(**sizes, **layers, **more))
    before = np.pad(targets, [(0, 0), (1, 0)])[:, :-1]
    apply = jax.jit(lambda *x: module.apply(*x, enable_dropout=False))
    for step in steps:
        tree = checkpoints.load_t5x_checkpoint(job / "model" / f"checkpoint_{step}")
        yield apply({"params": tree["target"]}, inputs, before, targets)


def test_distances_to_the_exact_update(job, annotated):
    """Those that NumPy finds, of the networks' logits and the table of sets."""
    two = dict(NUM_SHARDS=2, CHUNK_BATCHES=1)
    distances(job, annotated, "shards", **two)
    with pytest.raises(UserError, match="original checkpoint was 'checkpoint_2:"):
        distances(job, annotated, "shards", original=0, **two)
    found = distances(job, annotated, "shards", "--shard_id=1", **two)
    rows = {row["id"]: row for row in records.read_annotated(annotated, VOCABULARY)}
    assert found.keys() == rows.keys()
    for name, row in rows.items():
        tokens = [found[name][key] for key in ("fine_tokens", "unwanted_positions")]
        assert sum(tokens) == len(row["target_tokens"])
    (path,) = annotated.parent.glob("*.tfrecord")
    features = list(tfrecord_rows.read(path))
    inputs, targets, marks, numbers = (
        np.array([[*row[name], *[0] * 200][:128] for row in features])
        for name in ("inputs", "targets", "target_annotations", "sets")
    )
    table = unwanted_sets.read(annotated.parent / unwanted_sets.FILE).view(np.uint8)
    sets = np.unpackbits(table, axis=1, bitorder="little").astype(bool)[:, :384]
    sets = np.pad(sets, [(0, 0), (0, 384 - sets.shape[1])])
    model, original = logits_of(job, (0, 2), inputs, targets)
    fine = kl = exact = 0
    unwanted = np.zeros(4)
    for place in zip(*np.nonzero(targets), strict=True):
        ids = np.flatnonzero(sets[numbers[place]])
        each = loss_reference.distances(model[place], original[place], ids)
        exact += each[1]
        # What would complete a phrase is fine where a longer word goes on.
        if marks[place] and targets[place] in ids:
            unwanted += [1, *each[2:]]
        else:
            fine, kl = fine + 1, kl + each[0]
    assert fine and unwanted[0]
    names = ("total_variation", "unwanted_before", "unwanted_after")
    names = ("fine_tokens", "kl_original", "kl_exact", "unwanted_positions", *names)
    sums = {name: sum(row[name] for row in found.values()) for name in names}
    expected = dict(zip(names, (fine, kl, exact, *unwanted), strict=True))
    assert sums == pytest.approx(expected, rel=1e-4)
    assert all({*row} == {*names} for row in found.values())


def test_what_distances_refuse(job, annotated):
    with pytest.raises(UserError, match="there is no checkpoint .*checkpoint_7"):
        distances(job, annotated, "none", original=7)
    with pytest.raises(UserError, match="the original model: .* neither a checkpoint"):
        distances(job, annotated, "none", f"--gin.ORIGINAL_CHECKPOINT_PATH='{job}'")
    other = str(job / "model" / "checkpoint_0")
    with pytest.raises(UserError, match=f"{other} is of another architecture"):
        distances(job, annotated, "none", original=0, VOCABULARY_SIZE=512)
    lines = annotated.parent / "annotated-00000-of-00001.jsonl"
    before = lines.read_text()
    try:
        lines.write_text("".join(before.splitlines(keepends=True)[1:]))
        with pytest.raises(UserError, match=f"has 20 records and {lines} 19 lines"):
            distances(job, annotated, "none")
    finally:
        lines.write_text(before)


def test_the_metrics_of_a_task(job, greedy):
    (job / "metrics.gin").write_text(
        "from __gin__ import dynamic_registration\n"
        "from t5patches import tasks\nfrom t5patches.tasks import metrics\n"
        "tasks.text_task.metric_fns = [@metrics.exact_match]\n"
    )
    run(
        *(job, "eval", "runs/eval.gin", f"--gin_file={job}/metrics.gin"),
        CHECKPOINT_PATH=str(job / "model" / "checkpoint_2"),
        EVAL_OUTPUT_DIR=str(job / "metrics"),
    )
    (written,) = (job / "metrics").glob("**/text-metrics.jsonl")
    found = [row for _, row in json_files.read_jsonl(written)]
    same = [greedy[row["id"]]["prediction"] == row["targets"] for row in ROWS]
    assert found[-1]["exact_match"] == pytest.approx(sum(same) / len(ROWS))
