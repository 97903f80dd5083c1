"""The summary says who wins, ties and loses, by the verdicts of the comparisons over all tasks."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from hycam.study.comparisons import Comparison, compare
from hycam.study.plan import Plan
from hycam.study.recipe import SweepRecipe
from hycam.study.report.summary import main_sentences, summary
from hycam.study.significance import TTest, paired_t
from study.factory import DIVERGED, METHODS, plan_of, steady, study_of, sweep_evaluation
from study.report.conftest import TASKS


def _comparison(against: str, verdict: str, test: TTest | None, task: str = "macro", **changes: Any) -> Comparison:
    return Comparison(**{"backbone": "SmolLM2 135M", "method": "HyCAM", "against": against, "task": task,
                         "settings": {}, "test": test, "bootstrap": None,
                         "family": "primary", "holm_p": None, "verdict": verdict,
                         "sentence": f"{against}, {task}.", **changes})  # fmt: skip


@pytest.fixture
def whole(tmp_path: Path) -> Plan:
    return plan_of(study_of(tasks=TASKS, folds=(0, 1)), steady(dict.fromkeys(METHODS, 1.5)))


def test_each_verdict_has_its_words_and_single_tasks_do_not_enter(whole: Plan) -> None:
    test = paired_t([0.1, 0.2, 0.3])
    found = [
        _comparison("Base", "lower", test, family="secondary"),
        _comparison("Full Finetune", "higher", test),
        _comparison("LoRA", "equivalent", test),
        _comparison("LoRA", "lower", test, task="dolly"),
        _comparison("MultiLoRA", "lower", test),
        _comparison("RieMoE-LoRA", "lower", test),
    ]
    progress, verdicts, others, note = summary(replace(whole, study=replace(whole.study, note="Seen.")), found)
    assert progress == "The study is complete: 10 cells, all done."
    assert verdicts == (
        "On SmolLM2 135M, in the primary family, the perplexity of HyCAM over all tasks is lower (a win) than that of "
        "MultiLoRA and RieMoE-LoRA; equivalent, within one percent, to that of LoRA; higher (a loss) than that of Full "
        "Finetune."
    )
    assert others == (
        "On SmolLM2 135M, in the secondary family, the perplexity of HyCAM over all tasks is lower (a win) than that "
        "of Base."
    )
    assert note == "Seen."
    assert main_sentences(found) == [
        "Base, macro.",
        "Full Finetune, macro.",
        "LoRA, macro.",
        "MultiLoRA, macro.",
        "RieMoE-LoRA, macro.",
    ]


def test_what_was_not_tested_is_not_called_undecided(whole: Plan) -> None:
    (_, verdicts, *_) = summary(whole, [_comparison("LoRA", "undecided", None)])
    assert "not tested" in verdicts
    (_, verdicts, *_) = summary(whole, [_comparison("LoRA", "undecided", paired_t([0.1, -0.1]))])
    assert "neither shown to differ" in verdicts
    assert "not tested" not in verdicts


def test_settings_and_backbones_have_sentences_of_their_own(whole: Plan) -> None:
    test = paired_t([0.1, 0.2])
    found = [_comparison("LoRA", "lower", test, settings={"data.train_rows": rows}) for rows in (32, 64)]
    sentences = summary(whole, found)[1:3]
    assert [sentence.partition(", in the")[0] for sentence in sentences] == [
        "On SmolLM2 135M, train_rows 32",
        "On SmolLM2 135M, train_rows 64",
    ]


def test_methods_without_a_finished_cell_are_named(tmp_path: Path) -> None:
    missing = ("MultiLoRA", "RieMoE-LoRA")
    study = study_of(tasks=TASKS, folds=(0, 1))
    levels = dict.fromkeys(METHODS, 1.5)
    plan = plan_of(study, lambda cell: None if cell.method in missing else steady(levels)(cell))
    sentences = summary(plan, compare(plan.results, plan.primary))
    assert sentences[0] == "The study is not complete: of 10 cells, 6 done, 4 to go."
    assert sentences[-1] == "On SmolLM2 135M, not compared, for lack of finished cells: MultiLoRA and RieMoE-LoRA."
    alone = replace(plan, results=replace(plan.results, done=plan.results.select(method="LoRA")))
    assert "Nothing is compared yet" in summary(alone, compare(alone.results, alone.primary))[-1]


def test_a_sweep_names_the_best_learning_rates(tmp_path: Path) -> None:
    study = study_of(
        ("LoRA", "HyCAM"), TASKS, (0,), sweep=SweepRecipe([1e-4, 3e-4, 1e-3]), evaluation=sweep_evaluation()
    )

    def nlls(cell: Any) -> Any:
        rate = cell.settings["training.learning_rate"]
        if (cell.method, rate) == ("LoRA", 1e-3):
            return DIVERGED
        return {task: 2.0 + abs(rate - 3e-4) for task in TASKS}

    sentences = summary(plan_of(study, nlls), [])
    assert sentences[1] == (
        "On SmolLM2 135M, the best learning rate of LoRA is 0.0003 (validation NLL 2.0000 per token, 3 trials)."
    )


def test_an_unfinished_sweep_says_so(tmp_path: Path) -> None:
    study = study_of(("LoRA",), TASKS, (0,), sweep=SweepRecipe([1e-4, 3e-4]), evaluation=sweep_evaluation())
    levels = steady({"LoRA": 1.5}, gap=0.0, noise=0.0)
    plan = plan_of(study, lambda cell: levels(cell) if cell.settings["training.learning_rate"] == 1e-4 else None)
    assert summary(plan, []) == [
        "The study is not complete: of 2 cells, 1 done, 1 to go.",
        "On SmolLM2 135M, the best learning rate so far of LoRA is 0.0001 (validation NLL 1.5000 per token, 1 trial, "
        "at the edge of what was tried).",
    ]
