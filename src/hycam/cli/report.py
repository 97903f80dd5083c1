"""``hycam report STUDY``: the tables, figures and statistics of a study, and one page with all of them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from hycam.cli.arguments import parsed
from hycam.cli.help import STUDY
from hycam.cli.importing import importing
from hycam.console import Reporter, each_message_once, plain_console, quiet_libraries
from hycam.errors import HycamError, UsageError
from hycam.study.recipe import STUDY_FILE, StudyRecipe

if TYPE_CHECKING:
    from hycam.study.plan import Plan

_DESCRIPTION = """Writes the report of a study to OUTPUT/report: index.html, which needs no network, tables (Markdown,
LaTeX, CSV), figures (PNG, SVG) and statistics.json. The first argument is either a study's folder, which needs
neither data nor backbone, or a study file, which reads the current data. An unfinished study can be reported too; the
report lists what is missing and why."""


def main(arguments: Sequence[str]) -> None:
    """Parses the study and its overrides, writes its report, and prints the main sentences and its path."""
    study, from_folder = _parsed(list(arguments))
    with importing():
        from hycam.study.report.content import gather
        from hycam.study.report.page import write
        from hycam.study.report.summary import main_sentences, summary
        from hycam.study.tables import terminal

        quiet_libraries(informative=False)
    with each_message_once():
        current = _planned(study, from_folder)
        content = gather(current)
    page = write(content)
    console = plain_console()
    if current.study.tables:  # only those requested by name: all of them would be too long
        for table in content.tables:
            console.print(terminal(table))
    for sentence in (*summary(current, content.comparisons), *main_sentences(content.comparisons)):
        print(sentence)
    print(
        f"{len(content.tables)} tables and {len(content.pictures)} figures; {len(content.missing_tables)} tables and "
        f"{len(content.missing_pictures)} figures are missing; the page says why."
    )
    if content.advice is not None:
        print(content.advice)
    print(f"Report: {page}")


def _parsed(words: list[str]) -> tuple[StudyRecipe, bool]:
    """The study, with the results in its folder if that was named; whether it was."""
    if not words:
        raise UsageError("Name a study file, or the folder of a study: `hycam report STUDY`.")
    folder = Path(words[0])
    if folder.is_dir():
        if not (folder / STUDY_FILE).exists():
            raise HycamError(f"{folder} is not the folder of a study: it has no {STUDY_FILE}. `hycam study` makes one.")
        words = [str(folder / STUDY_FILE), "--output", str(folder), *words[1:]]
    return parsed(StudyRecipe, STUDY, words, "hycam report", _DESCRIPTION), folder.is_dir()


def _planned(study: StudyRecipe, from_folder: bool) -> Plan:
    """The plan kept in a study's folder; else that of its file, made from the current data."""
    from hycam.study.plan import kept, plan

    if from_folder and (found := kept(study)) is not None:
        return found
    with Reporter() as reporter:
        return plan(study, reporter.update, to_report=True)
