"""Rows with the answers of every cell side by side: scores from the result files, texts from the run folders."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

from hycam.errors import HycamError
from hycam.evaluation.result import PREDICTIONS_FILE, read_predictions
from hycam.study.cells import told
from hycam.study.plan import Plan
from hycam.study.results import Result
from hycam.training.run import Run

ANSWERS_A_ROW = 12  # on average over the rows of a task, to keep a page with many cells readable
LONGEST_TEXT = 1500

Scored = list[tuple[Result, int]]
"""The cells that scored a row, each with the row's index in its lists."""


class Answer(NamedTuple):
    """One cell's answer to a row, with its ROUGE-L and the reference's NLL in nats per token (None if not scored).

    ``label`` is the method, with whatever else distinguishes the cell from the row's others. ``text`` is None if there
    is no answer or the run folder is on another machine.
    """

    label: str
    text: str | None
    rouge: float | None
    nll: float | None


class Row(NamedTuple):
    """One row of the data; ``prompt`` and ``reference`` are None if no run folder with it is on this machine."""

    identity: str
    prompt: str | None
    reference: str | None
    answers: list[Answer]


class TaskRows(NamedTuple):
    """The chosen rows of a task, out of all ``scored`` ones."""

    task: str
    scored: int
    rows: list[Row]


def side_by_side(plan: Plan, longest: int = LONGEST_TEXT) -> list[TaskRows]:
    """Rows of each task with the answers of all finished cells that were trained on all tasks.

    At most the study's ``rows_shown`` per task, and at least one, with no more than ``ANSWERS_A_ROW`` answers each on
    average. Rows that most cells answered come first, then those that most cells scored, then grid order. Texts are
    cut after ``longest`` characters.
    """
    finished = plan.results.select(task=None)
    kept = _Kept(plan)
    found = []
    for task in plan.results.task_names:
        scored: dict[str, Scored] = {}
        for one in finished:
            for place, row in enumerate(_figures(one, task)["row"]) if task in one.tasks else ():
                scored.setdefault(row, []).append((one, place))
        order = sorted(scored, key=lambda row: (-_generated(scored[row], task), -len(scored[row])))
        rows = [_row(task, row, scored[row], kept, longest) for row in _first(order, scored, plan.study.rows_shown)]
        if rows:
            found.append(TaskRows(task, len(scored), rows))
    return found


def _generated(of_row: Scored, task: str) -> int:
    return sum(_figures(one, task)["rougeL"][place] is not None for one, place in of_row)


def _first(order: Iterable[str], scored: dict[str, Scored], most_rows: int) -> Iterable[str]:
    answers = 0
    for number, row in enumerate(islice(order, most_rows)):
        answers += len(scored[row])
        if number and answers > ANSWERS_A_ROW * most_rows:
            return
        yield row


class _Kept:
    """The predictions in the run folders, each file read once."""

    def __init__(self, plan: Plan) -> None:
        self._runs = {cell.identity: Run(Path(cell.recipe.output)) for cell in plan.cells} if plan.study.texts else {}
        self._read: dict[str, dict[tuple[str, str], dict[str, Any]]] = {}

    def entry(self, one: Result, task: str, place: int) -> dict[str, Any] | None:
        """The prediction of a row; None if it is not on this machine or from another evaluation than the cell's."""
        if one.identity not in self._read:
            entries = []
            if one.identity in self._runs:
                path = self._runs[one.identity].evaluation(one.content["evaluation"]["part"]) / PREDICTIONS_FILE
                with suppress(HycamError):  # a damaged file counts as missing
                    entries = read_predictions(path) if path.exists() else []
            self._read[one.identity] = {(entry["task"], entry["row"]): entry for entry in entries}
        figures = _figures(one, task)
        entry = self._read[one.identity].get((task, figures["row"][place]))
        # A run folder keeps only its last evaluation, which may have had other settings than this cell.
        if entry and (entry["nll"], entry["rougeL"]) == (figures["nll"][place], figures["rougeL"][place]):
            return entry
        return None


def _row(task: str, identity: str, of_row: Scored, kept: _Kept, longest: int) -> Row:
    answers, prompt, reference = [], None, None
    for (one, place), label in zip(of_row, _labels([one for one, _ in of_row]), strict=True):
        figures, entry = _figures(one, task), kept.entry(one, task, place)
        if entry is not None:
            prompt, reference = entry["prompt"], entry["reference"]
        text = _cut(entry["prediction"], longest) if entry else None
        nll, tokens = figures["nll"][place], figures["tokens"][place]
        answers.append(Answer(label, text, figures["rougeL"][place], None if nll is None else nll / tokens))
    return Row(identity, _cut(prompt, longest), _cut(reference, longest), answers)


def _labels(results: list[Result]) -> list[str]:
    """The method of each, with backbone, fold, seed and settings where these differ among the results."""
    named = [
        {"backbone": one.backbone, "fold": f"fold {one.fold}", "seed": f"seed {one.seed}"}
        | {name: told(name, value) for name, value in one.settings.items()}
        for one in results
    ]
    names = list(dict.fromkeys(name for one in named for name in one))
    apart = [name for name in names if len({one.get(name) for one in named}) > 1]
    return [
        ", ".join([one.method, *(of_one[name] for name in apart if name in of_one)])
        for one, of_one in zip(results, named, strict=True)
    ]


def _figures(one: Result, task: str) -> dict[str, list[Any]]:
    return one.content["evaluation"]["rows"][task]


def _cut(text: str | None, longest: int) -> str | None:
    if text is None or len(text) <= longest:
        return text
    return f"{text[:longest]} [… {len(text) - longest:,} more characters]"
