"""A progress bar for T5X's train loop, as one of its actions."""

import sys
from collections.abc import Mapping
from typing import Any

from t5x import trainer

from t5patches import data


class Bar(trainer.BaseAction):
    """Shows on a terminal how many steps of a run are done; elsewhere nothing.

    Bound in gin as `train.actions = {'TRAIN': [@progress.Bar()]}`; the loop calls it
    every `stats_period` steps.
    """

    def __init__(self, relative_steps: int, initial_checkpoint_path: str | None):
        """Makes a bar.

        Args:
          relative_steps: steps of the run, resumptions included.
          initial_checkpoint_path: where the run starts, or None for step 0.
        """
        self._total = relative_steps
        self._first = data.first_step(initial_checkpoint_path)
        self._bar = None

    def run(self, train_state: Any, metrics_by_task: Mapping[str, Any]) -> bool:
        """Moves the bar to the state's step; never stops the training."""
        del metrics_by_task
        if not sys.stderr.isatty():
            return False
        if self._bar is None:
            import tqdm

            self._bar = tqdm.tqdm(total=self._total, unit="step", leave=False)
        done = int(train_state.step) - self._first
        self._bar.update(done - self._bar.n)
        if done >= self._total:
            self._bar.close()
        return False
