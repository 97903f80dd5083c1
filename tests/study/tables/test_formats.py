"""Markdown, LaTeX and CSV of a table."""

from __future__ import annotations

import csv
import io
import re

from hycam.study.tables.formats import csv as as_csv
from hycam.study.tables.formats import latex, markdown
from hycam.study.tables.table import Entry, Table

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
