"""A step of one MultiLoRA, MoE-LoRA or RieMoE-LoRA layer over the matrix products it is made of.

    python -m benchmarks.baseline_layers

A step is the forward pass of an adapted linear layer at its full width (n = 5, r = 64, float32) and the gradients of
its input, its A and B, and its scaling vectors or gate. The floor is eight products into memory that is already there,
for x ``[tokens, in]``, dy ``[tokens, out]``, A ``[n*r, in]`` and B ``[out, n*r]``:

    base      x W^T, dy W              (W is frozen, so there is no gradient of it)
    forward   u = x A^T, u B^T
    backward  dy^T u for B, du = dy B, du^T x for A, du A

All n experts are in it, for every token. What the floor leaves out is the price of the method in this implementation:
the gate or the scaling, sums, the layout of B, and autograd. A second form of each step, a loop over the experts with
two products and a full-width output for each, is what most implementations do.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn
from torch.nn import functional as F

from hycam.tuners.linear import StackedLayer
from hycam.tuners.moelora import MoeLoraConfig, MoeLoraLayer
from hycam.tuners.moelora.layer import gates
from hycam.tuners.multilora import MultiLoraConfig, MultiLoraLayer

from .interleaved import DEVICE, Effort, Timing, arguments, effort, interleave, machine, worst

N, R = 5, 64
SHAPES = [  # in, out, tokens
    *((*shape, tokens) for tokens in (512, 2048) for shape in ((576, 576), (576, 1536), (1536, 576))),  # SmolLM2-135M
    (4096, 4096, 512),  # a model of 7B parameters
    (4096, 11008, 512),
]
LAYERS: dict[str, tuple[type[StackedLayer], Any]] = {
    "multilora": (MultiLoraLayer, MultiLoraConfig(num_branches=N, r=R, init_weights=False)),
    "moe_lora": (MoeLoraLayer, MoeLoraConfig(num_experts=N, r=R, init_weights=False)),
    "riemoe_lora": (MoeLoraLayer, MoeLoraConfig(num_experts=N, r=R, init_weights=False, rescale_gate=True)),
}


class ExpertLoop(nn.Module):
    """A layer computed one branch or expert after the other, each with weights of its own, as they usually are."""

    def __init__(self, layer: StackedLayer) -> None:
        super().__init__()
        self.base_layer = layer.base_layer
        self.config = layer.configs["default"]
        self.A = nn.ParameterList(layer.adapter_weight("A", "default").detach().unbind())
        self.B = nn.ParameterList(layer.adapter_weight("B", "default").detach().unbind())
        if isinstance(layer, MultiLoraLayer):
            self.s = nn.ParameterList(layer.multilora_scaling["default"].weight.detach().unbind())
        else:
            self.gate = nn.Parameter(layer.moelora_gate["default"].weight.detach())

    def forward(self, x: Tensor) -> Tensor:
        y = self.base_layer(x)
        if hasattr(self, "s"):
            for A, B, s in zip(self.A, self.B, self.s, strict=True):
                y = y + s * F.linear(F.linear(x, A), B)
            return y
        for A, B, g in zip(self.A, self.B, gates(F.linear(x, self.gate), self.config.top_k).split(1, -1), strict=True):
            E = F.linear(F.linear(x, A), B)
            if self.config.rescale_gate:
                root = g.detach().sqrt()
                y = y + root * E + (g - root) * E.detach()
            else:
                y = y + g * E
        return y


def floor(x: Tensor, dy: Tensor, W: Tensor) -> Callable[[], object]:
    """The eight products."""
    x, dy = x.detach().flatten(0, 1), dy.flatten(0, 1)
    A, B = torch.randn(N * R, x.shape[1], device=DEVICE), torch.randn(dy.shape[1], N * R, device=DEVICE)
    y, dx, u, du, dA, dB = (torch.empty_like(like) for like in (dy, x, x @ A.T, dy @ B, A, B))

    def products() -> None:
        torch.mm(x, W.T, out=y)
        torch.mm(x, A.T, out=u)
        torch.mm(u, B.T, out=y)
        torch.mm(dy.T, u, out=dB)
        torch.mm(dy, B, out=du)
        torch.mm(du.T, x, out=dA)
        torch.mm(du, A, out=dx)
        torch.mm(dy, W, out=dx)

    return products


def step(module: nn.Module, x: Tensor, dy: Tensor) -> Callable[[], object]:
    trained = [x, *(parameter for parameter in module.parameters() if parameter.requires_grad)]

    def forward_and_backward() -> None:
        module(x).backward(dy)
        for tensor in trained:
            tensor.grad = None

    return forward_and_backward


def check_same(layer: StackedLayer, loop: ExpertLoop, x: Tensor, dy: Tensor) -> None:
    """The two forms have to give the same values and gradients, or their times could not be compared."""
    factors = [layer.adapter_weight(letter, "default") for letter in "AB"]
    of_layer = [y := layer(x), *torch.autograd.grad(y, [x, *factors], dy)]
    y = loop(x)
    dx, *grads = torch.autograd.grad(y, [x, *loop.A, *loop.B], dy)
    for one, other in zip(of_layer, [y, dx, torch.stack(grads[:N]), torch.stack(grads[N:])], strict=True):
        error = ((one - other).norm() / one.norm()).item()
        if error > 1e-4:
            raise AssertionError(f"The loop differs from {type(layer).__name__}: relative error {error:.1e}.")


def measure(in_features: int, out_features: int, tokens: int, effort: Effort) -> dict[str, Timing]:
    """The floor, and both forms of every method."""
    torch.manual_seed(2333)
    base = nn.Linear(in_features, out_features, bias=False, device=DEVICE).requires_grad_(False)
    x = torch.randn(2, tokens // 2, in_features, device=DEVICE, requires_grad=True)
    dy = torch.randn(2, tokens // 2, out_features, device=DEVICE)
    steps = {"floor": floor(x, dy, base.weight)}
    for name, (cls, config) in LAYERS.items():
        layer = cls(base)
        layer.update_layer("default", config)
        layer.set_adapter("default")
        loop = ExpertLoop(layer)
        check_same(layer, loop, x, dy)
        steps[f"{name}_step"], steps[f"{name}_loop"] = step(layer, x, dy), step(loop, x, dy)
    return interleave(steps, effort)


def main() -> None:
    settings = effort(arguments(__doc__).parse_args())
    table = Table(title=f"Time of a step over the products it is made of\n{machine()}")
    for column in ("layer", "tokens", "floor ms", "form", *LAYERS):
        table.add_column(column, justify="right")
    results: dict[str, Timing] = {}
    for in_features, out_features, tokens in SHAPES:
        timings = measure(in_features, out_features, tokens, settings)
        shape = f"{in_features}x{out_features}"
        first = (shape, str(tokens), f"{1000 * timings['floor'].seconds:.1f}")
        for form, cells in (("step", first), ("loop", ("", "", ""))):
            table.add_row(*cells, form, *(str(timings[f"{name}_{form}"]) for name in LAYERS))
            results |= {f"{name}_{form}/{shape}/{tokens}": timings[f"{name}_{form}"] for name in LAYERS}
    for name in LAYERS:
        results[f"{name}_step"] = worst([timing for key, timing in results.items() if key.startswith(f"{name}_step/")])
    table.add_section()
    table.add_row("worst", "", "", "step", *(str(results[f"{name}_step"]) for name in LAYERS))
    settings.save(results)
    Console(width=120).print(table)


if __name__ == "__main__":
    main()
