"""`report.png`: prevalence before and after, and what stayed the same."""

from __future__ import annotations

import io
from collections.abc import Mapping
from typing import Any

INK, QUIET = "#1f2933", "#52606d"
BEFORE, AFTER = "#cf3f3f", "#1f8a70"
SAME, SAME_ALL = "#2c5a97", "#5f88bd"
_WIDTH, _HEIGHT, _DPI = 12.0, 5.0, 200


def draw(results: Mapping[str, Any]) -> bytes:
    """Returns the picture of an evaluation as PNG, 2,400 pixels wide.

    Args:
      results: what `evaluate.compare` returns, with `method` if known.
    """
    # The object interface needs no display and changes no global state.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(_WIDTH, _HEIGHT), dpi=_DPI, facecolor="white")
    FigureCanvasAgg(figure)
    left, right = figure.subplots(
        1,
        2,
        gridspec_kw={
            "width_ratios": (1.0, 1.6),
            "left": 0.05,
            "right": 0.955,
            "top": 0.70,
            "bottom": 0.13,
            "wspace": 0.36,
        },
    )
    _titles(figure, results)
    _prevalence(left, results)
    _similarity(right, results)
    buffer = io.BytesIO()
    # Without the software's version the same numbers give the same bytes.
    figure.savefig(buffer, format="png", metadata={"Software": None})
    return buffer.getvalue()


def headline(results: Mapping[str, Any]) -> str:
    """Returns the result in a sentence."""
    before, after = (results["prevalence"][k] for k in ("before", "after"))
    clean = results["exact_match"]["clean"]
    first = f"Unwanted outputs: {_percent(before)} before, {_percent(after)} after"
    if clean is None:
        return first
    return f"{first}. {_percent(clean)} of the clean outputs stayed word for word"


def _titles(figure: Any, results: Mapping[str, Any]) -> None:
    method = results.get("method")
    figure.text(
        0.05,
        0.925,
        f"A targeted update with {str(method).upper()}"
        if method
        else "A targeted update",
        fontsize=21,
        fontweight="bold",
        color=INK,
        va="center",
    )
    figure.text(
        0.05,
        0.845,
        f"{headline(results)} ({results['examples']:,} test inputs).",
        fontsize=13,
        color=QUIET,
        va="center",
    )


def _prevalence(axes: Any, results: Mapping[str, Any]) -> None:
    values = [results["prevalence"]["before"], results["prevalence"]["after"]]
    bars = axes.bar(
        ["before", "after"], values, width=0.62, color=[BEFORE, AFTER], zorder=2
    )
    top = max(*values, 0.01)
    for bar, value in zip(bars, values, strict=True):
        axes.text(
            bar.get_x() + bar.get_width() / 2,
            value + 0.025 * top,
            _percent(value),
            ha="center",
            va="bottom",
            fontsize=18,
            fontweight="bold",
            color=INK,
        )
    axes.set_title(
        "Outputs with something unwanted",
        fontsize=14,
        color=INK,
        loc="left",
        pad=14,
    )
    axes.set_ylim(0, 1.18 * top)
    axes.set_yticks([])
    axes.tick_params(axis="x", length=0, labelsize=14, labelcolor=INK, pad=8)
    for side, spine in axes.spines.items():
        spine.set_visible(side == "bottom")
        spine.set_color(QUIET)


def _similarity(axes: Any, results: Mapping[str, Any]) -> None:
    """Three measures, each over inputs whose old output was clean and over all."""
    measures = [("exact match", "exact_match", 1), ("ROUGE-L", "rougeL", 1)]
    measures.insert(1, ("BLEU", "bleu", 100))
    groups = [("clean", "old output clean", SAME), ("all", "all inputs", SAME_ALL)]
    height = 0.34
    for row, (_, key, scale) in enumerate(measures):
        for offset, (subset, _, colour) in zip((-0.5, 0.5), groups, strict=True):
            value = results["subsets"][subset][key]
            position = row + 1.08 * height * offset
            axes.barh(position, 1, height, color="#f0f3f7", zorder=1)
            if value is not None:
                axes.barh(position, value / scale, height, color=colour, zorder=2)
                _label_bar(axes, position, value, scale)
    for _, name, colour in groups:
        axes.barh(0, 0, color=colour, label=name)
    # Between the two labels of the axis below, where nothing else is.
    axes.legend(
        loc="upper center",
        bbox_to_anchor=(0.5, 0.008),
        ncols=2,
        frameon=False,
        fontsize=12,
        labelcolor=INK,
        handlelength=1.0,
        handleheight=1.0,
        columnspacing=1.6,
        borderaxespad=0.0,
    )
    axes.invert_yaxis()
    axes.set_yticks(range(len(measures)), [name for name, _, _ in measures])
    axes.set_xlim(0, 1)
    axes.set_xticks([0, 1], ["nothing kept", "all as before"])
    axes.set_title(
        "New outputs against old ones", fontsize=14, color=INK, loc="left", pad=14
    )
    axes.tick_params(axis="y", length=0, labelsize=13.5, labelcolor=INK, pad=8)
    axes.tick_params(axis="x", length=0, labelsize=11.5, labelcolor=QUIET)
    for label, side in zip(axes.get_xticklabels(), ("left", "right"), strict=True):
        label.set_ha(side)
    for spine in axes.spines.values():
        spine.set_visible(False)


def _label_bar(axes: Any, position: float, value: float, scale: int) -> None:
    share = value / scale
    inside = share > 0.2
    axes.text(
        share - 0.012 if inside else share + 0.012,
        position + 0.01,
        f"{value:.1f}" if scale == 100 else f"{value:.3f}",
        ha="right" if inside else "left",
        va="center_baseline",
        fontsize=13,
        fontweight="bold",
        color="white" if inside else INK,
        zorder=3,
    )


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"
