from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hycam.evaluation.text_metrics import bleu4, bleu_signature, rouge_l
from hycam.evaluation.tokens import ENGLISH, Tokens
from hycam.study.cells import Cell
from hycam.study.plan import Plan
from hycam.study.results import Result, Results
from hycam.study.text_tests import POOLED, TextTest, text_tests
from hycam.training.run import Run
from study.factory import DIVERGED, plan_of, study_of

CHINESE = "猫狗坐在垫子上然后它走出去看那只鸟"
WORDS = ["the", "cat", "sat", "on", "a", "mat", "and", "then", "it", "went", "out", "to", "see", "the", "dog"]
pytestmark = pytest.mark.usefixtures("few_resamples")

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
        content["evaluation"]["tasks"][task]["rougeL"] = 0.5 if generated else None
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
        for drawn in rows[:100]
    ])  # fmt: skip
    observed = abs(bleu4(mine, references) - bleu4(others, references))
    expected = np.mean(differences - differences.mean() > observed)
    assert found(text_tests(plan, "HyCAM"), "bleu4", POOLED).p == pytest.approx(expected, abs=0.1)


def test_identical_answers_are_no_difference(tmp_path: Path) -> None:
    plan = made(tmp_path, {"LoRA": 1.0, "HyCAM": 1.0})
    for one in text_tests(plan, "HyCAM"):
        assert (one.value, one.against_value, one.p) == (pytest.approx(1), pytest.approx(1), 1)


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


def in_chinese(plan: Plan, tasks: tuple[str, ...], old: tuple[str, ...] = ()) -> Plan:
    """The same plan with Chinese answers in these tasks, scored as older versions did for the methods in ``old``."""
    cells = {cell.identity: cell for cell in plan.cells}
    done = []
    for one in plan.results.done:
        path = Run(Path(cells[one.identity].recipe.output)).evaluation("test") / "predictions.jsonl"
        content = json.loads(json.dumps(one.content))
        lines = [json.loads(line) for line in path.read_text().splitlines()]
        for name, figures in content["evaluation"]["tasks"].items():
            tokens = Tokens("zh", "unicode") if name in tasks and one.method not in old else ENGLISH
            if one.method not in old:
                figures |= {"bleu_signature": bleu_signature(tokens), "rouge_tokens": tokens.rouge}
            own = [line for line in lines if line["task"] == name]
            for at, line in enumerate(own):
                if name in tasks:
                    for key in ("prediction", "reference"):
                        line[key] = None if line[key] is None else "".join(map(_character, line[key].split()))
                if line["prediction"] is not None:
                    line["rougeL"] = rouge_l([line["prediction"]], [line["reference"]], tokens).item()
                    content["evaluation"]["rows"][name]["rougeL"][at] = line["rougeL"]
        path.write_text("".join(json.dumps(line) + "\n" for line in lines))
        done.append(Result(content))
    return Plan(plan.study, plan.cells, Results(done))


def _character(word: str) -> str:
    return CHINESE[WORDS.index(word)] if word in WORDS else "不"


def test_answers_in_chinese_are_compared_by_their_characters(tmp_path: Path) -> None:
    words = made(tmp_path / "words", {"LoRA": 0.7, "HyCAM": 0.9})
    plan = in_chinese(made(tmp_path / "zh", {"LoRA": 0.7, "HyCAM": 0.9}), TASKS)
    of_characters, of_words = text_tests(plan, "HyCAM"), text_tests(words, "HyCAM")
    for metric in ("bleu4", "rougeL"):
        for task in (*TASKS, POOLED):  # a character for each word: the same figures
            one, two = found(of_characters, metric, task), found(of_words, metric, task)
            assert (one.value, one.against_value, one.p) == (
                pytest.approx(two.value, rel=0.05),
                pytest.approx(two.against_value, rel=0.05),
                pytest.approx(two.p, abs=0.05),
            )


def test_tasks_whose_words_are_told_in_several_ways_are_no_one_corpus_of_bleu(tmp_path: Path) -> None:
    tests = text_tests(in_chinese(made(tmp_path, {"LoRA": 0.7, "HyCAM": 0.9}), ("dolly",)), "HyCAM")
    assert found(tests, "bleu4", POOLED).reason == "words are counted in several ways (13a, zh)"
    assert found(tests, "bleu4", "dolly").p < 0.05 and found(tests, "bleu4", "auto_cot").p < 0.05
    assert found(tests, "rougeL", POOLED).p < 0.05


def test_results_of_an_older_version_are_not_compared_with_those_that_tell_words_in_another_way(tmp_path: Path) -> None:
    plan = in_chinese(made(tmp_path, {"LoRA": 0.7, "HyCAM": 0.9}), ("dolly",), old=("LoRA",))
    tests = text_tests(plan, "HyCAM")
    assert found(tests, "rougeL", "dolly").reason == "the two count words in different ways (unicode and a-z0-9)"
    assert found(tests, "rougeL", "auto_cot").p < 0.05
