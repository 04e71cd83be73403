"""The training curves of updates, from the event files that the engine writes."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from etils import epath

from t5patches.interchange import shards
from t5patches.report import drawing

# Series of the event files -> what the picture calls it.
_SERIES = {
    "loss_per_nonpadding_target_token": "loss",
    "unwanted/loss": "loss at unwanted tokens",
    "other/loss": "loss at other tokens",
    "unwanted/probability": "probability of unwanted tokens",
    "other/kl": "KL to the original at other tokens",
}
_STYLES = {"train": {"ls": ":", "alpha": 0.7}, "validation": {"ls": "-"}}
Curve = Mapping[int, float]


class Run(NamedTuple):
    """A training run: `curves` are values by step by (split, series)."""

    name: str
    colour: str
    curves: Mapping[tuple[str, str], Curve]


def read(model: shards.PathLike) -> dict[tuple[str, str], Curve]:
    """Returns the curves of a model folder, by split and series.

    Args:
      model: what `train` wrote to; where it has no event files there are no curves.
    """
    folder = epath.Path(model)
    evaluated = sorted(folder.glob("training_eval/*"))
    # As a rule there is one task, whose name says nothing.
    names = ["train", "validation", *(path.name for path in evaluated[1:])]
    return {
        (split, series): curve
        for split, path in zip(names, [folder / "train", *evaluated], strict=False)
        for series, curve in _read_events(path).items()
    }


def _read_events(folder: epath.Path) -> dict[str, Curve]:
    if not any(folder.glob("events.out.tfevents.*")):
        return {}
    # They import TensorFlow.
    from tensorboard.backend.event_processing import event_accumulator
    from tensorboard.util import tensor_util

    events = event_accumulator.EventAccumulator(
        str(folder), size_guidance={event_accumulator.TENSORS: 0}
    ).Reload()
    found = {}
    for series in _SERIES.keys() & events.Tags()[event_accumulator.TENSORS]:
        # A run that was killed does its last steps again.
        found[series] = {
            row.step: tensor_util.make_ndarray(row.tensor_proto).item()
            for row in events.Tensors(series)
        }
    return found


def to_csv(runs: Sequence[Run]) -> bytes:
    """Returns the curves as CSV with a head, a line for each value."""
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(("run", "split", "series", "step", "value"))
    for run in runs:
        for (split, series), curve in run.curves.items():
            writer.writerows((run.name, split, series, *pair) for pair in curve.items())
    return file.getvalue().encode()


def draw(runs: Sequence[Run]) -> Any:
    """Returns the curves as a Matplotlib figure, a panel for each series."""
    below = "By step: solid on validation, dotted on training examples."
    figure, panels = drawing.panels(
        6.6, "Training curves", below,
        0.015, (2, 3), left=0.06, right=0.985, top=0.80, bottom=0.06, hspace=0.38,
        wspace=0.22,
    )  # fmt: skip
    *panels, last = panels
    for axes, (series, name) in zip(panels, _SERIES.items(), strict=True):
        axes.set_title(name, fontsize=13, color=drawing.INK, loc="left")
        axes.grid(color="#e4e8ee", linewidth=0.8, zorder=0)
        for run in runs:
            for split, style in _STYLES.items():
                if curve := run.curves.get((split, series)):
                    steps, values = zip(*curve.items(), strict=True)
                    axes.plot(
                        steps, values, marker="o", c=run.colour, ms=3, lw=1.6, **style
                    )
        axes.margins(0.03, 0.08)
    last.axis("off")
    handles = [last.plot([], [], c=run.colour, lw=3)[0] for run in runs]
    last.legend(
        handles, [run.name for run in runs], loc="center left", frameon=False,
        fontsize=10.5, labelcolor=drawing.INK,
    )  # fmt: skip
    return figure
