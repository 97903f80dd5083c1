"""Reading a figure again: its lines by their labels, and its texts where they stand."""

from __future__ import annotations

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.text import Text
from matplotlib.transforms import Bbox


def lines(axes: Axes) -> dict[str, list[tuple[float, float]]]:
    """The points of each labelled line."""
    return {
        label: list(zip(*np.asarray(line.get_data(), dtype=float).tolist(), strict=True))
        for line in axes.get_lines()
        if not (label := str(line.get_label())).startswith("_")
    }


def points(axes: Axes) -> dict[str, tuple[float, float, float, float]]:
    """Of each labelled point with a vertical bar: x, y and the ends of the bar."""
    found = {}
    for container in axes.containers:
        (x,), (y,) = container.lines[0].get_data()
        (segment,) = container.lines[2][0].get_segments()
        found[str(container.get_label())] = (float(x), float(y), float(segment[0][1]), float(segment[1][1]))
    return found


def legend(figure: Figure) -> list[str]:
    return [text.get_text() for one in figure.legends for text in one.get_texts()]


def texts(figure: Figure) -> list[tuple[Text, Bbox]]:
    """Every text that is seen, with its place in pixels."""
    FigureCanvasAgg(figure).draw()
    hidden = {text for axes in figure.axes for text in _beyond_the_axis(axes)}
    shown = (one for one in figure.findobj(Text) if one.get_visible() and one.get_text().strip() and one not in hidden)
    return [(one, one.get_window_extent()) for one in shown]


def _beyond_the_axis(axes: Axes) -> list[Text]:
    """Labels of ticks outside of what an axis shows; they are there, and are not drawn."""
    found = []
    for axis in (axes.xaxis, axes.yaxis):
        low, high = sorted(axis.get_view_interval())
        for tick in [*axis.get_major_ticks(), *axis.get_minor_ticks()]:
            if not low <= tick.get_loc() <= high:
                found += [tick.label1, tick.label2]
    return found
