"""Table 1: the rows and tokens of each task, beside the paper's."""

from __future__ import annotations

from hycam.data.tasks import PAPER
from hycam.study import paper
from hycam.study.comparisons import Comparison
from hycam.study.counts import TaskCount, count
from hycam.study.plan import Plan
from hycam.study.tables.table import BLANK, Entry, NotRun, Table


def data_table(plan: Plan, comparisons: list[Comparison]) -> Table:
    """The study's tasks, counted as the paper counts its own (here, if the plan has no counts)."""
    counts = plan.counts or count(plan.study)
    if counts.reason:
        raise NotRun(counts.reason)
    rows = [_line(one) for one in counts.tasks]
    note = (
        f"All rows with prompt, response and one extra token, counted with the tokenizer {counts.tokenizer}. A cell "
        "may train and test on fewer, depending on the study's settings."
    )
    columns = ["Rows", "Tokens", "Tokens a row"]
    if not any(one.task in PAPER for one in counts.tasks):
        return Table("data", "Data", note, ["Task", *columns, "Domain"], [[*row[:4], row[-1]] for row in rows])
    note += (
        " Paper: its Table 1, where 20,222 rows of CodeAlpaca are probably a misprint of 20,022. Its WebGPT had 736 "
        "tokens per row, so it was another form of the data and is omitted."
    )
    groups = [("", 1), ("Ours", 3), ("Paper", 3), ("", 1)]
    return Table("data", "Data", note, ["Task", *columns, *columns, "Domain"], rows, groups)


def _line(counted: TaskCount) -> list[Entry]:
    printed = paper.counts(counted.task)
    theirs = [BLANK] * 3
    if printed is not None:
        theirs = [
            _count(printed["samples"], muted=True),
            _count(printed["total_tokens"], muted=True),
            Entry(f"{printed['mean_tokens']:.2f}", printed["mean_tokens"], muted=True),
        ]
    mean = Entry(f"{counted.mean_tokens:.2f}", counted.mean_tokens)
    ours = [Entry(counted.task), _count(counted.rows), _count(counted.tokens), mean]
    return [*ours, *theirs, Entry(counted.domain)]


def _count(number: int, muted: bool = False) -> Entry:
    return Entry(f"{number:,}", number, muted=muted)
