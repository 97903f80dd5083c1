"""Routing (Eq. 8 and 9) and the load-balancing loss (Eq. 10)."""

from __future__ import annotations

import pytest
import torch

from hycam.ops import Router, balance_loss, gumbel_noise, routing_sums
from hycam.ops.routing import route, router_logits


def router(temperature: float = 0.5, hard: bool = False, experts: int = 5, d: int = 8) -> Router:
    return Router(torch.randn(experts, d), None, temperature, hard)


def test_without_noise_soft_routing_is_the_softmax_at_the_temperature() -> None:
    logits = torch.randn(3, 4, 5)
    torch.testing.assert_close(route(logits, None, router(0.3)), torch.softmax(logits / 0.3, dim=-1))


def test_without_noise_hard_routing_is_the_argmax() -> None:
    logits = torch.randn(3, 4, 5)
    p = route(logits, None, router(hard=True))
    assert torch.equal(p.argmax(-1), logits.argmax(-1))
    torch.testing.assert_close(p, torch.nn.functional.one_hot(logits.argmax(-1), 5).float())


@pytest.mark.parametrize("temperature", [0.1, 0.5, 2.0])
def test_the_hard_choice_is_distributed_as_softmax_of_the_logits_whatever_the_temperature(temperature: float) -> None:
    torch.manual_seed(0)
    logits = torch.tensor([1.0, 0.0, -1.0, 0.5, 0.2])
    draws = 40_000
    noise = gumbel_noise(torch.Size((draws, 5)), logits.device)
    p = route(logits.expand(draws, 5), noise, router(temperature, hard=True)).mean(0)
    expected = torch.softmax(logits, -1)
    standard_error = (expected * (1 - expected) / draws).sqrt()
    assert ((p - expected).abs() < 4 * standard_error).all()


def test_hard_routing_has_the_gradient_of_the_soft_one() -> None:
    logits, noise, probe = torch.randn(2, 3, 5, requires_grad=True), torch.randn(2, 3, 5), torch.randn(2, 3, 5)
    gradients = []
    for hard in (False, True):
        gradients.append(torch.autograd.grad((route(logits, noise, router(hard=hard)) * probe).sum(), logits)[0])
    torch.testing.assert_close(gradients[1], gradients[0])


def test_gumbel_noise_has_the_mean_and_variance_of_its_distribution() -> None:
    torch.manual_seed(0)
    noise = gumbel_noise(torch.Size((200_000,)), torch.device("cpu"))
    assert noise.dtype == torch.float32
    assert abs(noise.mean().item() - 0.57722) < 0.02
    assert abs(noise.var().item() - torch.pi**2 / 6) < 0.04


def test_noise_comes_from_the_global_generator() -> None:
    torch.manual_seed(5)
    first = gumbel_noise(torch.Size((4,)), torch.device("cpu"))
    torch.manual_seed(5)
    assert torch.equal(gumbel_noise(torch.Size((4,)), torch.device("cpu")), first)


def test_router_logits_are_float32_under_autocast_and_in_bfloat16() -> None:
    h, weights = torch.randn(2, 3, 8), router()
    expected = h @ weights.weight.T
    with torch.autocast("cpu", dtype=torch.bfloat16):
        torch.testing.assert_close(router_logits(h, weights), expected)
    assert router_logits(h.bfloat16(), weights).dtype == torch.float32


def test_balance_is_one_over_k_at_uniform_routing_and_one_at_collapse() -> None:
    uniform = torch.zeros(2, 10, 5)
    sums = routing_sums(torch.softmax(uniform, -1), uniform, None)
    torch.testing.assert_close(balance_loss(sums[None], 20), torch.tensor(0.2))
    collapsed = torch.tensor([100.0, 0, 0, 0, 0]).expand(2, 10, 5)
    sums = routing_sums(torch.softmax(collapsed, -1), collapsed, None)
    torch.testing.assert_close(balance_loss(sums[None], 20), torch.tensor(1.0))


def test_balance_equals_the_formula_token_by_token_and_leaves_padding_out() -> None:
    torch.manual_seed(0)
    p = torch.softmax(torch.randn(3, 2, 6, 4, dtype=torch.float64), -1)  # three layers
    logits = torch.randn(3, 2, 6, 4, dtype=torch.float64)
    mask = torch.tensor([[0, 0, 1, 1, 1, 1], [1, 1, 1, 1, 1, 0]])
    p[:, 0, 0], logits[:, 1, 5] = float("nan"), float("nan")  # what padding holds must not matter
    sums = torch.stack([routing_sums(p[layer], logits[layer], mask) for layer in range(3)])
    values, means = [], []
    for layer in range(3):
        kept = [(b, t) for b in range(2) for t in range(6) if mask[b, t]]
        mean_p = sum(p[layer, b, t] for b, t in kept) / 9
        mean_q = sum(logits[layer, b, t].exp() / logits[layer, b, t].exp().sum() for b, t in kept) / 9
        values.append((mean_p * mean_q).sum())
        means.append((mean_p, mean_q))
    torch.testing.assert_close(balance_loss(sums, mask.sum()), sum(values) / 3)
    pooled = (sum(m[0] for m in means) / 3 * (sum(m[1] for m in means) / 3)).sum()
    torch.testing.assert_close(balance_loss(sums, mask.sum(), "pooled"), pooled)


def test_opposite_imbalances_cancel_in_the_pooled_scope_only() -> None:
    one, other = torch.tensor([9.0, 0]).expand(1, 4, 2), torch.tensor([0, 9.0]).expand(1, 4, 2)
    sums = torch.stack([routing_sums(torch.softmax(x, -1), x, None) for x in (one, other)])
    torch.testing.assert_close(balance_loss(sums, 4, "pooled"), torch.tensor(0.5))
    assert balance_loss(sums, 4, "layer") > 0.99
