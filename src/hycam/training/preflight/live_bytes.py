"""Counts the bytes that tensors occupy while a computation runs, on tensors that have shapes and no memory."""

from __future__ import annotations

import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter


class LiveBytes(TorchDispatchMode):
    """Every operation under this mode, those of the backward pass and of an optimizer too, is counted as it allocates.

    A storage counts once, whole, from the operation that returns it until nothing refers to it any more: a tensor that
    autograd has saved lives as long as it would in the real computation, since it is the real code that runs. Not seen
    is what an operation allocates inside itself and gives back, such as a packed copy of a matrix.

    Attributes:
        now: bytes alive.
        peak: the most there were since :meth:`reset`.
        events: every allocation ``(key, bytes, whether the graph grows by it)`` and every free ``(key, -1, False)``.
        truth: what a tensor is where the code asks whether it is true (``if mask.all():``). A tensor without values
            cannot tell.
    """

    def __init__(self) -> None:
        super().__init__()
        self.now = self.peak = 0
        self.truth = False
        self.events: list[tuple[int, int, bool]] = []
        self._seen: weakref.WeakSet[Any] = weakref.WeakSet()

    def reset(self) -> int:
        """Begins a new peak; gives the bytes that are alive."""
        self.peak = self.now
        return self.now

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func is torch.ops.aten._local_scalar_dense.default and args[0].dtype == torch.bool:
            return self.truth
        if func is torch.ops.aten._grouped_mm.default:
            result = _grouped_product(*args, **(kwargs or {}))
        else:
            result = func(*args, **(kwargs or {}))
        for tensor in tree_iter(result):
            if isinstance(tensor, Tensor):
                self._add(tensor.untyped_storage())
        return result

    def _add(self, storage: torch.UntypedStorage) -> None:
        if storage in self._seen:
            return
        self._seen.add(storage)
        size = storage.nbytes()
        self.now += size
        self.peak = max(self.peak, self.now)
        key = len(self.events)
        self.events.append((key, size, torch.is_grad_enabled()))
        weakref.finalize(storage, self._free, key, size).atexit = False

    def _free(self, key: int, size: int) -> None:
        self.now -= size
        self.events.append((key, -1, False))


def _grouped_product(
    a: Tensor, b: Tensor, offs: Tensor | None = None, bias: Tensor | None = None, out_dtype: torch.dtype | None = None
) -> Tensor:
    """An empty result of ``torch._grouped_mm``, which PyTorch itself gives without values for bfloat16 only."""
    if a.dim() == 2 and b.dim() == 2:
        assert offs is not None
        shape = (len(offs), a.shape[0], b.shape[1])
    elif a.dim() == 3 and b.dim() == 3:
        shape = (a.shape[0], a.shape[1], b.shape[2])
    else:
        shape = (a.shape[-2], b.shape[-1])  # type: ignore[assignment]
    return a.new_empty(shape, dtype=out_dtype or a.dtype)


@contextmanager
def without_memory(model: nn.Module, device: torch.device) -> Iterator[LiveBytes]:
    """Runs what is inside without memory and values: ``model``, which is on the meta device, is as if on ``device``.

    The meta device alone would not do, since attention there is another operation than on the device. Afterwards the
    model is of no use.
    """
    tensors: dict[int, tuple[Tensor, Tensor]] = {}

    def placed(tensor: Tensor) -> Tensor:
        if id(tensor) not in tensors:  # a tied weight is one
            empty = torch.empty_strided(tensor.shape, tensor.stride(), dtype=tensor.dtype, device=device)
            is_weight = isinstance(tensor, nn.Parameter)
            tensors[id(tensor)] = (nn.Parameter(empty, tensor.requires_grad) if is_weight else empty, tensor)
        return tensors[id(tensor)][0]

    with FakeTensorMode(allow_non_fake_inputs=True), LiveBytes() as live:
        for module in model.modules():
            holders: list[dict[str, Any]] = [module._parameters, module._buffers]
            for held in holders:
                for name, tensor in held.items():
                    if tensor is not None:
                        held[name] = placed(tensor)
        tensors.clear()
        yield live
