"""Which backend runs where, how that is logged and overridden, and that all of them accept what a model may pass."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

import hycam
from hycam.errors import HycamError
from hycam.ops import BACKENDS, Modulation, dispatch, reference, set_backend
from hycam.ops.dispatch import Backend, current_backend, modulate, register
from ops.modulations import converted, draw, modulation

NO_DRIVER = "the NVIDIA driver was not found"
RANK = "its kernels take ranks from 16 on, not 4"
ON_CPU = ("reference", "eager", "recompute")


def weights() -> Modulation:
    return modulation(experts=3)


@pytest.fixture
def taken(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The backends that were taken, which then compute nothing; Triton's driver and kernels are always there."""
    names: list[str] = []

    def compute_nothing(name: str) -> Callable[..., tuple[None, None]]:
        return lambda *args: names.append(name) or (None, None)

    for name, backend in BACKENDS.items():
        monkeypatch.setitem(BACKENDS, name, Backend(name, compute_nothing(name), automatic_on=backend.automatic_on))
    dispatch.unavailable.cache_clear()
    dispatch._say.cache_clear()
    yield names
    dispatch.unavailable.cache_clear()


def change_triton(monkeypatch: pytest.MonkeyPatch, unavailable: str | None, unsupported: str | None = None) -> None:
    there = BACKENDS["triton"]
    changed = replace(there, unavailable=lambda: unavailable, unsupported=lambda *args: unsupported)
    monkeypatch.setitem(BACKENDS, "triton", changed)
    dispatch.unavailable.cache_clear()


@pytest.mark.parametrize("device", ["cpu", "cuda"])
@pytest.mark.parametrize("driver", [False, True])
@pytest.mark.parametrize("rank_fits", [False, True])
def test_the_table_of_choices(taken, monkeypatch, device, driver, rank_fits) -> None:
    change_triton(monkeypatch, None if driver else NO_DRIVER, None if rank_fits else RANK)
    with FakeTensorMode(allow_non_fake_inputs=True):
        h = torch.empty(1, 2, 12, device=device)
        modulate(h, h, weights())
    assert taken == ["triton" if device == "cuda" and driver and rank_fits else "eager"]


@pytest.mark.parametrize("name", ["reference", "eager", "recompute", "triton"])
def test_a_named_backend_is_taken_whatever_auto_would_take(taken, name: str) -> None:
    h = draw(1, 2, 12)
    modulate(h, h, weights(), backend=name)
    assert taken == [name]


def test_a_backend_is_one_entry_that_registers_itself(taken) -> None:
    register(Backend("double", lambda h, a, *rest: (taken.append("double"), None)))
    try:
        h = draw(1, 2, 12)
        with set_backend("double"):
            modulate(h, h, weights(), backend=current_backend())
        assert taken == ["double"]
    finally:
        del BACKENDS["double"]


def test_each_choice_is_said_once_with_its_reason_and_a_fallback_as_a_warning(taken, monkeypatch, caplog) -> None:
    caplog.set_level(logging.INFO, "hycam.ops.dispatch")
    change_triton(monkeypatch, None, RANK)
    h = draw(1, 2, 12)
    for _ in range(3):
        modulate(h, h, weights())
        modulate(h, h, weights(), backend="recompute")
        modulate(h, h, weights(), backend="triton")
    said = [(record.levelno, record.getMessage()) for record in caplog.records]
    prefix = "HyCAM computes with the backend "
    assert said == [
        (logging.INFO, prefix + "eager: the tensors are on cpu."),
        (logging.INFO, prefix + "recompute: it was asked for."),
        (logging.WARNING, prefix + f"eager: not triton, because {RANK}."),
    ]


def test_a_backend_that_does_not_exist_or_does_not_work_is_an_error_that_names_others(taken, monkeypatch) -> None:
    h = draw(1, 2, 12)
    change_triton(monkeypatch, NO_DRIVER)
    for call in (set_backend, lambda name: modulate(h, h, weights(), backend=name)):
        with pytest.raises(HycamError, match=r'no backend called "recomput"\. Did you mean "recompute".*auto, eager'):
            call("recomput")
        with pytest.raises(HycamError, match=r'"triton" does not work here: the NVIDIA driver.*"auto".*"recompute"'):
            call("triton")
    assert current_backend() == "auto"


def test_the_choice_of_the_process_holds_until_the_next_or_to_the_end_of_a_block() -> None:
    assert hycam.set_backend is set_backend
    try:
        set_backend("recompute")
        assert current_backend() == "recompute"
        with set_backend("reference"):
            with pytest.raises(KeyError), set_backend("eager"):
                assert current_backend() == "eager"
                raise KeyError
            assert current_backend() == "reference"
        assert current_backend() == "recompute"
    finally:
        set_backend("auto")


@pytest.mark.parametrize("name", ON_CPU)
@pytest.mark.parametrize(
    ("adapter", "backbone"),
    [(torch.float32, torch.bfloat16), (torch.bfloat16, torch.bfloat16), (torch.float32, torch.float16),
     (torch.float32, torch.float64), (torch.bfloat16, torch.float32)],
)  # fmt: skip
def test_every_backend_takes_mixed_types_and_returns_that_of_the_attention_output(name, adapter, backbone) -> None:
    low = converted(weights(), lambda tensor: tensor.to(adapter))
    h, a = draw(2, 5, 12).to(backbone), draw(2, 5, 12).to(backbone)
    wide = converted(low, Tensor.double)
    exact, (p, logits) = reference.modulate(h.double(), a.double(), wide)
    with torch.no_grad():
        got, routing = modulate(h, a, low, backend=name)
    assert got.dtype == backbone
    narrow = torch.bfloat16 in (adapter, backbone)
    torch.testing.assert_close(got.double(), exact, rtol=2**-5 if narrow else 2**-9, atol=2**-6 if narrow else 1e-4)
    for one, other in zip(routing, (p, logits), strict=True):
        assert one.dtype in (torch.float32, torch.float64)
        torch.testing.assert_close(one.double(), other, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", ["auto", *ON_CPU])
@pytest.mark.parametrize("gradients", [False, True])
def test_the_choice_is_part_of_a_compiled_graph_without_a_break(name: str, gradients: bool) -> None:
    given, h, a = weights(), draw(2, 5, 12), draw(2, 5, 12)
    h.requires_grad_(gradients)

    def run(h: Tensor, a: Tensor) -> Tensor:
        return modulate(h, a, given, backend=name)[0]

    torch.compiler.reset()  # of one function only so many forms are kept
    with torch.set_grad_enabled(gradients):
        got = torch.compile(run, backend="eager", fullgraph=True)(h, a)
        torch.testing.assert_close(got, run(h, a))


def test_a_compiled_function_follows_the_choice_of_the_process(monkeypatch) -> None:
    monkeypatch.setitem(BACKENDS, "eager", Backend("eager", lambda h, a, *rest: (a + 1, None)))
    monkeypatch.setitem(BACKENDS, "reference", Backend("reference", lambda h, a, *rest: (a + 2, None)))
    given, a = weights(), torch.zeros(2, 5, 12)

    def run(a: Tensor) -> Tensor:
        return modulate(a, a, given, backend=current_backend())[0]

    compiled = torch.compile(run, backend="eager", fullgraph=True)
    for name, expected in (("eager", 1), ("reference", 2), ("auto", 1)):
        with set_backend(name):
            assert compiled(a).unique().tolist() == [expected]


def test_whether_triton_works_is_found_out_once_and_is_part_of_a_compiled_graph(taken, monkeypatch) -> None:
    asked = []
    change_triton(monkeypatch, None)
    monkeypatch.setitem(
        BACKENDS, "triton", replace(BACKENDS["triton"], unavailable=lambda: asked.append(1) or NO_DRIVER)
    )
    compiled = torch.compile(lambda: dispatch.unavailable("triton"), backend="eager", fullgraph=True)
    assert [dispatch.unavailable("triton") for _ in range(3)] == [NO_DRIVER] * 3
    assert len(asked) == 1
    assert compiled() == NO_DRIVER
