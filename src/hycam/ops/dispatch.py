"""Which implementation of the modulation runs where, and the process-wide choice of one by name."""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable
from contextlib import ExitStack
from types import ModuleType
from typing import NamedTuple

import torch
from torch import Tensor

from hycam.errors import HycamError, unknown
from hycam.ops import eager, lean, reference
from hycam.ops import packed as packing
from hycam.ops.packed import Packed
from hycam.ops.weights import Modulation

BACKENDS = ("auto", "reference", "eager", "lean", "triton")
# Nothing can be trained with packed weights: the name is for evaluation alone, and no recipe offers it.
_NAMES = (*BACKENDS, "packed")

_log = logging.getLogger(__name__)
_process_wide = "auto"


class _Choice(NamedTuple):
    name: str
    reason: str
    is_fallback: bool = False


def modulate(
    h: Tensor,
    a: Tensor,
    weights: Modulation,
    noise: Tensor | None = None,
    residual: Tensor | None = None,
    backend: str = "auto",
    packed: Callable[[], Packed] | None = None,
) -> tuple[Tensor, tuple[Tensor, Tensor] | None]:
    """The modulated attention output, and ``(p, logits)`` with their gradients for the balance loss (Eq. 10).

    ``"auto"`` takes ``packed`` where gradients are off, there is no noise and the caller keeps packed weights; else
    ``triton`` on CUDA with a working driver, for the types, ranks and variants that its kernels take; else ``eager``.
    It does not ask which tensors require a gradient: an adapter that was loaded frozen and the one that was saved give
    the same bits in the same mode. A backend that is named is taken on any device. What it cannot compute goes to
    ``eager``, with a warning. Each choice is logged with its reason once in a process.

    Args:
        h, a, weights, noise, residual: see :func:`hycam.ops.reference.modulate`.
        backend: one of :data:`BACKENDS`, or ``"packed"``.
        packed: gives the packed weights where the caller keeps them.

    Raises:
        HycamError: there is no such backend, or it does not work here.
    """
    may_pack = noise is None and not torch.is_grad_enabled()
    if backend == "auto":
        choice = _automatic(h, a, weights, may_pack and packed is not None)
    else:
        choice = _named(backend, h, a, weights, may_pack)
    if not torch.compiler.is_compiling():  # logging would break the graph
        _say(choice)
    if choice.name == "packed":
        return packing.modulate(h, a, packing.pack(weights) if packed is None else packed(), residual)
    return _module(choice.name).modulate(h, a, weights, noise, residual)


def set_backend(name: str) -> ExitStack:
    """Chooses the backend of every HyCAM layer in this process, from now on or for the length of a ``with`` block.

    ::

        hycam.set_backend("lean")

        with hycam.set_backend("reference"):
            model(input_ids=ids, labels=labels).loss.backward()

    Gradient checkpointing computes layers again in the backward pass, so that has to lie in the block as well.

    Args:
        name: one of :data:`BACKENDS`, of which ``"auto"`` is the start, or ``"packed"`` for evaluation.

    Raises:
        HycamError: there is no such backend, or it does not work here.
    """
    _check(name)
    restore = ExitStack()
    restore.callback(_set, _process_wide)
    _set(name)
    return restore


def current_backend() -> str:
    """The name that :func:`set_backend` was given last."""
    return _process_wide


def unavailable(name: str) -> str | None:
    """Why a backend does not work in this process; None where it does."""
    return _triton_unavailable() if name == "triton" else None


def _set(name: str) -> None:
    global _process_wide
    _process_wide = name


def _check(name: str) -> None:
    if name not in _NAMES:
        raise unknown("backend", name, _NAMES)
    reason = unavailable(name)
    if reason is not None:
        raise HycamError(
            f'The backend "{name}" does not work here: {reason}. Use "auto", which takes what works, or "eager" or '
            '"lean" (less memory), which run on every device.'
        )


def _automatic(h: Tensor, a: Tensor, weights: Modulation, may_pack: bool) -> _Choice:
    if may_pack:
        return _Choice("packed", "gradients are off")
    if h.device.type != "cuda":
        return _Choice("eager", f"the tensors are on {h.device.type}")
    reason = _triton_unavailable() or _module("triton").supports(h, a, weights)
    if reason is None:
        return _Choice("triton", "its kernels take what this device and adapter ask for")
    return _Choice("eager", f"not triton, because {reason}", is_fallback=True)


def _named(backend: str, h: Tensor, a: Tensor, weights: Modulation, may_pack: bool) -> _Choice:
    _check(backend)
    reason = None
    if backend == "triton":
        reason = _module("triton").supports(h, a, weights)
    elif backend == "packed" and not may_pack:
        reason = "packed weights are for a forward without gradients (torch.no_grad) and without noise"
    elif backend == "packed":
        reason = packing.supports(weights)
    if reason is None:
        return _Choice(backend, "it was asked for")
    return _Choice("eager", f"not {backend}, because {reason}", is_fallback=True)


@functools.cache
def _say(choice: _Choice) -> None:
    level = logging.WARNING if choice.is_fallback else logging.INFO
    _log.log(level, "HyCAM computes with the backend %s: %s.", choice.name, choice.reason)


def _module(name: str) -> ModuleType:
    if name == "triton":
        from hycam.ops import triton_kernels  # Triton is imported only where it may be used

        return triton_kernels
    return {"reference": reference, "eager": eager, "lean": lean}[name]


@torch.compiler.assume_constant_result
@functools.cache
def _triton_unavailable() -> str | None:
    return _module("triton").is_available()
