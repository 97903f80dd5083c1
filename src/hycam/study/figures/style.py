"""A figure of a report, its files and its style: legible in print at page width, also without colour."""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from hycam.errors import HycamError
from hycam.study.comparisons import Comparison
from hycam.study.plan import Plan

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

WIDTH = 7.0  # inches, the text width of a page
_DPI = 200
_NOT_IN_XML = re.compile(rb"[\x00-\x08\x0b\x0c\x0e-\x1f]")

# Okabe and Ito's colour-blind safe palette without its yellow, which is too pale for a line on white.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#000000", "#E69F00", "#56B4E9")
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<", ">", "*")
LINES = ("-", "--", "-.", ":")
GREY = "#666666"
DIVERGING = "RdBu_r"  # ColorBrewer's, colour-blind safe; white at zero
SEQUENTIAL = "cividis"

_SETTINGS: Any = {
    "font.size": 8.5,
    "axes.titlesize": 9.0,
    "axes.labelsize": 8.5,
    "xtick.labelsize": 8.0,
    "ytick.labelsize": 8.0,
    "legend.fontsize": 8.0,
    "legend.frameon": False,
    "figure.titlesize": 9.5,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.alpha": 0.25,
    "grid.linewidth": 0.6,
    "lines.linewidth": 1.4,
    "lines.markersize": 4.5,
    "legend.handlelength": 3.2,  # so that a dash shows beside its marker
    "text.parse_math": False,  # a label of a study may hold dollar signs
    "svg.hashsalt": "hycam",  # the same figure is the same file
}

R = TypeVar("R")
K = TypeVar("K", bound=Hashable)
Draw = Callable[[Plan, list[Comparison]], "Figure"]


@dataclass(frozen=True)
class Drawing:
    """A figure of a study.

    Attributes:
        title, caption: the texts above and below it.
        draw: draws it from a study and its comparisons; raises :class:`hycam.study.tables.table.NotRun` if it lacks
            cells, and HycamError if it lacks a library, a backbone or data.
    """

    title: str
    caption: str
    draw: Draw

    def __call__(self, plan: Plan, comparisons: list[Comparison]) -> Figure:
        return self.draw(plan, comparisons)


def drawing(title: str, caption: str) -> Callable[[Draw], Drawing]:
    """Turns a function into a :class:`Drawing` that draws within :func:`style`."""
    return lambda draw: Drawing(title, caption, style()(draw))


def save(figure: Figure, folder: Path, name: str) -> list[Path]:
    """Writes ``NAME.png`` (200 dpi) and ``NAME.svg``; the same figure gives the same bytes."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f"{name}.png", folder / f"{name}.svg"]
    with style():  # ticks are only made now
        figure.savefig(paths[0], dpi=_DPI)
        drawn = io.BytesIO()
        figure.savefig(drawn, format="svg", metadata={"Date": None})
    # The SVG contains every text, and XML cannot hold non-printing characters.
    paths[1].write_bytes(_NOT_IN_XML.sub(b"", drawn.getvalue()))
    return paths


@contextmanager
def style() -> Iterator[None]:
    """Applies matplotlib's settings for these figures (also to a decorated function), and restores them afterwards.

    Raises:
        HycamError: matplotlib is not installed.
    """
    try:
        import matplotlib
    except ImportError as error:
        raise HycamError("Figures need matplotlib: pip install 'hycam[study]'.") from error
    with matplotlib.rc_context(_SETTINGS):
        yield


def blank(height: float, width: float = WIDTH) -> Figure:
    """An empty figure (sizes in inches) that makes room for its labels."""
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained")


def panels(titles: Iterable[str], height: float = 2.9, columns: int = 2) -> tuple[Figure, list[Axes]]:
    """A figure with a panel for each title, each ``height`` inches high; a single one has no title."""
    names = list(titles)
    across = min(columns, len(names))
    down = -(-len(names) // across)
    figure = blank(height * down)
    every = list(figure.subplots(down, across, squeeze=False).flat)
    for axes in every[len(names) :]:
        axes.remove()
    for axes, name in zip(every, names, strict=False):
        if len(names) > 1:
            axes.set_title(name)
    return figure, every[: len(names)]


def panels_by_backbone(
    lines: Mapping[tuple[str, str], R], height: float = 2.9
) -> tuple[Figure, list[tuple[Axes, dict[str, R]]], dict[str, dict[str, Any]]]:
    """A figure with a panel for each backbone; ``lines`` are by backbone and label.

    Returns:
        the figure; each panel with its lines by label; and each label's look, the same in all panels.
    """
    backbones = dict.fromkeys(backbone for backbone, _ in lines)
    figure, every = panels(backbones, height)
    own = [{label: one for (of, label), one in lines.items() if of == backbone} for backbone in backbones]
    return figure, list(zip(every, own, strict=True)), looks(dict.fromkeys(label for _, label in lines))


def band(axes: Axes, x: Any, bounds: Iterable[Any], label: str, look: Mapping[str, Any], **how: Any) -> None:
    """A line with its range shaded; ``bounds`` are the lower ends, the line itself and the upper ends."""
    low, line, high = bounds
    axes.plot(x, line, label=label, **look, **how)
    axes.fill_between(x, low, high, color=look["color"], alpha=0.15, linewidth=0)


def looks(labels: Iterable[K]) -> dict[K, dict[str, Any]]:
    """Colour, marker and line style of each label, as arguments of ``Axes.plot``; distinct for up to 140 labels."""
    return {
        label: {"color": COLOURS[at % 7], "marker": MARKERS[at % 10], "linestyle": LINES[at % 4]}
        for at, label in enumerate(labels)
    }


def legend_below(figure: Figure) -> None:
    """One legend for all panels, below them, with as many columns as fit."""
    found: dict[str, Any] = {}
    for one in figure.axes:
        for handle, label in zip(*one.get_legend_handles_labels(), strict=True):
            found.setdefault(label, handle)
    column = 0.75 + 0.065 * max(map(len, found))  # inches: the line, and the width of a letter of 8 points
    columns = max(1, min(len(found), int(figure.get_figwidth() / column)))
    figure.legend(found.values(), found.keys(), loc="outside lower center", ncols=columns)


def log_axis(axes: Axes, name: str) -> None:
    """A logarithmic horizontal axis with a few round numbers, written like model sizes: 500M, 2B."""
    from matplotlib.ticker import EngFormatter, LogLocator, NullLocator

    short = EngFormatter(sep="")
    short.ENG_PREFIXES = {**short.ENG_PREFIXES, 9: "B"}
    axes.set_xscale("log")
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.xaxis.set_major_formatter(short)
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_xlabel(name)
