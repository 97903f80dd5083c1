"""What a task loses by being trained together with the others."""

from __future__ import annotations

import numpy as np
import pytest

from hycam.study.cells import Cell
from hycam.study.tables import TABLES
from hycam.study.tables.table import NotRun
from study.factory import TASKS, plan_of, steady, study_of

# Joint minus single, by method and task; and how a fold changes it.
LOST = {"LoRA": [0.05, 0.04, 0.03, -0.02, 0.01], "HyCAM": [0.02, 0.05, 0.01, -0.03, 0.01]}
OF_FOLD = [0.0, 0.002, -0.002, 0.004, -0.004]


def nlls(cell: Cell) -> dict[str, float]:
    joint = {task: 1.0 + 0.1 * at + LOST[cell.method][at] + OF_FOLD[cell.fold] for at, task in enumerate(TASKS)}
    if cell.task is None:
        return joint
    return {task: 1.0 + 0.1 * at if task == cell.task else 3.0 for at, task in enumerate(TASKS)}


def test_interference_is_joint_minus_single_on_the_same_fold() -> None:
    table = TABLES["interference"](plan_of(study_of(tuple(LOST), single_tasks=True), nlls), [])
    assert table.columns == ["Method", *TASKS, "Mean", "Over rows"]
    for row, (label, lost) in zip(table.rows, LOST.items(), strict=True):
        assert row[0].text == label
        assert [entry.value for entry in row[1:-1]] == pytest.approx([*lost, np.mean(lost)], abs=1e-12)
        assert row[1].text == f"{lost[0]:+.4f} ± {np.std(OF_FOLD, ddof=1):.4f}"
        low, high = (float(text) for text in row[-1].text.strip("[]").split(", "))
        assert low <= np.mean(lost) + 5e-5 and high >= np.mean(lost) - 5e-5 and high - low < 0.01
    assert [entry.best for entry in table.rows[1][1:]] == [True, False, True, True, False, True, False]


def test_a_fold_without_its_joint_or_its_single_training_is_left_out_and_said() -> None:
    def partly(cell: Cell) -> dict[str, float] | None:
        is_joint = (cell.method, cell.task, cell.fold) == ("HyCAM", None, 0)
        is_single = (cell.method, cell.task, cell.fold) == ("HyCAM", "dolly", 1)
        return None if is_joint or is_single else nlls(cell)

    table = TABLES["interference"](plan_of(study_of(tuple(LOST), single_tasks=True), partly), [])
    texts = [entry.text for entry in table.rows[1]]
    assert texts[1].endswith("(4 of 5 folds)")
    assert texts[3].endswith("(3 of 5 folds)")
    assert texts[-2].endswith("(3 of 5 folds)")
    assert texts[-1].startswith("[")


def test_without_trainings_on_one_task_there_is_nothing_to_subtract() -> None:
    with pytest.raises(NotRun, match="single_tasks"):
        TABLES["interference"](plan_of(study_of(("HyCAM",)), steady({"HyCAM": 1.0})), [])
    joint = plan_of(study_of(("HyCAM",), single_tasks=True), lambda cell: None if cell.task else nlls(cell))
    with pytest.raises(NotRun, match="No cell with a single task"):
        TABLES["interference"](joint, [])
