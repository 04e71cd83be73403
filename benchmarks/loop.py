"""What a run takes beside its compiled step: input, host, metrics, checkpoints.

    python -m benchmarks.loop --model tiny --steps 200 --rounds 10
    python -m benchmarks.loop --model t5_1_1_small --batch 8 --steps 10 --rounds 3

A run as `t5patches train` makes it, of the quickstart's comments (packed, but for
`tiny`, the quickstart's model), and the compiled step alone, called as often on one
batch, in turn in one process. A round saves a checkpoint; what is written of it while
training goes on slows the steps of the next round. With T5X importable it is T5X's
loop. On a CPU the input takes cores from the step: the processor seconds say how much.
"""

import argparse
import contextlib
import pathlib
import resource
import sys
import tempfile
import time
from collections.abc import Sequence
from typing import Any
from unittest import mock

import numpy as np

SHAPES = {
    "tiny": (["experiments/quickstart/finetune.gin"], {"inputs": 24, "targets": 32}),
    **{
        name: (
            [f"models/{name}.gin", "runs/finetune.gin", "tasks/text.gin"],
            {"inputs": 256, "targets": 64},
        )
        for name in ("t5_1_1_small", "t5_1_1_base")
    },
}


class Rounds:
    """Stands in for a trainer's `train`; times it and the step that it calls.

    Attributes:
      loop: (seconds, processor seconds) of every round's training.
      between: the same from its end to the next round's beginning.
      step: the same of as many calls of the compiled step alone.
      rss: bytes of the process after every round.
    """

    def __init__(self, train: Any):
        self._train = train
        self._ended: np.ndarray | None = None
        self._batch = None
        self.loop, self.between, self.step, self.rss = [], [], [], []

    def __call__(self, trainer, batches, num_steps, **start):
        import jax
        import jax.numpy as jnp

        if self._batch is None:
            self._batch = batches.peek()
        else:
            self.between.append(_now() - self._ended)
        began = _now()
        summary = self._train(trainer, batches, num_steps, **start)
        jax.block_until_ready(trainer.train_state)
        self.loop.append(_now() - began)

        state = jax.block_until_ready(jax.tree.map(jnp.copy, trainer.train_state))
        began = _now()
        for _ in range(num_steps):
            state, _ = trainer._compiled_train_step(state, self._batch)
        jax.block_until_ready(state)
        self.step.append(_now() - began)
        del state
        pages = pathlib.Path("/proc/self/statm").read_text().split()[1]
        self.rss.append(int(pages) * resource.getpagesize())
        self._ended = _now()
        return summary


def _now() -> np.ndarray:
    return np.array([time.perf_counter(), time.process_time()])


def measure(args: argparse.Namespace) -> Rounds:
    """Runs the rounds; see `main` for the arguments."""
    from t5patches import trainer
    from t5patches.cli import starting
    from t5patches.quickstart import job, run_folder
    from t5patches.run import scripts

    files, lengths = SHAPES[args.model]
    starting.prepare()
    with tempfile.TemporaryDirectory(dir=args.folder) as folder:
        run = run_folder.Run(folder=folder)
        job.make_corpus(run)
        macros = {
            "MODEL_DIR": run.path("model"),
            "FILES": run.corpus_files(),
            "VOCABULARY_PATH": run.vocabulary_path,
            "TASK_FEATURE_LENGTHS": lengths,
            "INITIAL_CHECKPOINT_PATH": None,
            "PACK": args.model != "tiny",
            "BATCH_SIZE": args.batch,
            "TRAIN_STEPS_RELATIVE": args.steps * (args.rounds + 1),
            "SAVE_PERIOD": args.steps,
            "EVAL_PERIOD": args.steps * (args.rounds + 1),
            "EVAL_STEPS": 1,
        }
        if args.model == "tiny":
            macros["VOCABULARY_SIZE"] = 1024
        rounds = Rounds(trainer.WatchedTrainer.train)
        timed = lambda *args, **kwargs: rounds(*args, **kwargs)
        with mock.patch.object(trainer.WatchedTrainer, "train", timed):
            scripts.run(
                "train",
                [
                    *(f"--gin_file={file}" for file in files),
                    *(f"--gin.{name}={value!r}" for name, value in macros.items()),
                ],
            )
    return rounds


def main(argv: Sequence[str] | None = None) -> None:
    """Prints milliseconds a step, the loop's own share of them, and memory."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", choices=list(SHAPES), default="tiny")
    parser.add_argument("--steps", type=int, default=200, help="in a round")
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--batch", type=int, default=64, help="rows")
    parser.add_argument("--folder", help="for the checkpoints")
    args = parser.parse_args(argv)
    with contextlib.redirect_stdout(sys.stderr):
        rounds = measure(args)
    # The first round does much for the first time.
    loop, step = (np.array(x)[1:] / args.steps for x in (rounds.loop, rounds.step))
    save = np.array(rounds.between)[1:] / args.steps
    for kind, place in (("seconds", 0), ("processor seconds", 1)):
        inside, alone, saved = loop[:, place], step[:, place], save[:, place]
        share, whole = 1 - alone / inside, inside[:-1] + saved
        print(
            f"{kind}: step {np.median(alone):.4f}, in the loop {np.median(inside):.4f},"
            f" {np.median(share):.1%} of it the loop's; with a checkpoint every "
            f"{args.steps} steps {np.median(1 - alone[:-1] / whole):.1%}, of "
            f"{np.median(saved) * args.steps:.2f} in which it stands still"
        )
    print("rss MB:", *(f"{rss / 1e6:.0f}" for rss in rounds.rss))


if __name__ == "__main__":
    main()
