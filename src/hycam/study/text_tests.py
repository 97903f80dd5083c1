"""Tests the reference method against every other in BLEU-4 and ROUGE-L, by resampling rows; secondary to perplexity."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import numpy as np
from sacrebleu.significance import PairedTest
from sacrebleu.significance import Result as SacrebleuResult

from hycam.errors import HycamError
from hycam.evaluation.result import PREDICTIONS_FILE, read_predictions
from hycam.evaluation.text_metrics import bleu4, bleu_metric
from hycam.evaluation.tokens import Tokens
from hycam.study.cells import Cell
from hycam.study.pairs import Pair, pairs
from hycam.study.plan import Plan
from hycam.study.results import Result
from hycam.study.significance import FEWEST_ROWS, row_bootstrap
from hycam.training.run import Run

BLEU_RESAMPLES = 1000
POOLED = "pooled"
"""The name of the rows of all tasks together, as one corpus."""

Answers = dict[tuple[str, str], dict[str, Any]]
"""The entries of a run folder's predictions, by task and row."""


@dataclass(frozen=True)
class TextTest:
    """One method's answers against another's in one metric; p is not corrected for the number of tests.

    Attributes:
        backbone, method, against: labels; ``against`` is the other method.
        settings: the varied fields that both share.
        task: a task, or ``POOLED``.
        metric: ``bleu4`` (of the corpus) or ``rougeL`` (mean over rows), both from 0 to 1.
        value, against_value: the two methods' scores.
        p: of sacrebleu's paired bootstrap for BLEU-4, of the bootstrap over rows for ROUGE-L.
        rows: that both answered.
        reason: why there is no test; ``value``, ``against_value`` and ``p`` are then None.
    """

    backbone: str
    method: str
    against: str
    settings: Mapping[str, Any]
    task: str
    metric: str
    value: float | None
    against_value: float | None
    p: float | None
    rows: int
    reason: str | None = None


def text_tests(plan: Plan, reference: str) -> list[TextTest]:
    """The reference method against every other, for every task and over all of them, in BLEU-4 and ROUGE-L.

    The folds' rows are pooled; of each fold only the first seed counts, since another seed's answer to a row is not
    another row. ROUGE-L only needs the result files; BLEU-4 needs the answers in the run folders. Reference and errors
    are as for :func:`hycam.study.pairs.pairs`.
    """
    cells = {cell.identity: cell for cell in plan.cells}
    return [test for pair in pairs(plan.results, reference) if pair.cells for test in _of_pair(pair, cells)]


def _of_pair(pair: Pair, cells: Mapping[str, Cell]) -> list[TextTest]:
    seeds = dict(sorted(pair.cells, reverse=True))  # by fold, the smallest seed, which comes last
    chosen = [pair.cells[place] for place in sorted(seeds.items())]
    try:
        answers = [(_answers(one, cells), _answers(other, cells)) for one, other in chosen]
        lack = None
    except _Lack as error:
        answers, lack = [], str(error)
    found = []
    for task in (*pair.tasks, POOLED):
        tasks = pair.tasks if task == POOLED else [task]
        blank = TextTest(
            pair.backbone, pair.method, pair.against, pair.settings, task, "bleu4", None, None, None, 0, lack
        )
        found.append(blank if lack else _bleu(blank, answers, tasks, _tokenizers(chosen, tasks)))
        found.append(_rouge(replace(blank, metric="rougeL", reason=None), chosen, tasks))
    return found


class _Lack(Exception):
    """Why there are no answers to score."""


def _answers(one: Result, cells: Mapping[str, Cell]) -> Answers:
    """The answers of a cell, from its run folder."""
    path = Run(Path(cells[one.identity].recipe.output)).evaluation(one.content["evaluation"]["part"]) / PREDICTIONS_FILE
    if not path.exists():
        raise _Lack(f"the answers of {one.method} on fold {one.fold} are not on this machine")
    try:
        entries = read_predictions(path)
    except HycamError as error:
        raise _Lack(f"the answers of {one.method} on fold {one.fold} cannot be read") from error
    # A run folder keeps only its last evaluation, which may have had other settings than this cell.
    kept = {(entry["task"], entry["row"]): (entry["nll"], entry["rougeL"]) for entry in entries}
    scored = {
        (task, row): (nll, rouge)
        for task, rows in one.content["evaluation"]["rows"].items()
        for row, nll, rouge in zip(rows["row"], rows["nll"], rows["rougeL"], strict=True)
    }
    if kept != scored:
        raise _Lack(f"the run folder of {one.method} on fold {one.fold} holds the answers of another evaluation")
    return {(entry["task"], entry["row"]): entry for entry in entries if entry["prediction"] is not None}


def _tokenizers(chosen: Iterable[tuple[Result, Result]], tasks: Sequence[str]) -> set[str]:
    """The sacrebleu tokenizers by which these tasks were scored; older versions, which named none, only had one."""
    scored = [one.tasks[task].get("bleu_signature") for pair in chosen for one in pair for task in tasks]
    named = [re.search(r"tok:([^|]+)", signature) for signature in scored if signature]
    return {found[1] for found in named if found} | ({Tokens.bleu} if None in scored else set())


def _bleu(
    blank: TextTest, answers: Sequence[tuple[Answers, Answers]], tasks: Sequence[str], tokenizers: set[str]
) -> TextTest:
    rows = [
        (of_one["prediction"], other[place]["prediction"], of_one["reference"])
        for one, other in answers
        for place, of_one in one.items()
        if place[0] in tasks and place in other
    ]
    if len(rows) < FEWEST_ROWS:
        return _few(blank, len(rows))
    if len(tokenizers) > 1:
        return replace(
            blank, rows=len(rows), reason=f"words are counted in several ways ({', '.join(sorted(tokenizers))})"
        )
    tokens = Tokens(bleu=cast(Any, next(iter(tokenizers))))
    mine, others, references = (list(texts) for texts in zip(*rows, strict=True))
    if bleu4(references, references, tokens) == 0:
        return replace(blank, rows=len(rows), reason="no reference has four words")
    named: list[tuple[str, Sequence[str]]] = [(blank.against, others), (blank.method, mine)]
    _, scores = PairedTest(named, {"BLEU": bleu_metric(tokens)}, [references], "bs", BLEU_RESAMPLES)()
    against, method = (cast(SacrebleuResult, score) for score in scores["BLEU"])
    # sacrebleu calls the difference of equal scores significant, since none of its resamples exceeds it.
    p = 1.0 if method.score == against.score else cast(float, method.p_value)
    return replace(blank, value=method.score / 100, against_value=against.score / 100, p=p, rows=len(rows))


def _rouge(blank: TextTest, chosen: Sequence[tuple[Result, Result]], tasks: Sequence[str]) -> TextTest:
    told = {
        tuple(result.tasks[task].get("rouge_tokens") or Tokens.rouge for result in pair)
        for pair in chosen
        for task in tasks
    }
    if differing := [pair for pair in told if len(set(pair)) > 1]:
        return replace(blank, reason=f"the two count words in different ways ({' and '.join(differing[0])})")
    rows = [
        (value, other[row])
        for task in tasks
        for one, other in ((_rouge_of(one, task), _rouge_of(other, task)) for one, other in chosen)
        for row, value in one.items()
        if row in other
    ]
    if len(rows) < FEWEST_ROWS:
        return _few(blank, len(rows))
    mine, others = np.array(rows).T
    tested = row_bootstrap({blank.task: (mine - others, np.ones(len(rows)))})[blank.task]
    return replace(blank, value=mine.mean().item(), against_value=others.mean().item(), p=tested.p, rows=len(rows))


def _rouge_of(one: Result, task: str) -> dict[str, float]:
    """ROUGE-L of the answered rows, if the task has any."""
    if one.tasks[task]["rougeL"] is None:
        return {}
    rows = one.content["evaluation"]["rows"][task]
    return {row: value for row, value in zip(rows["row"], rows["rougeL"], strict=True) if value is not None}


def _few(blank: TextTest, rows: int) -> TextTest:
    reason = f"{rows} rows were answered by both, and a test needs {FEWEST_ROWS}" if rows else "no row was answered"
    return replace(blank, rows=rows, reason=f"{reason} (evaluation.generate_rows)")
