from __future__ import annotations

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import PreTrainedModel

from architectures import tiny, tokens
from hycam.adapt import adapt
from hycam.evaluation.retention.base import base_of
from hycam.methods import METHODS


class Loader:
    """Loads the backbone, and counts how often."""

    def __init__(self) -> None:
        self.calls = 0

    def __call__(self) -> PreTrainedModel:
        self.calls += 1
        return tiny()


def logits(model: PreTrainedModel) -> torch.Tensor:
    torch.manual_seed(0)  # hycam-released draws noise in evaluation too
    with torch.no_grad():
        return model(input_ids=tokens()).logits


def changed(model: PreTrainedModel) -> PreTrainedModel:
    """Every weight that is trained at random, as training might leave it."""
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.normal_()
    return model.eval()


@pytest.mark.parametrize("method", [name for name in METHODS if not METHODS[name].matches_hycam])
def test_every_methods_base_is_the_backbone_to_the_bit(method: str) -> None:
    load = Loader()
    model = changed(adapt(tiny(), method, {} if method == "full" else {"r": 4}))
    adapted = logits(model)
    base = base_of(model, load)
    for _ in range(2):
        with base() as backbone:
            assert torch.equal(logits(backbone), logits(tiny()))
    assert load.calls == (1 if method == "full" else 0)
    assert torch.equal(logits(model), adapted)  # the adapter is in use again
    assert not torch.equal(adapted, logits(tiny()))


@pytest.mark.filterwarnings("ignore:Careful, disabling adapter layers")  # the very thing that is tested
@pytest.mark.parametrize("settings", [{"bias": "lora_only"}, {"bias": "all"}, {"init_lora_weights": "pissa"}])
def test_where_disabling_would_leave_changes_the_backbone_is_loaded(settings: dict) -> None:
    load = Loader()
    model = changed(get_peft_model(tiny("qwen2"), LoraConfig(target_modules=["q_proj"], r=4, **settings)))
    with model.disable_adapter():
        assert not torch.allclose(logits(model), logits(tiny("qwen2")), rtol=1e-6, atol=1e-6)
    with base_of(model, load)() as backbone:
        assert torch.equal(logits(backbone), logits(tiny()))
    assert load.calls == 1
