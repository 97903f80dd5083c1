"""The processes that train together, as ``torch.distributed`` has them; where there is one, everything is as it was."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from hycam.errors import HycamError

T = TypeVar("T")


def number() -> int:
    """How many processes train together."""
    return dist.get_world_size() if _are_several() else 1


def index() -> int:
    """Which of them this is, from 0."""
    return dist.get_rank() if _are_several() else 0


def is_main() -> bool:
    """Whether this is the process that prints and writes."""
    return index() == 0


def total(tensor: Tensor, device: torch.device | str = "cpu", least: bool = False) -> Tensor:
    """The sum over all processes, element by element; every process has to call it.

    Args:
        tensor: of the same shape and type everywhere; it is left as it is.
        device: where the process group can add (that of the training).
        least: the smallest in place of the sum.

    Returns:
        the sums, on the device of ``tensor``.
    """
    if not _are_several():
        return tensor
    together = tensor.detach().to(device, copy=True)
    dist.all_reduce(together, dist.ReduceOp.MIN if least else dist.ReduceOp.SUM)
    return together.to(tensor.device)


def by_main(work: Callable[[], T]) -> T:
    """What ``work`` gives on the main process, which alone does it; every process has to call this.

    Raises:
        HycamError: what it raised there, on every process.
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


def wait_for_all() -> None:
    """Goes on when every process is here."""
    if _are_several():
        dist.barrier()


def _are_several() -> bool:
    return dist.is_available() and dist.is_initialized()
