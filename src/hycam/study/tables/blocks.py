"""Tables with a block of lines for each backbone: what their lines begin with."""

from __future__ import annotations

from hycam.study.plan import Plan
from hycam.study.tables.table import Entry


def beginning(plan: Plan, of_line: str = "Method") -> list[str]:
    """The headings of the first columns: the backbone's only where there are several."""
    return ["Backbone", of_line] if len(plan.study.backbones) > 1 else [of_line]


def headed(plan: Plan, backbone: str, label: str) -> list[Entry]:
    """The first entries of a line."""
    return [Entry(backbone), Entry(label)] if len(plan.study.backbones) > 1 else [Entry(label)]
