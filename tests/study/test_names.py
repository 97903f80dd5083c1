from __future__ import annotations

from hycam.study.names import names_of
from study.factory import plan_of, study_of


def cells(**changes):
    return plan_of(study_of(("LoRA", "HyCAM"), **changes), lambda cell: None).cells


def test_what_all_cells_share_is_said_once() -> None:
    found = names_of(cells(folds=[0, 1]))
    assert found.common == "SmolLM2 135M, seed 2333"
    assert list(found.short.values()) == ["LoRA, fold 0", "HyCAM, fold 0", "LoRA, fold 1", "HyCAM, fold 1"]


def test_settings_and_single_tasks_stay_where_they_differ() -> None:
    made = cells(folds=[0], tasks=("dolly",), single_tasks=True, vary={"data.train_rows": [8, 16]})
    found = names_of(made)
    assert found.common == "SmolLM2 135M, fold 0, seed 2333"
    assert list(found.short.values())[:3] == [
        "LoRA, train_rows 8",
        "LoRA, train_rows 8, dolly alone",
        "HyCAM, train_rows 8",
    ]
    assert made[1].name == "SmolLM2 135M, LoRA, fold 0, seed 2333, train_rows 8, dolly alone"


def test_a_cell_by_itself_is_called_after_its_method() -> None:
    made = cells(folds=[0])[:1]
    assert names_of(made).short == {made[0].identity: "LoRA"}
    assert names_of([]).common == ""


def test_a_varied_dictionary_is_told_entry_by_entry() -> None:
    (cell,) = cells(folds=[0], vary={"evaluation.config": [{"r": 64}]})[:1]
    assert cell.parts["evaluation.config"] == "r 64"
