"""What the reports' pictures share: colours, panels below a heading, PNG."""

from __future__ import annotations

import io
import warnings
from typing import Any

INK, QUIET = "#1f2933", "#52606d"
_WIDTH = 12.0  # inches, at 200 dpi


def panels(
    height: float,
    title: str,
    below: str,
    indent: float,
    shape: tuple[int, int] = (1, 2),
    **grid: Any,
) -> tuple[Any, Any]:
    """Returns a Matplotlib figure and its panels.

    Args:
      height: in inches.
      title: the heading.
      below: what stands below it, one or two lines.
      indent: where the heading begins, 0 to 1.
      shape: rows and columns of panels.
      **grid: the panels' places, as Matplotlib's `GridSpec` takes them.
    """
    # The object interface needs no display and changes no global state.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(_WIDTH, height), dpi=200, facecolor="white")
    FigureCanvasAgg(figure)
    style: dict[str, Any] = {"fontsize": 21, "fontweight": "bold", "va": "center"}
    style["parse_math"] = False  # A name may have a $.
    figure.text(indent, 1 - 0.36 / height, title, color=INK, **style)
    style = {"fontsize": 12.5, "linespacing": 1.4, "va": "center"}
    figure.text(indent, 1 - 0.77 / height, below, color=QUIET, **style)
    found = figure.subplots(*shape, gridspec_kw=grid).ravel()
    for axes in found:
        axes.spines[:].set(visible=False, color=QUIET)
        axes.tick_params(length=0, labelsize=11.5, labelcolor=QUIET)
    return figure, found


def to_png(figure: Any) -> bytes:
    """Returns a figure as PNG, 2,400 pixels wide: the same figure, the same bytes."""
    buffer = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # A method's name in letters that a font lacks.
        figure.savefig(buffer, format="png", metadata={"Software": None})
    return buffer.getvalue()
