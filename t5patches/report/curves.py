"""The picture of several methods: what is left unwanted against what stayed."""

from __future__ import annotations

import io
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from t5patches.report.picture import INK, QUIET

_WIDTH, _HEIGHT, _DPI = 12.0, 6.0, 200
# Colours that people who see fewer of them can tell apart (Okabe and Ito), and markers.
_COLOURS = (
    "#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#7a4b9d",
    "#6b7280", "#9a6b2f", "#374151",
)  # fmt: skip
_MARKERS = "os^Dv<>PX*"
_PANELS = (
    ("clean outputs that stayed word for word", lambda s: s["exact_match"]["clean"]),
    ("BLEU of all new outputs against the old", lambda s: s["bleu"]),
)


def draw(results: Mapping[str, Any], titles: Mapping[str, str]) -> bytes:
    """Returns the trade-off curves as PNG, 2,400 pixels wide.

    Args:
      results: what `report.write_comparison` takes.
      titles: method -> its name for the reader.
    """
    buffer = io.BytesIO()
    # Without the software's version the same numbers give the same bytes.
    plot(results, titles).savefig(buffer, format="png", metadata={"Software": None})
    return buffer.getvalue()


def plot(results: Mapping[str, Any], titles: Mapping[str, str]) -> Any:
    """Returns the picture of `draw` as a Matplotlib figure."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(_WIDTH, _HEIGHT), dpi=_DPI, facecolor="white")
    FigureCanvasAgg(figure)
    axes = figure.subplots(
        1,
        2,
        sharey=True,
        gridspec_kw={
            "left": 0.075, "right": 0.985, "top": 0.80, "bottom": 0.235, "wspace": 0.06,
        },
    )  # fmt: skip
    prevalences = [row["test"]["prevalence"] for row in results["points"]]
    before = prevalences[0]["before"]
    # An update can leave more unwanted than it found.
    top = max(before, 0.01, *(prevalence["after"] for prevalence in prevalences))
    for panel, (name, similarity) in zip(axes, _PANELS, strict=True):
        _panel(panel, results, titles, similarity, before)
        panel.set_ylim(-0.02 * top, 1.08 * top)
        panel.set_xlabel(name, fontsize=13, color=INK, labelpad=8)
    for values in (axes[0].xaxis, axes[0].yaxis):
        values.set_major_formatter(lambda share, _: f"{100 * share:.0f} %")
    axes[0].set_ylabel("unwanted outputs", fontsize=13, color=INK)
    axes[0].text(
        0.01, before, "before the update", transform=axes[0].get_yaxis_transform(),
        fontsize=11, color=QUIET, va="bottom",
    )  # fmt: skip
    examples = results["points"][0]["test"]["examples"]
    figure.text(
        0.015, 0.945, "Methods compared", fontsize=21, fontweight="bold", color=INK,
        va="center",
    )  # fmt: skip
    figure.text(
        0.015, 0.872,
        "Each point is an update; lower and further right is better. Lines join a "
        f"method's best points,\nthe large mark is the one chosen on validation "
        f"({examples:,} test inputs).",
        fontsize=12.5, color=QUIET, va="center", linespacing=1.4,
    )  # fmt: skip
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(
        handles, labels, loc="lower center", ncols=5, frameon=False, fontsize=12,
        labelcolor=INK, bbox_to_anchor=(0.53, 0.0), columnspacing=1.8,
    )  # fmt: skip
    return figure


def _panel(axes: Any, results, titles, similarity, before: float) -> None:
    axes.axhline(before, color=QUIET, linewidth=1, linestyle=(0, (4, 3)), zorder=1)
    for number, method in enumerate(results["methods"]):
        colour = _COLOURS[number % len(_COLOURS)]
        marker = _MARKERS[number % len(_MARKERS)]
        # By name; a point whose similarity could not be measured has no place.
        points = {
            row["name"]: (x, row["test"]["prevalence"]["after"])
            for row in results["points"]
            if row["method"] == method and (x := similarity(row["test"])) is not None
        }
        chosen = points.get(results["chosen"][method])
        axes.plot(
            *_columns(points.values()), marker, color=colour, markersize=5, alpha=0.55,
            markeredgewidth=0, zorder=2,
        )  # fmt: skip
        axes.plot(
            *_columns(best(list(points.values()))), "-", color=colour, linewidth=1.4,
            alpha=0.8, zorder=2,
        )  # fmt: skip
        axes.plot(
            *_columns([chosen] if chosen else []), marker, color=colour, markersize=12,
            markeredgecolor="white", linestyle="none", label=titles[method], zorder=3,
        )  # fmt: skip
    if not any(len(line.get_xdata()) for line in axes.lines[1:]):  # The first: before.
        axes.set_xticks([])
        axes.text(
            0.5, 0.5, "nothing to measure", transform=axes.transAxes, fontsize=13,
            color=QUIET, ha="center",
        )  # fmt: skip
    axes.grid(color="#e4e8ee", linewidth=0.8, zorder=0)
    axes.tick_params(length=0, labelsize=11.5, labelcolor=QUIET)
    for spine in axes.spines.values():
        spine.set_visible(False)


def _columns(points: Iterable[tuple[float, float]]) -> tuple[list[float], list[float]]:
    points = list(points)
    return [x for x, _ in points], [y for _, y in points]


def best(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """The points (similarity, prevalence) that none of the others beats, in order."""
    kept: list[tuple[float, float]] = []
    # From the most similar down, each must be lower than all before.
    for x, y in sorted(points, key=lambda point: (-point[0], point[1])):
        if not kept or y < kept[-1][1]:
            kept.append((x, y))
    return kept
