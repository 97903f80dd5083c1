"""The forms of the modulation that run everywhere, against the paper's formula in float64."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.checkpoint import checkpoint

from hycam.ops import Dense, Modulation, Router, eager, gumbel_noise, mixing, reference
from ops.modulations import VARIANTS, converted, draw, forward_and_backward, modulation

every = pytest.mark.parametrize("form", [reference.modulate, eager.modulate], ids=["reference", "eager"])


@pytest.fixture(autouse=True)
def _poisoned() -> Iterator[None]:
    # The deterministic mode fills the tensors of torch.empty with NaN.
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(False)


def assert_same(form: Callable, weights: Modulation, inputs: list[Tensor], seed: int = 0) -> None:
    """In float64, up to its rounding."""
    torch.manual_seed(seed)
    experts = 1 if weights.router is None else len(weights.router.weight)
    small = torch.Size((*inputs[0].shape[:-1], experts))
    noise = gumbel_noise(small, inputs[0].device, torch.float64)
    above = [draw(*inputs[1].shape), draw(*small), draw(*small)]
    got, expected = (forward_and_backward(f, weights, inputs, noise, above) for f in (form, reference.modulate))
    for one, other in zip(got, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-11)


@pytest.mark.parametrize(("shared", "specialized", "hard", "biases"), VARIANTS)
@pytest.mark.parametrize(("batch", "seq", "d", "r", "experts"), [(1, 1, 5, 1, 1), (2, 7, 12, 4, 5), (3, 2, 9, 16, 8)])
@pytest.mark.parametrize("of_stream", [False, True], ids=["attention output", "residual stream"])
def test_output_and_gradients_equal_the_papers_formula(
    monkeypatch, shared, specialized, hard, biases, batch, seq, d, r, experts, of_stream
) -> None:
    monkeypatch.setattr(mixing, "CPU_CHUNK", 4)  # several chunks, of which the last is not full
    torch.manual_seed(0)
    weights = modulation(shared, specialized, hard, biases, d, r, experts)
    assert_same(eager.modulate, weights, [draw(batch, seq, d) for _ in range(3 if of_stream else 2)])


@pytest.mark.parametrize(
    ("tokens", "d", "r", "experts"), [(1, 33, 4, 1), (7, 50, 16, 2), (257, 18, 64, 5), (600, 31, 128, 8)]
)
def test_odd_shapes_and_tokens_that_fill_no_chunk(tokens: int, d: int, r: int, experts: int) -> None:
    torch.manual_seed(0)
    weights = converted(modulation("full", "low_rank", False, False, d, r, experts), lambda t: t / t.shape[-1] ** 0.5)
    assert_same(eager.modulate, weights, [draw(1, tokens, d), draw(1, tokens, d)])


@every
@pytest.mark.parametrize(("shared", "specialized", "hard", "biases"), [v for v in VARIANTS if not v[2]])
def test_gradients_are_those_of_finite_differences(
    form: Callable, shared: str, specialized: str, hard: bool, biases: bool
) -> None:
    # Soft routing only: differences would not show the straight-through gradient of a hard choice.
    torch.manual_seed(0)
    weights = modulation(shared, specialized, hard, biases, 4, 2, 3)
    inputs = [draw(1, 3, 4).requires_grad_() for _ in range(3)]
    noise = gumbel_noise(torch.Size((1, 3, 3)), inputs[0].device, torch.float64)
    leaves = [tensor.requires_grad_() for tensor in weights.tensors()]

    def function(h: Tensor, a: Tensor, residual: Tensor, *_: Tensor) -> tuple[Tensor, ...]:
        output, routing = form(h, a, weights, noise, residual)
        return (output, *(routing or ()))

    assert torch.autograd.gradcheck(function, (*inputs, *leaves), fast_mode=True)


@pytest.mark.parametrize(("shared", "specialized"), [("full", "low_rank"), ("low_rank", "full"), ("none", "low_rank")])
def test_eager_can_be_differentiated_twice(shared: str, specialized: str) -> None:
    torch.manual_seed(0)
    weights = modulation(shared, specialized, False, True, 4, 2, 2)
    inputs = [draw(1, 2, 4).requires_grad_() for _ in range(3)]
    leaves = [tensor.requires_grad_() for tensor in weights.tensors()]

    def function(h: Tensor, a: Tensor, residual: Tensor, *_: Tensor) -> Tensor:
        return eager.modulate(h, a, weights, None, residual)[0]

    assert torch.autograd.gradgradcheck(function, (*inputs, *leaves), fast_mode=True)


def test_eagers_gradients_are_the_same_whether_or_not_they_are_to_be_differentiated_again() -> None:
    # The residual goes into h and a as well, and the output of one layer into the next.
    torch.manual_seed(0)
    weights, stream = modulation("full", "low_rank", False, True, 6, 2, 3), draw(1, 4, 6).requires_grad_()

    def gradient(form: Callable, create_graph: bool) -> Tensor:
        once = form(stream.tanh(), 2 * stream.sin(), weights, None, stream)[0]
        twice = form(once, stream, weights)[0]
        return torch.autograd.grad(twice.square().sum(), stream, create_graph=create_graph)[0]

    expected = gradient(reference.modulate, False)
    for create_graph in (False, True):
        torch.testing.assert_close(gradient(eager.modulate, create_graph), expected, rtol=1e-10, atol=1e-11)


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
    torch.testing.assert_close(eager.modulate(h, a, weights)[0], expected)


@every
def test_with_the_residual_added_the_whole_stream_is_scaled(form: Callable) -> None:
    torch.manual_seed(0)
    weights = modulation("full", "low_rank", False, True, 12, 4, 5)
    h, a, residual = draw(2, 7, 12), draw(2, 7, 12), draw(2, 7, 12)
    factor = form(h, torch.ones_like(a), weights)[0]
    stream = residual + form(h, a, weights, residual=residual)[0]
    torch.testing.assert_close(stream, (residual + a) * factor, rtol=1e-12, atol=1e-12)


# How many times the error that rounding alone makes at the largest value, half a unit in its last place. A float32
# result sums up to 600 products, whose errors cancel in part. In bfloat16 a gradient of h comes from two sides, each
# rounded, and a bfloat16 adapter also rounds its rank-r activations, pre-activations and what comes back.
ROUNDINGS = {torch.float32: 32, torch.bfloat16: 4}


@pytest.mark.parametrize(
    ("backbone", "adapter"),
    [(torch.float32, torch.float32), (torch.bfloat16, torch.float32), (torch.bfloat16, torch.bfloat16)],
)
def test_results_are_a_few_roundings_from_the_exact_ones(backbone: torch.dtype, adapter: torch.dtype) -> None:
    torch.manual_seed(0)
    d, experts = 48, 5
    weights = converted(
        modulation("full", "low_rank", False, True, d, 16, experts), lambda t: (2 * t / t.shape[-1] ** 0.5).to(adapter)
    )
    inputs = [draw(2, 300, d).to(backbone) for _ in range(3)]
    noise = gumbel_noise(torch.Size((2, 300, experts)), inputs[0].device)
    above = [draw(2, 300, d).to(backbone), *(draw(2, 300, experts).float() for _ in "pl")]
    got = forward_and_backward(eager.modulate, weights, inputs, noise, above)
    wide = [[tensor.double() for tensor in tensors] for tensors in (inputs, above)]
    exact = forward_and_backward(
        reference.modulate, converted(weights, Tensor.double), wide[0], noise.double(), wide[1]
    )
    for one, other in zip(got, exact, strict=True):
        half_unit = torch.finfo(one.dtype).eps / 2 * other.abs().max()
        assert (one.double() - other).abs().max() < ROUNDINGS[one.dtype] * half_unit
    types = [tensor.dtype for tensor in got]
    assert types == [backbone, torch.float32, torch.float32, *[backbone] * 3, *[adapter] * (len(types) - 6)]


def test_a_small_modulation_is_not_lost_in_bfloat16() -> None:
    # 1 + m rounds to 1 in bfloat16 for m below 2^-9; computed wider, the product still moves where a has room for it.
    weights = Modulation(Dense((0.005 * torch.eye(4)).bfloat16()), None, None)
    h, a = torch.ones(1, 1, 4).bfloat16(), torch.full((1, 1, 4), 255.0).bfloat16()
    exact = reference.modulate(h.double(), a.double(), Modulation(Dense(weights.shared.weight.double()), None, None))[0]
    torch.testing.assert_close(eager.modulate(h, a, weights)[0].double(), exact, rtol=2**-9, atol=0)


def test_zero_weights_keep_infinite_attention_outputs_infinite() -> None:
    weights = Modulation(Dense(torch.zeros(3, 3)), None, None)
    a = torch.tensor([[[float("inf"), float("-inf"), 1.0]]])
    assert torch.equal(eager.modulate(torch.randn(1, 1, 3), a, weights)[0], a)
    assert torch.equal(eager.modulate(torch.randn(1, 1, 3), a, weights, residual=torch.randn(1, 1, 3))[0], a)


def test_a_token_that_is_not_a_number_stays_so_and_leaves_the_others_alone() -> None:
    torch.manual_seed(0)
    weights = modulation("full", "low_rank", False, False, 6, 2, 3)
    h, a = draw(1, 4, 6), draw(1, 4, 6)
    clean = eager.modulate(h, a, weights)[0]
    h[0, 1, 2] = a[0, 2, 3] = float("nan")
    output = eager.modulate(h, a, weights)[0]
    assert output[0, 1].isnan().all()
    assert output[0, 2].isnan().tolist() == [False, False, False, True, False, False]
    assert torch.equal(output[0, [0, 3]], clean[0, [0, 3]])


def test_inputs_need_not_be_contiguous() -> None:
    torch.manual_seed(0)
    weights = modulation("full", "low_rank", False, False, 6, 2, 3)
    h, a, residual = draw(5, 2, 6).transpose(0, 1), draw(2, 5, 12)[..., ::2], draw(1, 1, 6).expand(2, 5, 6)
    assert_same(eager.modulate, weights, [h, a, residual])


@pytest.mark.parametrize("specialized", ["low_rank", "full"])
def test_without_tokens_the_result_is_empty_and_the_gradients_of_the_weights_are_zero(specialized: str) -> None:
    weights = modulation("full", specialized, False, True, 6, 2, 3)
    empty = torch.zeros(2, 0, 6, dtype=torch.float64)
    above = [empty, empty[..., :3], empty[..., :3]]
    output, _, _, h, a, *gradients = forward_and_backward(eager.modulate, weights, [empty, empty], None, above)
    assert output.shape == h.shape == a.shape == (2, 0, 6)
    assert len(gradients) == len(weights.tensors()) and not any(gradient.any() for gradient in gradients)


def test_autocast_computes_the_products_in_its_type_and_leaves_the_routing_alone() -> None:
    torch.manual_seed(0)
    weights = converted(modulation("full", "low_rank", False, False, 32, 8, 5), lambda t: t.float() / 3)
    inputs = [draw(2, 6, 32).float(), draw(2, 6, 32).float()]
    above = [draw(2, 6, 32).float(), *(draw(2, 6, 5).float() for _ in "pl")]

    def under_autocast(*args: object) -> tuple:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            return eager.modulate(*args)

    got = forward_and_backward(under_autocast, weights, inputs, None, above)
    plain = forward_and_backward(eager.modulate, weights, inputs, None, above)
    assert all(tensor.dtype == torch.float32 for tensor in got)
    assert torch.equal(got[1], plain[1]) and torch.equal(got[2], plain[2])
    for one, other in zip(got, plain, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=2**-5 * other.abs().max().item())
    assert not torch.equal(got[0], plain[0])


def test_under_gradient_checkpointing_and_used_twice_in_one_graph_the_gradients_are_the_same() -> None:
    torch.manual_seed(0)
    weights = modulation("full", "low_rank", False, True, 12, 4, 5)

    def twice(f: Callable) -> Callable:
        def function(h: Tensor, a: Tensor, *rest: object) -> tuple:
            middle, _ = f(h, a, *rest)
            return f(middle, h, *rest)

        return function

    def checkpointed(*args: object) -> tuple:
        return checkpoint(eager.modulate, *args, use_reentrant=False)

    inputs, above = [draw(2, 7, 12), draw(2, 7, 12)], [draw(2, 7, 12), draw(2, 7, 5), draw(2, 7, 5)]
    expected = forward_and_backward(twice(reference.modulate), weights, inputs, None, above)
    for function in (twice(eager.modulate), twice(checkpointed)):
        for one, other in zip(forward_and_backward(function, weights, inputs, None, above), expected, strict=True):
            torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-11)


def test_no_tensor_is_larger_than_the_hidden_state() -> None:
    class Largest(TorchDispatchMode):
        numel = 0

        def __torch_dispatch__(self, function, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
            results = function(*args, **(kwargs or {}))
            for result in results if isinstance(results, tuple | list) else (results,):
                if isinstance(result, Tensor):
                    self.numel = max(self.numel, result.numel())
            return results

    weights = modulation("full", "low_rank", False, False, 64, 4, 8)
    inputs, above = [draw(1, 600, 64), draw(1, 600, 64)], [draw(1, 600, 64), draw(1, 600, 8), draw(1, 600, 8)]
    with Largest() as largest:
        forward_and_backward(eager.modulate, weights, inputs, None, above)
    assert largest.numel == inputs[0].numel()
