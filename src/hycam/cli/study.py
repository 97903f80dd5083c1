"""``hycam study STUDY``: a grid of methods x backbones x folds x settings; resumes, and continues past failures."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from hycam.cli.arguments import parsed
from hycam.cli.help import STUDY
from hycam.cli.importing import importing
from hycam.console import Reporter, each_message_once, plain_console, quiet_libraries
from hycam.errors import HycamError, UsageError
from hycam.study.recipe import StudyRecipe

if TYPE_CHECKING:
    from hycam.study.plan import Plan

_FLAGS = ("--status", "--dry-run", "--json")
_DESCRIPTION = """Runs a study cell by cell; resumes where it stopped and continues past a cell that fails.
--dry-run prints the cells, what they will cost and what the study can find; --status prints their states, even while
another process runs the study; both take --json. --cells N runs at most N cells, such as one to measure its cost."""


def main(arguments: Sequence[str]) -> None:
    """Parses the study and its overrides, and runs it or shows its cells."""
    words = list(arguments)
    flags = {flag for flag in _FLAGS if flag in words}
    words = [word for word in words if word not in _FLAGS]
    most = _most_cells(words)
    study = parsed(StudyRecipe, STUDY, words, "hycam study", _DESCRIPTION)
    if "--json" in flags and len(flags) == 1:
        raise UsageError("--json belongs to --status and --dry-run.")
    with importing():
        from hycam.study import runner  # noqa: F401  # all that running needs
        from hycam.study.power import power_lines
        from hycam.study.status import listing, show

        quiet_libraries(informative=False)
    with each_message_once():
        current = _looked_at(study, "--status" in flags) if flags else _run(study, most)
    is_dry = "--dry-run" in flags
    if "--json" in flags:
        print(json.dumps({**listing(current), **({"power": power_lines(current)} if is_dry else {})}, indent=2))
    else:
        show(current, plain_console(), every_cell=is_dry)
        for line in power_lines(current) if is_dry else ():
            print(line)
    if not flags:
        _explain_what_is_missing(current)


def _looked_at(study: StudyRecipe, for_status: bool) -> Plan:
    """The plan; for ``--status`` that of the last run, unless the study has changed: it needs no data."""
    from hycam.study.plan import kept, plan

    if for_status and (found := kept(study)) is not None:
        return found
    with Reporter() as reporter:
        return plan(study, reporter.update)


def _run(study: StudyRecipe, most_cells: int | None) -> Plan:
    from hycam.study.display import Display
    from hycam.study.executors.local import LocalExecutor
    from hycam.study.runner import run_study

    if study.executor.name == "local":
        print(f"CPU threads of each cell: {LocalExecutor(study.executor).threads}.", file=sys.stderr)
    with Display(study.executor.at_once) as display:
        return run_study(study, display, most_cells)


def _explain_what_is_missing(current: Plan) -> None:
    failed = [one for one in current.results.failed if one.state == "failed"]
    found = []
    if failed:
        found.append(f"{len(failed)} of {len(current.cells)} cells failed; the next run tries them again.")
    if current.results.unusable:
        found.append(f"{len(current.results.unusable)} result files cannot be used, and their cells did not run.")
    if found:
        raise HycamError(" ".join(found))


def _most_cells(words: list[str]) -> int | None:
    """Takes ``--cells N`` out of the words."""
    if "--cells" not in words:
        return None
    at = words.index("--cells")
    value = words[at + 1] if at + 1 < len(words) else ""
    if not value.isdigit() or int(value) < 1:
        raise UsageError(f"--cells needs a number above 0, not {value or 'nothing'}.")
    del words[at : at + 2]
    return int(value)
