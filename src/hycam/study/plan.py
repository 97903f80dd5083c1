"""The plan of a study: its cells, including those that a sweep adds, and the results so far.

::

    OUTPUT/study.yaml   every setting of the study
    OUTPUT/plan.json    every cell: its labels, identity, resolved settings, rows and tokens; the primary family of
                        comparisons; and the size of the data

The plan is kept beside the cells so that a report needs neither data nor backbone. For results from before there were
plans, run ``python -m hycam.study.plan STUDY.yaml ...`` where the data are.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from pathlib import Path

import msgspec
import yaml

from hycam.errors import HycamError
from hycam.files import write_whole
from hycam.study.cells import Cell
from hycam.study.counts import Counts, count
from hycam.study.family import Primary, primary_family
from hycam.study.grid import Planner, Say, runs_folder
from hycam.study.recipe import STUDY_FILE, StudyRecipe
from hycam.study.results import Results, cells_folder, load
from hycam.study.sweep import RATE, Best, best, extensions, family_of, rates
from hycam.training.parse import parse_recipe

PLAN_FILE = "plan.json"
# Settings that change the report but no cell.
_OF_REPORTS = ("title", "output", "runs", "reference", "executor", "note", "tables", "texts", "rows_shown")


@dataclass(frozen=True)
class Plan:
    """A study with its cells and results.

    ``waits_for`` names the sweep that has to finish before any cell can run, if there is one; ``counts`` is the size of
    the data, None if they were not counted; ``stated`` is the primary family that the kept plan names, if it does.
    """

    study: StudyRecipe
    cells: list[Cell]
    results: Results
    waits_for: str = ""
    counts: Counts | None = None
    stated: Primary | None = field(default=None, compare=False)

    @cached_property
    def primary(self) -> Primary:
        """The comparisons by which the study's verdict goes."""
        return self.stated or primary_family(self.study, self.cells)

    @property
    def unusable(self) -> list[Cell]:
        """The cells whose result file is unusable."""
        names = {path.name for path in self.results.unusable}
        return [cell for cell in self.cells if cell.file_name in names]

    @property
    def to_go(self) -> list[Cell]:
        """The cells that the next run will run: those without a result and those that failed, but not the diverged."""
        settled = {one.identity for one in self.results.settled} | {cell.identity for cell in self.unusable}
        return [cell for cell in self.cells if cell.identity not in settled]

    @cached_property
    def best(self) -> dict[tuple[str, str], Best]:
        """Of a sweep: the best trial by (backbone, method)."""
        return best(self.study, self.results.settled)


class SweepUnfinished(HycamError):
    """The learning rates of a study are not known yet."""


def plan(study: StudyRecipe, progress: Say | None = None, to_report: bool = False) -> Plan:
    """The cells of a study with their results; for a sweep, including the cells that its results call for.

    Args:
        study: what to run.
        progress: receives the progress of preparing the data.
        to_report: allow the sweep that gives the learning rates to be unfinished while there is no result; the plan
            says so, and its cells are placeholders with the default rates.

    Raises:
        HycamError: a method, a setting, a fold or the data are invalid, or the sweep that gives the learning rates is
            not finished.
    """
    try:
        return planned(planner_of(study, progress))
    except SweepUnfinished as error:
        if not to_report or any(cells_folder(study.output).glob("*.json")):
            raise
        rates_unknown = replace(study, learning_rates_from=None)
        return replace(planned(Planner(rates_unknown, progress=progress)), study=study, waits_for=str(error))


def planner_of(study: StudyRecipe, progress: Say | None = None) -> Planner:
    """Makes the planner of a study; arguments and errors as for :func:`plan`."""
    return Planner(study, _swept(study, progress), progress)


def planned(planner: Planner) -> Plan:
    """The plan with the current results."""
    study = planner.study
    cells = planner.cells()
    results = load(study.output, cells)
    while study.sweep.learning_rates:
        known = {cell.identity for cell in cells}
        more = [cell for cell in _extended(planner, cells, results) if cell.identity not in known]
        if not more:
            break
        cells += more
        results = load(study.output, cells)
    return Plan(study, cells, results)


def read_study(path: str | Path, *overrides: str) -> StudyRecipe:
    """Reads a study file, or the one kept in a study's folder."""
    file = Path(path)
    return parse_recipe(StudyRecipe, [str(file / STUDY_FILE if file.is_dir() else file), *overrides])


@dataclass(frozen=True)
class _Kept:
    """What ``plan.json`` holds."""

    counts: Counts
    cells: list[Cell]
    primary: Primary | None = None  # plans of earlier versions do not name it


def keep(current: Plan) -> Plan:
    """Writes a study's settings and plan to its folder; returns the plan with the data counted."""
    folder = Path(current.study.output)
    counts = current.counts or _same_counts(current) or count(current.study)
    write_whole(folder / STUDY_FILE, yaml.safe_dump(asdict(current.study), sort_keys=False))
    text = msgspec.json.encode(_Kept(counts, current.cells, current.primary)).decode()
    for start in ('{"backbone":', '"primary":'):  # a line for each cell
        text = text.replace(f",{start}", f",\n{start}")
    write_whole(folder / PLAN_FILE, text + "\n")
    return replace(current, counts=counts)


def kept(study: StudyRecipe) -> Plan | None:
    """The plan kept in the study's ``output`` folder, wherever that was moved, with the current results.

    Returns:
        None if the folder has no plan, or the study's settings (apart from those of the report) are not the kept ones.

    Raises:
        HycamError: the plan cannot be read.
    """
    path = Path(study.output) / PLAN_FILE
    if not path.exists():
        return None
    as_kept = read_study(study.output)
    if replace(as_kept, **{name: getattr(study, name) for name in _OF_REPORTS}) != study:
        return None
    found = _read(path)
    runs = runs_folder(study)
    cells = [
        replace(cell, recipe=replace(cell.recipe, output=str(runs / Path(cell.recipe.output).name)))
        for cell in found.cells
    ]
    stated = found.primary if study.reference == as_kept.reference else None
    return Plan(study, cells, load(study.output, cells), counts=found.counts, stated=stated)


def _read(path: Path) -> _Kept:
    try:
        return msgspec.json.decode(path.read_bytes(), type=_Kept)
    except (OSError, msgspec.MsgspecError, RecursionError) as error:
        raise HycamError(
            f"{path} is not a plan of this version: {error}. "
            "To write it again, run `python -m hycam.study.plan STUDY.yaml` "
            "where the data are."
        ) from error


def _same_counts(current: Plan) -> Counts | None:
    """The counts of the kept plan, if it was made for the same data."""
    try:
        before = _read(Path(current.study.output) / PLAN_FILE)
    except HycamError:
        return None
    is_same = {cell.data.fingerprint for cell in before.cells} == {cell.data.fingerprint for cell in current.cells}
    return before.counts if is_same and not before.counts.reason else None


def _extended(planner: Planner, cells: list[Cell], results: Results) -> list[Cell]:
    study = planner.study
    settled = {one.identity for one in results.settled}
    unfinished = {(cell.backbone, family_of(study, cell.method)) for cell in cells if cell.identity not in settled}
    return [
        planner.cell(backbone, label, fold, seed, {RATE: rate})
        for backbone, label, rate in extensions(study, results.settled, unfinished)
        for seed, fold in study.places
    ]


def _swept(study: StudyRecipe, progress: Say | None) -> dict[tuple[str, str], float]:
    if study.learning_rates_from is None:
        return {}
    recipe = read_study(study.learning_rates_from)
    if not recipe.sweep.learning_rates:
        raise HycamError(
            f"learning_rates_from names {study.learning_rates_from}, which is not a sweep (no sweep.learning_rates)."
        )
    sweep = plan(recipe, progress)
    unusable = sweep.results.unusable
    if unusable:
        path, reason = next(iter(unusable.items()))
        raise HycamError(f"The sweep {study.learning_rates_from} has a result that cannot be used, {path}: {reason}.")
    left = len(sweep.to_go)
    if left:
        raise SweepUnfinished(
            f"The sweep {study.learning_rates_from} has {left} cells to go, so the learning rates are not known yet. "
            f"Run `hycam study {study.learning_rates_from}` first."
        )
    return rates(sweep.best)


def main(paths: Sequence[str]) -> None:
    """Writes the plans of these study files beside their cells."""
    for path in paths:
        current = keep(plan(read_study(path)))
        print(f"{Path(current.study.output) / PLAN_FILE}: {len(current.cells)} cells, {len(current.to_go)} to go")


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except HycamError as error:
        sys.exit(str(error))
