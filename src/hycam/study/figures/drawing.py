"""A figure of a report, and its files."""

from __future__ import annotations

import io
import re
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
_NOT_IN_XML = re.compile(rb"[\x00-\x08\x0b\x0c\x0e-\x1f]")


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
        drawn = io.BytesIO()
        figure.savefig(drawn, format="svg", metadata={"Date": None})
    # Every text is written beside its drawing, and XML has no place for characters that do not print.
    paths[1].write_bytes(_NOT_IN_XML.sub(b"", drawn.getvalue()))
    return paths
