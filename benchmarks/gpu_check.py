"""The GPU's kernels against the reference in float64, on fresh random inputs, before anything is measured."""

from __future__ import annotations

import itertools

import torch
from torch import Tensor

from hycam.errors import HycamError
from hycam.ops import Modulation, reference, set_backend
from hycam.ops.weights import Dense, LowRank, Router

from .interleaved import DEVICE
from .layer_forms import Layer, Shape

TOKENS, WIDTHS = (1, 7, 300), (576, 1000)
MODULES_AND_RANKS = ((1, 4), (2, 16), (5, 16), (8, 64), (5, 128))  # each is compiled anew, so they are few
# Relative to the norm of the exact result. float32 sums over at most 1,000 products; bfloat16 has 8 bits and rounds
# several intermediate results.
TOLERANCE = {torch.float32: 1e-5, torch.bfloat16: 2e-2}


def kernels() -> str:
    """``"triton"``, or, where it does not work (then it says why), ``"recompute"``."""
    try:
        set_backend("triton").close()
    except HycamError as error:
        print(f"{error}\nGoing on with recompute, to walk through the rest.")
        return "recompute"
    return "triton"


def check_kernels(form: str) -> None:
    """Outputs and all gradients of a backend over odd sizes; prints the worst error of each type.

    Raises:
        AssertionError: a result is farther from the exact one than its type explains, or is no number.
    """
    shapes = [
        *(Shape(d, 1, tokens) for d, tokens in itertools.product(WIDTHS, TOKENS)),
        *(Shape(576, 2, 33, modules, r) for modules, r in MODULES_AND_RANKS),
    ]
    for dtype, tolerance in TOLERANCE.items():
        worst, where = 0.0, ""
        for shape in shapes:
            for name, error in _errors(Layer(shape, dtype, dtype), form):
                if not error <= tolerance:  # NaN is not
                    raise AssertionError(f"{form}, {dtype}, {shape}: {name} is off by {error:.1e}.")
                if error > worst:
                    worst, where = error, f"{name} at {shape}, K = {shape.modules}, r = {shape.r}"
        print(f"{form} in {dtype} on {DEVICE}: {len(shapes)} shapes, largest relative error {worst:.1e} ({where})")


def _errors(layer: Layer, form: str) -> list[tuple[str, float]]:
    _poison(layer)
    output, routing = layer.forward(form)()
    assert routing is not None
    trained = [layer.h, layer.a, *layer.parameters(form)]
    gradients = torch.autograd.grad([output, *routing], trained, layer.above)
    h, a, *weights = (tensor.detach().double().requires_grad_() for tensor in trained)
    shared, A, N, B, router = weights
    wide = Modulation(Dense(shared), LowRank(A, N, B), Router(router))
    exact, exact_routing = reference.modulate(h, a, wide, layer.noise.double())
    assert exact_routing is not None
    above = [gradient.double() for gradient in layer.above]
    exact_gradients = torch.autograd.grad([exact, *exact_routing], [h, a, *weights], above)
    names = ("output", "p", "logits", *(f"gradient of {name}" for name in ("h", "a", "shared", "A", "N", "B", "W_r")))
    got, wanted = [output, *routing, *gradients], [exact, *exact_routing, *exact_gradients]
    return [(name, _error(*pair)) for name, *pair in zip(names, got, wanted, strict=True)]


def _poison(layer: Layer) -> None:
    """Fills memory that the allocator will hand out again with NaN, so that whatever is not written shows."""
    for _ in range(4):
        torch.full_like(layer.h, float("nan"))


def _error(got: Tensor, wanted: Tensor) -> float:
    return ((got.double() - wanted).norm() / wanted.norm().clamp(min=1e-30)).item()
