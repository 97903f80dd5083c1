"""A table as text: Markdown, LaTeX with booktabs, CSV at full precision, and for a console."""

from __future__ import annotations

import re
from collections.abc import Callable

import rich.box
import rich.table
from pandas import DataFrame, MultiIndex
from rich.text import Text

from hycam.study.tables.table import Entry, Table

# Characters that LaTeX would interpret, or that its fonts lack.
_LATEX = str.maketrans({
    "\\": r"\textbackslash{}", "{": r"\{", "}": r"\}", "%": r"\%", "_": r"\_", "&": r"\&", "#": r"\#", "$": r"\$",
    "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "<": r"\textless{}", ">": r"\textgreater{}",
    "±": r"$\pm$", "−": r"$-$", "Δ": r"$\Delta$", "×": r"$\times$", "≤": r"$\leq$", "–": "--", "|": r"\textbar{}",
})  # fmt: skip
_NUMBER = re.compile(r"[+-][\d.,]+(e[+-]?\d+)?( ?%)?( ± [\d.,]+( ?%)?)?")
_MOST_COLUMNS = 6  # of a console


def markdown(table: Table) -> str:
    """GitHub's Markdown: title, table and note, with the best in bold and the second best underlined."""
    frame = _frame(table, _markdown_text, ("**{}**", "<u>{}</u>", "*{}*", r"\*"))
    frame.columns = [_markdown_text(heading) for heading in table.headings]
    sides = ["right" if right else "left" for right in table.numeric]
    body = frame.to_markdown(index=False, colalign=sides, disable_numparse=True)
    return f"### {_markdown_text(table.title)}\n\n{body}\n\n{_markdown_text(table.note)}\n"


def latex(table: Table) -> str:
    """A ``table`` environment for a document that uses booktabs."""
    frame = _frame(table, _latex_text, (r"\textbf{{{}}}", r"\underline{{{}}}", r"\textit{{{}}}", "$^{*}$"))
    headings = [_latex_text(heading) for heading in table.columns]
    if table.groups:
        over = [_latex_text(text) for text, number in table.groups for _ in range(number)]
        frame.columns = MultiIndex.from_tuples(zip(over, headings, strict=True))
    else:
        frame.columns = headings
    text = frame.style.hide(axis="index").to_latex(
        caption=_latex_text(table.title),
        label=f"tab:{table.name}",
        column_format="".join("r" if right else "l" for right in table.numeric),
        position_float="centering",
        multicol_align="c",
        hrules=True,
    )
    end = r"\end{table}"
    note = rf"\par\smallskip\footnotesize {_latex_text(table.note)}"
    return "% needs \\usepackage{booktabs}\n" + text.replace(end, f"{note}\n{end}")


def csv(table: Table) -> str:
    """A header line and a line per row, numbers at full precision; ``±`` and the like go to a column of their own."""
    headings, columns = [], []
    for at, heading in enumerate(table.headings):
        column = [row[at] for row in table.rows]
        headings.append(heading)
        columns.append([_no_formula(one.text) if one.value is None else repr(one.value) for one in column])
        if any("±" in entry.text for entry in column):
            headings.append(f"{heading} (printed)")
            columns.append([_no_formula(entry.text) for entry in column])
    frame = DataFrame(
        list(zip(*columns, strict=True)), columns=[_no_formula(heading) for heading in headings], dtype=object
    )
    return frame.to_csv(index=False, lineterminator="\n")


def terminal(table: Table) -> rich.table.Table:
    """The table for a console; one with many columns is transposed, so that none is cut off."""
    headings, numeric, rows = table.headings, table.numeric, table.rows
    if len(headings) > _MOST_COLUMNS:
        rows = [[Entry(name), *(row[at] for row in table.rows)] for at, name in enumerate(headings) if at > 0]
        headings = [headings[0], *(row[0].text for row in table.rows)]
        numeric = [at > 0 for at in range(len(headings))]
    shown = rich.table.Table(title=table.title, caption=table.note, title_justify="left", caption_justify="left",
                             box=rich.box.SIMPLE_HEAD, title_style="bold", padding=(0, 1))  # fmt: skip
    for heading, is_number in zip(headings, numeric, strict=True):
        shown.add_column(heading, justify="right" if is_number else "left")
    for row in rows:
        shown.add_row(*map(_styled, row))
    return shown


def _styled(entry: Entry) -> Text:
    style = "bold" if entry.best else "underline" if entry.second else "dim" if entry.muted else ""
    return Text(entry.text + ("*" if entry.star else ""), style=style)


def _frame(table: Table, escaped: Callable[[str], str], marks: tuple[str, str, str, str]) -> DataFrame:
    """The entries as text; ``marks`` are the formats of the best, the second best and muted ones, and the star."""
    best, second, muted, star = marks

    def printed(entry: Entry) -> str:
        form = best if entry.best else second if entry.second else muted if entry.muted and entry.text else "{}"
        return form.format(escaped(entry.text)) + (star if entry.star else "")

    return DataFrame(
        [[printed(entry) for entry in row] for row in table.rows], columns=range(len(table.columns)), dtype=object
    )


def _markdown_text(text: str) -> str:
    # A parenthesis only makes a link after a bracket, an ampersand only makes an entity before a name.
    return re.sub(r"([\\|*_<>`]|(?<=\])\(|&(?=[#\w]))", r"\\\1", _one_line(text))


def _latex_text(text: str) -> str:
    return _one_line(text).translate(_LATEX)


def _one_line(text: str) -> str:
    """The text without line breaks, which would end a row, and without non-printing characters."""
    return "".join(letter for letter in " ".join(text.split()) if letter.isprintable())


def _no_formula(text: str) -> str:
    """Puts an apostrophe before text that a spreadsheet would evaluate as a formula."""
    return f"'{text}" if text.startswith(("=", "+", "-", "@", "\t", "\r")) and not _NUMBER.fullmatch(text) else text
