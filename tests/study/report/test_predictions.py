"""Rows side by side: which are chosen, whose answers they have, and where the texts come from."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from hycam.study.plan import Plan
from hycam.study.recipe import StudyMethod
from hycam.study.report import predictions
from hycam.study.report.predictions import side_by_side
from hycam.study.results import Result
from study.factory import plan_of, steady, study_of
from study.report.conftest import HOSTILE, LEVELS, TASKS


def test_a_row_has_every_methods_answer_with_its_figures(plan: Plan, texts: Callable[..., None]) -> None:
    texts()
    (dolly, webgpt) = side_by_side(plan)
    assert (dolly.task, webgpt.task) == TASKS
    row = dolly.rows[0]
    assert row.prompt == f"Asked: {row.identity}"
    assert row.reference == "As it is"
    assert [answer.label for answer in row.answers] == list(LEVELS)
    for answer in row.answers:
        (one,) = (r for r in plan.results.select(method=answer.label, fold=0))
        kept = one.content["evaluation"]["rows"]["dolly"]
        at = kept["row"].index(row.identity)
        assert answer.nll == pytest.approx(kept["nll"][at] / kept["tokens"][at])
        assert answer.rouge == 0.25
        assert answer.text == f"{answer.label}: {HOSTILE}"


def test_rows_that_most_methods_answered_come_first(plan: Plan) -> None:
    answered = [len(row.answers) for row in side_by_side(plan)[0].rows]
    assert answered == [3] * 6 + [2] * 6 + [1] * 6  # six rows a fold: one fold has all methods, one two, one one


def test_rows_are_as_many_as_the_study_says_and_fewer_where_each_has_many_answers(
    plan: Plan, monkeypatch: pytest.MonkeyPatch
) -> None:
    def shown(rows: int) -> int:
        (first, _) = side_by_side(replace(plan, study=replace(plan.study, rows_shown=rows)))
        assert first.scored == 18
        return len(first.rows)

    assert [shown(4), shown(1000)] == [4, 18]
    monkeypatch.setattr(predictions, "ANSWERS_A_ROW", 1)  # they have three each
    assert [shown(7), shown(1)] == [2, 1]  # never none


def test_long_texts_are_cut_and_say_by_how_much(plan: Plan, texts: Callable[..., None]) -> None:
    texts(lambda one, entry: {**entry, "prompt": "p" * 12_345, "prediction": "short"})
    row = side_by_side(plan, longest=45)[0].rows[0]
    assert row.prompt == "p" * 45 + " [… 12,300 more characters]"
    assert row.answers[0].text == "short"


def test_without_run_folders_the_figures_are_still_there(plan: Plan) -> None:
    row = side_by_side(plan)[0].rows[0]
    assert row.prompt is None
    assert row.reference is None
    assert all(answer.text is None and answer.nll is not None for answer in row.answers)


def test_predictions_of_another_evaluation_are_not_shown_as_a_cells(plan: Plan, texts: Callable[..., None]) -> None:
    texts(lambda one, entry: {**entry, "nll": entry["nll"] + (one.method == "LoRA")})
    shown = {answer.label: answer.text for answer in side_by_side(plan)[0].rows[0].answers}
    assert shown["LoRA"] is None
    assert shown["HyCAM"] == f"HyCAM: {HOSTILE}"


def test_a_loss_that_is_no_number_is_none(plan: Plan) -> None:
    def infinite(one: Result) -> Result:
        rows = {task: {**kept, "nll": [None] * 6} for task, kept in one.content["evaluation"]["rows"].items()}
        return Result({**one.content, "evaluation": {**one.content["evaluation"], "rows": rows}})

    marred = replace(plan, results=replace(plan.results, done=[infinite(one) for one in plan.results.done]))
    assert {answer.nll for answer in side_by_side(marred)[0].rows[0].answers} == {None}


def test_labels_name_what_sets_the_cells_of_a_row_apart_and_nothing_else(tmp_path: Path) -> None:
    methods = {label: StudyMethod(name) for label, name in (("LoRA", "lora"), ("HyCAM", "hycam"))}
    study = study_of(methods, TASKS, (0,), output=str(tmp_path), vary={"data.train_rows": [32, 64]}, seeds=[1, 2])
    answers = side_by_side(plan_of(study, steady(LEVELS)))[0].rows[0].answers
    assert len({answer.label for answer in answers}) == len(answers) == 8
    assert "HyCAM, seed 2, train_rows 64" in {answer.label for answer in answers}
    assert not any("fold" in answer.label or "SmolLM2" in answer.label for answer in answers)


def test_cells_trained_on_one_task_are_left_out(tmp_path: Path) -> None:
    study = study_of(("LoRA", "HyCAM"), TASKS, (0,), output=str(tmp_path), single_tasks=True)
    assert [answer.label for answer in side_by_side(plan_of(study, steady(LEVELS)))[0].rows[0].answers] == [
        "LoRA",
        "HyCAM",
    ]
