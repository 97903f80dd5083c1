"""A linear layer with routed experts: its formula, both forms of its gradient, dropout, precision and memory."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from hycam.tuners.moelora import MoeLoraLayer
from hycam.tuners.moelora.layer import _GatedUp, gates

from ..stacked import config, layer, linear

IN, OUT = 12, 10


def weights(made: MoeLoraLayer) -> list[nn.Parameter]:
    return list(made.adapter_parameters("default").values())  # A, B and the gate


def by_hand(made: MoeLoraLayer, x: Tensor, composed: bool = False) -> Tensor:
    """``W x + alpha/r * sum_i g_i B_i A_i x``, a token and an expert at a time.

    ``composed`` writes the sum as ``sg(sqrt(g)) E + (g - sg(sqrt(g))) sg(E)``, sg being a stopped gradient.
    """
    settings = made.configs["default"]
    factor = 1 if settings.alpha is None else settings.alpha / settings.r
    A, B, gate = weights(made)
    rows = []
    for token in x.flatten(0, -2):
        y = made.base_layer(token)
        exponentials = [torch.exp(row @ token) for row in gate]
        p = [value / sum(exponentials) for value in exponentials]
        kept = sorted(range(settings.num_experts), key=lambda i: -p[i].item())[: settings.top_k]
        for i in kept:
            g = p[i] / sum(p[j] for j in kept)
            E = factor * (B[i] @ (A[i] @ token))
            root = g.sqrt().detach()
            y = y + (root * E + (g - root) * E.detach() if composed else g * E)
        rows.append(y)
    return torch.stack(rows).reshape(*x.shape[:-1], -1)


def results(made: MoeLoraLayer, x: Tensor, y: Tensor, probe: Tensor) -> tuple[Tensor, ...]:
    """The output and the gradients of x, A, B and the gate."""
    return y, *torch.autograd.grad((y * probe).sum(), [x, *weights(made)])


@pytest.mark.parametrize("rescale_gate", [False, True], ids=["g", "root of g"])
@pytest.mark.parametrize("alpha", [None, 3.0])
@pytest.mark.parametrize(
    ("kind", "experts", "top_k", "r", "shape"),
    [("Linear", 3, 2, 2, (2, 5, IN)), ("Conv1D", 3, 2, 2, (2, 5, IN)), ("Linear", 5, 5, 1, (7, IN)),
     ("Linear", 4, 1, 3, (7, IN)), ("Linear", 1, 1, 2, (7, IN)), ("Linear", 5, 3, 4, (1, 1, IN))],
)  # fmt: skip
def test_output_and_gradients_equal_the_sum_over_experts(
    rescale_gate: bool, alpha: float | None, kind: str, experts: int, top_k: int, r: int, shape: tuple[int, ...]
) -> None:
    made = layer("moelora", linear(kind, IN, OUT), num_experts=experts, top_k=top_k, r=r, alpha=alpha,
                 rescale_gate=rescale_gate)  # fmt: skip
    x = torch.randn(shape, dtype=torch.float64, requires_grad=True)
    probe = torch.randn(*shape[:-1], OUT, dtype=torch.float64)
    expected = results(made, x, by_hand(made, x, composed=rescale_gate), probe)
    got = results(made, x, made(x), probe)
    for value, exact in zip(got, expected, strict=True):
        # Float64 sums of up to some hundred terms of order ten; a wrong factor would show in the first digit.
        torch.testing.assert_close(value, exact, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("rescale_gate", [False, True])
@pytest.mark.parametrize("experts", [1, 4])
def test_a_gate_that_keeps_one_expert_is_always_one_and_gets_no_gradient(rescale_gate: bool, experts: int) -> None:
    made = layer("moelora", linear("Linear", IN, OUT), num_experts=experts, top_k=1, rescale_gate=rescale_gate)
    x = torch.randn(9, IN, dtype=torch.float64)
    made(x).square().sum().backward()
    A, B, gate = weights(made)
    assert not gate.grad.any()
    chosen = (x @ gate.T).argmax(dim=-1)
    for i in range(experts):
        assert bool(B.grad[i].any()) == bool(A.grad[i].any()) == bool((chosen == i).any())


def test_gates_are_the_renormalised_top_of_a_softmax() -> None:
    logits = torch.tensor([[1.0, 3.0, 2.0], [5.0, 5.5, -90.0]], dtype=torch.float64)
    e = math.exp(1)
    torch.testing.assert_close(gates(logits, 2)[0], torch.tensor([0.0, e / (1 + e), 1 / (1 + e)]).double())
    assert torch.equal(gates(logits, 1), torch.tensor([[0.0, 1.0, 0.0], [0.0, 1.0, 0.0]]).double())
    torch.testing.assert_close(gates(logits, 3)[0] * (e + e**3 + e**2), torch.tensor([e, e**3, e**2]).double())
    for top_k in (1, 2, 3):
        torch.testing.assert_close(gates(logits, top_k).sum(dim=-1), torch.ones(2).double())
        assert ((gates(logits, top_k) > 0).sum(dim=-1) <= top_k).all()


# The function that the gate scales and B maps up in


def drawn(tokens: int = 4, experts: int = 3, r: int = 2) -> tuple[Tensor, Tensor, Tensor]:
    u = torch.randn(tokens, experts * r, dtype=torch.float64, requires_grad=True)
    g = torch.rand(tokens, experts, dtype=torch.float64, requires_grad=True)
    B = torch.randn(OUT, experts * r, dtype=torch.float64, requires_grad=True)
    return u, g, B


def test_the_plain_gradient_agrees_with_finite_differences() -> None:
    u, g, B = drawn()
    assert torch.autograd.gradcheck(lambda *tensors: _GatedUp.apply(*tensors, False), (u, g, B))
    # The rescaled one does not: it is not the gradient of the value.
    with pytest.raises(RuntimeError, match="Jacobian mismatch"):
        torch.autograd.gradcheck(lambda *tensors: _GatedUp.apply(*tensors, True), (u, g, B))


@pytest.mark.parametrize("root", [False, True])
def test_a_second_derivative_is_refused(root: bool) -> None:
    u, g, B = drawn()
    (gradient,) = torch.autograd.grad(_GatedUp.apply(u, g, B, root).square().sum(), u, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        gradient.sum().backward()


@pytest.mark.parametrize("rescale_gate", [False, True])
def test_no_tensor_of_experts_times_the_output_is_kept_for_the_backward_pass(rescale_gate: bool) -> None:
    tokens, experts, r, inside, outside = 50, 8, 2, 16, 24
    made = layer("moelora", linear("Linear", inside, outside), num_experts=experts, r=r, rescale_gate=rescale_gate)
    sizes = []

    def pack(tensor: Tensor) -> Tensor:
        sizes.append(tensor.numel())
        return tensor

    x = torch.randn(tokens, inside, dtype=torch.float64, requires_grad=True)
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        y = made(x)
    y.sum().backward()
    narrow, widest_weight = tokens * experts * r, experts * r * max(inside, outside)
    assert max(sizes) <= max(narrow, widest_weight, tokens * inside, tokens * outside)
    # All together too: x (for A, the gate and the base), u, g and what the gate's softmax and top-k keep, the weights.
    assert sum(sizes) < tokens * experts * outside


# How it starts, dropout, precision


def test_it_starts_at_the_layer_itself_with_b_at_zero() -> None:
    made = MoeLoraLayer(linear("Linear", IN, OUT))
    made.update_layer("default", config("moelora", num_experts=40))
    assert not made.moelora_B["default"].weight.any()
    assert made.moelora_A["default"].weight.all()
    gate = made.moelora_gate["default"].weight
    assert made.moelora_gate["default"].bias is None
    assert gate.shape == (40, IN)
    assert gate.abs().max() <= 1 / math.sqrt(IN)
    assert abs(gate.std().item() * math.sqrt(3 * IN) - 1) < 0.1  # a uniform distribution's; 480 draws scatter by 2 %
    x = torch.randn(4, IN)
    assert torch.equal(made(x), made.base_layer(x))
    made.reset_adapter_parameters("default", identity=False)
    assert made.moelora_B["default"].weight.all()
    assert not torch.equal(made(x), made.base_layer(x))


def test_at_the_first_step_only_b_gets_a_gradient() -> None:
    made = MoeLoraLayer(linear("Linear", IN, OUT))
    made.update_layer("default", config("moelora"))
    made(torch.randn(40, IN)).square().sum().backward()
    A, B, gate = weights(made)
    assert B.grad.any(dim=(1, 2)).all()  # forty tokens reach every expert
    assert not A.grad.any()
    assert not gate.grad.any()


def channels(dropout: float, experts: int, top_k: int) -> MoeLoraLayer:
    """Expert i writes the sum of what it reads to channel i alone, and the layer itself writes nothing."""
    made = layer("moelora", linear("Linear", 16, experts), r=1, num_experts=experts, top_k=top_k, dropout=dropout)
    with torch.no_grad():
        made.base_layer.weight.zero_()
        made.base_layer.bias.zero_()
        made.moelora_A["default"].weight.fill_(1)
        made.moelora_B["default"].weight.copy_(torch.eye(experts).unsqueeze(-1))
    return made


def test_dropout_in_training_keeps_the_formula_with_the_masks_that_were_drawn() -> None:
    made = layer("moelora", linear("Linear", IN, OUT), dropout=0.5, rescale_gate=True).train()
    x, probe = torch.randn(2, 3, IN, dtype=torch.float64, requires_grad=True), torch.randn(2, 3, OUT).double()
    torch.manual_seed(3)
    got = results(made, x, made(x), probe)
    torch.manual_seed(3)
    masks = nn.functional.dropout(torch.ones(3, 6, IN, dtype=torch.float64), 0.5)
    A, B, gate = weights(made)
    g = gates(x.flatten(0, 1) @ gate.T, 2)
    y = made.base_layer(x.flatten(0, 1))
    for i in range(3):
        E = (x.flatten(0, 1) * masks[i]) @ A[i].T @ B[i].T
        root = g[:, i : i + 1].sqrt().detach()
        y = y + root * E + (g[:, i : i + 1] - root) * E.detach()
    for value, exact in zip(got, results(made, x, y.unflatten(0, (2, 3)), probe), strict=True):
        torch.testing.assert_close(value, exact, rtol=1e-10, atol=1e-10)


def test_router_logits_are_float32_under_bfloat16_weights() -> None:
    made = channels(0.0, experts=2, top_k=2).to(torch.bfloat16)
    x = torch.zeros(1, 16).bfloat16()
    x[0, 0] = 1
    with torch.no_grad():
        made.moelora_gate["default"].weight.zero_()
        made.moelora_gate["default"].weight[:, :2] = torch.tensor([[64.0, 0.0], [64.0, 0.125]])
        made.moelora_A["default"].weight.copy_(torch.eye(16)[:1].expand(2, 1, 16))
        x[0, 1] = 1  # the logits are 64 and 64.125; bfloat16 has nothing between 64 and 64.5
    y = made(x)
    assert y.dtype == torch.bfloat16
    expected = torch.softmax(torch.tensor([[0.0, 0.125]], dtype=torch.float64), -1)
    torch.testing.assert_close(y.double(), expected, rtol=2**-8, atol=0)  # half of bfloat16's unit 2^-7
    assert y[0, 0] != y[0, 1]


@pytest.mark.parametrize("rescale_gate", [False, True])
@pytest.mark.parametrize("dropout", [0.0, 0.3])
def test_autocast_gives_gradients_close_to_those_without_it(rescale_gate: bool, dropout: float) -> None:
    made = layer("moelora", linear("Linear", IN, OUT), torch.float32, rescale_gate=rescale_gate, dropout=dropout,
                 top_k=3)  # fmt: skip  # all experts, so that no rounding can change which are kept
    made.train()
    x, gradients = torch.randn(20, IN), []
    for enabled in (False, True):
        made.zero_grad()
        torch.manual_seed(1)
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=enabled):
            y = made(x)
        y.float().square().mean().backward()
        gradients.append([weight.grad.clone() for weight in weights(made)])
    for exact, got in zip(*gradients, strict=True):
        assert got.dtype == torch.float32
        # Each of a handful of roundings is 2^-8 of values of this size.
        assert (got - exact).abs().max() < 8 * 2**-8 * exact.abs().max()
