"""What processes that train together tell one another."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.distributed as dist

from forked import processes as forked
from hycam import processes
from hycam.errors import HycamError


def test_one_process_is_the_main_one_and_has_everything() -> None:
    numbers = torch.tensor([1.5, 2.5], dtype=torch.float64)
    assert (processes.world_size(), processes.rank(), processes.is_main()) == (1, 0, True)
    assert processes.all_reduce(numbers) is numbers
    assert processes.on_main(lambda: "done") == "done"
    processes.barrier()


def test_three_processes_have_the_same_sums_and_least_values_and_what_the_main_one_did() -> None:
    def work(rank: int) -> Any:
        dist.init_process_group("gloo")
        numbers = torch.tensor([rank, 10 - rank])
        outcome = (
            processes.all_reduce(numbers).tolist(),
            processes.all_reduce(numbers, minimum=True).tolist(),
            numbers.tolist(),
        )
        processes.barrier()
        return processes.rank(), processes.is_main(), outcome, processes.on_main(lambda: f"done by {rank}")

    found = forked(3, work)
    for rank, (index, is_main, outcome, done) in enumerate(found):
        assert (index, is_main, done) == (rank, rank == 0, "done by 0")
        assert outcome == ([3, 27], [0, 8], [rank, 10 - rank])


def test_what_goes_wrong_on_the_main_process_is_raised_on_all_and_no_other_does_it() -> None:
    def work(rank: int) -> str:
        dist.init_process_group("gloo")

        def fail() -> None:
            assert rank == 0
            raise HycamError("There is no room.")

        with pytest.raises(HycamError, match="There is no room") as raised:
            processes.on_main(fail)
        return str(raised.value)

    assert forked(2, work) == ["There is no room."] * 2
