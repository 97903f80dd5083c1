"""The modulation on CUDA: matrix products by cuBLAS, the rest in one Triton kernel forward and three backward.

For the backward pass it keeps h, a, the shared pre-activation and m, each once, and the low-rank activations. Triton is
imported with the first call. With the environment variable TRITON_INTERPRET=1 set before that, the kernels run on CPU
tensors in Triton's interpreter, which is for tests: it is exact and very slow.
"""

from __future__ import annotations

import importlib.util
import os

import torch
from torch import Tensor
from torch.nn import functional as F

from hycam.ops.dispatch import Backend, register
from hycam.ops.products import HiddenProducts, in_product_type, router_map
from hycam.ops.routing import route
from hycam.ops.weights import Dense, LowRank, Modulation

TYPES = (torch.float32, torch.bfloat16, torch.float16)
LARGEST_RANK = 128


def interpreted() -> bool:
    """Whether Triton was told to interpret its kernels on the CPU."""
    return os.environ.get("TRITON_INTERPRET") == "1"


def unavailable() -> str | None:
    """Why the kernels cannot run here; None where they can. They need the package and a driver."""
    if importlib.util.find_spec("triton") is None:
        return "the package triton is not installed"
    if interpreted():
        return None
    if not torch.cuda.is_available():
        return "no CUDA device has a working driver"
    if not torch.version.cuda:
        return "this PyTorch is not built for CUDA"
    try:
        from triton.runtime import driver

        driver.active.get_current_target()
    # Of any kind: it compiles C code, which takes a compiler, Python's headers and libcuda.
    except Exception as error:
        return f"Triton's own driver does not start ({type(error).__name__}: {error})"
    return None


def unsupported(h: Tensor, a: Tensor, weights: Modulation) -> str | None:
    """Why :func:`modulate` does not take these; None where it does. It does not ask :func:`unavailable`.

    The number of modules, the hidden size, biases, ``scale``, hard routing and the kind of shared module are free.
    """
    specialized = weights.specialized
    if not isinstance(specialized, LowRank):
        return "the kernels are for low-rank specialised modules"
    rank = specialized.A.shape[1]
    if rank > LARGEST_RANK:
        return f"the rank {rank} of the specialised modules is larger than {LARGEST_RANK}"
    of_shared = {} if weights.shared is None else {f"the shared {name}": x for name, x in vars(weights.shared).items()}
    for name, value in {"h": h, "a": a, **of_shared, **vars(specialized)}.items():
        if isinstance(value, Tensor) and value.dtype not in TYPES:
            return f"the type of {name} is {value.dtype}, not one of {', '.join(map(str, TYPES))}"
    if interpreted():
        return None
    if h.device.type != "cuda":
        return f"the tensors are on {h.device}, not on a CUDA device"
    if torch.cuda.get_device_capability(h.device) < (8, 0):
        return f"{torch.cuda.get_device_name(h.device)} is older than compute capability 8.0"
    return None


def modulate(
    h: Tensor, a: Tensor, weights: Modulation, noise: Tensor | None = None, residual: Tensor | None = None
) -> tuple[Tensor, tuple[Tensor, Tensor] | None]:
    """``a * (1 + m)``, or ``a * (1 + m) + m * residual``; m, arguments, result: :func:`hycam.ops.reference.modulate`.

    Products are taken in the weights' type, or in that of the enclosing autocast, and summed in float32; float32
    products follow ``torch.set_float32_matmul_precision``. Everything between the products is float32, p included where
    the router or the noise is wider; m and what flows back through it have the type of ``a`` and of the weights. The
    result has the type of ``a``.

    :func:`unavailable` and :func:`unsupported` have to be None for these arguments.
    """
    from hycam.ops.triton.operators import mix

    shared, special, router = in_product_type(weights.shared), in_product_type(weights.specialized), weights.router
    assert isinstance(special, LowRank) and router is not None
    modules, rank, d = special.A.shape

    maps = [special.A.flatten(0, 1), None if special.A_bias is None else special.A_bias.flatten()]
    maps += router_map(router)
    if isinstance(shared, Dense):
        maps += [shared.weight, shared.bias]
    elif shared is not None:
        maps += [shared.A, shared.A_bias]
    u, logits, *of_shared = HiddenProducts.apply(h.reshape(-1, d), *maps)
    s = of_shared[0] if of_shared else None
    if isinstance(shared, LowRank):
        s = F.linear(F.linear(of_shared[0], shared.N, shared.N_bias), shared.B, shared.B_bias) * shared.scale
    logits = logits.unflatten(0, h.shape[:-1])
    p = route(logits, noise, router)
    v = torch.bmm(u.unflatten(1, (modules, rank)).transpose(0, 1), special.N.transpose(1, 2))  # [K, tokens, r]
    if special.N_bias is not None:
        v = v + special.N_bias[:, None]
    keep = torch.is_grad_enabled() and (a.requires_grad or (residual is not None and residual.requires_grad))
    output, _ = mix(
        a.reshape(-1, d), None if residual is None else residual.reshape(-1, d), s, v, special.B, special.B_bias,
        p.flatten(0, -2).float(), special.scale, keep,
    )  # fmt: skip
    return output.view(a.shape), (p, logits)


register(Backend("triton", modulate, unavailable, unsupported, automatic_on="cuda"))
