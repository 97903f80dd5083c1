"""The backends of the modulation by name, where each runs, and the choice of the process."""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from hycam.errors import HycamError, unknown
from hycam.ops.weights import Modulation

Routing = tuple[Tensor, Tensor]
"""``(p, logits)``, each ``(batch, seq, K)``."""

AUTO = "auto"

_log = logging.getLogger(__name__)
_process_wide = AUTO


@dataclass(frozen=True)
class Backend:
    """One implementation of the modulation.

    Attributes:
        name: what :func:`set_backend` and recipes call it.
        modulate: computes it; arguments and result are those of :func:`hycam.ops.reference.modulate`.
        unavailable: says why it does not work in this process; None where it does.
        unsupported: says why it does not take ``h``, ``a`` and the weights of a call; None where it does.
        automatic_on: the type of device on which ``"auto"`` takes it where it can.
    """

    name: str
    modulate: Callable[[Tensor, Tensor, Modulation, Tensor | None, Tensor | None], tuple[Tensor, Routing | None]]
    unavailable: Callable[[], str | None] = lambda: None
    unsupported: Callable[[Tensor, Tensor, Modulation], str | None] = lambda h, a, weights: None
    automatic_on: str | None = None


BACKENDS: dict[str, Backend] = {}
"""By name. Each file of :mod:`hycam.ops` with a backend puts it here when it is imported."""


def register(backend: Backend) -> None:
    BACKENDS[backend.name] = backend


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
    backend: str = AUTO,
) -> tuple[Tensor, Routing | None]:
    """The modulated attention output, and ``(p, logits)`` with their gradients for the balance loss (Eq. 10).

    ``"auto"`` takes ``triton`` on CUDA with a working driver, for the types, ranks and variants that its kernels
    support; else ``eager``. It ignores which tensors require a gradient, so that a saved adapter and the same one
    loaded frozen give the same bits in the same mode. A named backend is taken on any device; what it cannot compute
    goes to ``eager``, with a warning. Each choice is logged once in a process, with its reason.

    Args:
        h, a, weights, noise, residual: see :func:`hycam.ops.reference.modulate`.
        backend: ``"auto"`` or one of :data:`BACKENDS`.

    Raises:
        HycamError: there is no such backend, or it does not work here.
    """
    choice = _automatic(h, a, weights) if backend == AUTO else _named(backend, h, a, weights)
    if not torch.compiler.is_compiling():  # logging would break the graph
        _say(choice)
    return BACKENDS[choice.name].modulate(h, a, weights, noise, residual)


def set_backend(name: str) -> ExitStack:
    """Chooses the backend of every HyCAM layer in this process, from now on or for the length of a ``with`` block.

    ::

        hycam.set_backend("recompute")

        with hycam.set_backend("reference"):
            model(input_ids=ids, labels=labels).loss.backward()

    Gradient checkpointing computes layers again in the backward pass, which must then be in the block as well.

    Args:
        name: ``"auto"``, the initial value, or one of :data:`BACKENDS`.

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


@functools.cache
@torch.compiler.assume_constant_result
def unavailable(name: str) -> str | None:
    """Why a backend does not work in this process; None where it does."""
    return BACKENDS[name].unavailable()


def _set(name: str) -> None:
    global _process_wide
    _process_wide = name


def _check(name: str) -> None:
    if name == AUTO:
        return
    if name not in BACKENDS:
        raise unknown("backend", name, [AUTO, *BACKENDS])
    reason = unavailable(name)
    if reason is not None:
        raise HycamError(
            f'The backend "{name}" does not work here: {reason}. Use "auto", which takes what works, or "eager" or '
            '"recompute" (less memory), which run on every device.'
        )


def _automatic(h: Tensor, a: Tensor, weights: Modulation) -> _Choice:
    refused = None
    for name, backend in BACKENDS.items():
        if backend.automatic_on != h.device.type:
            continue
        reason = unavailable(name) or backend.unsupported(h, a, weights)
        if reason is None:
            return _Choice(name, "it takes what this device and adapter ask for")
        refused = f"not {name}, because {reason}"
    if refused is None:
        return _Choice("eager", f"the tensors are on {h.device.type}")
    return _Choice("eager", refused, is_fallback=True)


def _named(name: str, h: Tensor, a: Tensor, weights: Modulation) -> _Choice:
    _check(name)
    reason = BACKENDS[name].unsupported(h, a, weights)
    if reason is None:
        return _Choice(name, "it was asked for")
    return _Choice("eager", f"not {name}, because {reason}", is_fallback=True)


@functools.cache
def _say(choice: _Choice) -> None:
    level = logging.WARNING if choice.is_fallback else logging.INFO
    _log.log(level, "HyCAM computes with the backend %s: %s.", choice.name, choice.reason)
