"""One of the two processes of test_two_processes.py: two runs, the second endless."""

import gc
import sys

gc.disable()  # Of short processes it takes a tenth, of imports a fifth.

from t5patches.run import scripts  # noqa: E402
from tests import run_toy  # noqa: E402


def arguments(folder, *more):
    # In the data's order two processes and one have the same rows in a batch.
    in_order = "--gin.train/utils.DatasetConfig.shuffle=False"
    return run_toy.arguments("update", folder, in_order, *more)


def main(index, port, folder):
    cluster = (
        "--multiprocess_gpu",
        f"--coordinator_address=localhost:{port}",
        "--process_count=2",
        f"--process_index={index}",
    )
    scripts.run("train", arguments(f"{folder}/run", *cluster))
    # It starts from that model, whose files they look at together.
    start = f"--gin.INITIAL_CHECKPOINT_PATH='{folder}/run/checkpoint_6'"
    endless = ("TRAIN_STEPS_RELATIVE", "EVAL_PERIOD", "SAVE_PERIOD")
    never = [f"--gin.{name}=1000000" for name in endless]
    scripts.run("train", arguments(f"{folder}/endless", start, *never))


if __name__ == "__main__":
    main(*sys.argv[1:])
