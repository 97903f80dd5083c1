"""The fast forms of the modulation against the paper's formula, in float64."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from torch import Tensor

from hycam.ops import Dense, LowRank, Modulation, Router, modulate, reference
from hycam.ops.routing import gumbel_noise

VARIANTS = [
    (shared, specialized, hard, biases)
    for shared, specialized, hard, biases in itertools.product(
        ("full", "low_rank", "none"), ("low_rank", "full", "none"), (False, True), (False, True)
    )
    if (shared, specialized) != ("none", "none")
]


def draw(*shape: int) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64) * 0.5


def low_rank(stack: tuple[int, ...], d: int, r: int, biases: bool, scale: float) -> LowRank:
    shapes = (r, d), (r, r), (d, r)
    offsets = [draw(*stack, rows) for rows, _ in shapes] if biases else [None] * 3
    return LowRank(*(draw(*stack, *shape) for shape in shapes), *offsets, scale)


def modulation(shared: str, specialized: str, hard: bool, biases: bool, d: int, r: int, experts: int) -> Modulation:
    shared_weights: Dense | LowRank | None = None
    if shared == "full":
        shared_weights = Dense(draw(d, d), draw(d) if biases else None)
    elif shared == "low_rank":
        shared_weights = low_rank((), d, r, biases, 0.5)
    special: Dense | LowRank | None = None
    if specialized == "low_rank":
        special = low_rank((experts,), d, r, biases, 1.5)
    elif specialized == "full":
        special = Dense(draw(experts, d, d))
    router = None
    if special is not None:
        router = Router(draw(experts, d), draw(experts) if biases else None, temperature=0.5, hard=hard)
    return Modulation(shared_weights, special, router)


@pytest.mark.parametrize(("shared", "specialized", "hard", "biases"), VARIANTS)
@pytest.mark.parametrize(("batch", "seq", "d", "r", "experts"), [(1, 1, 5, 1, 1), (2, 7, 12, 4, 5), (3, 2, 9, 16, 8)])
@pytest.mark.parametrize("of_stream", [False, True], ids=["attention output", "residual stream"])
def test_output_and_gradients_equal_the_papers_formula(
    shared: str,
    specialized: str,
    hard: bool,
    biases: bool,
    batch: int,
    seq: int,
    d: int,
    r: int,
    experts: int,
    of_stream: bool,
) -> None:
    torch.manual_seed(0)
    weights = modulation(shared, specialized, hard, biases, d, r, experts)
    h, a = draw(batch, seq, d).requires_grad_(), draw(batch, seq, d).requires_grad_()
    residual = draw(batch, seq, d).requires_grad_() if of_stream else None
    inputs = [h, a] if residual is None else [h, a, residual]
    tensors = [tensor for part in (weights.shared, weights.specialized, weights.router) if part is not None
               for tensor in vars(part).values() if isinstance(tensor, Tensor)]  # fmt: skip
    for tensor in tensors:
        tensor.requires_grad_()
    noise = gumbel_noise(torch.Size((batch, seq, experts)), h.device, torch.float64)
    probe, results = draw(batch, seq, d), []
    for form in (reference.modulate, modulate):
        output, routing = form(h, a, weights, noise, residual)
        loss = (output * probe).sum()
        if routing is not None:
            loss = loss + routing[0].square().sum() + routing[1].sum()
        results.append((output, torch.autograd.grad(loss, [*inputs, *tensors])))
    torch.testing.assert_close(results[1][0], results[0][0], rtol=1e-12, atol=1e-12)
    for got, expected in zip(results[1][1], results[0][1], strict=True):
        torch.testing.assert_close(got, expected, rtol=1e-10, atol=1e-12)


def test_the_formula_by_hand_on_one_token() -> None:
    h, a = torch.tensor([[[2.0, -1.0]]]), torch.tensor([[[3.0, 5.0]]])
    weights = Modulation(
        Dense(torch.eye(2)),
        Dense(torch.stack((torch.eye(2), 2 * torch.eye(2)))),
        Router(torch.zeros(2, 2), temperature=0.5),
    )

    def silu(x: float) -> float:
        return x / (1 + math.exp(-x))

    fused = [silu(x) + 0.5 * silu(x) + 0.5 * silu(2 * x) for x in (2.0, -1.0)]
    expected = torch.tensor([[[3.0 * (1 + fused[0]), 5.0 * (1 + fused[1])]]])
    torch.testing.assert_close(modulate(h, a, weights)[0], expected)


@pytest.mark.parametrize("form", [reference.modulate, modulate], ids=["reference", "eager"])
def test_with_the_residual_added_the_whole_stream_is_scaled(form) -> None:
    torch.manual_seed(0)
    weights = modulation("full", "low_rank", False, True, 12, 4, 5)
    h, a, residual = draw(2, 7, 12), draw(2, 7, 12), draw(2, 7, 12)
    factor = form(h, torch.ones_like(a), weights)[0]
    stream = residual + form(h, a, weights, residual=residual)[0]
    torch.testing.assert_close(stream, (residual + a) * factor, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("adapter", [torch.float32, torch.bfloat16])
def test_a_bfloat16_result_is_within_two_roundings_of_the_exact_one(adapter: torch.dtype) -> None:
    torch.manual_seed(0)
    weights = modulation("full", "low_rank", False, False, 32, 8, 5)

    def cast(part: Dense | LowRank | Router) -> dict:
        return {key: value.to(adapter) if isinstance(value, Tensor) else value for key, value in vars(part).items()}

    low = Modulation(
        Dense(**cast(weights.shared)), LowRank(**cast(weights.specialized)), Router(**cast(weights.router))
    )
    wide = Modulation(*(type(part)(**{k: v.double() if isinstance(v, Tensor) else v for k, v in vars(part).items()})
                        for part in (low.shared, low.specialized, low.router)))  # fmt: skip
    h, a = draw(2, 6, 32).bfloat16(), draw(2, 6, 32).bfloat16()
    got = modulate(h, a, low)[0]
    exact = reference.modulate(h.double(), a.double(), wide)[0]
    assert got.dtype == torch.bfloat16
    error = (got.double() - exact).abs() / exact.abs().clamp(min=0.1)
    # bfloat16 keeps 8 bits: half a unit is 2^-9. Adapters in bfloat16 round each intermediate product as well.
    assert error.max() < (2**-8 if adapter == torch.float32 else 2**-5)


def test_a_small_modulation_is_not_lost_in_bfloat16() -> None:
    # 1 + m rounds to 1 in bfloat16 for m below 2^-9; computed wider, the product still moves where a has room for it.
    weights = Modulation(Dense((0.005 * torch.eye(4)).bfloat16()), None, None)
    h, a = torch.ones(1, 1, 4).bfloat16(), torch.full((1, 1, 4), 255.0).bfloat16()
    exact = reference.modulate(h.double(), a.double(), Modulation(Dense(weights.shared.weight.double()), None, None))[0]
    torch.testing.assert_close(modulate(h, a, weights)[0].double(), exact, rtol=2**-9, atol=0)


def test_zero_weights_keep_infinite_attention_outputs_infinite() -> None:
    weights = Modulation(Dense(torch.zeros(3, 3)), None, None)
    a = torch.tensor([[[float("inf"), float("-inf"), 1.0]]])
    assert torch.equal(modulate(torch.randn(1, 1, 3), a, weights)[0], a)
    assert torch.equal(modulate(torch.randn(1, 1, 3), a, weights, residual=torch.randn(1, 1, 3))[0], a)


def test_nothing_is_scaled_below_what_the_silu_allows() -> None:
    # SiLU has its minimum -0.27846 at -1.27846, so shared and specialised together scale by at least 1 - 2 * 0.27847.
    torch.manual_seed(0)
    weights = modulation("full", "low_rank", False, True, 16, 4, 5)
    a = torch.ones(4, 50, 16, dtype=torch.float64)
    scaled = modulate(20 * draw(4, 50, 16), a, weights)[0]
    assert scaled.min() > 1 - 2 * 0.27847


def test_no_tensor_of_experts_times_hidden_state_is_kept_for_a_dense_mix() -> None:
    # What autograd keeps may grow by a fixed number of hidden states an expert, but no [K, tokens, d] block is formed.
    weights = modulation("full", "low_rank", False, False, 64, 4, 8)
    for part in (weights.shared, weights.specialized, weights.router):
        for tensor in vars(part).values():
            if isinstance(tensor, Tensor):
                tensor.requires_grad_()
    largest = 0

    def pack(tensor: Tensor) -> Tensor:
        nonlocal largest
        largest = max(largest, tensor.numel())
        return tensor

    h = draw(1, 100, 64)
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        modulate(h, draw(1, 100, 64), weights)
    assert largest <= h.numel()
