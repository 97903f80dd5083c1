"""The packed form against the paper's formula in float64, what it copies and how many calls it takes."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from hycam.ops import Dense, LowRank, Modulation, Router, packed, reference
from hycam.ops.packed import pack, supports
from ops.modulations import converted, draw, modulation

VARIANTS = [
    (shared, specialized, hard, biases)
    for (shared, specialized), hard, biases in itertools.product(
        (("full", "low_rank"), ("low_rank", "low_rank"), ("none", "low_rank"), ("low_rank", "none")),
        (False, True),
        (False, True),
    )
]


@pytest.mark.parametrize(("shared", "specialized", "hard", "biases"), VARIANTS)
@pytest.mark.parametrize(
    ("batch", "seq", "d", "r", "experts"),
    [(1, 1, 5, 1, 1), (1, 7, 33, 16, 2), (3, 2, 9, 16, 8), (2, 0, 6, 2, 2)],
)
@pytest.mark.parametrize(("of_stream", "small"), [(False, True), (True, False)], ids=["together", "one by one, stream"])
def test_it_equals_the_papers_formula(
    monkeypatch, shared, specialized, hard, biases, batch, seq, d, r, experts, of_stream, small
) -> None:
    if not small:  # as if the shared map were large and the prompt long
        monkeypatch.setattr(packed, "_SHARED_AT_MOST", 0)
        monkeypatch.setattr(packed, "_TOGETHER_AT_MOST", -1)
    weights = modulation(shared, specialized, hard, biases, d, r, experts)
    h, a = draw(batch, seq, d), draw(batch, seq, d)
    residual = draw(batch, seq, d) if of_stream else None
    expected, expected_routing = reference.modulate(h, a, weights, None, residual)
    with torch.no_grad():
        got, routing = packed.modulate(h, a, pack(weights), residual)
    torch.testing.assert_close(got, expected, rtol=1e-12, atol=1e-12)
    assert (routing is None) == (expected_routing is None)
    for one, other in zip(routing or (), expected_routing or (), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-12)


def test_each_offset_stands_alone() -> None:
    # Any subset of the biases, which no configuration gives, so that none hides behind another.
    for present in itertools.product((False, True), repeat=5):
        weights = modulation(biases=True)
        special, router = dict(vars(weights.specialized)), dict(vars(weights.router))
        shared = dict(vars(weights.shared))
        for kept, (part, key) in zip(
            present,
            ((shared, "bias"), (special, "A_bias"), (special, "N_bias"), (special, "B_bias"), (router, "bias")),
            strict=True,
        ):
            part[key] = part[key] if kept else None
        some = Modulation(Dense(**shared), LowRank(**special), Router(**router))
        h, a = draw(2, 3, 12), draw(2, 3, 12)
        torch.testing.assert_close(packed.modulate(h, a, pack(some))[0], reference.modulate(h, a, some)[0])


@pytest.mark.parametrize(("adapter", "bound"), [(torch.float32, 2**-8), (torch.bfloat16, 2**-5)])
def test_a_bfloat16_result_is_within_few_roundings_and_its_routing_within_those_of_float32(
    adapter: torch.dtype, bound: float
) -> None:
    weights = converted(modulation(d=32, r=8), lambda tensor: tensor.to(adapter))
    h, a = draw(2, 6, 32).bfloat16(), draw(2, 6, 32).bfloat16()
    exact, (p, logits) = reference.modulate(h.double(), a.double(), converted(weights, Tensor.double))
    got, routing = packed.modulate(h, a, pack(weights))
    assert got.dtype == torch.bfloat16
    assert ((got.double() - exact).abs() / exact.abs().clamp(min=0.1)).max() < bound
    assert routing[0].dtype == routing[1].dtype == torch.float32
    torch.testing.assert_close(routing[0].double(), p, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(routing[1].double(), logits, rtol=1e-5, atol=1e-5)


def test_under_autocast_products_are_narrow_and_the_routing_is_not() -> None:
    weights = converted(modulation(d=32, r=8, biases=True), Tensor.float)
    h, a = draw(2, 6, 32).float(), draw(2, 6, 32).float()
    exact, (p, _) = reference.modulate(h.double(), a.double(), converted(weights, Tensor.double))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = pack(weights)
        got, routing = packed.modulate(h, a, inside)
        wide = packed.modulate(h, a, packs := pack(converted(weights, Tensor.double)))[0]
    assert inside.weight.dtype == torch.bfloat16 and packs.weight.dtype == torch.float64
    assert got.dtype == torch.float32
    assert 1e-4 < (got.double() - exact).abs().max() < 2**-5 * exact.abs().max()
    torch.testing.assert_close(routing[0].double(), p, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(wide.double(), exact, rtol=1e-6, atol=1e-6)
    with torch.autocast("cpu", dtype=torch.bfloat16):  # packed before, it stays as wide as it was packed
        outside = packed.modulate(h, a, pack_outside(weights))[0]
    torch.testing.assert_close(outside.double(), exact, rtol=1e-5, atol=1e-5)


def pack_outside(weights: Modulation) -> packed.Packed:
    with torch.autocast("cpu", enabled=False):
        return pack(weights)


def test_what_it_has_no_use_for_is_refused_with_a_reason() -> None:
    full = Modulation(None, Dense(draw(5, 12, 12)), modulation().router)
    assert "no N to fold" in supports(full)
    assert "one product already" in supports(Modulation(Dense(draw(12, 12)), None, None))
    assert "different types" in supports(Modulation(Dense(draw(12, 12).float()), *vars_of(modulation())[1:]))
    assert supports(modulation()) is None


def vars_of(weights: Modulation) -> tuple:
    return weights.shared, weights.specialized, weights.router


def test_the_copy_is_no_larger_than_the_shared_map_the_folded_maps_and_the_router() -> None:
    weights = modulation(d=32, r=4, experts=5)
    made = pack(weights)
    assert made.weight.numel() == 32 * (32 + 5 * 4 + 5)
    assert made.B.data_ptr() == weights.specialized.B.data_ptr()
    assert made.bias is made.B_bias is made.shared is None
    large = modulation(d=1032)
    made = pack(large)
    assert made.shared.weight.data_ptr() == large.shared.weight.data_ptr()
    assert made.weight.numel() == 1032 * (5 * 4 + 5)


class _Watching(TorchDispatchMode):
    """Counts the operations that compute something, and the values of the largest result."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[str] = []
        self.largest = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        if isinstance(result, Tensor) and "view" not in str(func) and not func.is_view:
            self.calls.append(str(func))
            self.largest = max(self.largest, result.numel())
        return result


def test_a_decoding_step_takes_one_product_of_h_one_of_all_b_and_few_calls() -> None:
    made, h, a = pack(modulation(d=64, r=8)), draw(1, 1, 64), draw(1, 1, 64)
    with torch.no_grad(), _Watching() as watching:
        packed.modulate(h, a, made)
    assert sum("mm" in call for call in watching.calls) == 3  # h by all maps, all B, the mix
    assert len(watching.calls) <= 9, watching.calls


def test_a_long_prompt_never_holds_as_much_as_one_hidden_state_for_each_module() -> None:
    made = pack(modulation(d=64, r=4, experts=8))
    h = draw(1, 600, 64)
    with torch.no_grad(), _Watching() as watching:
        packed.modulate(h, h, made)
    assert packed._TOGETHER_AT_MOST < 600 * 64 * 8
    assert watching.largest == 600 * (64 + 8 * 4 + 8)


def test_zero_maps_give_the_attention_output_to_the_last_bit() -> None:
    zero = modulation(biases=False)
    zero.shared.weight.zero_()
    zero.specialized.B.zero_()
    a = draw(2, 3, 12).bfloat16()
    a[0, 0, 0], a[0, 0, 1] = float("inf"), float("-inf")
    h = draw(2, 3, 12)
    assert torch.equal(packed.modulate(h, a, pack(zero), draw(2, 3, 12))[0], a)
