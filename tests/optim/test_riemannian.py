"""Preconditioned gradients and the optimizer that steps along them, against dense float64 computations."""

from __future__ import annotations

import copy

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import Tensor, nn

from architectures import tiny
from hycam import HyCAMConfig, MoeLoraConfig, MultiLoraConfig
from hycam.errors import HycamError
from hycam.optim import RiemannianAdamW, factor_pairs, precondition

IN, OUT, R = 9, 7, 3
SHAPES = {"one product": (), "three experts": (3,), "experts of experts": (2, 3)}

stacks = pytest.mark.parametrize("stack", SHAPES.values(), ids=SHAPES.keys())


def draw(*shape: int, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64).to(dtype)


def factors(stack: tuple[int, ...] = (), dtype: torch.dtype = torch.float64, r: int = R) -> tuple[Tensor, ...]:
    """A, B and their gradients."""
    A, B = (*stack, r, IN), (*stack, OUT, r)
    return tuple(draw(*shape, dtype=dtype) for shape in (A, B, A, B))


def dense(A: Tensor, B: Tensor, grad_A: Tensor, grad_B: Tensor, damping: float) -> tuple[Tensor, Tensor]:
    """``(B^T B + delta I)^-1 G_A`` and ``G_B (A A^T + delta I)^-1`` in float64, a product at a time."""
    A, B, grad_A, grad_B = (tensor.double() for tensor in (A, B, grad_A, grad_B))
    if A.dim() > 2:
        parts = [dense(*each, damping) for each in zip(A, B, grad_A, grad_B, strict=True)]
        return torch.stack([left for left, _ in parts]), torch.stack([right for _, right in parts])
    eye = torch.eye(len(A), dtype=torch.float64)
    return torch.inverse(B.T @ B + damping * eye) @ grad_A, grad_B @ torch.inverse(A @ A.T + damping * eye)


# The preconditioner


@stacks
@pytest.mark.parametrize("damping", [0.0, 1e-6, 0.5])
def test_both_gradients_equal_those_of_the_dense_inverse(stack: tuple[int, ...], damping: float) -> None:
    tensors = factors(stack)
    before = [tensor.clone() for tensor in tensors]
    for got, expected in zip(precondition(*tensors, damping), dense(*tensors, damping), strict=True):
        # Gram matrices of random factors of rank 3 are conditioned like 1e2 or so: float64 loses little of 1e-16.
        torch.testing.assert_close(got, expected, rtol=1e-10, atol=1e-10)
    assert all(torch.equal(tensor, kept) for tensor, kept in zip(tensors, before, strict=True))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("stack", [(), (3,)])
def test_half_precision_is_preconditioned_in_float32(dtype: torch.dtype, stack: tuple[int, ...]) -> None:
    tensors = factors(stack, dtype)
    for got, expected in zip(precondition(*tensors, 1e-6), dense(*tensors, 1e-6), strict=True):
        assert got.dtype == torch.float32
        # 1e-7 of float32 times a condition number of some hundreds; bfloat16 would be at 1e-2 times it.
        torch.testing.assert_close(got.double(), expected, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("c", [1e-3, 0.3, 7.0, 1e3])
def test_the_step_of_the_product_does_not_depend_on_how_its_scale_is_shared_out(c: float) -> None:
    A, B, *_ = factors((3,))
    G, rate = draw(3, OUT, IN), 1e-6

    def moved(A: Tensor, B: Tensor) -> tuple[Tensor, Tensor]:
        """What one SGD step changes B A by, over the rate: with preconditioned gradients, and with plain ones."""
        changes = []
        for left, right in (precondition(A, B, B.mT @ G, G @ A.mT, damping=0.0), (B.mT @ G, G @ A.mT)):
            changes.append(((B - rate * right) @ (A - rate * left) - B @ A) / rate)
        return changes[0], changes[1]

    preconditioned, plain = moved(A, B)
    scaled, scaled_plain = moved(c * A, B / c)
    # The second-order term, of size rate, is the same as well: what is left is rounding, 1e-16 / rate.
    torch.testing.assert_close(scaled, preconditioned, rtol=1e-6, atol=1e-7)
    assert (scaled_plain - plain).abs().max() > 0.1 * plain.abs().max()


@pytest.mark.parametrize("damping", [0.0, 1e-6])
def test_a_factor_of_low_rank_gives_the_step_that_the_pseudo_inverse_gives(damping: float) -> None:
    # With rank one and a norm at which 1e-6 is below float32's last digit, Cholesky breaks off.
    A, B, *_ = factors(dtype=torch.float32, r=8)
    B = 10 * draw(OUT, 1, dtype=torch.float32) @ draw(1, 8, dtype=torch.float32)
    G = draw(OUT, IN, dtype=torch.float32)
    assert torch.linalg.cholesky_ex(B.mT @ B + damping * torch.eye(8))[1] > 0
    left, right = precondition(A, B, B.mT @ G, G @ A.mT, damping)
    direction = torch.linalg.svd(B.double())[0][:, :1]
    expected = direction @ direction.T @ G.double()
    # B G_A: the gradient's projection on the one direction that B has; float32 against values of order one.
    torch.testing.assert_close(B.double() @ left.double(), expected, rtol=1e-3, atol=1e-3)
    assert torch.isfinite(right).all()


@pytest.mark.parametrize("damping", [0.0, 1e-6])
def test_an_experts_gradient_does_not_depend_on_the_other_experts(damping: float) -> None:
    A, B, grad_A, grad_B = factors((4,), torch.float32, r=4)
    # One expert of rank one, on which Cholesky breaks off, and one with a small direction that Cholesky still solves
    # for and a pseudo-inverse would cut.
    B[1] = 10 * draw(OUT, 1, dtype=torch.float32) @ draw(1, 4, dtype=torch.float32)
    B[2, :, 0] *= 3e-4
    failed = torch.linalg.cholesky_ex(B.mT @ B + damping * torch.eye(4))[1] > 0
    assert failed.tolist() == [False, True, False, False]
    together = precondition(A, B, grad_A, grad_B, damping)
    exact = dense(A, B, grad_A, grad_B, damping)
    for i in range(4):
        alone = precondition(A[i], B[i], grad_A[i], grad_B[i], damping)
        for one, of_all, wide in zip(alone, together, exact, strict=True):
            # The same arithmetic, batched.
            torch.testing.assert_close(of_all[i], one, rtol=1e-4, atol=1e-6 * one.abs().max().item())
            if i != 1:  # the small direction makes this large, in which float32 keeps three digits and more
                torch.testing.assert_close(of_all[i].double(), wide[i], rtol=1e-3, atol=1e-3 * wide[i].abs().max())


# The optimizer


class AdamWByHand:
    """AdamW as its paper writes it (bias-corrected moments, decoupled decay), in float64."""

    def __init__(self, values: list[Tensor], rates: list[float], decay: float, betas: tuple[float, float], eps: float):
        self.values = [value.detach().double().clone() for value in values]
        self.rates, self.decay, self.betas, self.eps = rates, decay, betas, eps
        self.m = [torch.zeros_like(value) for value in self.values]
        self.v = [torch.zeros_like(value) for value in self.values]
        self.t = 0

    def step(self, gradients: list[Tensor], pairs: list[tuple[int, int]], damping: float) -> None:
        gradients = [gradient.double() for gradient in gradients]
        for a, b in pairs:
            of_pair = dense(self.values[a], self.values[b], gradients[a], gradients[b], damping)
            gradients[a], gradients[b] = of_pair
        self.t += 1
        one, two = self.betas
        for i, gradient in enumerate(gradients):
            self.m[i] = one * self.m[i] + (1 - one) * gradient
            self.v[i] = two * self.v[i] + (1 - two) * gradient**2
            mean, square = self.m[i] / (1 - one**self.t), self.v[i] / (1 - two**self.t)
            kept = (1 - self.rates[i] * self.decay) * self.values[i]
            self.values[i] = kept - self.rates[i] * mean / (square.sqrt() + self.eps)


def parameters(dtype: torch.dtype = torch.float64) -> list[nn.Parameter]:
    """A and B of one product, A and B of three experts, and a weight that is not a factor."""
    (A, B, *_), (As, Bs, *_) = factors(dtype=dtype), factors((3,), dtype)
    return [nn.Parameter(tensor) for tensor in (A, B, As, Bs, draw(5, 4, dtype=dtype))]


def pairs_of(values: list[nn.Parameter]) -> list[tuple[nn.Parameter, nn.Parameter]]:
    return [(values[0], values[1]), (values[2], values[3])]


def set_gradients(values: list[nn.Parameter], seed: int) -> list[Tensor]:
    torch.manual_seed(seed)
    for value in values:
        value.grad = torch.randn_like(value)
    return [value.grad.clone() for value in values]


@pytest.mark.parametrize("damping", [1e-6, 0.5])
def test_three_steps_equal_adamw_on_preconditioned_gradients(damping: float) -> None:
    values, rate, decay, betas, eps = parameters(), 0.05, 0.1, (0.8, 0.95), 1e-5
    rates = [rate, rate, rate, rate, 3 * rate]
    groups = [{"params": values[:4]}, {"params": values[4:], "lr": 3 * rate}]
    optimizer = RiemannianAdamW(groups, pairs_of(values), damping, lr=rate, betas=betas, eps=eps, weight_decay=decay)
    by_hand = AdamWByHand(values, rates, decay, betas, eps)
    for step in range(3):
        gradients = set_gradients(values, step)
        optimizer.step()
        by_hand.step(gradients, [(0, 1), (2, 3)], damping)
        for got, expected in zip(values, by_hand.values, strict=True):
            torch.testing.assert_close(got.detach(), expected, rtol=1e-9, atol=1e-9)


def test_a_pair_of_which_one_factor_has_no_gradient_is_stepped_by_plain_adamw() -> None:
    values = parameters()
    others = copy.deepcopy(values)
    riemannian, plain = RiemannianAdamW(values, pairs_of(values), lr=0.05), torch.optim.AdamW(others, lr=0.05)
    for each in (values, others):
        set_gradients(each, 0)
        each[1].grad = None
    riemannian.step()
    plain.step()
    assert torch.equal(values[0], others[0])
    assert torch.equal(values[1], others[1])
    assert not torch.equal(values[2], others[2])


def test_a_state_dict_carries_on_where_the_first_optimizer_stopped() -> None:
    values = parameters()
    optimizer = RiemannianAdamW(values, pairs_of(values), 1e-3, lr=0.05, weight_decay=0.1)
    for step in range(2):
        set_gradients(values, step)
        optimizer.step()
    results = {}
    for resumed in (True, False):
        twins = copy.deepcopy(values)
        other = RiemannianAdamW(twins, pairs_of(twins), 1e-3, lr=0.5)
        if resumed:
            other.load_state_dict(copy.deepcopy(optimizer.state_dict()))
        set_gradients(twins, 9)
        other.step()
        results[resumed] = twins
    set_gradients(values, 9)
    optimizer.step()
    for value, resumed, fresh in zip(values, results[True], results[False], strict=True):
        assert torch.equal(value, resumed)
        assert not torch.equal(value, fresh)


def test_a_hook_on_the_step_runs_once() -> None:
    torch.optim.AdamW(parameters())  # torch puts its hooks into the class when the first instance is made
    values, calls = parameters(), []
    optimizer = RiemannianAdamW(values, pairs_of(values))
    optimizer.register_step_pre_hook(lambda *_: calls.append("before"))
    optimizer.register_step_post_hook(lambda *_: calls.append("after"))
    set_gradients(values, 0)
    optimizer.step()
    assert calls == ["before", "after"]


def test_a_closure_is_refused_and_nothing_is_stepped() -> None:
    values = parameters()
    before = [value.detach().clone() for value in values]
    optimizer = RiemannianAdamW(values, pairs_of(values))
    gradients = set_gradients(values, 0)
    for arguments in ({"closure": lambda: 0.0}, None):
        with pytest.raises(ValueError, match="takes no closure"):
            optimizer.step(**arguments) if arguments else optimizer.step(lambda: 0.0)
    assert all(torch.equal(value, kept) for value, kept in zip(values, before, strict=True))
    assert all(torch.equal(value.grad, kept) for value, kept in zip(values, gradients, strict=True))


def test_no_pairs_and_a_negative_damping_are_refused() -> None:
    values = parameters()
    with pytest.raises(ValueError, match="no factors to precondition"):
        RiemannianAdamW(values, [])
    for damping in (-1e-6, float("nan")):
        with pytest.raises(ValueError, match=f"damping must not be negative, not {damping!r}"):
            RiemannianAdamW(values, pairs_of(values), damping)
    assert RiemannianAdamW(values, iter(pairs_of(values)), 0.0).pairs == pairs_of(values)


# The factors of a model


SIZES = {"q_proj": (32, 32), "k_proj": (32, 16), "v_proj": (32, 16), "o_proj": (32, 32), "gate_proj": (32, 48),
         "up_proj": (32, 48), "down_proj": (48, 32)}  # fmt: skip  # in and out of the tiny Llama's layers


@pytest.mark.parametrize(
    ("config", "stack", "name"),
    [(LoraConfig(r=2, target_modules="all-linear"), (), "lora_{}.default.weight"),
     (MoeLoraConfig(r=2, num_experts=3), (3,), "moelora_{}.default.weight")],
    ids=["lora", "moelora"],
)  # fmt: skip
def test_every_adapted_layer_gives_its_own_a_with_its_own_b(config, stack: tuple[int, ...], name: str) -> None:
    model = get_peft_model(tiny(), config)
    names = {id(parameter): key for key, parameter in model.named_parameters()}
    pairs = factor_pairs(model)
    assert len(pairs) == 14
    layers = set()
    for A, B in pairs:
        layer, _, rest = names[id(A)].partition(f".{name.format('A')}")
        assert rest == ""
        assert names[id(B)] == f"{layer}.{name.format('B')}"
        inside, outside = SIZES[layer.rpartition(".")[2]]
        assert (A.shape, B.shape) == ((*stack, 2, inside), (*stack, outside, 2))
        layers.add(layer)
    assert len(layers) == 14


def test_only_the_active_adapters_factors_are_taken() -> None:
    model = get_peft_model(tiny(), MoeLoraConfig(r=2, target_modules=["q_proj"]))
    model.add_adapter("other", MoeLoraConfig(r=4, target_modules=["q_proj", "v_proj"]))
    assert [A.shape[1] for A, _ in factor_pairs(model)] == [2, 2]
    model.set_adapter("other")
    assert [A.shape[1] for A, _ in factor_pairs(model)] == [4, 4, 4, 4]


@pytest.mark.parametrize("letter", ["A", "B"])
def test_a_pair_of_which_one_factor_is_frozen_is_left_out(letter: str) -> None:
    model = get_peft_model(tiny(), LoraConfig(r=2, target_modules=["q_proj", "v_proj"]))
    frozen = model.get_submodule(f"base_model.model.model.layers.0.self_attn.q_proj.lora_{letter}.default").weight
    frozen.requires_grad_(False)
    pairs = factor_pairs(model)
    assert len(pairs) == 3
    assert not any(parameter is frozen for pair in pairs for parameter in pair)


@pytest.mark.parametrize("config", [HyCAMConfig(r=2), MultiLoraConfig(r=2), None], ids=["hycam", "multilora", "none"])
def test_a_model_without_such_factors_is_an_error_that_says_what_has_them(config) -> None:
    model = tiny() if config is None else get_peft_model(tiny(), config)
    with pytest.raises(HycamError, match=r"no factors to precondition.*LoRA and MoE-LoRA"):
        factor_pairs(model)


def test_a_broken_factor_gives_nan_for_its_own_expert_alone() -> None:
    A, B, grad_A, grad_B = factors((3,), torch.float32, r=4)
    whole = precondition(A, B, grad_A, grad_B, damping=1e-3)
    A[1, 0, 0] = torch.nan
    B[1, 0, 0] = torch.inf
    broken = precondition(A, B, grad_A, grad_B, damping=1e-3)
    for before, after in zip(whole, broken, strict=True):
        assert torch.equal(after[[0, 2]], before[[0, 2]])
        assert not after[1].isfinite().any()


def test_a_copy_that_would_forget_the_factors_is_refused() -> None:
    values = parameters()
    with pytest.raises(TypeError, match="load this one's state_dict"):
        copy.deepcopy(RiemannianAdamW(values, pairs_of(values)))


def test_factors_that_are_not_stepped_or_cannot_hold_the_gradient_are_refused() -> None:
    values, others = parameters(), parameters()
    with pytest.raises(ValueError, match="not among the parameters to step"):
        RiemannianAdamW(others, pairs_of(values))
    halves = [torch.nn.Parameter(value.detach().half()) for value in values]
    with pytest.raises(ValueError, match="float16 cannot hold"):
        RiemannianAdamW(halves, pairs_of(halves))


def test_a_step_that_would_be_plain_adamw_says_so() -> None:
    values = [*parameters(), torch.nn.Parameter(torch.ones(3))]
    optimizer = RiemannianAdamW(values, pairs_of(values))
    optimizer.step()  # nothing has a gradient: nothing to say
    values[-1].grad = torch.ones(3)
    with pytest.raises(RuntimeError, match="no gradient on any factor"):
        optimizer.step()
