"""What follows the products of the modulation, with gradients: SiLU, the mix of the modules, the scaling of a.

Each operation is a pass over tensors of the hidden state's size, so they take some tokens at a time: each operation
then finds the last one's result in the processor's cache, and memory is reused. Only the inputs are kept for the
backward pass.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

# Tokens at a time. On a CPU a chunk of each tensor fits into the cores' caches and is enough work for two threads; with
# half as many they wait for each other. Elsewhere the launch of each operation counts.
CPU_CHUNK = 512
CHUNK = 2048


def mix(a: Tensor, residual: Tensor | None, p: Tensor | None, shared: Tensor | None, *specialized: Tensor) -> Tensor:
    """``a * (1 + m)``, or ``a * (1 + m) + m * residual``, with ``m = SiLU(w_shared) + sum_k p_k SiLU(w_k)``.

    Computed in at least float32; the result has the type of ``a``.

    Args:
        a, residual: ``(batch, seq, d)``.
        p: ``(batch, seq, K)``, where there are specialised modules.
        shared, specialized: the pre-activations w, ``(batch, seq, d)`` each.
    """
    # A compiler fuses the operations better than they can be ordered by hand.
    mixed = _mix_plainly if torch.compiler.is_compiling() else _Mix.apply
    return mixed(a, residual, p, shared, *specialized)


def _mix_plainly(
    a: Tensor, residual: Tensor | None, p: Tensor | None, shared: Tensor | None, *specialized: Tensor
) -> Tensor:
    """:func:`mix` in operations that can be differentiated any number of times."""
    dtype = _common_type(a, p, shared, *specialized)
    m = torch.zeros((), dtype=dtype, device=a.device) if shared is None else F.silu(shared.to(dtype))
    if p is not None:
        for p_k, w in zip(p.split(1, dim=-1), specialized, strict=True):
            m = m + p_k * F.silu(w.to(dtype))
    output = a * (1 + m)
    return (output if residual is None else output + m * residual).to(a.dtype)


class _Mix(torch.autograd.Function):
    """:func:`mix` in few passes over memory."""

    @staticmethod
    def forward(ctx: Any, *inputs: Any) -> Tensor:
        ctx.save_for_backward(*inputs)
        return _forward(*inputs)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        inputs = ctx.saved_tensors
        if not torch.is_grad_enabled():
            return _backward(gradient, inputs, ctx.needs_input_grad)
        # The gradients are differentiated again. Aliases keep the inner pass from going through inputs that were
        # computed from one another, which autograd does itself.
        inputs = [None if one is None else one.view_as(one) for one in inputs]
        needed = [at for at, needs in enumerate(ctx.needs_input_grad) if needs]
        found = torch.autograd.grad(_mix_plainly(*inputs), [inputs[at] for at in needed], gradient, create_graph=True)
        by_position = dict(zip(needed, found, strict=True))
        return tuple(by_position.get(at) for at in range(len(inputs)))


def _forward(
    a: Tensor, residual: Tensor | None, p: Tensor | None, shared: Tensor | None, *specialized: Tensor
) -> Tensor:
    dtype = _common_type(a, p, shared, *specialized)
    output = torch.empty_like(a, memory_format=torch.contiguous_format)
    a_rows, residual_rows, p_rows, output_rows = map(_rows, (a, residual, p, output))
    modules: list[tuple[Tensor, int | None]] = [] if shared is None else [(_rows(shared), None)]
    modules += [(_rows(w), k) for k, w in enumerate(specialized)]
    memory = _memory(2, a_rows, dtype)
    for rows in _chunks(a_rows):
        m, room = (one_of[: len(a_rows[rows])] for one_of in memory)
        if shared is None:
            m.zero_()
        for w_rows, k in modules:  # the shared one first: its activation is the first term of m, where m is added up
            activation = m if k is None else room
            torch.ops.aten.silu.out(_wide(w_rows[rows], activation), out=activation)
            if k is not None:
                m.addcmul_(p_rows[rows, k, None], activation)
        if residual is None:
            _write_product(m.add_(1), _wide(a_rows[rows], room), output_rows[rows])
        else:
            scaled = torch.add(m, 1, out=room).mul_(a_rows[rows])
            output_rows[rows] = scaled.addcmul_(m, residual_rows[rows])
    return output


def _backward(gradient: Tensor, inputs: Sequence[Tensor | None], needs: Sequence[bool]) -> tuple[Tensor | None, ...]:
    """The gradients of those inputs of :func:`mix` that ``needs`` marks, from the gradient of its result."""
    results = [
        torch.empty_like(one, memory_format=torch.contiguous_format) if one is not None and needed else None
        for one, needed in zip(inputs, needs, strict=True)
    ]
    to_a, to_residual, to_p, *to_modules = map(_rows, results)
    a_rows, residual_rows, p_rows, *module_rows = map(_rows, inputs)
    gradient_rows, dtype = _rows(gradient), _common_type(inputs[0], *inputs[2:])
    memory, one = _memory(5, a_rows, dtype), torch.ones((), dtype=dtype, device=a_rows.device)
    for rows in _chunks(a_rows):
        g, to_m, m, gate, room = (one_of[: len(a_rows[rows])] for one_of in memory)
        g = _wide(gradient_rows[rows], g)
        torch.mul(g, _wide(a_rows[rows], to_m), out=to_m)
        if residual_rows is not None:
            to_m.addcmul_(g, residual_rows[rows])
        if module_rows[0] is None:
            m.zero_()
        for at, (w_rows, to_w) in enumerate(zip(module_rows, to_modules, strict=True)):
            if w_rows is None:
                continue
            p_k = None if at == 0 else p_rows[rows, at - 1, None]
            activation = m if p_k is None else room
            w = _wide(w_rows[rows], activation)
            torch.sigmoid(w, out=gate)
            torch.mul(gate, w, out=activation)
            # SiLU'(w) = gate + activation (1 - gate), of the one exponential that SiLU takes as well.
            slope = torch.lerp(activation, one, gate, out=gate)
            if p_k is not None:
                m.addcmul_(p_k, activation)
                if to_p is not None:
                    to_p[rows, at - 1] = activation.mul_(to_m).sum(dim=-1)
            if to_w is not None:
                _write_product(slope if p_k is None else slope.mul_(p_k), to_m, to_w[rows])
        if to_residual is not None:
            torch.mul(g, m, out=to_residual[rows])
        if to_a is not None:
            _write_product(m.add_(1), g, to_a[rows])
    return tuple(results)


def _chunks(rows: Tensor) -> Iterator[slice]:
    """Slices of ``[tokens, ...]``, one after the other."""
    chunk = _chunk(rows)
    for start in range(0, len(rows), chunk):
        yield slice(start, start + chunk)


def _chunk(rows: Tensor) -> int:
    return CPU_CHUNK if rows.device.type == "cpu" else CHUNK


def _write_product(x: Tensor, y: Tensor, into: Tensor) -> None:
    """Writes ``x * y``; ``x`` may be overwritten.

    An operation on two types makes temporary tensors, which cost several times what it does itself.
    """
    if into.dtype == x.dtype:
        torch.mul(x, y, out=into)
    else:
        into.copy_(x.mul_(y))


def _rows(tensor: Tensor | None) -> Any:
    """``(batch, seq, width)`` as ``[tokens, width]``; None of None."""
    return None if tensor is None else tensor.reshape(-1, tensor.shape[-1])


def _common_type(*tensors: Tensor | None) -> torch.dtype:
    """The type that holds all of these and is at least float32."""
    dtype = torch.float32
    for tensor in tensors:
        dtype = dtype if tensor is None else torch.promote_types(dtype, tensor.dtype)
    return dtype


def _memory(count: int, like: Tensor, dtype: torch.dtype) -> list[Tensor]:
    """Memory for ``count`` chunks, reused by every chunk so that it stays in the cache."""
    tokens, d = like.shape
    size = min(tokens, _chunk(like))
    return [torch.empty(size, d, dtype=dtype, device=like.device) for _ in range(count)]


def _wide(narrow: Tensor, room: Tensor) -> Tensor:
    """``narrow`` in the type of ``room``, and in its memory unless it has that type already."""
    return narrow if narrow.dtype == room.dtype else room.copy_(narrow)
