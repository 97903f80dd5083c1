"""A step of RiemannianAdamW over a step of AdamW.

    python -m benchmarks.riemannian_step

Both step the factors of the MoE-LoRA layers of one block of SmolLM2-135M (n = 5, r = 64, float32): 35 pairs A and B.
The difference is the preconditioning: two Gram matrices, two Cholesky factorisations and their solves for every pair.
"""

from __future__ import annotations

import torch
from rich.console import Console
from torch import nn

from hycam.optim.riemannian import RiemannianAdamW

from .interleaved import DEVICE, arguments, effort, interleave, machine

N, R = 5, 64
# q, k, v and o (9 heads, 3 of them for keys and values), gate, up and down: in, out
BLOCK = [(576, 576), (576, 192), (576, 192), (576, 576), (576, 1536), (576, 1536), (1536, 576)]


def main() -> None:
    settings = effort(arguments(__doc__).parse_args())
    torch.manual_seed(2333)
    pairs = [
        (
            nn.Parameter(torch.randn(N, R, in_features, device=DEVICE) / in_features**0.5),
            nn.Parameter(torch.randn(N, out_features, R, device=DEVICE) / R**0.5),
        )
        for in_features, out_features in BLOCK
    ]
    factors = [factor for pair in pairs for factor in pair]
    gradients = [torch.randn_like(factor) for factor in factors]

    def fresh_gradients() -> None:  # RiemannianAdamW overwrites them
        for factor, gradient in zip(factors, gradients, strict=True):
            factor.grad = gradient.clone()

    steps = {
        "adamw": torch.optim.AdamW(factors, lr=1e-6).step,
        "riemannian_adamw_step": RiemannianAdamW(factors, pairs, lr=1e-6).step,
    }
    timings = interleave(steps, settings, before=fresh_gradients)
    riemannian, adamw = timings["riemannian_adamw_step"], timings["adamw"]
    settings.save({"riemannian_adamw_step": riemannian})
    block = f"the factors of a block ({1000 * adamw.seconds:.1f} ms)"
    Console(width=120).print(f"RiemannianAdamW over AdamW, {block}: {riemannian}\n{machine()}")


if __name__ == "__main__":
    main()
