"""Rows with what every cell made of them, side by side: figures from the result files, texts from the run folders."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hycam.errors import HycamError
from hycam.evaluation.result import PREDICTIONS_FILE, read_predictions
from hycam.study.plan import Plan
from hycam.study.results import Result
from hycam.study.vary import told
from hycam.training.run import Run

ANSWERS_A_ROW = 12  # of a task in the mean over its rows, which keeps a page of many cells readable
LONGEST_TEXT = 1500


@dataclass(frozen=True)
class Answer:
    """What one cell made of a row.

    Attributes:
        label: the method, and whatever else sets the cell apart from the others of the row.
        text: its answer; None where none was generated or the run folder is on another machine.
        rouge: ROUGE-L of the answer; None where none was generated.
        nll: NLL of the reference in nats per token; None where it is no finite number.
    """

    label: str
    text: str | None
    rouge: float | None
    nll: float | None


@dataclass(frozen=True)
class Row:
    """One row of the data. ``prompt`` and ``reference`` are None where no run folder of it is on this machine."""

    identity: str
    prompt: str | None
    reference: str | None
    answers: list[Answer]


@dataclass(frozen=True)
class TaskRows:
    """The chosen rows of a task, out of ``scored`` rows."""

    task: str
    scored: int
    rows: list[Row]


def side_by_side(plan: Plan, longest: int = LONGEST_TEXT) -> list[TaskRows]:
    """Rows of each task with the answers of all finished cells that were trained on all tasks.

    As many as the study's ``rows_shown``, or fewer, so that a task has at most ``ANSWERS_A_ROW`` answers for each of
    those; at least one row is taken whatever it has. Rows that most cells answered come first, then those that most
    cells scored, then the order of the grid.

    Args:
        plan: the study.
        longest: characters of a prompt, a reference or an answer; the rest is left out and counted.
    """
    finished = plan.results.select(task=None)
    chosen: dict[str, dict[str, list[tuple[Result, int]]]] = {}
    scored = {}
    for task in plan.results.task_names:
        found = _scored(finished, task)
        scored[task] = len(found)
        order = sorted(found, key=lambda row: (-_generated(found[row], task), -len(found[row])))
        rows = _within(((row, found[row]) for row in order), plan.study.rows_shown)
        if rows:
            chosen[task] = rows
    texts = _texts(plan, chosen) if plan.study.texts else {}
    return [
        TaskRows(task, scored[task], [_row(task, row, of_row, texts, longest) for row, of_row in rows.items()])
        for task, rows in chosen.items()
    ]


def _scored(finished: Iterable[Result], task: str) -> dict[str, list[tuple[Result, int]]]:
    """By row: the cells that scored it, each with the row's place in its lists."""
    found: dict[str, list[tuple[Result, int]]] = {}
    for one in finished:
        if task in one.tasks:
            for place, row in enumerate(_figures(one, task)["row"]):
                found.setdefault(row, []).append((one, place))
    return found


def _generated(of_row: list[tuple[Result, int]], task: str) -> int:
    return sum(_figures(one, task)["rougeL"][place] is not None for one, place in of_row)


def _within(
    ordered: Iterable[tuple[str, list[tuple[Result, int]]]], most_rows: int
) -> dict[str, list[tuple[Result, int]]]:
    kept: dict[str, list[tuple[Result, int]]] = {}
    answers = 0
    for row, of_row in ordered:
        answers += len(of_row)
        if kept and (len(kept) == most_rows or answers > ANSWERS_A_ROW * most_rows):
            break
        kept[row] = of_row
    return kept


Texts = dict[tuple[str, str, str], dict[str, Any]]


def _texts(plan: Plan, chosen: dict[str, dict[str, list[tuple[Result, int]]]]) -> Texts:
    """The kept predictions of the chosen rows, by cell, task and row."""
    cells = {cell.identity: cell for cell in plan.cells}
    wanted: dict[str, tuple[Result, set[tuple[str, str]]]] = {}
    for task, rows in chosen.items():
        for row, of_row in rows.items():
            for one, _ in of_row:
                wanted.setdefault(one.identity, (one, set()))[1].add((task, row))
    found: Texts = {}
    for identity, (one, mine) in wanted.items():
        run = Run(Path(cells[identity].recipe.output))
        path = run.evaluation(one.content["evaluation"]["part"]) / PREDICTIONS_FILE
        if not path.exists():
            continue
        with suppress(HycamError):  # a damaged file is as one that is on another machine
            for entry in read_predictions(path):
                if (entry["task"], entry["row"]) in mine:
                    found[identity, entry["task"], entry["row"]] = entry
    return found


def _row(task: str, row: str, of_row: list[tuple[Result, int]], texts: Texts, longest: int) -> Row:
    answers, prompt, reference = [], None, None
    for (one, place), label in zip(of_row, _labels([one for one, _ in of_row]), strict=True):
        figures = _figures(one, task)
        nll, tokens = figures["nll"][place], figures["tokens"][place]
        entry = texts.get((one.identity, task, row))
        # A run folder keeps the predictions of its last evaluation, which may have had other settings than this cell.
        if entry is not None and (entry["nll"], entry["rougeL"]) == (nll, figures["rougeL"][place]):
            prompt, reference = entry["prompt"], entry["reference"]
            text = entry["prediction"]
        else:
            text = None
        per_token = None if nll is None or not tokens else nll / tokens
        answers.append(Answer(label, _cut(text, longest), figures["rougeL"][place], per_token))
    return Row(row, _cut(prompt, longest), _cut(reference, longest), answers)


def _labels(results: list[Result]) -> list[str]:
    """The method of each, with those of backbone, fold, seed and settings that are not the same for all of them."""
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
