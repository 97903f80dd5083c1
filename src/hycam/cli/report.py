"""``hycam report STUDY``: the tables, figures and statistics of a study, and one page with all of them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from hycam.console import Reporter, each_message_once, plain_console, quiet_libraries
from hycam.errors import HycamError, UsageError
from hycam.study.plan import STUDY_FILE, Plan, kept, plan
from hycam.study.recipe import StudyRecipe
from hycam.study.report.content import gather
from hycam.study.report.page import write
from hycam.study.report.summary import main_sentences, summary
from hycam.study.tables import terminal
from hycam.training.parse import parse_recipe

_DESCRIPTION = """Writes the report of a study to OUTPUT/report: index.html, which needs no network, tables (Markdown,
LaTeX, CSV), figures (PNG, SVG) and statistics.json. The first argument is either a study's folder, which needs
neither data nor backbone, or a study file, which reads the current data. An unfinished study can be reported too; the
report lists what is missing and why."""


def main(arguments: Sequence[str]) -> None:
    """Parses the study and its overrides, writes its report, and prints the main sentences and its path."""
    quiet_libraries(informative=False)
    with each_message_once():
        current = _planned(list(arguments))
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


def _planned(words: list[str]) -> Plan:
    """The plan of a study file, or the one kept in a study's folder, with the results in that folder."""
    if not words:
        raise UsageError("Name a study file, or the folder of a study: `hycam report STUDY`.")
    folder = Path(words[0])
    if folder.is_dir():
        if not (folder / STUDY_FILE).exists():
            raise HycamError(f"{folder} is not the folder of a study: it has no {STUDY_FILE}. `hycam study` makes one.")
        words = [str(folder / STUDY_FILE), "--output", str(folder), *words[1:]]
    study = parse_recipe(StudyRecipe, words, prog="hycam report", description=_DESCRIPTION)
    found = kept(study) if folder.is_dir() else None
    if found is not None:
        return found
    with Reporter() as reporter:
        return plan(study, reporter.update, to_report=True)
