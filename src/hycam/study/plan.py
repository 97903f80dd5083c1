"""What a study consists of: its file, its cells with those that a sweep adds, and the results there are."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from hycam.errors import HycamError
from hycam.study.cells import Cell, Planner, Say
from hycam.study.recipe import StudyRecipe
from hycam.study.results import Results, cells_folder, load
from hycam.study.status import Status
from hycam.study.sweep import RATE, Best, best, extensions, family_of, rates
from hycam.training.parse import parse_recipe

STUDY_FILE = "study.yaml"
"""In the folder of a study, all its settings."""


@dataclass(frozen=True)
class Plan:
    """A study with its cells and what is known of them.

    Attributes:
        study: as its file says.
        cells: all of them.
        results: those that there are.
        waits_for: in words, the sweep that has to be finished before any cell of this study can run.
    """

    study: StudyRecipe
    cells: list[Cell]
    results: Results
    waits_for: str = ""

    @property
    def status(self) -> Status:
        return Status(self.cells, self.results)

    @property
    def best(self) -> dict[tuple[str, str], Best]:
        """Of a sweep: the best trial by (backbone, method)."""
        return best(self.study, self.results.settled)


def plan(study: StudyRecipe, progress: Say | None = None, to_report: bool = False) -> Plan:
    """The cells of a study; of a sweep with those that its results so far ask for.

    Args:
        study: what to run.
        progress: told how far the data are prepared.
        to_report: nothing is to be run, so while there is no result the sweep that gives the learning rates may be
            unfinished; the plan then says so, and its cells stand in for those at the rates that will be found.

    Raises:
        HycamError: a method, a setting, a fold or the data do not work, or the sweep that it takes its learning rates
            from is not finished.
    """
    try:
        return planned(planner_of(study, progress))
    except SweepUnfinished as error:
        if not to_report or any(cells_folder(study.output).glob("*.json")):
            raise
        rates_unknown = replace(study, learning_rates_from=None)
        return replace(planned(Planner(rates_unknown, progress=progress)), study=study, waits_for=str(error))


class SweepUnfinished(HycamError):
    """The learning rates of a study are not known yet."""


def planner_of(study: StudyRecipe, progress: Say | None = None) -> Planner:
    """What makes the cells of a study; arguments and errors as of :func:`plan`."""
    return Planner(study, _swept(study, progress), progress)


def planned(planner: Planner) -> Plan:
    """The plan with the results that there are by now."""
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


def read_study(path: str | Path) -> StudyRecipe:
    """The study of a file; for a study's folder, of the file that was kept in it."""
    file = Path(path)
    return parse_recipe(StudyRecipe, [str(file / STUDY_FILE if file.is_dir() else file)])


def _extended(planner: Planner, cells: list[Cell], results: Results) -> list[Cell]:
    study = planner.study
    settled = {one.identity for one in results.settled}
    unfinished = {(cell.backbone, family_of(study, cell.method)) for cell in cells if cell.identity not in settled}
    return [
        planner.cell(backbone, label, fold, seed, {RATE: rate})
        for backbone, label, rate in extensions(study, results.settled, unfinished)
        for seed in study.seeds
        for fold in study.folds
    ]


def _swept(study: StudyRecipe, progress: Say | None) -> dict[tuple[str, str], float]:
    """The learning rates that a study takes from a sweep."""
    if study.learning_rates_from is None:
        return {}
    recipe = read_study(study.learning_rates_from)
    if not recipe.sweep.learning_rates:
        raise HycamError(
            f"learning_rates_from names {study.learning_rates_from}, which is no sweep: it has no sweep.learning_rates."
        )
    sweep = plan(recipe, progress)
    unusable = sweep.results.unusable
    if unusable:
        path, reason = next(iter(unusable.items()))
        raise HycamError(f"The sweep {study.learning_rates_from} has a result that cannot be used, {path}: {reason}.")
    left = len(sweep.status.to_go)
    if left:
        raise SweepUnfinished(
            f"The sweep {study.learning_rates_from} has {left} cells to go, so the learning rates are not known yet. "
            f"Run `hycam study {study.learning_rates_from}` first."
        )
    return rates(sweep.best)
