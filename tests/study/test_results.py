"""The files of results: written whole, read with suspicion."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hycam.study.cell_file import FORMAT
from hycam.study.cells import Cell
from hycam.study.results import Result, cells_folder, load, read, write
from study.factory import plan_of, result_of, study_of
from study.tiny import content_of

NLL = {"dolly": 1.5, "webgpt": 2.0}


@pytest.fixture
def cell() -> Cell:
    return plan_of(study_of(("LoRA",), tuple(NLL), [0]), lambda _: None).cells[0]


@pytest.fixture
def kept(cell: Cell, tmp_path: Path) -> Result:
    """The result of the cell, in its file."""
    return write(cells_folder(tmp_path), cell, "done", content_of(result_of(cell, NLL)))


def changed(path: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    """Changes the content of a file."""
    found = json.loads(path.read_text())
    change(found)
    path.write_text(json.dumps(found))


def only_reason(tmp_path: Path, cell: Cell) -> str:
    found = load(tmp_path, [cell])
    assert not found.done + found.failed
    (reason,) = found.unusable.values()
    return reason


def test_what_was_written_is_read_again(kept: Result, cell: Cell, tmp_path: Path) -> None:
    assert kept.path == tmp_path / "cells" / cell.file_name
    assert read(kept.path).content == kept.content
    found = load(tmp_path, [cell])
    assert [one.content for one in found.done] == [kept.content]
    one = found.done[0]
    assert (one.identity, one.state, one.backbone, one.method, one.fold, one.seed, one.task) == (
        cell.identity, "done", "SmolLM2 135M", "LoRA", 0, 2333, None,
    )  # fmt: skip
    assert one.settings == {}
    assert one.tasks["dolly"]["nll"] == 1.5
    assert one.macro["nll"] == pytest.approx(1.75)
    assert one.training is not None and one.training["steps"] == 40
    assert kept.content["format"] == FORMAT == 1


def test_a_file_of_another_layout_is_left_aside_as_it_is(kept: Result, cell: Cell, tmp_path: Path) -> None:
    changed(kept.path, lambda found: found["evaluation"]["tasks"]["dolly"].update(tokens="many"))
    before = kept.path.read_text()
    reason = only_reason(tmp_path, cell)
    assert "Expected `int`, got `str`" in reason and "tokens`. Delete it to run its cell again" in reason
    assert kept.path.read_text() == before


def test_a_result_under_other_defaults_is_left_aside_by_the_name_of_the_setting(
    kept: Result, cell: Cell, tmp_path: Path
) -> None:
    changed(kept.path, lambda found: found["settings"]["training"].update(weight_decay=0.0))
    assert "training.weight_decay was 0.0 and is 0.05" in only_reason(tmp_path, cell)


def test_a_result_from_before_a_setting_was_added_stays_valid(kept: Result, cell: Cell, tmp_path: Path) -> None:
    changed(kept.path, lambda found: found["settings"]["evaluation"].pop("config"))
    assert len(load(tmp_path, [cell]).done) == 1


def test_the_result_of_other_data_under_the_name_of_the_cell_is_left_aside(
    kept: Result, cell: Cell, tmp_path: Path
) -> None:
    other = replace(cell, data=replace(cell.data, fingerprint="other"), identity="")
    kept.path.rename(kept.path.with_name(other.file_name))
    assert "of another cell or of other data" in only_reason(tmp_path, other)


def test_a_renamed_method_takes_its_results_along(kept: Result, cell: Cell, tmp_path: Path) -> None:
    renamed = replace(cell, method="lora", backbone="Other")
    (one,) = load(tmp_path, [renamed]).done
    assert (one.method, one.backbone) == ("lora", "Other")


def test_results_are_told_apart_by_their_state_and_found_by_what_they_are() -> None:
    plan = plan_of(
        study_of(("LoRA", "HyCAM"), tuple(NLL), [0, 1]),
        lambda cell: {("LoRA", 0): "failed", ("LoRA", 1): "diverged"}.get((cell.method, cell.fold), NLL),
    )
    results = plan.results
    assert [(one.method, one.fold) for one in results.done] == [("HyCAM", 0), ("HyCAM", 1)]
    assert [one.state for one in results.failed] == ["failed", "diverged"]
    assert results.settled == [*results.done, results.failed[1]]
    assert results.select(method="HyCAM", fold=1) == [results.done[1]]
    assert results.select(method="LoRA") == []
    assert results.task_names == ["dolly", "webgpt"]


def test_rows_are_in_the_order_of_their_identities(kept: Result) -> None:
    found = dict(kept.content["evaluation"]["rows"]["dolly"])
    order = [3, 0, 5, 1, 4, 2]
    shuffled = {name: [values[at] for at in order] for name, values in found.items()}
    evaluation = {**kept.content["evaluation"], "rows": {"dolly": shuffled}}
    rows = Result({**kept.content, "evaluation": evaluation}).rows("dolly")
    assert rows.identities == sorted(found["row"])
    by_row = dict(zip(found["row"], found["nll"], strict=True))
    assert rows.nll.tolist() == [by_row[row] for row in rows.identities]
    assert rows.tokens.dtype == np.int64
    assert rows.nll.sum() / rows.tokens.sum() == pytest.approx(kept.tasks["dolly"]["nll"])
