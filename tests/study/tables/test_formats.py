"""Markdown, LaTeX and CSV of a table, the table on a console, and which of its entries are marked."""

from __future__ import annotations

import csv
import io
import re
from io import StringIO

from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from hycam.study.tables import terminal
from hycam.study.tables.formats import csv as as_csv
from hycam.study.tables.formats import latex, markdown
from hycam.study.tables.table import Entry, Table, marked

TABLE = Table(
    "main",
    "Methods & backbones",
    "100 % of a_b | #1 {x} ~ ^ $ < >",
    ["Method", "PPL", "BLEU-4"],
    [
        [Entry("Full_FT & more"), Entry("3.142 ± 0.010", 3.14159265358979, second=True), Entry("0.1", 0.1)],
        [Entry("HyCAM"), Entry("3.000 ± 0.010", 2.9999999999, best=True, star=True), Entry("not run", muted=True)],
        [Entry("LoRA, rank 64"), Entry("3.300 (3 of 5 folds)"), Entry("")],
    ],
    [("", 1), ("Llama 2 7B", 2)],
)


def cells(line: str, separator: str) -> list[str]:
    """Of a row, without the blanks that align columns."""
    return [cell.strip() for cell in re.split(rf"(?<!\\){separator}", line.removesuffix(r" \\"))]


def test_markdown_has_a_line_a_row_and_the_marks() -> None:
    lines = [cells(line, r"\|")[1:-1] for line in markdown(TABLE).splitlines() if line.startswith("|")]
    assert lines[0] == ["Method", "Llama 2 7B PPL", "Llama 2 7B BLEU-4"]
    assert [(rule[0], rule[-1]) for rule in lines[1]] == [(":", "-"), ("-", ":"), ("-", ":")]
    assert lines[2] == [r"Full\_FT & more", "<u>3.142 ± 0.010</u>", "0.1"]
    assert lines[3] == ["HyCAM", r"**3.000 ± 0.010**\*", "*not run*"]
    assert lines[4] == ["LoRA, rank 64", "3.300 (3 of 5 folds)", ""]


def test_markdown_leaves_nothing_of_a_text_to_be_read_as_a_mark() -> None:
    table = Table("t", "a*b*c", "a|b <i>", ["a_b_c"], [[Entry("**x** | y")]])
    assert markdown(table).splitlines()[0] == r"### a\*b\*c"
    assert r"| \*\*x\*\* \| y |" in markdown(table)
    assert r"a\|b \<i\>" in markdown(table)


def test_latex_escapes_what_it_would_read_as_an_instruction() -> None:
    text = latex(TABLE)
    assert r"\caption{Methods \& backbones}" in text
    assert r"100 \% of a\_b \textbar{} \#1 \{x\} \textasciitilde{} \textasciicircum{} \$" in text
    body = text[text.index(r"\begin{table}") :]
    assert not re.search(r"(?<!\\)[%#_]", body)
    assert body.count("{") - body.count(r"\{") == body.count("}") - body.count(r"\}")


def test_latex_has_headings_over_columns_a_cell_for_each_and_the_marks() -> None:
    lines = latex(TABLE).splitlines()
    assert r"\begin{tabular}{lrr}" in lines
    head = lines[lines.index(r"\toprule") + 1 : lines.index(r"\midrule")]
    assert [cells(line, "&") for line in head] == [["", r"\multicolumn{2}{c}{Llama 2 7B}"], ["Method", "PPL", "BLEU-4"]]
    rows = [cells(line, "&") for line in lines[lines.index(r"\midrule") + 1 : lines.index(r"\bottomrule")]]
    assert [len(row) for row in rows] == [3, 3, 3]
    assert rows[0][1] == r"\underline{3.142 $\pm$ 0.010}"
    assert rows[1][1:] == [r"\textbf{3.000 $\pm$ 0.010}$^{*}$", r"\textit{not run}"]
    assert lines[-2:] == [rf"\par\smallskip\footnotesize {lines[-2].partition('footnotesize ')[2]}", r"\end{table}"]


def test_a_heading_over_nothing_takes_as_many_columns_as_it_says() -> None:
    lines = latex(Table("t", "T", "", ["a", "b", "c"], [], [("", 2), ("over", 1)])).splitlines()
    assert cells(lines[lines.index(r"\toprule") + 1], "&") == [r"\multicolumn{2}{c}{}", "over"]


def test_csv_has_numbers_in_full_and_what_print_adds_beside_them() -> None:
    read = list(csv.reader(io.StringIO(as_csv(TABLE))))
    assert read[0] == ["Method", "Llama 2 7B PPL", "Llama 2 7B PPL (printed)", "Llama 2 7B BLEU-4"]
    assert float(read[1][1]) == 3.14159265358979
    assert read[1][2] == "3.142 ± 0.010"
    assert read[2][3] == "not run"
    assert read[3][:2] == ["LoRA, rank 64", "3.300 (3 of 5 folds)"]  # no number for what is not whole


def test_a_table_without_rows_has_headings_in_every_form() -> None:
    empty = Table("t", "T", "nothing", ["a", "b"], [])
    assert cells(markdown(empty).splitlines()[2], r"\|")[1:-1] == ["a", "b"]
    assert r"a & b \\" in latex(empty)
    assert as_csv(empty) == "a,b\n"


def test_a_text_that_a_spreadsheet_would_compute_has_an_apostrophe_before_it_and_a_number_has_none() -> None:
    texts = ["=1+1", "+cmd", "-2+3|x", "@SUM(A1)", "\tx", "-0.5", "+1.2 %", "-0.100 ± 0.010", "–", "plain = text"]
    lines = as_csv(Table("t", "T", "", ["=a"], [[Entry(text)] for text in texts])).splitlines()
    printed = [next(csv.reader([line]))[0] for line in lines[1:]]
    assert lines[0].startswith("'=a,")
    assert printed == ["'=1+1", "'+cmd", "'-2+3|x", "'@SUM(A1)", "'\tx", *texts[5:]]


def test_line_ends_and_characters_that_do_not_print_do_not_reach_markdown_or_latex() -> None:
    table = Table("t", "a\nb", "c\u2028d\x1b[2J", ["x\r\ny"], [[Entry("1\n\n2")]])
    for form in (markdown, latex):
        text = form(table)
        assert "a b" in text and "c d[2J" in text and "x y" in text and "1 2" in text and "\x1b" not in text


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


def column(*values: float | None, form: str = ".3f") -> list[list[Entry]]:
    return [[Entry("not run" if value is None else format(value, form), value)] for value in values]


def marks(block: list[list[Entry]], lower: bool) -> list[str]:
    return ["".join(("b" * row[0].best, "s" * row[0].second)) for row in marked(block, [lower])]


def test_the_lowest_perplexity_and_the_highest_bleu_are_the_best() -> None:
    assert marks(column(3.2, 3.0, 3.1), lower=True) == ["", "b", "s"]
    assert marks(column(0.2, 0.1, 0.3), lower=False) == ["s", "", "b"]


def test_what_prints_alike_shares_its_mark() -> None:
    assert marks(column(3.0004, 2.9996, 3.1, 3.1001, 3.2), lower=True) == ["b", "b", "s", "s", ""]


def test_what_was_not_run_what_is_muted_and_what_has_no_rival_are_not_marked() -> None:
    published = [Entry("1.000", 1.0, muted=True)]
    assert marks([*column(3.2, None, 3.1), published], lower=True) == ["s", "", "b", ""]
    assert marks(column(3.2, None), lower=True) == ["", ""]
    assert marks(column(3.2, 3.2), lower=True) == ["", ""]


def test_a_number_is_read_as_it_is_printed() -> None:
    block = [[Entry("1,250 ± 3", 1250.4)], [Entry("900 ± 3", 900.0)], [Entry("+3.00", 3.0)]]
    assert marks(block, lower=False) == ["b", "s", ""]


@given(st.lists(st.floats(0.5, 9.5), min_size=2, max_size=8), st.booleans())
def test_no_entry_beats_the_best_and_only_the_best_beat_the_second(values: list[float], lower: bool) -> None:
    block = marked(column(*values), [lower])
    printed = [float(row[0].text) * (1 if lower else -1) for row in block]
    best = [number for number, row in zip(printed, block, strict=True) if row[0].best]
    second = [number for number, row in zip(printed, block, strict=True) if row[0].second]
    assert best == ([min(printed)] * printed.count(min(printed)) if len(set(printed)) > 1 else [])
    assert set(second) == set(sorted(set(printed))[1:2])


def test_headings_have_what_stands_above_them() -> None:
    table = Table("t", "T", "", ["Method", "PPL", "BLEU-4", "PPL"], [], [("", 1), ("A", 2), ("B", 1)])
    assert table.headings == ["Method", "A PPL", "A BLEU-4", "B PPL"]
    assert Table("t", "T", "", ["Method", "PPL"], []).headings == ["Method", "PPL"]
