"""Collectives of ``torch.distributed`` that also work without a process group."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from hycam.errors import HycamError

T = TypeVar("T")


def world_size() -> int:
    """The number of processes that train together; 1 without a process group."""
    return dist.get_world_size() if _are_several() else 1


def rank() -> int:
    """The number of this process among them, from 0."""
    return dist.get_rank() if _are_several() else 0


def is_main() -> bool:
    """Whether this is the main process, which prints and writes."""
    return rank() == 0


def all_reduce(tensor: Tensor, device: torch.device | str = "cpu", minimum: bool = False) -> Tensor:
    """The elementwise sum over all processes, each of which must call this.

    Args:
        tensor: of the same shape and type on every process; it is not changed.
        device: where the process group can add (that of the training).
        minimum: take the minimum instead of the sum.

    Returns:
        the result, on the device of ``tensor``.
    """
    if not _are_several():
        return tensor
    together = tensor.detach().to(device, copy=True)
    dist.all_reduce(together, dist.ReduceOp.MIN if minimum else dist.ReduceOp.SUM)
    return together.to(tensor.device)


def on_main(work: Callable[[], T]) -> T:
    """Runs ``work`` on the main process alone and returns its result on every process, each of which must call this.

    Raises:
        HycamError: on every process, if ``work`` raised one.
    """
    if not _are_several():
        return work()
    outcome: list[Any] = [None, None]
    if is_main():
        try:
            outcome[0] = work()
        except HycamError as error:
            outcome[1] = str(error)
    dist.broadcast_object_list(outcome)
    if outcome[1] is not None:
        raise HycamError(outcome[1])
    return outcome[0]


def barrier() -> None:
    """Waits until every process has called this."""
    if _are_several():
        dist.barrier()


def _are_several() -> bool:
    return dist.is_available() and dist.is_initialized()
