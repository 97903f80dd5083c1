"""A table on the console."""

from __future__ import annotations

from io import StringIO

from rich.console import Console

from hycam.study.tables import terminal
from hycam.study.tables.table import Entry, Table


def printed(table: Table) -> str:
    text = StringIO()
    Console(file=text, width=80).print(terminal(table))
    return text.getvalue()


def test_it_has_title_headings_entries_and_note() -> None:
    rows = [[Entry("LoRA"), Entry("7.313", 7.3125, best=True, star=True)], [Entry("Base"), Entry("13.1", 13.1)]]
    lines = printed(Table("main", "All tasks", "Bold: the best.", ["Method", "PPL"], rows)).splitlines()
    assert "All tasks" in lines[0] and "Bold: the best." in lines[-1]
    assert any(line.split() == ["Method", "PPL"] for line in lines)
    assert any(line.split() == ["LoRA", "7.313*"] for line in lines)


def test_many_columns_become_lines_of_which_nothing_is_cut() -> None:
    columns = ["Method", *(f"task-number-{k} perplexity" for k in range(15))]
    rows = [[Entry(name), *(Entry(f"{k}.{at}", k) for k in range(15))] for at, name in enumerate(("LoRA", "HyCAM"))]
    text = printed(Table("tasks", "", "", columns, rows))
    lines = [line.split() for line in text.splitlines()]
    assert ["Method", "LoRA", "HyCAM"] in lines
    for k in range(15):
        assert [f"task-number-{k}", "perplexity", f"{k}.0", f"{k}.1"] in lines
    assert "…" not in text
