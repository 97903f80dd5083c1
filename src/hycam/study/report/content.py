"""What a report consists of: comparisons, tables and figures, and what could not be made, with the reason."""

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

PLOTS = "For all figures {} has to be installed: pip install 'hycam[plots]', and then `hycam report` once more."
_PLOT_LIBRARIES = ("matplotlib", "sklearn")


class Picture(NamedTuple):
    """A figure that was drawn."""

    name: str
    title: str
    caption: str
    figure: matplotlib.figure.Figure


class Missing(NamedTuple):
    """A table or a figure that could not be made."""

    title: str
    reason: str


@dataclass
class Content:
    """Everything that a report says about a study.

    Attributes:
        plan: the study with its results.
        comparisons: all of them, in perplexity; of a sweep none.
        text_tests: those of the generated answers; none where the study asks for tables without comparisons.
        tables, pictures: what could be made.
        missing_tables, missing_pictures: what could not.
        advice: what to install where a plot library is missing.
    """

    plan: Plan
    comparisons: list[Comparison]
    text_tests: list[TextTest]
    tables: list[Table] = field(default_factory=list)
    missing_tables: list[Missing] = field(default_factory=list)
    pictures: list[Picture] = field(default_factory=list)
    missing_pictures: list[Missing] = field(default_factory=list)
    advice: str | None = None


def gather(plan: Plan) -> Content:
    """Compares, tabulates and draws what the results of a study allow.

    Raises:
        HycamError: the study asks for a table that does not exist.
    """
    study, results = plan.study, plan.results
    names = study.tables or list(TABLES)
    for name in names:
        if name not in TABLES:
            raise unknown("table", name, TABLES)
    # A sweep has one fold, chooses on its rows, and is there for the learning rates alone.
    is_sweep = bool(study.sweep.learning_rates)
    found = Content(
        plan,
        [] if is_sweep else compare(results, study.reference),
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
        except (NotRun, HycamError) as error:  # an error is such as a run folder that is on another machine
            found.missing_pictures.append(Missing(drawing.title, str(error)))
        else:
            found.pictures.append(Picture(name, drawing.title, drawing.caption, figure))
    return found
