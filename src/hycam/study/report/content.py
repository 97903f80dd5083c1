"""Gathers the content of a report: comparisons, tables and figures, and the reasons for missing ones."""

from __future__ import annotations

from dataclasses import dataclass, field
from importlib.util import find_spec
from typing import TYPE_CHECKING, NamedTuple

from hycam.errors import HycamError, unknown
from hycam.study.comparisons import Comparison, compare
from hycam.study.figures import FIGURES
from hycam.study.plan import Plan
from hycam.study.tables import TABLES
from hycam.study.tables.comparisons import TEXT_TITLE, text_table
from hycam.study.tables.table import NotRun, Table
from hycam.study.text_tests import TextTest, text_tests

if TYPE_CHECKING:
    import matplotlib.figure

PLOTS = "Some figures need {}: pip install 'hycam[study]', then run `hycam report` again."
_PLOT_LIBRARIES = ("matplotlib", "sklearn")


class Picture(NamedTuple):
    name: str
    title: str
    caption: str
    figure: matplotlib.figure.Figure


class Missing(NamedTuple):
    title: str
    reason: str


@dataclass
class Content:
    """The content of a report; a sweep has no comparisons, and ``advice`` says what to install for all figures."""

    plan: Plan
    comparisons: list[Comparison]
    text_tests: list[TextTest]
    tables: list[Table] = field(default_factory=list)
    missing_tables: list[Missing] = field(default_factory=list)
    pictures: list[Picture] = field(default_factory=list)
    missing_pictures: list[Missing] = field(default_factory=list)
    advice: str | None = None


def gather(plan: Plan) -> Content:
    """Compares, tabulates and draws what a study's results allow.

    Raises:
        HycamError: the study requests an unknown table.
    """
    study, results = plan.study, plan.results
    names = study.tables or list(TABLES)
    for name in names:
        if name not in TABLES:
            raise unknown("table", name, TABLES)
    # A sweep chooses learning rates on the rows that it scores, so it compares nothing.
    is_sweep = bool(study.sweep.learning_rates)
    found = Content(
        plan,
        [] if is_sweep else compare(results, plan.primary),
        [] if is_sweep or "comparisons" not in names else text_tests(plan, study.reference),
    )
    for name in names:
        try:
            found.tables.append(TABLES[name](plan, found.comparisons))
        except NotRun as error:
            found.missing_tables.append(Missing(name.replace("_", " "), str(error)))
    if "comparisons" in names:
        try:
            found.tables.append(text_table(found.text_tests))
        except NotRun as error:
            found.missing_tables.append(Missing(TEXT_TITLE, str(error)))
    lacking = [name for name in _PLOT_LIBRARIES if find_spec(name) is None]
    if lacking:
        found.advice = PLOTS.format(" and ".join(lacking))
    for name, drawing in FIGURES.items() if "matplotlib" not in lacking else ():
        try:
            figure = drawing.draw(plan, list(found.comparisons))
        except (NotRun, HycamError) as error:  # HycamError: for example a run folder on another machine
            found.missing_pictures.append(Missing(drawing.title, str(error)))
        else:
            found.pictures.append(Picture(name, drawing.title, drawing.caption, figure))
    return found
