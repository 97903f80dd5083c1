"""``hycam check RECIPE``: does it fit, is it consistent, before anything expensive."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict

from rich.console import Console
from rich.table import Table
from rich.text import Text

from hycam.cli.arguments import without_launch
from hycam.console import Reporter, quiet_libraries
from hycam.errors import HycamError, UsageError
from hycam.training import distributed
from hycam.training.parse import parse_recipe
from hycam.training.preflight import Finding, Findings
from hycam.training.preflight.check import preflight
from hycam.training.recipe import Recipe

_STYLES = {"error": "bold red", "warning": "yellow", "ok": "green"}
_DESCRIPTION = """Says before a run whether its settings, data, backbone, disk and memory are in order. Takes what
hycam train takes, --launch N too; --json prints a list of findings. The status is 1 where there is an error."""


def main(arguments: Sequence[str]) -> int:
    """Prints what is found; gives the exit status."""
    words, processes = without_launch([word for word in arguments if word != "--json"])
    quiet_libraries(informative=False)
    try:
        recipe = parse_recipe(Recipe, words, prog="hycam check", description=_DESCRIPTION)
    except UsageError:
        raise
    except HycamError as error:
        found = Findings([Finding("error", "recipe", str(error))])
    else:
        with Reporter() as reporter:
            found = preflight(recipe, reporter, processes=processes or distributed.started())
    if "--json" in arguments:
        print(json.dumps([asdict(one) for one in found], indent=2))
    else:
        _show(found, Console())
    return 1 if found.errors else 0


def _show(found: Findings, console: Console) -> None:
    order = list(_STYLES)
    table = Table("", "about", "finding", box=None, padding=(0, 2, 0, 0))
    for one in sorted(found, key=lambda one: order.index(one.severity)):
        style = _STYLES[one.severity] if console.is_terminal else ""
        table.add_row(Text(one.severity, style=style), one.about, Text(one.text))
    console.print(table)
    for one in found:
        if "parts" in one.details:
            _show_parts(one, console)
    errors, warnings = (sum(one.severity == kind for one in found) for kind in ("error", "warning"))
    if errors:
        console.print(f"{_number(errors, 'error')} and {_number(warnings, 'warning')}: `hycam train` would not do.")
    else:
        console.print(f"No error, {_number(warnings, 'warning')}.")


def _show_parts(one: Finding, console: Console) -> None:
    table = Table("memory", "MB", box=None, padding=(0, 2, 0, 0))
    table.columns[1].justify = "right"
    for name, size in one.details["parts"].items():
        table.add_row(name, f"{size / 1e6:,.0f}")
    table.add_row("at most", f"{one.details['peak_bytes'] / 1e6:,.0f}")
    console.print(table)


def _number(count: int, what: str) -> str:
    return f"{count} {what}{'' if count == 1 else 's'}"
