"""The tests of the generated answers as a table: BLEU-4 and ROUGE-L side by side, which are secondary to perplexity."""

from __future__ import annotations

from collections.abc import Sequence

from hycam.study.tables.table import Entry, NotRun, Table
from hycam.study.text_tests import POOLED, TextTest
from hycam.study.vary import told

NAME = "text_tests"
TITLE = "Answers compared: BLEU-4 and ROUGE-L"
_METRICS = {"bleu4": "BLEU-4", "rougeL": "ROUGE-L"}


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
        settings = [told(name, value) for name, value in one.settings.items()]
        task = "all rows" if one.task == POOLED else one.task
        words = (one.backbone, ", ".join([one.method, *settings]), one.against, task)
        lines.setdefault(words, {})[one.metric] = one
    per_metric = ["Method", "Against", "p"]
    columns = ["Backbone", "Method", "Against", "Task", *[name for _ in _METRICS for name in per_metric], "Answers"]
    groups = [("", 4), *((name, 3) for name in _METRICS.values()), ("", 1)]
    rows = [
        [*map(Entry, words), *[entry for metric in _METRICS for entry in _entries(of_line[metric])], _answers(of_line)]
        for words, of_line in lines.items()
    ]
    missing = list(dict.fromkeys(f"{_METRICS[one.metric]}: {one.reason}." for one in tests if one.reason))
    note = " ".join(
        [
            "Each p is of the difference between the two methods' answers to the same rows, by resampling rows "
            "(BLEU-4: sacrebleu's paired bootstrap), so it is about these trained adapters and not about the method; "
            "not corrected for the number of tests. Secondary on small backbones.",
            *missing,
        ]
    )
    return Table(NAME, TITLE, note, columns, rows, groups)


def _entries(one: TextTest) -> list[Entry]:
    return [_number(value) for value in (one.value, one.against_value, one.p)]


def _number(value: float | None) -> Entry:
    return Entry("–", muted=True) if value is None else Entry(f"{value:.3f}", value)


def _answers(of_line: dict[str, TextTest]) -> Entry:
    rows = max(one.rows for one in of_line.values())
    return Entry(f"{rows:,}", float(rows))
