"""Every comparison of the report: of perplexity with its test and verdict, and of the generated answers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from hycam.study.cells import told
from hycam.study.comparisons import Comparison
from hycam.study.family import Primary
from hycam.study.plan import Plan
from hycam.study.significance import MACRO, percent
from hycam.study.tables.places import Line
from hycam.study.tables.table import NONE, Entry, NotRun, Table, need
from hycam.study.text_tests import POOLED, TextTest

TEXT_TITLE = "Answers compared: BLEU-4 and ROUGE-L"
_METRICS = {"bleu4": "BLEU-4", "rougeL": "ROUGE-L"}

_COLUMNS = ["Method", "Against", "Task", "Perplexity, %", "95 % interval", "Test", "p", "Family", "Holm p",
            "Verdict", "Rows of these adapters, %"]  # fmt: skip
_NOTE = (
    "Perplexity of the method relative to the other, in percent: exp of the mean difference of the NLL per response "
    "token, minus 1; below 0 the method is better. Family: {}. All others are secondary. Holm p: corrected over the "
    "tested comparisons of the same family. Lower (a win) and higher (a loss): Holm p below 5 %; equivalent: a tie "
    "within 1 % is shown; undecided: neither; not tested: fewer than two folds (or seeds of one fold) in common. The "
    "last column resamples the scored rows: it is about these trained adapters, not about the method."
)


def comparisons_table(plan: Plan, made: list[Comparison]) -> Table:
    """One line for each comparison."""
    need(not plan.study.sweep.learning_rates,
         "The study is a sweep: it chooses learning rates on one fold and compares no methods.")  # fmt: skip
    need(made, "There is nothing to compare: that needs finished cells of two methods on the same fold.")
    several = len({one.backbone for one in made}) > 1
    rows = [[*([Entry(one.backbone)] if several else []), *_line(one)] for one in made]
    note = " ".join([_NOTE.format(_primary(plan.primary)), plan.study.note]).strip()
    return Table("comparisons", "Comparisons", note, [*(["Backbone"] if several else []), *_COLUMNS], rows)


def _primary(primary: Primary) -> str:
    if not primary.against:
        return "none is primary"
    at = "".join(f", {told(name, value)}," for name, value in primary.settings.items())
    return f"primary is {primary.reference} over all tasks{at} against {'; '.join(primary.against)}"


def _line(one: Comparison) -> list[Entry]:
    words = [Line(one.method, one.settings).label, one.against, "all, macro" if one.task == MACRO else one.task]
    tested, rows = [NONE, NONE, Entry("none"), NONE], NONE
    if (test := one.test) is not None:
        ends = Entry(f"[{_percent(test.low).text}, {_percent(test.high).text}]")
        tested = [_percent(test.mean), ends, Entry(f"{test.kind}, df {test.df}"), _p(test.p)]
    if (bootstrap := one.bootstrap) is not None:
        low, mean, high = (_percent(value).text for value in (bootstrap.low, bootstrap.mean, bootstrap.high))
        rows = Entry(f"{mean} [{low}, {high}]")
    return [
        *map(Entry, words),
        *tested,
        Entry(one.family),
        NONE if one.holm_p is None else _p(one.holm_p),
        Entry(one.verdict),
        rows,
    ]


def _percent(difference: float) -> Entry:
    value = percent(difference)
    return Entry(f"{value:+.2f}", value)


def _p(value: float) -> Entry:
    return Entry("< 0.001" if value < 0.001 else f"{value:.3f}", value)


def text_table(tests: Sequence[TextTest]) -> Table:
    """A line for each task of each pair of methods.

    Raises:
        NotRun: no test could be made.
    """
    if all(one.p is None for one in tests):
        reasons = list(dict.fromkeys(one.reason for one in tests if one.reason))
        why = "; ".join(reasons[:3]) or "two methods with answers to the same rows are needed"
        raise NotRun(f"{why[0].upper()}{why[1:]}.")
    lines: dict[tuple[str, ...], dict[str, TextTest]] = {}
    for one in tests:
        task = "all rows" if one.task == POOLED else one.task
        words = (one.backbone, Line(one.method, one.settings).label, one.against, task)
        lines.setdefault(words, {})[one.metric] = one
    per_metric = ["Method", "Against", "p"]
    columns = ["Backbone", "Method", "Against", "Task", *[name for _ in _METRICS for name in per_metric], "Answers"]
    groups = [("", 4), *((name, 3) for name in _METRICS.values()), ("", 1)]
    rows = [[*map(Entry, words), *_figures(of_line)] for words, of_line in lines.items()]
    missing = list(dict.fromkeys(f"{_METRICS[one.metric]}: {one.reason}." for one in tests if one.reason))
    note = " ".join(
        [
            "p: of the difference between the two methods' answers to the same rows, by resampling rows (BLEU-4: "
            "sacrebleu's paired bootstrap). It is about these trained adapters and not about the method, and is not "
            "corrected for the number of tests. Secondary on small backbones.",
            *missing,
        ]
    )
    return Table("text_tests", TEXT_TITLE, note, columns, rows, groups)


def _figures(of_line: Mapping[str, TextTest]) -> list[Entry]:
    tests = [of_line[metric] for metric in _METRICS]
    values = [value for one in tests for value in (one.value, one.against_value, one.p)]
    rows = float(max(one.rows for one in tests))
    return [*(NONE if value is None else Entry(f"{value:.3f}", value) for value in values), Entry(f"{rows:,.0f}", rows)]
