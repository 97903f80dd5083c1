"""Which backend is taken where, how that is said and overridden, and that all of them take what a model may hand in."""

from __future__ import annotations

import logging
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

import hycam
from hycam.errors import HycamError
from hycam.ops import BACKENDS, Dense, LowRank, Modulation, Router, dispatch, eager, packed, reference, set_backend
from hycam.ops.dispatch import current_backend, modulate

NO_DRIVER = "the NVIDIA driver was not found"
RANK = "its kernels take ranks from 16 on, not 4"
ON_CPU = ("reference", "eager", "lean", "packed")


def draw(*shape: int, dtype: torch.dtype = torch.float64) -> Tensor:
    return (torch.randn(*shape, dtype=torch.float64) * 0.5).to(dtype)


def weights(dtype: torch.dtype = torch.float64, d: int = 12, r: int = 4, experts: int = 3) -> Modulation:
    low = LowRank(draw(experts, r, d, dtype=dtype), draw(experts, r, r, dtype=dtype), draw(experts, d, r, dtype=dtype))
    return Modulation(Dense(draw(d, d, dtype=dtype)), low, Router(draw(experts, d, dtype=dtype)))


@pytest.fixture
def taken(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The backends that were taken, which then compute nothing; Triton's driver and kernels are always there."""
    names: list[str] = []

    def stub(name: str) -> SimpleNamespace:
        def modulate(*args: object) -> tuple[None, None]:
            names.append(name)
            return None, None

        return SimpleNamespace(modulate=modulate, is_available=lambda: None, supports=lambda *args: None)

    monkeypatch.setattr(dispatch, "_module", stub)
    monkeypatch.setattr(packed, "modulate", stub("packed").modulate)
    dispatch._say.cache_clear()
    return names


def without_triton(monkeypatch: pytest.MonkeyPatch, unavailable: str | None, unsupported: str | None) -> None:
    monkeypatch.setattr(dispatch, "_triton_unavailable", lambda: unavailable)
    stub = dispatch._module

    def module(name: str) -> SimpleNamespace:
        return SimpleNamespace(modulate=stub(name).modulate, supports=lambda *args: unsupported)

    monkeypatch.setattr(dispatch, "_module", module)


@pytest.mark.parametrize("device", ["cpu", "cuda"])
@pytest.mark.parametrize("gradients", [False, True])
@pytest.mark.parametrize("noisy", [False, True])
@pytest.mark.parametrize("kept", [False, True])
@pytest.mark.parametrize("driver", [False, True])
@pytest.mark.parametrize("rank_fits", [False, True])
def test_the_table_of_choices(taken, monkeypatch, device, gradients, noisy, kept, driver, rank_fits) -> None:
    without_triton(monkeypatch, None if driver else NO_DRIVER, None if rank_fits else RANK)
    with FakeTensorMode(allow_non_fake_inputs=True), torch.set_grad_enabled(gradients):
        h = torch.empty(1, 2, 12, device=device)
        modulate(h, h, weights(), h if noisy else None, packed=(lambda: None) if kept else None)
    if kept and not gradients and not noisy:
        assert taken == ["packed"]
    elif device == "cuda" and driver and rank_fits:
        assert taken == ["triton"]
    else:
        assert taken == ["eager"]


@pytest.mark.parametrize("name", ["reference", "eager", "lean", "triton"])
@pytest.mark.parametrize("gradients", [False, True])
def test_a_named_backend_is_taken_whatever_auto_would_take(taken, name: str, gradients: bool) -> None:
    h = draw(1, 2, 12)
    with torch.set_grad_enabled(gradients):
        modulate(h, h, weights(), backend=name, packed=lambda: None)
    assert taken == [name]


def test_packed_can_be_named_for_evaluation_and_gives_way_where_there_is_a_gradient_or_noise(taken) -> None:
    h = draw(1, 2, 12)
    modulate(h, h, weights(), backend="packed")
    with torch.no_grad():
        modulate(h, h, weights(), draw(1, 2, 3), backend="packed")
        modulate(h, h, weights(), backend="packed")
        modulate(h, h, Modulation(weights().shared, None, None), backend="packed")
    assert taken == ["eager", "eager", "packed", "eager"]


def test_each_choice_is_said_once_with_its_reason_and_a_fallback_as_a_warning(taken, monkeypatch, caplog) -> None:
    caplog.set_level(logging.INFO, "hycam.ops.dispatch")
    without_triton(monkeypatch, None, RANK)
    h = draw(1, 2, 12)
    for _ in range(3):
        modulate(h, h, weights())
        modulate(h, h, weights(), backend="lean")
        modulate(h, h, weights(), backend="triton")
        with torch.no_grad():
            modulate(h, h, weights(), packed=lambda: None)
    said = [(record.levelno, record.getMessage()) for record in caplog.records]
    prefix = "HyCAM computes with the backend "
    assert said == [
        (logging.INFO, prefix + "eager: the tensors are on cpu."),
        (logging.INFO, prefix + "lean: it was asked for."),
        (logging.WARNING, prefix + f"eager: not triton, because {RANK}."),
        (logging.INFO, prefix + "packed: gradients are off."),
    ]


def test_a_backend_that_does_not_exist_or_does_not_work_is_an_error_that_names_others(monkeypatch) -> None:
    h = draw(1, 2, 12)
    monkeypatch.setattr(dispatch, "_triton_unavailable", lambda: NO_DRIVER)
    for call in (set_backend, lambda name: modulate(h, h, weights(), backend=name)):
        with pytest.raises(HycamError, match=r'no backend called "leen"\. Did you mean "lean".*auto, eager.*packed'):
            call("leen")
        with pytest.raises(HycamError, match=r'"triton" does not work here: the NVIDIA driver.*Use "auto".*"lean"'):
            call("triton")
    assert current_backend() == "auto"


def test_the_choice_of_the_process_holds_until_the_next_or_to_the_end_of_a_block() -> None:
    assert hycam.set_backend is set_backend
    try:
        set_backend("lean")
        assert current_backend() == "lean"
        with set_backend("reference"):
            with pytest.raises(KeyError), set_backend("eager"):
                assert current_backend() == "eager"
                raise KeyError
            assert current_backend() == "reference"
        assert current_backend() == "lean"
    finally:
        set_backend("auto")
    assert set(BACKENDS) >= {current_backend()}


@pytest.mark.parametrize("name", ON_CPU)
@pytest.mark.parametrize(
    ("adapter", "backbone"),
    [(torch.float32, torch.bfloat16), (torch.bfloat16, torch.bfloat16), (torch.float32, torch.float16),
     (torch.float32, torch.float64), (torch.bfloat16, torch.float32)],
)  # fmt: skip
def test_every_backend_takes_mixed_types_and_returns_that_of_the_attention_output(name, adapter, backbone) -> None:
    low = weights(adapter)
    h, a = draw(2, 5, 12, dtype=backbone), draw(2, 5, 12, dtype=backbone)
    wide = Modulation(*(type(part)(**{key: value.double() if isinstance(value, Tensor) else value
                                      for key, value in vars(part).items()})
                        for part in (low.shared, low.specialized, low.router)))  # fmt: skip
    exact, (p, logits) = reference.modulate(h.double(), a.double(), wide)
    with torch.no_grad():
        got, routing = modulate(h, a, low, backend=name)
    assert got.dtype == backbone
    narrow = torch.bfloat16 in (adapter, backbone)
    torch.testing.assert_close(got.double(), exact, rtol=2**-5 if narrow else 2**-9, atol=2**-6 if narrow else 1e-4)
    for one, other in zip(routing, (p, logits), strict=True):
        assert one.dtype in (torch.float32, torch.float64)
        torch.testing.assert_close(one.double(), other, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", ON_CPU)
@pytest.mark.parametrize("gradients", [False, True])
@pytest.mark.parametrize("shape", [(0, 3), (2, 0), (1, 1), (2, 7)])
def test_every_backend_takes_empty_and_non_contiguous_inputs(name: str, gradients: bool, shape: tuple) -> None:
    batch, seq = shape
    given = weights()
    h, a = draw(12, seq, batch).permute(2, 1, 0), draw(seq, batch, 24)[..., ::2].transpose(0, 1)
    expected = reference.modulate(h, a, given)[0]
    with torch.set_grad_enabled(gradients):
        h, a = h.detach().requires_grad_(gradients), a.detach().requires_grad_(gradients)
        got, _ = modulate(h, a, given, backend=name)
    torch.testing.assert_close(got, expected, rtol=1e-12, atol=1e-12)
    if gradients:
        got.sum().backward()
        assert h.grad.shape == h.shape


@pytest.mark.parametrize("name", ON_CPU)
def test_in_every_backend_nan_stays_nan_in_its_token_and_spreads_to_no_other(name: str) -> None:
    h, a = draw(1, 4, 12), draw(1, 4, 12)
    h[0, 1, 3], a[0, 2, 5] = float("nan"), float("nan")
    with torch.no_grad():
        got, (p, logits) = modulate(h, a, weights(), backend=name)
    assert got[0, 1].isnan().all() and p[0, 1].isnan().all() and logits[0, 1].isnan().all()
    assert got[0, 2].isnan().tolist() == [feature == 5 for feature in range(12)]
    assert not got[0, [0, 3]].isnan().any() and not p[0, [0, 2, 3]].isnan().any()


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
    monkeypatch.setattr(eager, "modulate", lambda h, a, *rest: (a + 1, None))
    monkeypatch.setattr(reference, "modulate", lambda h, a, *rest: (a + 2, None))
    given, a = weights(), torch.zeros(2, 5, 12)

    def run(a: Tensor) -> Tensor:
        return modulate(a, a, given, backend=current_backend())[0]

    compiled = torch.compile(run, backend="eager", fullgraph=True)
    for name, expected in (("eager", 1), ("reference", 2), ("auto", 1)):
        with set_backend(name):
            assert compiled(a).unique().tolist() == [expected]


def test_whether_triton_works_is_found_out_once_and_is_part_of_a_compiled_graph(monkeypatch) -> None:
    asked = []
    module = SimpleNamespace(is_available=lambda: asked.append(1) or NO_DRIVER)
    real = dispatch._module
    monkeypatch.setattr(dispatch, "_module", lambda name: module if name == "triton" else real(name))
    dispatch._triton_unavailable.cache_clear()
    try:
        compiled = torch.compile(lambda: dispatch._triton_unavailable(), backend="eager", fullgraph=True)
        assert [dispatch._triton_unavailable() for _ in range(3)] == [NO_DRIVER] * 3
        assert len(asked) == 1
        assert compiled() == NO_DRIVER
    finally:
        dispatch._triton_unavailable.cache_clear()
