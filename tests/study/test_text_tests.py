from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hycam.evaluation.text_metrics import bleu4, rouge_l
from hycam.study.cells import Cell
from hycam.study.plan import Plan
from hycam.study.results import Result, Results
from hycam.study.text_tests import POOLED, TextTest, text_tests
from hycam.training.run import Run
from study.factory import DIVERGED, plan_of, study_of

WORDS = ["the", "cat", "sat", "on", "a", "mat", "and", "then", "it", "went", "out", "to", "see", "the", "dog"]
TASKS = ("auto_cot", "dolly")


def answered(method: str, task: str, row: str, kept: float) -> tuple[str, str]:
    """An answer that keeps this share of the reference's words, and the reference."""
    draw = random.Random(f"{task} {row}")
    reference = draw.choices(WORDS, k=12)
    mine = random.Random(f"{task} {row} {method}")
    return " ".join(word if mine.random() < kept else "no" for word in reference), " ".join(reference)


def made(tmp_path: Path, kept: dict[str, float], rows: int = 12, generated: int = 10, **study: Any) -> Plan:
    """A plan whose cells' run folders hold answers to the first so many rows of each task."""
    study = {"methods": list(kept), "tasks": TASKS, "folds": [0, 1], "runs": str(tmp_path), **study}
    plan = plan_of(study_of(**study), lambda cell: dict.fromkeys(TASKS, 1.0), rows=rows)
    cells = {cell.identity: cell for cell in plan.cells}
    return Plan(plan.study, plan.cells, Results([_answer(one, cells, kept, generated) for one in plan.results.done]))


def _answer(one: Result, cells: dict[str, Cell], kept: dict[str, float], generated: int) -> Result:
    lines = []
    content = json.loads(json.dumps(one.content))
    for task, scored in content["evaluation"]["rows"].items():
        for at, row in enumerate(scored["row"]):
            answer, reference = answered(f"{one.method} {one.seed}", task, row, kept[one.method])
            if at < generated:
                scored["rougeL"][at] = rouge_l([answer], [reference]).item()
            lines.append({"task": task, "row": row, "prompt": "say", "prediction": answer if at < generated else None,
                          "reference": reference, "rougeL": scored["rougeL"][at], "nll": scored["nll"][at],
                          "tokens": scored["tokens"][at]})  # fmt: skip
    folder = Run(Path(cells[one.identity].recipe.output)).evaluation("test")
    folder.mkdir(parents=True)
    (folder / "predictions.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return Result(content)


def found(tests: list[TextTest], metric: str, task: str) -> TextTest:
    (one,) = [one for one in tests if (one.metric, one.task) == (metric, task)]
    return one


def texts(plan: Plan, method: str, tasks: tuple[str, ...] = TASKS) -> tuple[list[str], list[str]]:
    """All answers of a method and their references, straight from the run folders."""
    entries = [
        json.loads(line)
        for cell in plan.cells
        if cell.method == method
        for line in (Run(Path(cell.recipe.output)).evaluation("test") / "predictions.jsonl").read_text().splitlines()
    ]
    kept = [entry for entry in entries if entry["prediction"] is not None and entry["task"] in tasks]
    return [entry["prediction"] for entry in kept], [entry["reference"] for entry in kept]


@pytest.mark.parametrize("task", [*TASKS, POOLED])
def test_the_values_are_those_of_the_answers_of_all_folds(tmp_path: Path, task: str) -> None:
    plan = made(tmp_path, {"LoRA": 0.7, "HyCAM": 0.9})
    tests = text_tests(plan, "HyCAM")
    tasks = TASKS if task == POOLED else (task,)
    mine, others = texts(plan, "HyCAM", tasks), texts(plan, "LoRA", tasks)
    bleu, rouge = found(tests, "bleu4", task), found(tests, "rougeL", task)
    assert (bleu.method, bleu.against, bleu.rows) == ("HyCAM", "LoRA", 20 * len(tasks))
    assert (bleu.value, bleu.against_value) == pytest.approx((bleu4(*mine), bleu4(*others)))
    assert (rouge.value, rouge.against_value) == pytest.approx((rouge_l(*mine).mean(), rouge_l(*others).mean()))
    assert bleu.value > bleu.against_value


def test_a_clear_difference_is_found_and_chance_is_not(tmp_path: Path) -> None:
    clear = text_tests(made(tmp_path / "a", {"LoRA": 0.5, "HyCAM": 0.95}), "HyCAM")
    chance = text_tests(made(tmp_path / "b", {"LoRA": 0.8, "HyCAM": 0.8}), "HyCAM")
    for metric in ("bleu4", "rougeL"):
        assert found(clear, metric, POOLED).p < 0.01
        assert found(chance, metric, POOLED).p > 0.05


def test_the_bleu_test_is_sacrebleus_paired_bootstrap(tmp_path: Path) -> None:
    """Against its definition: how often a resample's difference exceeds their mean by more than the one found."""
    plan = made(tmp_path, {"LoRA": 0.75, "HyCAM": 0.8})
    (mine, references), (others, _) = texts(plan, "HyCAM"), texts(plan, "LoRA")
    rows = np.random.default_rng(12345).choice(len(mine), size=(1000, len(mine)), replace=True)
    differences = np.array([
        abs(bleu4([mine[row] for row in drawn], [references[row] for row in drawn])
            - bleu4([others[row] for row in drawn], [references[row] for row in drawn]))
        for drawn in rows[:200]
    ])  # fmt: skip
    observed = abs(bleu4(mine, references) - bleu4(others, references))
    expected = np.mean(differences - differences.mean() > observed)
    assert found(text_tests(plan, "HyCAM"), "bleu4", POOLED).p == pytest.approx(expected, abs=0.08)


def test_identical_answers_are_no_difference(tmp_path: Path) -> None:
    plan = made(tmp_path, {"LoRA": 1.0, "HyCAM": 1.0})
    for one in text_tests(plan, "HyCAM"):
        assert (one.value, one.against_value, one.p) == (pytest.approx(1), pytest.approx(1), 1)


def test_answers_without_any_match_score_zero(tmp_path: Path) -> None:
    tests = text_tests(made(tmp_path, {"LoRA": 0.0, "HyCAM": 0.95}), "HyCAM")
    one = found(tests, "bleu4", POOLED)
    assert one.against_value == 0
    assert one.value > 0.5 and one.p < 0.01


def test_of_several_seeds_the_first_is_taken(tmp_path: Path) -> None:
    plan = made(tmp_path, {"LoRA": 0.7, "HyCAM": 0.9}, seeds=[5, 6])
    alone = Plan(plan.study, plan.cells, Results(plan.results.select(seed=5)))
    assert text_tests(plan, "HyCAM") == text_tests(alone, "HyCAM")


def test_answers_that_lie_on_another_machine_leave_rouge_alone(tmp_path: Path) -> None:
    plan = made(tmp_path, {"LoRA": 0.7, "HyCAM": 0.9})
    (cell,) = [cell for cell in plan.cells if (cell.method, cell.fold) == ("LoRA", 1)]
    (Run(Path(cell.recipe.output)).evaluation("test") / "predictions.jsonl").unlink()
    tests = text_tests(plan, "HyCAM")
    bleu = found(tests, "bleu4", "dolly")
    assert (bleu.value, bleu.p) == (None, None)
    assert bleu.reason == "the answers of LoRA on fold 1 are not on this machine"
    assert found(tests, "rougeL", "dolly").p is not None


def test_answers_of_another_evaluation_are_not_taken(tmp_path: Path) -> None:
    plan = made(tmp_path, {"LoRA": 0.7, "HyCAM": 0.9})
    path = Run(Path(plan.cells[0].recipe.output)).evaluation("test") / "predictions.jsonl"
    first, *rest = path.read_text().splitlines()
    path.write_text("\n".join([json.dumps({**json.loads(first), "rougeL": 0.123}), *rest]) + "\n")
    assert "another evaluation" in str(found(text_tests(plan, "HyCAM"), "bleu4", POOLED).reason)


@pytest.mark.parametrize(
    ("generated", "reason"),
    [(0, "no row was answered (evaluation.generate_rows)"),
     (2, "4 rows were answered by both, and a test needs 6 (evaluation.generate_rows)")],
)  # fmt: skip
def test_too_few_answers_are_said_to_be(tmp_path: Path, generated: int, reason: str) -> None:
    tests = text_tests(made(tmp_path, {"LoRA": 0.7, "HyCAM": 0.9}, generated=generated), "HyCAM")
    assert [one.reason for one in tests if one.task == "dolly"] == [reason, reason]


def test_methods_without_a_fold_in_common_have_no_test() -> None:
    plan = plan_of(study_of(["LoRA", "HyCAM"]), lambda cell: DIVERGED if cell.method == "LoRA" else {"dolly": 1.0})
    assert text_tests(plan, "HyCAM") == []
