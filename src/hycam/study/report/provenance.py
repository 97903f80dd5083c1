"""What was run: the state of every cell, the settings, what it ran on, and the commands that make it again."""

from __future__ import annotations

import shlex
from collections import Counter
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import yaml

from hycam.study.plan import Plan
from hycam.study.recipe import StudyRecipe
from hycam.study.results import Result

STATES = ("done", "failed", "diverged", "unusable", "to go")


@dataclass(frozen=True)
class CellState:
    """What became of a cell: one of :data:`STATES`, why, and at which step; ``seconds`` is None while not run."""

    name: str
    state: str
    reason: str
    step: int | None
    seconds: float | None


@dataclass(frozen=True)
class Fact:
    """One property of what cells ran on, with its values and how many cells have each."""

    name: str
    values: list[tuple[str, int]]


def cell_states(plan: Plan) -> list[CellState]:
    """Every cell, in the order of the grid."""
    results = {one.identity: one for one in (*plan.results.done, *plan.results.failed)}
    unusable = {path.name: reason for path, reason in plan.results.unusable.items()}
    states = []
    for cell in plan.cells:
        one = results.get(cell.identity)
        if cell.file_name in unusable:
            states.append(CellState(cell.name, "unusable", f"{cell.file_name}: {unusable[cell.file_name]}", None, None))
        elif one is None:
            states.append(CellState(cell.name, "to go", "", None, None))
        else:
            failure = one.content.get("failure", {"reason": "", "step": None})
            states.append(CellState(cell.name, one.state, failure["reason"], failure["step"], one.content["seconds"]))
    return states


def counted(states: Iterable[CellState]) -> dict[str, int]:
    """How many cells are in each state, those in which none is left out."""
    counts = Counter(one.state for one in states)
    return {state: counts[state] for state in STATES if counts[state]}


def environment(plan: Plan) -> list[Fact]:
    """Commit, machine and versions, each with all values that the cells with a result have."""
    results = [*plan.results.done, *plan.results.failed]
    described = [one.content["environment"] for one in results]
    if not described:
        return []
    columns: dict[str, list[Any]] = {
        "commit": [one["commit"] for one in described],
        "machine": [_machine(one) for one in results],
    }
    for package in dict.fromkeys(name for one in described for name in one["versions"]):
        columns[package] = [one["versions"].get(package) for one in described]
    return [
        Fact(name, [(value or "not known", count) for value, count in Counter(values).most_common()])
        for name, values in columns.items()
    ]


def warnings(facts: Iterable[Fact]) -> list[str]:
    """What makes cells hard to compare: several commits, machines or versions among them."""
    several = {fact.name: len(fact.values) for fact in facts if len(fact.values) > 1}
    found = []
    if "commit" in several:
        found.append(f"The cells come from {several.pop('commit')} different commits of this package.")
    if "machine" in several:
        found.append(
            f"The cells come from {several.pop('machine')} different machines: seconds, tokens per second and memory "
            "of different cells are not comparable, and rounding may differ."
        )
    if several:
        found.append(f"The cells were run with different versions of {', '.join(several)}.")
    return found


def settings(study: StudyRecipe) -> str:
    """Every setting of the study, defaults included, as YAML that ``hycam study`` reads."""
    return yaml.safe_dump(asdict(study), sort_keys=False, allow_unicode=True)


def commands(study: StudyRecipe, file: Path) -> list[str]:
    """What makes the study and its report again, where ``file`` holds :func:`settings`."""
    verbs = [f"hycam study {shlex.quote(str(file))}", f"hycam report {shlex.quote(str(file))}"]
    if study.learning_rates_from is not None:
        verbs.insert(0, f"hycam study {shlex.quote(study.learning_rates_from)}")
    return verbs


def _machine(one: Result) -> str:
    described = one.content["environment"]
    gpu = described["gpu"] or "no GPU"
    return f"{described['processor']}, {described['cores']} cores, {gpu}, {described['platform']}"
