"""All of the modulation that follows its products, and its gradients: SiLU, the mix of the modules, the scaling of a.

It is as many passes over tensors of the hidden state's size as there are operations, so it goes through some tokens at
a time: then each operation finds what the last one left in the processor's cache, and memory is used again that is
there already.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Protocol

import torch
from torch import Tensor

# Tokens at a time. On a CPU a chunk of each tensor fits into the cores' caches and is work enough for two threads;
# of half as many they wait for each other. Elsewhere it is the launch of each operation that counts.
CPU_CHUNK = 512
CHUNK = 2048


class PreActivations(Protocol):
    """What goes into the SiLU of one or several modules, for some of the tokens.

    Args:
        modules: how many modules there are.
        is_needed: whether the gradient of what goes in is needed at all.
    """

    modules: int
    is_needed: bool

    def pre_activation(self, k: int, rows: slice) -> Tensor:
        """That of module k, ``[rows, d]``."""

    def take(self, k: int, rows: slice, slope: Tensor, gradient: Tensor) -> None:
        """Takes the gradient of that, ``slope * gradient``, both in at least float32; the slope may be overwritten."""


def mix(
    a: Tensor,
    residual: Tensor | None,
    p: Tensor | None,
    shared: PreActivations | None,
    specialized: PreActivations | None,
    dtype: torch.dtype,
) -> Tensor:
    """``a * (1 + m)``, or ``a * (1 + m) + m * residual``, with ``m = SiLU(w_shared) + sum_k p_k SiLU(w_k)``.

    Args:
        a, residual: ``(batch, seq, d)``; the result has shape and type of a.
        p: ``(batch, seq, K)``, where there are specialised modules.
        shared, specialized: their w; either may be absent.
        dtype: the type that all is computed in.
    """
    output = torch.empty_like(a, memory_format=torch.contiguous_format)
    a_rows, residual_rows, p_rows, output_rows = (rows_of(tensor) for tensor in (a, residual, p, output))
    memory = _memory(2, a_rows, dtype)
    for rows in chunks(a_rows):
        m, room = (one_of[: len(a_rows[rows])] for one_of in memory)
        if shared is None:
            m.zero_()
        for maps, k, p_k in _modules(shared, specialized, p_rows, rows):
            activation = m if p_k is None else room
            torch.ops.aten.silu.out(_wide(maps.pre_activation(k, rows), activation), out=activation)
            if p_k is not None:
                m.addcmul_(p_k, activation)
        if residual is None:
            write_product(m.add_(1), _wide(a_rows[rows], room), output_rows[rows])
        else:
            scaled = torch.add(m, 1, out=room).mul_(a_rows[rows])
            output_rows[rows] = scaled.addcmul_(m, residual_rows[rows])
    return output


def mix_gradients(
    gradient: Tensor,
    a: Tensor,
    residual: Tensor | None,
    p: Tensor | None,
    shared: PreActivations | None,
    specialized: PreActivations | None,
    dtype: torch.dtype,
    needs: tuple[bool, bool, bool],
) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    """The gradients of a, residual and p, as far as ``needs`` says, from that of :func:`mix`'s result.

    Those of the pre-activations go where these came from.
    """
    results = [
        torch.empty_like(tensor, memory_format=torch.contiguous_format) if tensor is not None and needed else None
        for tensor, needed in zip((a, residual, p), needs, strict=True)
    ]
    to_a, to_residual, to_p = (rows_of(tensor) for tensor in results)
    a_rows, residual_rows, p_rows, gradient_rows = (rows_of(tensor) for tensor in (a, residual, p, gradient))
    memory, one = _memory(5, a_rows, dtype), torch.ones((), dtype=dtype, device=a.device)
    for rows in chunks(a_rows):
        g, to_m, m, gate, room = (one_of[: len(a_rows[rows])] for one_of in memory)
        g = _wide(gradient_rows[rows], g)
        torch.mul(g, _wide(a_rows[rows], to_m), out=to_m)
        if residual is not None:
            to_m.addcmul_(g, residual_rows[rows])
        if shared is None:
            m.zero_()
        for maps, k, p_k in _modules(shared, specialized, p_rows, rows):
            activation = m if p_k is None else room
            w = _wide(maps.pre_activation(k, rows), activation)
            torch.sigmoid(w, out=gate)
            torch.mul(gate, w, out=activation)
            # SiLU'(w) = gate + activation (1 - gate), of the one exponential that SiLU takes as well.
            slope = torch.lerp(activation, one, gate, out=gate)
            if p_k is not None:
                m.addcmul_(p_k, activation)
                if to_p is not None:
                    to_p[rows, k] = activation.mul_(to_m).sum(dim=-1)
            if maps.is_needed:
                maps.take(k, rows, slope if p_k is None else slope.mul_(p_k), to_m)
        if to_residual is not None:
            torch.mul(g, m, out=to_residual[rows])
        if to_a is not None:
            write_product(m.add_(1), g, to_a[rows])
    return results[0], results[1], results[2]


def chunks(rows: Tensor) -> Iterator[slice]:
    """Slices of ``[tokens, ...]``, one after the other."""
    chunk = _chunk(rows)
    # Without tokens there is one all the same, so that gradients that add up over chunks are zeros and not missing.
    for start in range(0, max(len(rows), 1), chunk):
        yield slice(start, start + chunk)


def _chunk(rows: Tensor) -> int:
    return CPU_CHUNK if rows.device.type == "cpu" else CHUNK


def write_product(x: Tensor, y: Tensor, into: Tensor) -> None:
    """``x * y`` to where it belongs; ``x`` may be overwritten.

    An operation on two types makes temporary tensors, which cost several times what it does itself.
    """
    if into.dtype == x.dtype:
        torch.mul(x, y, out=into)
    else:
        into.copy_(x.mul_(y))


def rows_of(tensor: Tensor | None) -> Any:
    """``(batch, seq, width)`` as ``[tokens, width]``; None of None."""
    return None if tensor is None else tensor.reshape(-1, tensor.shape[-1])


def common_type(*tensors: Tensor | None) -> torch.dtype:
    """The type that holds all of these and is at least float32."""
    dtype = torch.float32
    for tensor in tensors:
        dtype = dtype if tensor is None else torch.promote_types(dtype, tensor.dtype)
    return dtype


def _modules(
    shared: PreActivations | None, specialized: PreActivations | None, p_rows: Tensor | None, rows: slice
) -> Iterator[tuple[PreActivations, int, Tensor | None]]:
    """All modules in turn: where its w is, under which number, and its p ``[rows, 1]``.

    The shared one, which has no p, comes first: its activation is the first term of m, written to where m is added up.
    """
    if shared is not None:
        yield shared, 0, None
    if specialized is not None and p_rows is not None:
        for k in range(specialized.modules):
            yield specialized, k, p_rows[rows, k, None]


def _memory(count: int, like: Tensor, dtype: torch.dtype) -> list[Tensor]:
    """Room for ``count`` chunks, which every chunk uses again, so that it lies in the cache."""
    tokens, d = like.shape
    size = min(tokens, _chunk(like))
    return [torch.empty(size, d, dtype=dtype, device=like.device) for _ in range(count)]


def _wide(narrow: Tensor, room: Tensor) -> Tensor:
    """``narrow`` in the type of ``room``, and in its memory unless it has that type already."""
    return narrow if narrow.dtype == room.dtype else room.copy_(narrow)
