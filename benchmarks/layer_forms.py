"""One modulation layer at a given shape, in each of the forms that the benchmarks compare."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from hycam.ops import Dense, LowRank, Modulation, Router, gumbel_noise, modulate

from .interleaved import DEVICE
from .released_structure import ReleasedStructure

Forward = Callable[[], tuple[Tensor, tuple[Tensor, Tensor] | None]]


@dataclass(frozen=True)
class Shape:
    """``d``, the hidden size; ``batch`` times ``seq`` tokens; ``modules`` is K, ``r`` their rank."""

    d: int
    batch: int
    seq: int
    modules: int = 5
    r: int = 64

    def __str__(self) -> str:
        return f"d = {self.d}, {self.batch} x {self.seq:,} tokens"


SMOLLM2 = Shape(576, 2, 1200)
LLAMA_2_7B = Shape(4096, 2, 1200)


class Layer:
    """The inputs and weights of one layer, drawn at random, and the gradients that come back to it.

    Args:
        shape: its sizes.
        dtype: the backbone's type, that of h and a.
        adapter: the type of the adapter's weights.
        device: where it is.
    """

    def __init__(self, shape: Shape, dtype: torch.dtype, adapter: torch.dtype, device: str = DEVICE) -> None:
        generator = torch.Generator(device).manual_seed(2333)
        d, r, K = shape.d, shape.r, shape.modules

        def draw(*sizes: int, like: torch.dtype, scale: float = 1.0) -> Tensor:
            drawn = torch.randn(*sizes, generator=generator, device=device) * scale
            return drawn.to(like).requires_grad_()

        def weight(*sizes: int) -> Tensor:
            return draw(*sizes, like=adapter, scale=1 / math.sqrt(sizes[-1]))

        specialized = LowRank(weight(K, r, d), weight(K, r, r), weight(K, d, r))
        self.weights = Modulation(Dense(weight(d, d)), specialized, Router(weight(K, d)))
        tokens = (shape.batch, shape.seq)
        self.h, self.a = draw(*tokens, d, like=dtype), draw(*tokens, d, like=dtype)
        wide = torch.promote_types(adapter, torch.float32)
        self.noise = gumbel_noise(torch.Size((*tokens, K)), self.h.device, wide)
        # What the backbone sends back to the output, and the balance loss to p and the logits.
        self.above = [draw(*tokens, d, like=dtype).detach(), *(draw(*tokens, K, like=wide).detach() for _ in "pl")]
        # The second is not the released code, but the same structure with a kinder layout.
        self.structures = {
            "released": ReleasedStructure(self.weights),
            "stacked_first": ReleasedStructure(self.weights, stack_dim=0),
        }

    def parameters(self, form: str) -> list[Tensor]:
        """What a form trains; the structures of modules have copies of their own."""
        if form in self.structures:
            return list(self.structures[form].parameters())
        shared, specialized, router = self.weights.shared, self.weights.specialized, self.weights.router
        assert isinstance(shared, Dense) and isinstance(specialized, LowRank) and router is not None
        return [shared.weight, specialized.A, specialized.N, specialized.B, router.weight]

    def forward(self, form: str) -> Forward:
        """``form`` is ``"released"``, ``"stacked_first"`` or the name of a backend."""
        if form in self.structures:
            return partial(self.structures[form], self.h, self.a, self.noise)
        return partial(modulate, self.h, self.a, self.weights, self.noise, backend=form)

    def step(self, form: str) -> Callable[[], tuple[Tensor, ...]]:
        """Forward and backward: gradients of h, a and all weights, from those of the output, p and the logits."""
        forward, trained = self.forward(form), [self.h, self.a, *self.parameters(form)]

        def forward_and_backward() -> tuple[Tensor, ...]:
            output, routing = forward()
            assert routing is not None
            return torch.autograd.grad([output, *routing], trained, self.above)

        return forward_and_backward

    def products(self) -> Callable[[], None]:
        """The matrix products alone that forward and backward are made of, into memory that is already there.

        What an exact form takes at least, were all else free and nothing computed twice.
        """
        shared, specialized, router = self.weights.shared, self.weights.specialized, self.weights.router
        assert isinstance(shared, Dense) and isinstance(specialized, LowRank) and router is not None
        W, R = shared.weight.detach(), router.weight.detach()
        A, N, B = specialized.A.detach().flatten(0, 1), specialized.N.detach(), specialized.B.detach()
        h = self.h.detach().flatten(0, 1).to(W.dtype)
        tokens, (K, r) = len(h), N.shape[:2]
        s, dh, u, logits = torch.empty_like(h), torch.empty_like(h), h @ A.T, h @ R.T
        v, w = h.new_empty(K, tokens, r), torch.empty_like(h)
        dW, dA, dN, dB, dR = map(torch.empty_like, (W, A, N, B, R))
        each_u = u.unflatten(1, (K, r)).transpose(0, 1)

        def forward_and_backward() -> None:
            for weight, out in ((W, s), (A, u), (R, logits)):
                torch.mm(h, weight.T, out=out)
            torch.bmm(each_u, N.transpose(1, 2), out=v)
            for k in range(K):
                torch.mm(v[k], B[k].T, out=w)
                torch.mm(w.T, v[k], out=dB[k])
                torch.mm(w, B[k], out=v[k])
            torch.bmm(v.transpose(1, 2), each_u, out=dN)
            torch.bmm(v, N, out=v.clone())
            for weight, out, gradient in ((W, s, dW), (A, u, dA), (R, logits, dR)):
                torch.mm(out.T, h, out=gradient)
                torch.mm(out, weight, out=dh)

        return forward_and_backward

    def check_same(self, form: str) -> None:
        """Raises unless a form agrees with the released structure, for otherwise their costs could not be compared.

        Outputs and gradients of h and a, relative to their norm; bfloat16 rounds several intermediate results.
        """
        tolerance = 3e-2 if self.h.dtype == torch.bfloat16 else 1e-5
        pairs = zip(
            (self.forward(form)()[0], *self.step(form)()[:2]),
            (self.forward("released")()[0], *self.step("released")()[:2]),
            strict=True,
        )
        for name, (one, other) in zip(("output", "gradient of h", "gradient of a"), pairs, strict=True):
            error = ((one.double() - other.double()).norm() / other.double().norm()).item()
            if not error < tolerance:  # NaN is not
                raise AssertionError(f"{form} differs from the released structure in its {name}: {error:.1e} relative.")
