"""A figure of a report, and its files."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from hycam.study.comparisons import Comparison
from hycam.study.figures.style import style
from hycam.study.plan import Plan

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_DPI = 200


@dataclass(frozen=True)
class Drawing:
    """A figure of a study.

    Attributes:
        title: what stands above it.
        caption: what stands below it: what is shown, how it was computed, and what to be careful about.
        draw: makes it of a study and its comparisons; raises :class:`hycam.study.tables.table.NotRun` where the cells
            that it needs are not there, and HycamError where a library, a backbone or data are not.
    """

    title: str
    caption: str
    draw: Callable[[Plan, list[Comparison]], Figure]


def save(figure: Figure, folder: Path, name: str) -> list[Path]:
    """Writes ``NAME.png`` (200 dots an inch) and ``NAME.svg``; the same figure gives the same bytes.

    Raises:
        OSError: the folder cannot be written or the disk is full.
    """
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f"{name}.png", folder / f"{name}.svg"]
    with style():  # ticks are made as late as now
        figure.savefig(paths[0], dpi=_DPI)
        figure.savefig(paths[1], metadata={"Date": None})
    return paths
