from __future__ import annotations

import datasets
import numpy as np
import pytest

from hycam.training.rows import MixedRows


def task(*lengths: int, start: int = 0) -> datasets.Dataset:
    return datasets.Dataset.from_list(
        [{"row": f"r{n}", "input_ids": [start + n] * size, "labels": [-100] * size} for n, size in enumerate(lengths)]
    )


def test_rows_are_numbered_task_after_task_and_carry_their_task() -> None:
    rows = MixedRows({"a": task(3, 1), "b": task(2, 5, 4, start=10)})
    assert len(rows) == 5 and rows.sizes == {"a": 2, "b": 3}
    assert [(rows[n]["task"], rows[n]["input_ids"][0]) for n in range(5)] == [(0, 0), (0, 1), (1, 10), (1, 11), (1, 12)]
    assert set(rows[3]) == {"input_ids", "labels", "task", "row"}
    assert [rows[n]["row"] for n in range(5)] == [0, 1, 2, 3, 4]
    assert [rows.identity(n) for n in range(5)] == ["a r0", "a r1", "b r0", "b r1", "b r2"]
    assert [rows.task(n) for n in range(5)] == ["a", "a", "b", "b", "b"]


def test_lengths_are_those_of_the_rows_also_of_some_of_a_dataset_in_another_order() -> None:
    rows = MixedRows({"a": task(3, 1, 7).select([2, 0]), "b": task(2)})
    assert rows.lengths.dtype == np.int64
    assert rows.lengths.tolist() == [len(rows[n]["input_ids"]) for n in range(3)] == [7, 3, 2]


def test_the_rows_of_a_task_without_any_are_passed_over() -> None:
    rows = MixedRows({"a": task(1), "none": task(1).select([]), "b": task(2, start=10)})
    assert [rows[n]["task"] for n in range(2)] == [0, 2]


@pytest.mark.parametrize("chunks", [1, 3])
def test_lengths_do_not_depend_on_how_the_rows_lie_in_arrow(chunks: int) -> None:
    parts = [task(*range(1, 9)).select(range(k, 8, chunks)) for k in range(chunks)]
    rows = MixedRows({"a": datasets.concatenate_datasets(parts)})
    assert sorted(rows.lengths.tolist()) == list(range(1, 9))
