"""The Triton kernels against the paper's formula in float64.

Without a CUDA device they run in Triton's interpreter, for which `tests/conftest.py` asks before anything imports
Triton. There bfloat16 results are cut off, not rounded.
"""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

from hycam.ops import BACKENDS, Dense, LowRank, Modulation, Router, gumbel_noise, reference, triton_kernels

if triton_kernels.unavailable() is not None:
    pytest.skip(f"Triton does not run here: {triton_kernels.unavailable()}", allow_module_level=True)

import triton

from hycam.ops.triton import kernels as triton_mix
from hycam.ops.triton import operators as triton_ops
from ops.modulations import converted

DEVICE = "cpu" if triton_kernels.interpreted() else "cuda"
# Relative to the largest exact value. float32: at most a few hundred terms a sum. bfloat16 keeps 8 bits, float16 11;
# three or four intermediate results are stored, and each loses the last bit where it is cut off.
TOLERANCE = {torch.float32: 5e-6, torch.bfloat16: 2**-6, torch.float16: 2**-9}


@pytest.fixture(autouse=True)
def _poisoned_and_few_steps(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    # The deterministic mode fills the tensors of torch.empty with NaN.
    torch.use_deterministic_algorithms(True, warn_only=True)
    if triton_mix.INTERPRETED:  # which is slow by the step, not by the element
        monkeypatch.setattr(triton_mix, "TILES", dict.fromkeys(triton_mix.TILES, ((64, 64, 4, 2),)))
    yield
    torch.use_deterministic_algorithms(False)


def draw(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return (torch.randn(*shape) * 0.5).to(DEVICE, dtype)


def low_rank(stack: tuple[int, ...], d: int, r: int, biases: bool, scale: float, dtype: torch.dtype) -> LowRank:
    shapes = (r, d), (r, r), (d, r)
    # As large as trained maps: of the size of their input.
    maps = [draw(*stack, *shape, dtype=dtype) * shape[1] ** -0.5 for shape in shapes]
    offsets = [draw(*stack, rows, dtype=dtype) for rows, _ in shapes] if biases else [None] * 3
    return LowRank(*maps, *offsets, scale)


def modulation(
    d: int,
    experts: int,
    r: int,
    shared: str = "full",
    biases: bool = False,
    scale: float = 1.0,
    hard: bool = False,
    dtype: torch.dtype = torch.float32,
) -> Modulation:
    shared_weights: Dense | LowRank | None = None
    if shared == "full":
        shared_weights = Dense(draw(d, d, dtype=dtype) * d**-0.5, draw(d, dtype=dtype) if biases else None)
    elif shared == "low_rank":
        shared_weights = low_rank((), d, r, biases, scale, dtype)
    router = Router(draw(experts, d, dtype=dtype), draw(experts, dtype=dtype) if biases else None, hard=hard)
    return Modulation(shared_weights, low_rank((experts,), d, r, biases, scale, dtype), router)


def run(form, weights: Modulation, activations: list[Tensor], noise: Tensor | None) -> list[Tensor]:
    """Output, p, logits, and the gradients of the activations and of all weights."""
    trained = [tensor.detach().requires_grad_() for tensor in [*activations, *weights.tensors()]]
    replaced = iter(trained[len(activations) :])
    fresh = converted(weights, lambda tensor: next(replaced))
    h, a, *residual = trained[: len(activations)]
    output, (p, logits) = form(h, a, fresh, noise, residual[0] if residual else None)
    torch.manual_seed(1)
    above = [torch.randn(tensor.shape).to(DEVICE) for tensor in (output, p, logits)]
    above = [probe.bfloat16().to(tensor.dtype) for probe, tensor in zip(above, (output, p, logits), strict=True)]
    return [output, p, logits, *torch.autograd.grad([output, p, logits], trained, above)]


def assert_equals_the_formula(
    weights: Modulation, activations: list[Tensor], tolerance: float, form=triton_kernels.modulate
) -> None:
    noise = gumbel_noise(torch.Size((*activations[0].shape[:-1], weights.router.weight.shape[0])), torch.device("cpu"))
    got = run(form, weights, activations, noise.to(DEVICE))
    exact = run(
        reference.modulate,
        converted(weights, Tensor.double),
        [x.double() for x in activations],
        noise.to(DEVICE).double(),
    )
    for number, (one, other) in enumerate(zip(got, exact, strict=True)):
        assert one.shape == other.shape
        error = (one.double() - other).abs().max() / other.abs().max()
        assert error <= tolerance, f"result {number} of {len(got)} is off by {error:.1e}"  # NaN is not <=


@pytest.mark.parametrize(
    ("batch", "seq", "d", "experts", "r"),
    [(1, 1, 40, 1, 4), (1, 7, 72, 2, 16), (2, 35, 130, 5, 64), (1, 3, 40, 8, 5), (1, 5, 72, 2, 128)],
)
def test_output_and_all_gradients_equal_the_papers_formula(batch: int, seq: int, d: int, experts: int, r: int) -> None:
    activations = [draw(batch, seq, d), draw(batch, seq, d)]
    assert_equals_the_formula(modulation(d, experts, r), activations, TOLERANCE[torch.float32])


@pytest.mark.parametrize("shared", ["full", "low_rank", "none"])
@pytest.mark.parametrize("hard", [False, True], ids=["soft", "hard"])
def test_biases_scale_residual_and_both_routings_equal_the_papers_formula(shared: str, hard: bool) -> None:
    weights = modulation(40, 2, 4, shared, biases=True, scale=1.5, hard=hard)
    assert_equals_the_formula(weights, [draw(1, 7, 40) for _ in range(3)], TOLERANCE[torch.float32])


@pytest.mark.parametrize("adapter", [torch.bfloat16, torch.float16, torch.float32])
@pytest.mark.parametrize("backbone", [torch.bfloat16, torch.float16])
def test_lower_precision_is_as_near_as_its_type_allows(adapter: torch.dtype, backbone: torch.dtype) -> None:
    weights = modulation(72, 2, 16, dtype=adapter)
    activations = [draw(1, 9, 72, dtype=backbone) for _ in range(3)]
    assert_equals_the_formula(weights, activations, max(TOLERANCE[adapter], TOLERANCE[backbone]))


@pytest.mark.parametrize(("seq", "d"), [(3, 600), (600, 8)], ids=["features", "tokens"])
def test_a_sum_that_is_cut_into_spans_is_whole(seq: int, d: int) -> None:
    assert triton_ops._split(max(seq, d), 1) == (2, 512)
    assert_equals_the_formula(modulation(d, 1, 4), [draw(1, seq, d), draw(1, seq, d)], TOLERANCE[torch.float32])


def test_under_autocast_products_take_its_type_and_gradients_that_of_the_weights() -> None:
    weights, activations = modulation(40, 2, 16), [draw(1, 7, 40), draw(1, 7, 40)]

    def form(*arguments):
        with torch.autocast(DEVICE, dtype=torch.bfloat16):
            return triton_kernels.modulate(*arguments)

    assert_equals_the_formula(weights, activations, TOLERANCE[torch.bfloat16], form)
    results = run(form, weights, activations, None)
    assert {tensor.dtype for tensor in results} == {torch.float32}
    full = run(triton_kernels.modulate, weights, activations, None)
    assert not torch.equal(results[0], full[0])
    assert torch.equal(results[2], full[2])  # the router's logits


def test_non_contiguous_inputs_and_gradients() -> None:
    weights, h, a = modulation(40, 2, 4), draw(7, 2, 40), draw(40, 2, 7)
    loose = [h.transpose(0, 1).requires_grad_(), a.permute(1, 2, 0).requires_grad_()]
    dense = [tensor.detach().contiguous().requires_grad_() for tensor in loose]
    outputs = [triton_kernels.modulate(*activations, weights)[0] for activations in (loose, dense)]
    assert torch.equal(*outputs)
    gradients = [
        torch.autograd.grad(output.sum(), inputs) for output, inputs in zip(outputs, (loose, dense), strict=True)
    ]
    assert all(torch.equal(one, other) for one, other in zip(*gradients, strict=True))


def test_no_tokens_give_an_empty_output_and_gradients_of_zero() -> None:
    weights = modulation(40, 2, 4, biases=True)
    for tensor in weights.tensors():
        tensor.requires_grad_()
    h, a = (draw(2, 0, 40).requires_grad_() for _ in range(2))
    output, (p, logits) = triton_kernels.modulate(h, a, weights)
    assert output.shape == (2, 0, 40)
    assert p.shape == logits.shape == (2, 0, 2)
    gradients = torch.autograd.grad(output.sum() + p.sum() + logits.sum(), [h, a, *weights.tensors()])
    assert all((gradient == 0).all() for gradient in gradients)


def test_a_nan_stays_in_its_token_and_is_never_hidden() -> None:
    weights, h, a = modulation(40, 2, 4), draw(1, 7, 40), draw(1, 7, 40)
    h[0, 2, 5] = float("nan")
    a[0, 4, 6] = float("nan")
    output, (p, _) = triton_kernels.modulate(h, a, weights)
    expected = torch.zeros_like(output, dtype=torch.bool)
    expected[0, 2], expected[0, 4, 6] = True, True
    assert torch.equal(output.isnan(), expected)
    assert torch.equal(p.isnan().any(-1), expected.all(-1))
    weights.specialized.B[1, 3] = float("nan")
    assert triton_kernels.modulate(h, a, weights)[0][..., 3].isnan().all()


def test_untrained_it_is_the_identity_bit_for_bit_infinities_included() -> None:
    weights = modulation(40, 2, 4)
    for tensor in (weights.shared.weight, weights.specialized.B):
        tensor.zero_()
    a = draw(1, 7, 40, dtype=torch.bfloat16)
    a[0, 0, :2] = torch.tensor([float("inf"), float("-inf")])
    assert torch.equal(triton_kernels.modulate(draw(1, 7, 40, dtype=torch.bfloat16), a, weights)[0], a)


@pytest.mark.parametrize("trained", ["B", "A and W", "a", "h", "router"])
def test_what_is_frozen_changes_neither_the_output_nor_the_gradients_of_the_rest(trained: str) -> None:
    weights, h, a = modulation(40, 2, 4, biases=True), draw(1, 7, 40), draw(1, 7, 40)
    chosen = {
        "B": [weights.specialized.B],
        "A and W": [weights.specialized.A, weights.shared.weight],
        "a": [a],
        "h": [h],
        "router": [weights.router.weight],
    }[trained]
    for tensor in chosen:
        tensor.requires_grad_()
    probe, outputs, gradients = draw(1, 7, 40), [], []
    for form in (triton_kernels.modulate, reference.modulate):
        outputs.append(form(h, a, weights)[0])
        gradients.append(torch.autograd.grad(outputs[-1], chosen, probe))
    for one, other in zip((outputs[0], *gradients[0]), (outputs[1], *gradients[1]), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-5)


def test_four_hidden_states_and_what_is_of_low_rank_are_kept_for_the_backward_pass() -> None:
    weights, h, a = modulation(64, 5, 4), draw(1, 50, 64), draw(1, 50, 64)
    for tensor in weights.tensors():
        tensor.requires_grad_()
    kept: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        triton_kernels.modulate(h.requires_grad_(), a.requires_grad_(), weights)
    held = sum(tensor.untyped_storage().nbytes() for tensor in weights.tensors())
    # h, a, the shared pre-activation and m; u and v; p for the mix and for its softmax.
    assert sum(kept.values()) - held <= 4 * h.nbytes + 4 * 50 * 5 * (4 + 4 + 1 + 1)


def test_it_is_compiled_into_one_graph() -> None:
    weights, activations = modulation(40, 2, 4), [draw(1, 7, 40), draw(1, 7, 40)]
    compiled = torch.compile(triton_kernels.modulate, backend="aot_eager", fullgraph=True)
    results = [run(form, weights, activations, None) for form in (triton_kernels.modulate, compiled)]
    for one, other in zip(*results, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("parts", [True, False], ids=["all parts", "the least"])
def test_the_operators_keep_what_they_declare(parts: bool) -> None:
    a, residual, s = (draw(7, 40).requires_grad_() for _ in range(3))
    v, B, bias = draw(2, 7, 4).requires_grad_(), draw(2, 40, 4).requires_grad_(), draw(2, 40).requires_grad_()
    p = torch.rand(7, 2, device=DEVICE).requires_grad_()
    if not parts:
        residual = s = bias = None
    torch.library.opcheck(triton_ops.mix, (a, residual, s, v, B, bias, p, 1.5, True))
    a, residual, s, v, B, bias, p = (None if x is None else x.detach() for x in (a, residual, s, v, B, bias, p))
    m = a if parts else a.new_empty(0)
    pointwise = (a, a, residual, s, m, torch.float32, parts, parts)
    torch.library.opcheck(triton_ops.mix_backward_pointwise, pointwise)
    torch.library.opcheck(triton_ops.mix_backward_tokens, (a, v, B, bias, p, 1.5))
    torch.library.opcheck(triton_ops.mix_backward_weights, (a, v, B, bias, p, 1.5))


def test_what_the_kernels_do_not_take_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    x, weights = draw(1, 2, 40), modulation(40, 2, 4)
    assert triton_kernels.unsupported(x, x, weights) is None
    dense = Modulation(None, Dense(draw(2, 40, 40)), weights.router)
    assert "low-rank" in triton_kernels.unsupported(x, x, dense)
    assert "low-rank" in triton_kernels.unsupported(x, x, Modulation(weights.shared, None, None))
    assert "rank 129 " in triton_kernels.unsupported(x, x, modulation(40, 1, 129))
    assert "type of a is torch.float64" in triton_kernels.unsupported(x, x.double(), weights)
    assert "type of the shared weight is torch.float64" in triton_kernels.unsupported(
        x, x, converted(weights, Tensor.double)
    )
    wide = Modulation(weights.shared, converted(weights, Tensor.double).specialized, weights.router)
    assert "type of A is torch.float64" in triton_kernels.unsupported(x, x, wide)
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    assert "on cpu" in triton_kernels.unsupported(x.cpu(), x.cpu(), weights)


def test_it_is_available_with_a_driver_or_the_interpreter_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRITON_INTERPRET", "0")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert "driver" in triton_kernels.unavailable()
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    assert triton_kernels.unavailable() is None


def test_a_driver_of_triton_that_does_not_start_is_a_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    # As on a machine with a GPU and without a C compiler.
    class Driver:
        @property
        def active(self) -> object:
            raise RuntimeError("Failed to find C compiler.")

    monkeypatch.setenv("TRITON_INTERPRET", "0")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    monkeypatch.setattr(triton.runtime, "driver", Driver())
    assert "Failed to find C compiler" in triton_kernels.unavailable()


@pytest.mark.parametrize("wide", ["router", "noise"])
def test_a_router_or_noise_in_float64_does_not_widen_the_rest(wide: str) -> None:
    torch.manual_seed(0)
    weights, noise = modulation(40, 3, 4), gumbel_noise(torch.Size((1, 5, 3)), torch.device(DEVICE))
    h, a = draw(1, 5, 40), draw(1, 5, 40).requires_grad_()
    expected = triton_kernels.modulate(h, a, weights, noise)[0]
    if wide == "router":
        weights = Modulation(weights.shared, weights.specialized, converted(weights, Tensor.double).router)
    else:
        noise = noise.double()
    got, routing = triton_kernels.modulate(h, a, weights, noise)
    torch.testing.assert_close(got, expected)
    assert routing is not None and routing[0].dtype == torch.float64
    got.sum().backward()
    assert a.grad is not None and a.grad.isfinite().all()


def test_without_the_package_it_can_be_imported_and_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "triton", None)
    monkeypatch.setitem(BACKENDS, "triton", BACKENDS["triton"])  # to be put back
    spec = importlib.util.spec_from_file_location("imported_anew", triton_kernels.__file__)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert module.unavailable() == "the package triton is not installed"
