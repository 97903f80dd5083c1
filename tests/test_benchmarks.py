"""What the benchmarks compare and count is what they say."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from benchmarks import interleaved
from benchmarks.counting import peak_bytes, saved_bytes
from benchmarks.gpu_step import TINY, WithoutPeft
from benchmarks.interleaved import Effort, Ratio, interleave
from benchmarks.layer_forms import Layer, Shape
from benchmarks.modulation_scaling import POINTS, fit
from benchmarks.peft_adapters import ADAPTERS, adapted
from torch import nn
from transformers import LlamaForCausalLM

from hycam.ops import reference
from hycam.tuners.hycam.layer import HyCAMLayer


@pytest.mark.parametrize("form", ["released", "stacked_first"])
def test_the_released_structure_computes_the_papers_formula(form: str) -> None:
    layer = Layer(Shape(12, 2, 7, modules=3, r=4), torch.float64, torch.float64, device="cpu")
    got, exact = layer.forward(form)(), reference.modulate(layer.h, layer.a, layer.weights, layer.noise)
    for one, other in zip((got[0], *got[1]), (exact[0], *exact[1]), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-12)
    dh, da, shared, *factors, router = layer.step(form)()
    of_h, of_a, of_shared, A, N, B, of_router = layer.step("reference")()
    stacked = [torch.stack(factors[at::3]) for at in range(3)]
    pairs = zip((dh, da, shared, *stacked, router), (of_h, of_a, of_shared, A, N, B, of_router), strict=True)
    for one, other in pairs:
        torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-12)


def test_saved_bytes_counts_each_storage_once_and_no_parameter() -> None:
    weight = nn.Parameter(torch.randn(4, 4))
    x = torch.randn(2, 8, requires_grad=True)  # 64 bytes

    def forward() -> torch.Tensor:
        y = x[:, :4] @ weight  # keeps x and the weight
        return y * x[:, 4:]  # keeps y, 32 bytes, and x again

    assert saved_bytes(forward, [weight]) == 64 + 32
    assert saved_bytes(forward, []) == 64 + 32 + 64


def test_peak_bytes_is_the_most_that_is_there_at_once() -> None:
    megabyte = 2**20

    def run() -> torch.Tensor:
        first, second = (torch.empty(megabyte, dtype=torch.uint8) for _ in range(2))
        del first, second
        return torch.empty(megabyte // 2, dtype=torch.uint8)

    before = torch.empty(8 * megabyte, dtype=torch.uint8)
    assert peak_bytes(run) == 2 * megabyte
    assert before.numel() == 8 * megabyte


def test_a_form_that_computes_something_else_is_not_compared() -> None:
    layer = Layer(Shape(12, 2, 7, modules=3, r=4), torch.float32, torch.float32, device="cpu")
    layer.check_same("eager")
    with torch.no_grad():
        layer.weights.shared.weight.mul_(1.01)  # the released structure has a copy
    with pytest.raises(AssertionError, match="eager differs from the released structure in its output"):
        layer.check_same("eager")


def test_every_callable_runs_in_every_round_and_the_first_is_the_measure() -> None:
    ran: list[str] = []
    timings = interleave({name: lambda name=name: ran.append(name) for name in "ab"}, Effort(seconds=0, rounds=3))
    assert ran.count("a") == ran.count("b") == 2 + 3
    assert all({*ran[at : at + 2]} == {"a", "b"} for at in range(0, len(ran), 2))
    assert timings["a"].ratio == timings["a"].low == timings["a"].high == 1


def test_results_replace_those_of_the_same_name_and_a_dry_run_writes_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "cpu.json"
    monkeypatch.setattr(interleaved, "RESULTS", file)
    Effort(keeps=False).save({"one": Ratio(1, 1, 1)})
    assert not file.exists()
    Effort().save({"one": Ratio(1, 1, 1), "other": Ratio(2, 1, 3)})
    Effort().save({"one": Ratio(0.12345, 0.1, 0.2)})
    one, other = json.loads(file.read_text())
    assert {key: one[key] for key in ("name", "ratio", "low", "high")} == {
        "name": "one", "ratio": 0.123, "low": 0.1, "high": 0.2,
    }  # fmt: skip
    assert other["name"] == "other" and other["ratio"] == 2 and "torch" in other["machine"]


def test_a_straight_line_is_fitted_as_one() -> None:
    curve = fit("r", "eager", [3 + 0.5 * point for point in POINTS["r"]])
    assert curve.coefficients == pytest.approx([0.5, 3])
    assert curve.misfit == pytest.approx(0, abs=1e-9)
    assert fit("r", "eager", [point**2 for point in POINTS["r"]]).misfit > 0.2


def test_hycam_without_peft_takes_the_same_training_step_as_with_it() -> None:
    backbone = LlamaForCausalLM(TINY).requires_grad_(False)
    ids = torch.randint(TINY.vocab_size, (2, 7))
    plain, hycam = WithoutPeft(backbone, torch.float32), adapted(backbone, ADAPTERS["hycam"])
    layers = [module for module in hycam.modules() if isinstance(module, HyCAMLayer)]
    attentions = [block.self_attn for block in plain.backbone.model.layers]
    losses = []
    with torch.no_grad():
        for layer, attention in zip(layers, attentions, strict=True):
            layer.hycam_shared["default"].weight.copy_(attention.shared)
            layer.hycam_router["default"].weight.copy_(attention.router)
            for letter in "ANB":
                getattr(layer, f"hycam_{letter}")["default"].weight.copy_(getattr(attention, letter))
    for model in (hycam, plain):
        torch.manual_seed(0)  # the noise
        losses.append(model(input_ids=ids, labels=ids).loss)
        losses[-1].backward()
    torch.testing.assert_close(losses[1], losses[0])
    for layer, attention in zip(layers, attentions, strict=True):
        torch.testing.assert_close(attention.router.grad, layer.hycam_router["default"].weight.grad)
        torch.testing.assert_close(attention.A.grad, layer.hycam_A["default"].weight.grad)
