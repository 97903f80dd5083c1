"""Every comparison of the report: the difference of perplexity, its interval, the test, and the verdict."""

from __future__ import annotations

import numpy as np

from hycam.study.comparisons import Comparison
from hycam.study.plan import Plan
from hycam.study.significance import MACRO
from hycam.study.tables.places import Line
from hycam.study.tables.table import NONE, Entry, Table, need

_COLUMNS = ["Method", "Against", "Task", "Perplexity, %", "95 % interval", "Test", "p", "Holm p", "Verdict",
            "Rows of these adapters, %"]  # fmt: skip
_NOTE = (
    "Perplexity of the method against the other, in percent of the other's: exp of the mean difference of the NLL per "
    "response token, minus 1; below 0 the method is the better one. Holm p: corrected over all comparisons of this "
    "table that have a test. Lower and higher: Holm p below 5 %; equivalent: a tie within 1 % is shown; undecided: "
    "neither; not tested: fewer than two folds (or seeds of one fold) in common. The last column resamples the rows "
    "that were scored: it is about these trained adapters, not about the method."
)


def comparisons_table(plan: Plan, made: list[Comparison]) -> Table:
    """One line for each comparison, all of them corrected together."""
    need(not plan.study.sweep.learning_rates,
         "The study is a sweep: it chooses learning rates on one fold, and compares no methods.")  # fmt: skip
    need(made, "There is nothing to compare: it takes finished cells of two methods on the same fold.")
    several = len({one.backbone for one in made}) > 1
    rows = [[*([Entry(one.backbone)] if several else []), *_line(one)] for one in made]
    return Table("comparisons", "Comparisons", _NOTE, [*(["Backbone"] if several else []), *_COLUMNS], rows)


def _line(one: Comparison) -> list[Entry]:
    words = [Line(one.method, one.settings).label, one.against, "all, macro" if one.task == MACRO else one.task]
    tested, rows = [NONE, NONE, Entry("none"), NONE], NONE
    if (test := one.test) is not None:
        ends = Entry(f"[{_percent(test.low).text}, {_percent(test.high).text}]")
        tested = [_percent(test.mean), ends, Entry(f"{test.kind}, df {test.df}"), _p(test.p)]
    if (bootstrap := one.bootstrap) is not None:
        low, mean, high = (_percent(value).text for value in (bootstrap.low, bootstrap.mean, bootstrap.high))
        rows = Entry(f"{mean} [{low}, {high}]")
    return [*map(Entry, words), *tested, NONE if one.holm_p is None else _p(one.holm_p), Entry(one.verdict), rows]


def _percent(difference: float) -> Entry:
    with np.errstate(over="ignore"):  # an interval may be wider than any perplexity
        value = 100 * float(np.expm1(difference))
    return Entry(f"{value:+.2f}", value)


def _p(value: float) -> Entry:
    return Entry("< 0.001" if value < 0.001 else f"{value:.3f}", value)
