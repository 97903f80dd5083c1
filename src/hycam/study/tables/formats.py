"""A table as text: Markdown, LaTeX with booktabs, and CSV with the numbers in full."""

from __future__ import annotations

import csv as csv_module
import io
import re

from hycam.study.tables.table import Entry, Table

# What LaTeX reads as an instruction, and what its fonts lack.
_LATEX = {
    "\\": r"\textbackslash{}", "{": r"\{", "}": r"\}", "%": r"\%", "_": r"\_", "&": r"\&", "#": r"\#", "$": r"\$",
    "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "<": r"\textless{}", ">": r"\textgreater{}",
    "±": r"$\pm$", "−": r"$-$", "Δ": r"$\Delta$", "×": r"$\times$", "≤": r"$\leq$", "–": "--", "|": r"\textbar{}",
}  # fmt: skip


def markdown(table: Table) -> str:
    """GitHub's Markdown: title, table and note. The best is bold, the second best underlined."""
    lines = [table.headings, ["---:" if right else ":---" for right in table.numeric]]
    lines[0] = [_markdown_text(heading) for heading in lines[0]]
    lines += [[_markdown_entry(entry) for entry in row] for row in table.rows]
    body = "\n".join(f"| {' | '.join(line)} |" for line in lines)
    return f"### {_markdown_text(table.title)}\n\n{body}\n\n{_markdown_text(table.note)}\n"


def latex(table: Table) -> str:
    """A ``table`` environment for a document that uses booktabs."""
    lines = [
        r"% needs \usepackage{booktabs}",
        r"\begin{table}",
        r"\centering",
        rf"\caption{{{_latex_text(table.title)}}}",
        rf"\label{{tab:{table.name}}}",
        rf"\begin{{tabular}}{{{''.join('r' if right else 'l' for right in table.numeric)}}}",
        r"\toprule",
        *_latex_groups(table),
        rf"{' & '.join(map(_latex_text, table.columns))} \\",
        r"\midrule",
        *(rf"{' & '.join(map(_latex_entry, row))} \\" for row in table.rows),
        r"\bottomrule",
        r"\end{tabular}",
        rf"\par\smallskip\footnotesize {_latex_text(table.note)}",
        r"\end{table}",
    ]
    return "\n".join(lines) + "\n"


def csv(table: Table) -> str:
    """One line of headings and one a row. Numbers stand in full; where print adds something, it has its own column."""
    columns = list(zip(*table.rows, strict=True))
    added = [any("±" in entry.text for entry in column) for column in columns] or [False] * len(table.columns)
    file = io.StringIO()
    writer = csv_module.writer(file, lineterminator="\n")
    headings = ([heading, f"{heading} (printed)"] if more else [heading] for heading, more in
                zip(table.headings, added, strict=True))  # fmt: skip
    writer.writerow([_no_formula(text) for pair in headings for text in pair])
    for row in table.rows:
        cells = (
            [_full(entry), _no_formula(entry.text)] if more else [_full(entry)]
            for entry, more in zip(row, added, strict=True)
        )
        writer.writerow([text for pair in cells for text in pair])
    return file.getvalue()


def _markdown_text(text: str) -> str:
    # Links need a bracket before a parenthesis, and entities a name after the ampersand: alone both are harmless.
    return re.sub(r"([\\|*_<>`]|(?<=\])\(|&(?=[#\w]))", r"\\\1", _one_line(text))


def _markdown_entry(entry: Entry) -> str:
    text = _markdown_text(entry.text)
    if entry.best:
        text = f"**{text}**"
    elif entry.second:
        text = f"<u>{text}</u>"
    elif entry.muted and text:
        text = f"*{text}*"
    return text + (r"\*" if entry.star else "")


def _latex_text(text: str) -> str:
    return "".join(_LATEX.get(letter, letter) for letter in _one_line(text))


def _one_line(text: str) -> str:
    """The text without line ends, which would end a row, and without characters that do not print."""
    return "".join(letter for letter in " ".join(text.split()) if letter.isprintable())


def _latex_entry(entry: Entry) -> str:
    text = _latex_text(entry.text)
    if entry.best:
        text = rf"\textbf{{{text}}}"
    elif entry.second:
        text = rf"\underline{{{text}}}"
    elif entry.muted and text:
        text = rf"\textit{{{text}}}"
    return text + ("$^{*}$" if entry.star else "")


def _latex_groups(table: Table) -> list[str]:
    if not table.groups:
        return []
    cells, rules, at = [], [], 1
    for text, number in table.groups:
        cells.append(rf"\multicolumn{{{number}}}{{c}}{{{_latex_text(text)}}}" if text else " & " * (number - 1))
        if text:
            rules.append(rf"\cmidrule(lr){{{at}-{at + number - 1}}}")
        at += number
    return [rf"{' & '.join(cells)} \\", " ".join(rules)]


def _full(entry: Entry) -> str:
    return _no_formula(entry.text) if entry.value is None else repr(entry.value)


def _no_formula(text: str) -> str:
    """The text with an apostrophe before it where a spreadsheet would take it for a formula and compute it."""
    return f"'{text}" if text.startswith(("=", "+", "-", "@", "\t", "\r")) and not _NUMBER.fullmatch(text) else text


_NUMBER = re.compile(r"[+-][\d.,]+(e[+-]?\d+)?( ?%)?( ± [\d.,]+( ?%)?)?")
