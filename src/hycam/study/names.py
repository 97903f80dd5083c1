"""Cells called by what sets them apart from one another."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from hycam.study.cells import Cell


@dataclass(frozen=True)
class Names:
    """What cells are called where they stand together.

    Attributes:
        short: by identity, the name without what all of the cells have in common; the method is always in it.
        common: what they have in common, on one line; empty for nothing.
    """

    short: Mapping[str, str]
    common: str


def names_of(cells: Sequence[Cell]) -> Names:
    """The names of these cells; a full one is ``cell.name``."""
    parts = [cell.parts for cell in cells]
    common = {
        key: text
        for key, text in (parts[0].items() if parts else ())
        if key != "method" and all(other.get(key) == text for other in parts)
    }
    short = {
        cell.identity: ", ".join(text for key, text in own.items() if key not in common)
        for cell, own in zip(cells, parts, strict=True)
    }
    return Names(short, ", ".join(common.values()))
