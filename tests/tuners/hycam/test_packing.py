"""Inference takes packed weights in a block of ``hycam.packed``, and neither training nor what follows sees them."""

from __future__ import annotations

import copy
import io

import pytest
import torch
from peft import PeftModel, get_peft_model
from torch import Tensor, nn

from architectures import tiny, tokens
from hycam import HyCAMConfig, packed, set_backend
from hycam.tuners.hycam import HyCAMLayer

VARIANTS = [
    {},
    {"routing": "hard"},
    {"use_bias": True, "router_bias": True, "alpha": 8},
    {"shared": "low_rank", "use_bias": True},
    {"shared": "none"},
    {"shared": "low_rank", "specialized": "none"},
    {"modulation_target": "residual_stream"},
]


def config(**settings) -> HyCAMConfig:
    settings = {"r": 4, "num_specialized": 3, "init_weights": False, **settings}
    return HyCAMConfig(task_type="CAUSAL_LM", **settings)


def trained(**settings) -> PeftModel:
    return get_peft_model(tiny(), config(**settings)).eval()


def layers(model) -> list[HyCAMLayer]:
    return [module for module in model.modules() if isinstance(module, HyCAMLayer)]


def kept(model) -> int:
    return sum(one is not None for layer in layers(model) for one in (layer.hycam_packed or {}).values())


@torch.no_grad()
def logits(model, ids: Tensor | None = None) -> Tensor:
    return model(input_ids=tokens() if ids is None else ids).logits


def by_formula(model, ids: Tensor | None = None) -> Tensor:
    with set_backend("reference"):
        return logits(model, ids)


@pytest.mark.parametrize("settings", VARIANTS, ids=str)
def test_in_the_block_inference_is_packed_and_equals_the_formula(settings: dict) -> None:
    model = trained(**settings)
    with packed(model):
        for ids in (tokens(), tokens(1, 1), tokens(2, 1)):
            torch.testing.assert_close(logits(model, ids), by_formula(model, ids), rtol=0, atol=1e-5)
            assert kept(model) == 2
    assert all(layer.hycam_packed is None for layer in layers(model))


@pytest.mark.parametrize("settings", [{"specialized": "full"}, {"specialized": "none"}, {"noise": "always"}], ids=str)
def test_what_cannot_be_packed_or_draws_noise_is_computed_without(settings: dict) -> None:
    model = trained(**settings)
    torch.manual_seed(1)
    plain = logits(model)
    with packed(model):
        torch.manual_seed(1)
        assert torch.equal(logits(model), plain)
        assert kept(model) == 0


def test_weights_are_packed_once_in_a_block_and_a_block_inside_it_ends_nothing() -> None:
    model = trained()
    with packed(model):
        logits(model)
        first = [layer.hycam_packed["default"] for layer in layers(model)]
        with packed(model):
            logits(model, tokens(1, 1))
        logits(model)
        assert all(layer.hycam_packed["default"] is one for layer, one in zip(layers(model), first, strict=True))


def test_the_next_block_packs_what_training_left() -> None:
    model = trained(noise="never")
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=0.05)
    for _ in range(2):
        with packed(model.eval()):
            before = logits(model)
        model.train()(input_ids=tokens(), labels=tokens()).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        with packed(model.eval()):
            assert (logits(model) - before).abs().max() > 1e-3
            torch.testing.assert_close(logits(model), by_formula(model), rtol=0, atol=1e-5)


@pytest.mark.parametrize(("training", "gradients"), [(True, True), (True, False), (False, True)])
def test_a_forward_that_may_train_sees_nothing_packed_and_has_it_forgotten(training: bool, gradients: bool) -> None:
    model = trained(noise="never")
    with torch.set_grad_enabled(gradients):
        expected = model.train(training)(input_ids=tokens()).logits
        with packed(model.eval()):
            logits(model)
            assert kept(model) == 2
            assert torch.equal(model.train(training)(input_ids=tokens()).logits, expected)
            assert kept(model) == 0


def test_an_error_ends_the_block_too() -> None:
    model = trained()
    with pytest.raises(KeyError), packed(model):
        logits(model)
        raise KeyError
    assert all(layer.hycam_packed is None for layer in layers(model))


def test_only_whole_parameters_are_packed() -> None:
    # FSDP gathers views instead of parameters, ZeRO marks what it gathers.
    for change in (
        lambda layer: setattr(layer.hycam_B["default"].weight, "ds_id", 3),
        lambda layer: _as_plain_tensor(layer.hycam_B["default"], "weight"),
    ):
        model = trained()
        expected = logits(model)
        for layer in layers(model):
            change(layer)
        with packed(model):
            assert torch.equal(logits(model), expected)
            assert kept(model) == 0


def _as_plain_tensor(holder: nn.Module, key: str) -> None:
    tensor = holder._parameters.pop(key).detach().clone()
    object.__setattr__(holder, key, tensor)


def test_adapters_can_be_switched_and_disabled_in_the_block() -> None:
    model = trained()
    model.add_adapter("other", config(routing="hard"))
    model.eval()
    with packed(model):
        for name in ("default", "other", "default"):
            model.set_adapter(name)
            torch.testing.assert_close(logits(model), by_formula(model), rtol=0, atol=1e-5)
        with model.disable_adapter():
            assert torch.equal(logits(model), logits(tiny()))
        assert kept(model) == 4


def test_a_copy_made_in_the_block_has_nothing_packed_and_what_is_saved_is_the_same() -> None:
    model = trained()
    state = model.state_dict()
    with packed(model):
        expected = logits(model)
        assert model.state_dict().keys() == state.keys()
        stream = io.BytesIO()
        torch.save(model, stream)
        stream.seek(0)
        for twin in (copy.deepcopy(model), torch.load(stream, weights_only=False)):
            assert all(layer.hycam_packed is None for layer in layers(twin))
            torch.testing.assert_close(logits(twin), expected, rtol=0, atol=1e-5)
        assert kept(model) == 2


def test_a_named_backend_is_taken_in_the_block_as_well_and_a_model_without_hycam_is_left_alone() -> None:
    model = trained()
    with packed(model), set_backend("eager"):
        logits(model)
        assert kept(model) == 0
    base = tiny()
    with packed(base):
        logits(base)


def test_under_autocast_the_products_have_its_type() -> None:
    model = trained()
    with torch.autocast("cpu", dtype=torch.bfloat16), packed(model):
        narrow = logits(model)
        assert {layer.hycam_packed["default"].weight.dtype for layer in layers(model)} == {torch.bfloat16}
        torch.testing.assert_close(narrow, by_formula(model), rtol=0, atol=0.05)
