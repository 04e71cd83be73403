"""A model and a task that train in seconds, for either engine."""

import functools

import jax
import seqio
import tensorflow as tf
from t5x import adafactor, decoding, models, partitioning, trainer, utils

from t5patches import network

VOCABULARY = seqio.ByteVocabulary()
LENGTHS = {"inputs": 12, "targets": 8}
TASK = "toy_copy"


def _examples(split, shuffle_files=False, seed=None, num_rows=20):
    del shuffle_files, seed, split
    texts = [f"row {i} {'abcdefg'[i % 7]}" for i in range(num_rows)]
    return tf.data.Dataset.from_tensor_slices(
        {"inputs": texts, "targets": [t[::-1][:6] for t in texts]}
    )


def _accuracy(targets, predictions):
    hits = [t == p for t, p in zip(targets, predictions, strict=True)]
    return {"accuracy": sum(hits) / len(hits)}


def register() -> str:
    """Registers the task once; returns its name."""
    if TASK not in seqio.TaskRegistry.names():
        feature = seqio.Feature(VOCABULARY)
        seqio.TaskRegistry.add(
            TASK,
            source=seqio.FunctionDataSource(_examples, splits=["train", "validation"]),
            preprocessors=[
                seqio.preprocessors.tokenize,
                seqio.preprocessors.append_eos,
            ],
            output_features={"inputs": feature, "targets": feature},
            metric_fns=[_accuracy],
        )
    return TASK


def config(**kwargs) -> network.T5Config:
    sizes = dict(vocab_size=384, emb_dim=16, num_heads=2, head_dim=8, mlp_dim=24)
    layers = dict(num_encoder_layers=1, num_decoder_layers=1)
    return network.T5Config(**{**sizes, **layers, "dropout_rate": 0.1, **kwargs})


def model(**kwargs) -> models.EncoderDecoderModel:
    return models.EncoderDecoderModel(
        module=network.Transformer(config(**kwargs)),
        input_vocabulary=VOCABULARY,
        output_vocabulary=VOCABULARY,
        optimizer_def=adafactor.Adafactor(
            decay_rate=0.8,
            step_offset=0,
            logical_factor_rules=adafactor.standard_logical_factor_rules(),
        ),
        decode_fn=functools.partial(decoding.temperature_sample, temperature=0.0),
    )


def partitioner():
    return partitioning.PjitPartitioner(num_partitions=1)


def dataset(split="train", **kwargs) -> utils.DatasetConfig:
    settings = dict(batch_size=4, shuffle=split == "train", seed=1)
    return utils.DatasetConfig(
        mixture_or_task_name=register(),
        task_feature_lengths=LENGTHS,
        split=split,
        **{**settings, **kwargs},
    )


def skipping(steps: int):
    """A get_dataset_fn that goes on after `steps` batches."""

    def get_dataset(*args):
        return utils.get_dataset(*args).skip(steps)

    return get_dataset


def trainer_cls(num_microbatches=None):
    return functools.partial(
        trainer.Trainer,
        learning_rate_fn=utils.create_learning_rate_scheduler(
            "constant", base_learning_rate=0.05
        ),
        num_microbatches=num_microbatches,
    )


def train_arguments(model_dir, **kwargs) -> dict:
    """Keyword arguments of `train.train` for 8 steps, saving every 4."""
    arguments = dict(
        model=model(),
        train_dataset_cfg=dataset(),
        train_eval_dataset_cfg=None,
        infer_eval_dataset_cfg=None,
        checkpoint_cfg=utils.CheckpointConfig(
            save=utils.SaveCheckpointConfig(period=4)
        ),
        partitioner=partitioner(),
        trainer_cls=trainer_cls(),
        model_dir=str(model_dir),
        total_steps=8,
        eval_steps=2,
        eval_period=4,
        random_seed=0,
        summarize_config_fn=lambda *args: None,
    )
    return {**arguments, **kwargs}


def initializer(a_model=None, optimizer=True) -> utils.TrainStateInitializer:
    a_model = a_model or model()
    names = ("encoder_input_tokens", "decoder_input_tokens", "decoder_target_tokens")
    length = {"encoder": LENGTHS["inputs"], "decoder": LENGTHS["targets"]}
    return utils.TrainStateInitializer(
        optimizer_def=a_model.optimizer_def if optimizer else None,
        init_fn=a_model.get_initial_variables,
        input_shapes={
            name: (4, length[name[:7]]) for name in (*names, "decoder_loss_weights")
        },
        partitioner=partitioner(),
    )


def state_of(a_model=None, seed=0):
    """A train state from scratch."""
    return initializer(a_model).from_scratch(jax.random.PRNGKey(seed))
