"""The picture of an update: prevalence before and after, and what stayed the same."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from t5patches.report import drawing, numbers
from t5patches.report.rendering import percent, score, share, unit

_BEFORE, AFTER = "#cf3f3f", "#1f8a70"
_SUBSETS = {"clean": ("old output clean", "#2c5a97"), "all": ("all inputs", "#5f88bd")}
# name, key of the results, the most it can be, how it is written
_MEASURES = (
    ("exact match", "exact_match", 1, unit),
    ("BLEU", "bleu", 100, score),
    ("ROUGE-L", "rougeL", 1, unit),
)
_BAR = 0.34  # height
_STRONG = {"fontweight": "bold", "color": drawing.INK}
_WHISKER = {"ecolor": drawing.INK, "elinewidth": 1.6, "capsize": 5, "fmt": "none"}


def draw(results: Mapping[str, Any], title: str, sentence: str) -> Any:
    """Returns the picture of an evaluation as a Matplotlib figure.

    Args:
      results: what `evaluate.evaluate_files` returns; its `intervals` become whiskers.
      title: the heading.
      sentence: what stands below it.
    """
    below = f"{sentence} ({results['examples']:,} test inputs)."
    figure, (left, right) = drawing.panels(
        5.0, title, below, 0.05, left=0.05, right=0.955, top=0.70, bottom=0.13,
        wspace=0.36, width_ratios=(1.0, 1.6),
    )  # fmt: skip
    if sure := results.get("intervals"):
        text = f"whiskers: {percent(sure['confidence'])} intervals"
        style: dict[str, Any] = {"ha": "right", "va": "center", "fontsize": 11}
        figure.text(0.955, 0.928, text, color=drawing.QUIET, **style)
    heading = {"fontsize": 14, "color": drawing.INK, "loc": "left", "pad": 14}
    left.set_title("Outputs with something unwanted", **heading)
    right.set_title("New outputs against old ones", **heading)
    exact = results.get("exact_update")
    _draw_prevalence(left, results, exact)
    _draw_similarity(right, results, exact and exact["subsets"])
    return figure


def _draw_prevalence(axes: Any, results: Mapping[str, Any], exact: Any) -> None:
    sides = ["before", "after"]
    shares = [results["prevalence"][side] for side in sides]
    bounds = [numbers.interval(results, "prevalence", side) for side in sides]
    names, colours = sides, [_BEFORE, AFTER]
    if exact:
        shares.append(exact["prevalence"]["after"])
        names, colours = [*names, "exact\nupdate"], [*colours, drawing.QUIET]
        bounds.append((None, None))
    axes.bar(names, shares, width=0.62, color=colours)
    tops = [
        max(value, high or 0) for value, (_, high) in zip(shares, bounds, strict=True)
    ]
    style = {"xytext": (0, 4), "textcoords": "offset points", "ha": "center", **_STRONG}
    for place, (value, top) in enumerate(zip(shares, tops, strict=True)):
        reach = _reach(value, bounds[place])
        if reach:
            axes.errorbar(place, value, yerr=reach, **_WHISKER)
        axes.annotate(share(value), (place, top), fontsize=18, **style)
    axes.set_ylim(0, 1.18 * max(*tops, 0.01))
    axes.set_yticks([])
    axes.tick_params(axis="x", labelsize=14, labelcolor=drawing.INK, pad=8)
    axes.spines["bottom"].set_visible(True)


def _reach(value: float, bounds: Sequence[float | None]) -> list[list[float]] | None:
    """Returns how far an interval goes below and above, as Matplotlib takes it."""
    low, high = bounds
    if low is None or high is None:
        return None
    return [[max(value - low, 0)], [max(high - value, 0)]]


def _draw_similarity(axes: Any, results: Mapping[str, Any], exact: Any) -> None:
    """Draws each measure twice: where the old output was clean, and over all.

    A line across a bar is where the exact update is.
    """
    line = {"color": drawing.INK, "linewidth": 2.5, "zorder": 4, "clip_on": False}
    for subset, side in (("clean", -0.5), ("all", 0.5)):
        name, colour = _SUBSETS[subset]
        axes.barh(0, 0, color=colour, label=name)
        for row, (_, key, most, written) in enumerate(_MEASURES):
            value = results["subsets"][subset][key]
            position = row + 1.08 * _BAR * side
            axes.barh(position, 1, _BAR, color="#f0f3f7", zorder=1)
            if value is not None:
                axes.barh(position, value / most, _BAR, color=colour, zorder=2)
                path = (key, subset) if key == "exact_match" else (key,)
                whole = subset == "all" or key == "exact_match"
                bounds = numbers.interval(results, *path) if whole else (None, None)
                scaled = [end and end / most for end in bounds]
                if reach := _reach(value / most, scaled):
                    axes.errorbar(value / most, position, xerr=reach, **_WHISKER)
                _label_bar(axes, position, value / most, scaled, written(value))
            if exact and (mark := exact[subset][key]) is not None:
                ends = [position - 0.55 * _BAR, position + 0.55 * _BAR]
                axes.plot([mark / most] * 2, ends, **line)
    if exact:
        axes.plot([], [], label="exact update", **line)
    # Between the two labels of the axis below, where nothing else is; three are longer.
    place = (0.5, -0.08 if exact else 0.008)
    axes.legend(
        loc="upper center", bbox_to_anchor=place, ncols=3, frameon=False,
        fontsize=12, labelcolor=drawing.INK, handlelength=1.0, handleheight=1.0,
        columnspacing=1.6, borderaxespad=0.0,
    )  # fmt: skip
    axes.invert_yaxis()
    axes.set_yticks(range(len(_MEASURES)), [name for name, *_ in _MEASURES])
    axes.tick_params(axis="y", labelsize=13.5, labelcolor=drawing.INK, pad=8)
    axes.set_xlim(0, 1)
    axes.set_xticks([0, 1], ["nothing kept", "all as before"])
    for label, side in zip(axes.get_xticklabels(), ("left", "right"), strict=True):
        label.set_ha(side)


def _label_bar(
    axes: Any, position: float, length: float, bounds: Sequence[float | None], text: str
) -> None:
    low, high = (length if end is None else end for end in bounds)
    inside = low > 0.2
    style = {"color": "white" if inside else drawing.INK, "fontweight": "bold"}
    axes.text(
        low - 0.012 if inside else max(high, length) + 0.012, position + 0.01, text,
        fontsize=13, ha="right" if inside else "left", va="center_baseline", zorder=3,
        **style,
    )  # fmt: skip
