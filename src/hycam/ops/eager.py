"""The modulation as ordinary products: one for all maps of h to rank r, then one for each B.

The specialised modules cannot be fused into one map, since each has its own SiLU before the mix. But N is multiplied
into A, which costs r by r by d once and saves r by r for every token; all K maps to rank r are one product; and only
the K maps back to d follow one another, so no tensor of K times the hidden state is formed. What follows the products
is one operation, see :mod:`hycam.ops.mixing`.
"""

from __future__ import annotations

from itertools import chain

from torch import Tensor
from torch.nn import functional as F

from hycam.ops.dispatch import Backend, register
from hycam.ops.mixing import mix
from hycam.ops.products import HiddenProducts, in_product_type, router_map
from hycam.ops.routing import route
from hycam.ops.weights import Dense, LowRank, Modulation


def modulate(
    h: Tensor, a: Tensor, weights: Modulation, noise: Tensor | None = None, residual: Tensor | None = None
) -> tuple[Tensor, tuple[Tensor, Tensor] | None]:
    """``a * (1 + m)``, or ``a * (1 + m) + m * residual``; m, arguments, result: :func:`hycam.ops.reference.modulate`.

    ``h`` is cast to the weights' type (PEFT keeps adapters in float32 on a bfloat16 backbone); all that follows the
    products is at least float32, and the result has the type of ``a``. Written ``a * (1 + m)`` and not ``a + a * m``,
    so that an infinite ``a`` under an untrained adapter (m = 0) stays infinite instead of becoming NaN.
    """
    shared, specialized, router = in_product_type(weights.shared), in_product_type(weights.specialized), weights.router
    of_shared, of_specialized = _of_hidden(shared), _of_hidden(specialized)
    maps = [*of_shared, *of_specialized, *([] if router is None else [router_map(router)])]
    products = HiddenProducts.apply(h.flatten(0, -2), *chain.from_iterable(maps))
    products = [product.unflatten(0, h.shape[:-1]) for product in products]
    w_shared = _mapped_back(shared, products[: len(of_shared)])
    w_specialized = _mapped_back(specialized, products[len(of_shared) :][: len(of_specialized)])
    routing = p = None
    if router is not None:
        logits = products[-1]
        p = route(logits, noise, router)
        routing = (p, logits)
    return mix(a, residual, p, w_shared[0] if w_shared else None, *w_specialized), routing


def _of_hidden(part: Dense | LowRank | None) -> list[tuple[Tensor, Tensor | None]]:
    """Weights ``[n, d]`` and biases ``[n]`` of what a part maps h with: its own, or one map to all its ranks."""
    if part is None:
        return []
    if isinstance(part, LowRank):
        inner, bias = part.inner()
        return [(inner.reshape(-1, inner.shape[-1]), None if bias is None else bias.flatten())]
    if part.weight.dim() == 2:
        return [(part.weight, part.bias)]
    return list(zip(part.weight, [None] * len(part.weight) if part.bias is None else part.bias, strict=True))


def _mapped_back(part: Dense | LowRank | None, of_hidden: list[Tensor]) -> list[Tensor]:
    """What goes into the SiLU of each module of a part, ``(batch, seq, d)``, from the products of its own maps."""
    if not isinstance(part, LowRank):
        return of_hidden
    d, r = part.B.shape[-2:]
    B = part.B.reshape(-1, d, r)
    biases = [None] * len(B) if part.B_bias is None else part.B_bias.reshape(-1, d)
    each_v = of_hidden[0].chunk(len(B), dim=-1)
    return [_scaled(F.linear(v, B_k, bias), part.scale) for v, B_k, bias in zip(each_v, B, biases, strict=True)]


def _scaled(w: Tensor, scale: float) -> Tensor:
    return w if scale == 1.0 else w * scale


register(Backend("eager", modulate))
