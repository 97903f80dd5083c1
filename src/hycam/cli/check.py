"""``hycam check RECIPE``: is it consistent, and with ``--try`` does it fit, before anything expensive."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from rich.console import Console
from rich.table import Table
from rich.text import Text

from hycam.cli.arguments import parsed, without_launch
from hycam.cli.help import RECIPE
from hycam.cli.importing import importing
from hycam.console import Reporter, quiet_libraries
from hycam.errors import HycamError, UsageError
from hycam.training.preflight import CHILD, Finding, Findings
from hycam.training.recipe import Recipe

_STYLES = {"error": "bold red", "warning": "yellow", "ok": "green"}
_DESCRIPTION = """Checks settings, data, backbone and disk before a run. Takes the arguments of hycam train, --launch N
too. --try also trains on the largest batch of the data, in processes of its own, and shows the memory. --json prints a
list of findings. The exit status is 1 if there is an error."""


def main(arguments: Sequence[str]) -> int:
    """Prints the findings; returns the exit status."""
    if arguments and arguments[0] == CHILD:
        from hycam.training.preflight.trial import run_child

        quiet_libraries(informative=False)
        return run_child(Path(arguments[1]))
    words, processes = without_launch([word for word in arguments if word not in ("--json", "--try")])
    try:
        recipe = parsed(Recipe, RECIPE, words, "hycam check", _DESCRIPTION)
    except UsageError:
        raise
    except HycamError as error:
        found = Findings()
        found.error(str(error), "recipe")
    else:
        found = _checked(recipe, processes, "--try" in arguments)
    if "--json" in arguments:
        print(json.dumps([asdict(one) for one in found], indent=2))
    else:
        _show(found, Console())
    return 1 if found.errors else 0


def _checked(recipe: Recipe, processes: int | None, tries: bool) -> Findings:
    with importing():
        from hycam.training.distributed import started
        from hycam.training.preflight.check import preflight

        quiet_libraries(informative=False)
    if tries and started() > 1:
        raise UsageError(
            "--try starts its processes itself: give their number with --launch N, outside of any launcher."
        )
    with Reporter() as reporter:
        found = preflight(recipe, reporter, processes=processes or started())
    if tries:
        found += _tried(recipe, processes or 1, found)
    return found


def _tried(recipe: Recipe, processes: int, found: Findings) -> Findings:
    if found.errors:
        skipped = Findings("trial")
        skipped.warn("Nothing was tried, because of the errors.")
        return skipped
    from hycam.training.preflight.trial import try_out
    from hycam.training.stopping import Stop

    with Stop().listening():
        return try_out(recipe, processes)


def _show(found: Findings, console: Console) -> None:
    order = list(_STYLES)
    table = Table("", "about", "finding", box=None, padding=(0, 2, 0, 0))
    for one in sorted(found, key=lambda one: order.index(one.severity)):
        style = _STYLES[one.severity] if console.is_terminal else ""
        table.add_row(Text(one.severity, style=style), one.about, Text(one.text))
    console.print(table)
    for one in found:
        if any(one.details.get("processes", [])):
            _show_phases(one, console)
    errors, warnings = (sum(one.severity == kind for one in found) for kind in ("error", "warning"))
    if errors:
        console.print(f"{_number(errors, 'error')} and {_number(warnings, 'warning')}: it cannot be trained like this.")
    else:
        console.print(f"No error, {_number(warnings, 'warning')}.")


def _show_phases(one: Finding, console: Console) -> None:
    """The phases of the process that held the most."""
    from hycam.training.preflight.trial import PHASES

    phases = max(one.details["processes"], key=lambda phases: max((of["peak"] for of in phases.values()), default=0))
    columns = [name for name in ("peak", "held", "reserved") if name in next(iter(phases.values()))]
    table = Table("phase", *(f"{name}, MB" for name in columns), "s", box=None, padding=(0, 2, 0, 0))
    for column in table.columns[1:]:
        column.justify = "right"
    for name, of in phases.items():
        table.add_row(PHASES[name], *(f"{of[key] / 1e6:,.0f}" for key in columns), f"{of['seconds']:.1f}")
    console.print(table)


def _number(count: int, what: str) -> str:
    return f"{count} {what}{'' if count == 1 else 's'}"
