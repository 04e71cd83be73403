"""Inference over a task into files, chunk by chunk.

A chunk is `checkpoint_period` batches. Its results are a file in a temporary folder,
then an empty file with the suffix `.COMPLETED`: a run that was killed and is started
again skips the chunks that have one. At the end the chunks are merged.
"""

from __future__ import annotations

import concurrent.futures
import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np
import seqio
import tensorflow as tf
from absl import logging
from etils import epath

from t5x_embedded import _absent, gin_utils, models, partitioning, utils

# (predictions in the order of the data, auxiliary values by name)
Inferences = tuple[Sequence[Any], Mapping[str, Any]]
# (path, inferences, task's data set, mode, output vocabulary)
WriteFn = Callable[..., None]
# (output folder, file name, temporary folder, step)
MergeFn = Callable[[str, str, str, int | None], None]

_DONE = ".COMPLETED"
# Batches whose rows are decoded in the places of one, as these get free.
_QUEUED = 8

__getattr__ = _absent.module_getattr(__name__)


# ---- Files ----


def _plain(value):
    """An array as lists; other values are the JSON encoder's."""
    if isinstance(value, np.ndarray | jax.Array):
        return np.asarray(value).tolist()
    return value


def write_inferences_to_file(
    path: str,
    inferences: Inferences,
    task_ds: tf.data.Dataset,
    mode: str,
    vocabulary: seqio.Vocabulary | None = None,
    json_encoder_cls: type[json.JSONEncoder] = seqio.TensorAndNumpyEncoder,
    output_ids: bool = False,
) -> None:
    """Writes predictions beside their inputs, a JSON object per line.

    An object has `inputs` (the features named `*_pretokenized`) and `prediction`
    (text) or `score`, perhaps `prediction_tokens` (ids up to the first 0) and `aux`.

    Args:
        path: of the file.
        inferences: predictions and auxiliary values, in the order of `task_ds`.
        task_ds: the examples.
        mode: 'predict', 'score' or 'predict_with_aux'.
        vocabulary: decodes ids; not needed to score.
        json_encoder_cls: for `json.dumps`.
        output_ids: write `prediction_tokens`.

    Raises:
        ValueError: an unknown mode, or no vocabulary.
    """
    if mode not in ("predict", "score", "predict_with_aux"):
        raise ValueError(f"Invalid mode: {mode}")
    if mode != "score" and vocabulary is None:
        raise ValueError(f"Mode {mode!r} needs the vocabulary")
    predictions, aux = inferences
    with epath.Path(path).open("w") as file:
        for i, example in enumerate(task_ds.as_numpy_iterator()):
            shown = [k for k in example if k.endswith("_pretokenized")]
            line = {"inputs": {k: _plain(example[k]) for k in shown}}
            if mode == "score":
                line["score"] = _plain(predictions[i])
            else:
                ids = np.asarray(predictions[i], np.int32)
                text = vocabulary.decode_tf(tf.constant(ids)).numpy()
                line["prediction"] = _plain(text)
                if output_ids:
                    length = np.argmax(ids == 0) if 0 in ids else len(ids)
                    line["prediction_tokens"] = ids[:length].tolist()
            if aux and mode != "predict":
                line["aux"] = jax.tree.map(
                    lambda values, i=i: _plain(values[i]),
                    aux,
                    is_leaf=lambda values: isinstance(values, np.ndarray | list),
                )
            file.write(json.dumps(line, cls=json_encoder_cls) + "\n")


def merge_chunks_to_file(
    output_dir: str, output_fname: str, tmp_dir: str, step: int | None
) -> None:
    """Joins the chunks `<tmp_dir>/<output_fname>-chunk?????` into one file.

    Raises:
        FileNotFoundError: there are no chunks, or some are missing.
    """
    del step
    chunks = sorted(epath.Path(tmp_dir).glob(f"{output_fname}-chunk?????"))
    if not chunks:
        raise FileNotFoundError(f"No results in {tmp_dir}; has the input any examples?")
    if int(chunks[-1].name[-5:]) + 1 != len(chunks):
        raise FileNotFoundError(f"Chunks are missing in {tmp_dir}")
    target = epath.Path(output_dir) / output_fname
    # Under another name until it is whole.
    partial = epath.Path(tmp_dir) / f"{output_fname}.merged"
    with partial.open("wb") as merged:
        for chunk in chunks:
            with chunk.open("rb") as part:
                shutil.copyfileobj(part, merged)
    partial.replace(target)


# ---- The loop ----


def infer(
    *,
    mode: str,
    model: models.BaseTransformerModel,
    dataset_cfg: utils.DatasetConfig,
    restore_checkpoint_cfg: utils.RestoreCheckpointConfig,
    partitioner: partitioning.BasePartitioner,
    output_dir: str,
    checkpoint_period: int,
    shard_id: int = 0,
    num_shards: int = 1,
    merge_chunked_results: bool = True,
    write_fn: WriteFn = write_inferences_to_file,
    checkpoint_ds_iter: bool = True,
    train_state_initializer_cls: Callable = utils.TrainStateInitializer,
    merge_fn: MergeFn = merge_chunks_to_file,
    summarize_config_fn: Callable[..., None] = gin_utils.summarize_gin_config,
    verify_matching_vocabs_fn: Callable | None = utils.verify_matching_vocabs,
    file_extension: str = "jsonl",
    use_orbax: bool = True,
) -> None:
    """Predicts or scores the examples of a task; writes a file per task.

    The file is `<output_dir>/<task>-<mode>.<extension>-<shard>-of-<shards>`, and an
    empty one with the suffix `.COMPLETED` says that it is whole.

    Args:
        mode: 'predict', 'score', or 'predict_with_aux' (predictions and scores).
        model: predicts and scores.
        dataset_cfg: the task, split and batch size.
        restore_checkpoint_cfg: the checkpoint; `path` is its folder.
        partitioner: shards everything.
        output_dir: where the files go.
        checkpoint_period: batches per chunk.
        shard_id: which shard of the data this job does.
        num_shards: of so many.
        merge_chunked_results: merge the chunks at the end.
        write_fn: writes a chunk.
        checkpoint_ds_iter: ignored; complete chunks are skipped.
        train_state_initializer_cls: makes train states.
        merge_fn: merges the chunks.
        summarize_config_fn: writes the configuration.
        verify_matching_vocabs_fn: raises if task and model do not match.
        file_extension: of the files.
        use_orbax: must be True.

    Raises:
        ValueError: an unknown mode, or a checkpoint that does not fit.
    """
    _absent.refuse("infer.infer", locals(), use_orbax=True)
    steps = {
        "predict": model.predict_batch,
        "score": model.score_batch,
        "predict_with_aux": model.predict_batch_with_aux,
    }
    if mode not in steps:
        raise ValueError(f"`mode` must be one of {sorted(steps)}: {mode!r}")
    if shard_id == 0:
        summarize_config_fn(model_dir=output_dir, summary_writer=None, step=0)
    if verify_matching_vocabs_fn is not None:
        verify_matching_vocabs_fn(dataset_cfg, model)

    # SeqIO has trimmed the features already.
    converter = model.FEATURE_CONVERTER_CLS(pack=False, apply_length_check=False)
    lengths = dataset_cfg.task_feature_lengths

    def load(task):
        task_ds = task.get_dataset(
            sequence_length=lengths,
            split=dataset_cfg.split,
            shuffle=False,
            num_epochs=1,
            shard_info=seqio.ShardInfo(index=shard_id, num_shards=num_shards),
            use_cached=dataset_cfg.use_cached,
            seed=dataset_cfg.seed,
        )
        return tf.data.Dataset.zip((task_ds, converter(task_ds, lengths)))

    tasks = seqio.get_subtasks(utils.get_provider(dataset_cfg))
    # SeqIO takes as long to make them as a small model to decode some batches.
    examples_of = {task.name: load(task) for task in tasks}
    _, spec = examples_of[tasks[0].name].element_spec
    initializer = utils.initializer_for(
        model,
        {name: (dataset_cfg.batch_size, *x.shape) for name, x in spec.items()},
        {name: x.dtype.as_numpy_dtype for name, x in spec.items()},
        partitioner,
        output_dir if shard_id == 0 else None,
        train_state_initializer_cls,
    )
    cfg = restore_checkpoint_cfg
    state = initializer.restore(cfg.path, cfg.dtype)
    axes = initializer.train_state_axes
    queued = mode != "score" and model.takes_queue()
    queued = queued and utils.rows_are_apart(axes, partitioner)
    infer_fn = utils.get_infer_fn(
        infer_step=steps[mode],
        batch_size=dataset_cfg.batch_size,
        train_state_axes=axes,
        partitioner=partitioner,
        queued=_QUEUED * queued,
    )

    for task in tasks:
        shard = f"{shard_id:05}-of-{num_shards:05}"
        name = f"{task.name}-{mode}.{file_extension}-{shard}"
        tmp_dir = epath.Path(output_dir) / f"tmp-{task.name}-{shard}"
        done = epath.Path(output_dir) / (name + _DONE)
        if done.exists():
            logging.info("%s is complete; skipping it.", name)
            _remove(tmp_dir)
            continue
        vocabulary = task.output_features["targets"].vocabulary

        def write(path, inferences, chunk_ds, vocabulary=vocabulary):
            write_fn(path, inferences, chunk_ds, mode, vocabulary)

        _infer_chunks(
            utils.untuned(
                examples_of[task.name].padded_batch(
                    checkpoint_period * dataset_cfg.batch_size
                )
            ),
            lambda ds, rng: infer_fn(ds, state, rng),
            write,
            tmp_dir / name,
        )
        if jax.process_index() == 0:
            if merge_chunked_results:
                merge_fn(output_dir, name, str(tmp_dir), int(state.step))
            done.touch()
            if merge_chunked_results:
                _remove(tmp_dir)
        utils.sync_global_devices(f"{task.name}:complete")
    logging.info("Finished.")


def _infer_chunks(chunks: tf.data.Dataset, infer_fn, write, base: epath.Path) -> None:
    """Runs and writes the chunks that are not complete.

    Args:
        chunks: (task features, model features) of a chunk each.
        infer_fn: (enumerated model features, key) -> see `utils.get_infer_fn`.
        write: (path, inferences, task features) -> None; runs in a thread, so that
            a chunk is written while the next one is inferred.
        base: `<base>-chunk00000` … are the files.
    """
    main = jax.process_index() == 0
    if main:
        base.parent.mkdir(parents=True, exist_ok=True)

    def finish(path, inferences, chunk_ds):
        write(path, inferences, chunk_ds)
        epath.Path(f"{path}{_DONE}").touch()

    with concurrent.futures.ThreadPoolExecutor(1) as writer:
        written = []
        for number, chunk in enumerate(chunks.prefetch(1)):
            path = f"{base}-chunk{number:05}"
            if epath.Path(f"{path}{_DONE}").exists():
                logging.info("Chunk %d is complete; skipping it.", number)
                continue
            task_ds = utils.untuned(tf.data.Dataset.from_tensor_slices(chunk[0]))
            rng = jax.random.fold_in(jax.random.PRNGKey(0), number)
            results = infer_fn(_by_length(chunk[1]), rng)
            pairs, aux = results if isinstance(results, tuple) else (results, {})
            inferences = [prediction for _, prediction in pairs], aux
            if main:
                written.append(writer.submit(finish, path, inferences, task_ds))
            if written and written[0].done():
                written.pop(0).result()
            utils.sync_global_devices(f"{base.name}:chunk{number:05}")
        for future in written:
            future.result()


def _by_length(features: Mapping[str, tf.Tensor]) -> tf.data.Dataset:
    """(place, model features) of each example, the shortest inputs first.

    Inputs of like lengths share batches, which are cut to them. The places bring the
    results back into order.
    """
    tokens = features.get("encoder_input_tokens")
    rows = len(next(iter(features.values())))
    order = np.arange(rows)
    if tokens is not None:
        order = np.argsort(np.count_nonzero(tokens, axis=1), kind="stable")
    ordered = {name: tf.gather(value, order) for name, value in features.items()}
    return tf.data.Dataset.from_tensor_slices((order, ordered))


def _remove(folder: epath.Path) -> None:
    if jax.process_index() == 0 and folder.exists():
        folder.rmtree()
