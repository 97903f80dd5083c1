"""A linear layer with parallel branches: its formula, how it starts, and merging."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

from hycam.tuners.multilora import MultiLoraLayer

from ..stacked import config, layer, linear

IN, OUT = 12, 10


def by_hand(made: MultiLoraLayer, x: Tensor, adapter: str = "default") -> Tensor:
    """``W x + alpha/r * sum_i s_i * (B_i A_i x)``, a branch and a channel at a time."""
    settings = made.configs[adapter]
    A, B, s = (getattr(made, f"multilora_{name}")[adapter].weight for name in ("A", "B", "scaling"))
    y = made.base_layer(x)
    for i in range(settings.num_branches):
        branch = x @ A[i].T @ B[i].T
        factor = 1 if settings.alpha is None else settings.alpha / settings.r
        y = y + torch.stack([factor * s[i, channel] * branch[..., channel] for channel in range(B.shape[1])], dim=-1)
    return y


def weights(made: MultiLoraLayer) -> list[nn.Parameter]:
    return list(made.adapter_parameters("default").values())


both_kinds = pytest.mark.parametrize("kind", ["Linear", "Conv1D"])


@both_kinds
@pytest.mark.parametrize("alpha", [None, 3.0])
@pytest.mark.parametrize(("branches", "r"), [(1, 1), (3, 2), (5, 4)])
@pytest.mark.parametrize("shape", [(IN,), (7, IN), (2, 5, IN)])
def test_output_and_gradients_equal_the_sum_over_branches(
    kind: str, alpha: float | None, branches: int, r: int, shape: tuple[int, ...]
) -> None:
    made = layer("multilora", linear(kind, IN, OUT), num_branches=branches, r=r, alpha=alpha)
    x = torch.randn(shape, dtype=torch.float64, requires_grad=True)
    probe, results = torch.randn(*shape[:-1], OUT, dtype=torch.float64), []
    for y in (by_hand(made, x), made(x)):
        results.append((y, *torch.autograd.grad((y * probe).sum(), [x, *weights(made)])))
    for expected, got in zip(*results, strict=True):
        # Float64 sums of up to some hundred terms of order ten; a wrong factor would show in the first digit.
        torch.testing.assert_close(got, expected, rtol=1e-11, atol=1e-11)


def test_it_starts_at_the_layer_itself_with_random_factors_and_zero_scaling() -> None:
    made = MultiLoraLayer(linear("Linear", IN, OUT))
    made.update_layer("default", config("multilora"))
    assert not made.multilora_scaling["default"].weight.any()
    assert made.multilora_A["default"].weight.all()
    assert made.multilora_B["default"].weight.all()
    x = torch.randn(4, IN)
    assert torch.equal(made(x), made.base_layer(x))
    made.reset_adapter_parameters("default", identity=False)
    assert made.multilora_scaling["default"].weight.all()
    assert not torch.equal(made(x), made.base_layer(x))


def test_at_the_first_step_only_the_scaling_gets_a_gradient() -> None:
    made = MultiLoraLayer(linear("Linear", IN, OUT))
    made.update_layer("default", config("multilora"))
    made(torch.randn(4, IN)).square().sum().backward()
    assert made.multilora_scaling["default"].weight.grad.all()
    assert not made.multilora_A["default"].weight.grad.any()
    assert not made.multilora_B["default"].weight.grad.any()
    torch.optim.SGD(weights(made), lr=0.1).step()
    made.zero_grad()
    made(torch.randn(4, IN)).square().sum().backward()
    assert all(weight.grad.any() for weight in weights(made))


def test_all_branches_read_the_same_dropout_mask() -> None:
    # Branch i writes the sum of what it reads to channel i alone, so equal channels mean equal masks.
    made = layer("multilora", linear("Linear", 32, 3), r=1, dropout=0.5).train()
    with torch.no_grad():
        made.base_layer.weight.zero_()
        made.base_layer.bias.zero_()
        made.multilora_A["default"].weight.fill_(1)
        made.multilora_B["default"].weight.fill_(1)
        made.multilora_scaling["default"].weight.copy_(torch.eye(3))
    y = made(torch.randn(20, 32, dtype=torch.float64))
    assert y.std() > 0
    torch.testing.assert_close(y, y[:, :1].expand(-1, 3))


# Merging


@both_kinds
@pytest.mark.parametrize("alpha", [None, 3.0])
def test_a_merged_layer_gives_the_same_output_from_its_weight_alone(kind: str, alpha: float | None) -> None:
    made = layer("multilora", linear(kind, IN, OUT), alpha=alpha)
    x = torch.randn(2, 5, IN, dtype=torch.float64)
    expected = made(x)
    made.merge()
    assert made.merged_adapters == ["default"]
    torch.testing.assert_close(made(x), expected, rtol=1e-11, atol=1e-11)
    assert torch.equal(made(x), made.base_layer(x))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_unmerging_gives_the_weight_back_to_the_last_bit(dtype: torch.dtype) -> None:
    made = layer("multilora", linear("Linear", IN, OUT), dtype)
    x, before = torch.randn(4, IN, dtype=dtype), made.base_layer.weight.detach().clone()
    expected = made(x)
    made.merge()
    assert not torch.equal(made.base_layer.weight, before)
    made.unmerge()
    assert torch.equal(made.base_layer.weight, before)
    assert not made.merged
    assert torch.equal(made(x), expected)
    made.unmerge()  # nothing to do
    assert torch.equal(made.base_layer.weight, before)


def test_adapters_merged_one_after_the_other_add_up_and_come_out_together() -> None:
    made = layer("multilora", linear("Linear", IN, OUT))
    made.update_layer("other", config("multilora", r=4, init_weights=False))
    made.double()
    before = made.base_layer.weight.detach().clone()
    expected = before + made.get_delta_weight("default") + made.get_delta_weight("other")
    made.merge()
    with pytest.warns(UserWarning, match="additionally merging other"):
        made.merge(adapter_names=["default", "other"])
    assert made.merged_adapters == ["default", "other"]
    torch.testing.assert_close(made.base_layer.weight.detach(), expected, rtol=1e-12, atol=1e-12)
    made.unmerge()
    assert torch.equal(made.base_layer.weight, before)
    made.merge(adapter_names=["default", "other"])  # both at once
    assert made.merged_adapters == ["default", "other"]
    torch.testing.assert_close(made.base_layer.weight.detach(), expected, rtol=1e-12, atol=1e-12)


def test_a_merge_in_bfloat16_rounds_once() -> None:
    made = layer("multilora", linear("Linear", 64, 48), torch.float32)
    made.base_layer.to(torch.bfloat16)
    exact = made.base_layer.weight.double() + copy.deepcopy(made).double().get_delta_weight("default")
    made.merge()
    assert made.base_layer.weight.dtype == torch.bfloat16
    # Half of bfloat16's unit 2^-7; 1e-5 is what float32 loses on values of order ten.
    torch.testing.assert_close(made.base_layer.weight.double(), exact, rtol=2**-8, atol=1e-5)


def test_a_merged_layer_that_is_moved_to_another_type_stays_there_when_unmerged() -> None:
    made = layer("multilora", linear("Linear", IN, OUT), torch.float32)
    before = made.base_layer.weight.detach().clone()
    made.merge()
    made.to(torch.float64)
    made.unmerge()
    assert made.base_layer.weight.dtype == torch.float64
    assert torch.equal(made.base_layer.weight, before.double())


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_safe_merge_refuses_a_broken_adapter_and_leaves_the_weight_alone(value: float) -> None:
    made = layer("multilora", linear("Linear", IN, OUT))
    before = made.base_layer.weight.detach().clone()
    with torch.no_grad():
        made.multilora_A["default"].weight[1, 0, 3] = value
    with pytest.raises(ValueError, match="Merging default would give weights that are not finite"):
        made.merge(safe_merge=True)
    assert torch.equal(made.base_layer.weight, before)
    assert not made.merged


def test_merging_into_quantised_weights_is_refused() -> None:
    base = linear("Linear", IN, OUT)
    base.weight = nn.Parameter(torch.ones(OUT, IN, dtype=torch.int8), requires_grad=False)
    made = MultiLoraLayer(base)
    made.update_layer("default", config("multilora"))
    assert made.multilora_A["default"].weight.dtype == torch.float32  # the weight's type is not one to train in
    with pytest.raises(ValueError, match=r"quantised weights \(torch\.int8\)"):
        made.merge()
    assert not made.merged
