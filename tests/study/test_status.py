"""What is left of a study, and how long it will take."""

from __future__ import annotations

import pytest

from hycam.study.plan import Plan
from hycam.study.recipe import StudyMethod
from hycam.study.status import Estimate, Status, spelled
from study.factory import plan_of, study_of

NLL = {"dolly": 1.5}
METHODS = {"Base": StudyMethod("base"), "LoRA": StudyMethod("lora"), "HyCAM": StudyMethod("hycam")}
SECONDS = {"LoRA": 50.0, "HyCAM": 80.0}  # of training, on 10,000 tokens; a whole cell takes 100


def plan(**states) -> Plan:
    """Two folds of three methods; ``states`` are those of fold 0 by method, and fold 1 is to be run."""
    study = study_of(METHODS, ("dolly",), [0, 1])
    return plan_of(
        study,
        lambda cell: states.get(cell.method) if cell.fold == 0 else None,
        training=lambda cell: {"seconds": SECONDS[cell.method]} if cell.method in SECONDS else {},
    )


def estimates(found: Plan) -> dict[str, float | None]:
    return {cell.method: found.status.estimate.seconds(cell) for cell in found.cells if cell.fold == 1}


def test_a_cell_takes_as_long_as_its_method_took_by_planned_tokens_and_the_rest_by_the_cell() -> None:
    found = plan(Base=NLL, LoRA=NLL, HyCAM=NLL)
    # Base is only evaluated; LoRA and HyCAM train 10,000 planned tokens as they did before.
    assert estimates(found) == {"Base": 100.0, "LoRA": pytest.approx(100.0), "HyCAM": pytest.approx(100.0)}
    (lora,) = [cell for cell in found.cells if cell.method == "LoRA" and cell.fold == 1]
    half = found.results.select(method="LoRA")[0].content["training"]
    half["tokens"] = 20_000  # measured on twice the tokens in the same time: half the time for ours
    assert found.status.estimate.seconds(lora) == pytest.approx(50.0 + 50.0 / 2)


def test_a_method_that_was_not_measured_takes_as_long_as_the_others_on_the_backbone() -> None:
    found = estimates(plan(LoRA=NLL))
    assert found["HyCAM"] == pytest.approx(found["LoRA"])


def test_a_backbone_that_was_evaluated_alone_says_nothing_of_training() -> None:
    assert estimates(plan(Base=NLL)) == {"Base": 100.0, "LoRA": None, "HyCAM": None}
    assert estimates(plan()) == {"Base": None, "LoRA": None, "HyCAM": None}


def test_what_running_cells_took_so_far_is_not_left() -> None:
    found = plan(LoRA=NLL)
    lora = next(cell for cell in found.status.to_go if cell.method == "LoRA")
    left = found.status.estimate.left
    assert left([lora], {}) == pytest.approx(100.0)
    assert left([lora], {lora.identity: 30.0}) == pytest.approx(70.0)
    assert left([lora], {lora.identity: 300.0}) == 0.0
    assert Estimate([]).left([lora], {}) is None
    assert Estimate([]).left([], {}) == 0.0


def test_failed_cells_are_to_go_and_diverged_ones_are_not() -> None:
    found = plan(LoRA="failed", HyCAM="diverged", Base=NLL)
    assert [(cell.method, cell.fold) for cell in found.status.to_go] == [
        ("LoRA", 0),
        ("Base", 1),
        ("LoRA", 1),
        ("HyCAM", 1),
    ]


def test_a_cell_whose_file_cannot_be_used_is_neither_done_nor_to_go(tmp_path) -> None:
    found = plan()
    results = type(found.results)([], [], {tmp_path / found.cells[0].file_name: "no"})
    status = Status(found.cells, results)
    assert status.unusable == found.cells[:1]
    assert status.to_go == found.cells[1:]


@pytest.mark.parametrize(
    ("seconds", "words"), [(3909, "1:05:09"), (59.6, "0:01:00"), (0, "0:00:00"), (None, "unknown")]
)
def test_durations_are_spelled_in_hours_minutes_and_seconds(seconds: float | None, words: str) -> None:
    assert spelled(seconds) == words
