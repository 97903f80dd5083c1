"""``ffn_r``: LoRA on the feed-forward layers beside the modulation, in the same adapter; merging that part alone."""

from __future__ import annotations

import copy
import json
import math
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel, get_peft_model, get_peft_model_state_dict
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from architectures import OF_EXPERTS, tiny, tokens
from hycam import HyCAMConfig
from hycam.errors import HycamError
from hycam.tuners.hycam.feed_forward import FeedForwardLayer

# Layers with and without bias, gated and not, fused, directly in the block, and Conv1D.
FORMS = ("llama", "phi3", "opt", "gpt2")


def config(**settings: Any) -> HyCAMConfig:
    return HyCAMConfig(**{"task_type": "CAUSAL_LM", "r": 4, "noise": "never", "ffn_r": 3, **settings})


def attach(base: nn.Module, seed: int = 0, **settings: Any) -> PeftModel:
    """An adapter as if it had been trained."""
    torch.manual_seed(seed)
    return get_peft_model(base, config(init_weights=False, **settings)).eval()


@torch.no_grad()
def logits(model: nn.Module) -> Tensor:
    return model(input_ids=tokens()).logits


def layers(model: nn.Module) -> dict[str, FeedForwardLayer]:
    return {name: module for name, module in model.named_modules() if isinstance(module, FeedForwardLayer)}


def weights(model: nn.Module) -> dict[str, Tensor]:
    return {name: parameter.detach().clone() for name, parameter in model.named_parameters() if "hycam_" not in name}


@pytest.mark.parametrize("architecture", FORMS)
def test_it_is_the_modulation_on_a_backbone_whose_feed_forward_weights_have_the_product_added(
    architecture: str,
) -> None:
    model = attach(tiny(architecture, dtype=torch.float64), ffn_alpha=6)
    found = get_peft_model_state_dict(model)
    changed = tiny(architecture, dtype=torch.float64)
    products = {name.removesuffix(".hycam_ffn_A") for name in found if name.endswith("hycam_ffn_A")}
    assert products
    for name in products:
        layer = changed.get_submodule(name.removeprefix("base_model.model."))
        product = 6 / 3 * found[f"{name}.hycam_ffn_B"].double() @ found[f"{name}.hycam_ffn_A"].double()
        layer.weight.data += product.T if isinstance(layer, Conv1D) else product
    modulated = get_peft_model(changed, config(ffn_r=None))
    own = {name: value for name, value in found.items() if "hycam_ffn" not in name}
    modulated.load_state_dict({_in_model(name): value for name, value in own.items()}, strict=False)
    torch.testing.assert_close(logits(model), logits(modulated.eval()), rtol=1e-5, atol=1e-6)
    assert (logits(model) - logits(attach(tiny(architecture, dtype=torch.float64), ffn_r=None))).abs().max() > 1e-2


def _in_model(saved: str) -> str:
    bare = saved.removesuffix(".weight")
    return f"{bare}.default.weight"


def test_a_fresh_update_is_drawn_as_in_pefts_lora_and_is_zero() -> None:
    for layer in layers(get_peft_model(tiny(), config())).values():
        A, B = layer.hycam_ffn_A["default"].weight, layer.hycam_ffn_B["default"].weight
        assert A.shape == (3, layer.in_features) and B.shape == (layer.out_features, 3)
        assert B.count_nonzero() == 0
        assert 0.8 / math.sqrt(layer.in_features) < A.abs().max() <= 1 / math.sqrt(layer.in_features)
        torch.manual_seed(5)
        layer.reset_adapter_parameters("default", True)
        torch.manual_seed(5)
        assert torch.equal(A, nn.init.kaiming_uniform_(torch.empty_like(A), a=math.sqrt(5)))


def test_it_is_in_the_blocks_whose_attention_is_adapted_and_where_it_is_not_left_out() -> None:
    def where(**settings: Any) -> set[str]:
        return {name.removeprefix("base_model.model.model.layers.") for name in layers(attach(tiny(), **settings))}

    gated = ("gate_proj", "up_proj", "down_proj")
    assert where() == {f"{block}.mlp.{name}" for block in (0, 1) for name in gated}
    assert where(layers_to_transform=[1]) == {f"1.mlp.{name}" for name in gated}
    assert where(target_modules=["layers.0.self_attn"]) == {f"0.mlp.{name}" for name in gated}
    assert where(exclude_modules=["gate_proj", "1.mlp.up_proj"]) == {
        "0.mlp.up_proj", "0.mlp.down_proj", "1.mlp.down_proj",
    }  # fmt: skip
    assert where(modules_to_save=["up_proj"]) == {f"{block}.mlp.{name}" for block in (0, 1) for name in gated[::2]}
    with pytest.raises(HycamError, match="ffn_r has nothing to adapt"):
        where(exclude_modules=list(gated))


@pytest.mark.parametrize("architecture", OF_EXPERTS)
def test_a_mixture_of_experts_is_refused_by_name_and_left_as_it_was(architecture: str, record_property) -> None:
    record_property("feed_forward", (architecture, False))
    base = tiny(architecture)
    kinds = [type(module) for module in base.modules()]
    with pytest.raises(HycamError, match=r"mixture of experts in its blocks \(model\.layers\.\d\..*ffn_r at None"):
        get_peft_model(base, config())
    assert [type(module) for module in base.modules()] == kinds


def test_the_dense_layers_below_a_mixture_of_experts_can_be_adapted() -> None:
    found = layers(attach(tiny("deepseek_v3"), layers_to_transform=[0]))
    assert {name.rpartition(".")[2] for name in found} == {"gate_proj", "up_proj", "down_proj"}


def test_adapters_of_other_ranks_and_without_any_stand_side_by_side() -> None:
    settings = {"three": {"ffn_r": 3}, "five": {"ffn_r": 5, "layers_to_transform": [1]}, "none": {"ffn_r": None}}
    alone = {name: logits(attach(tiny(), seed, **settings[name])) for seed, name in enumerate(settings)}
    for first in settings:
        names = [first, *(name for name in settings if name != first)]
        base = tiny()
        plain = logits(base)
        seeds = {name: seed for seed, name in enumerate(settings)}
        torch.manual_seed(seeds[first])
        model = get_peft_model(base, config(init_weights=False, **settings[first]), first).eval()
        for name in names[1:]:
            torch.manual_seed(seeds[name])
            model.add_adapter(name, config(init_weights=False, **settings[name]))
        for name in names:
            model.set_adapter(name)
            assert torch.equal(logits(model), alone[name]), (first, name)
        for gone, left in pairwise(names):
            model.delete_adapter(gone)
            model.set_adapter(left)
            assert torch.equal(logits(model), alone[left]), (first, left)
        model.delete_adapter(names[-1])
        assert torch.equal(logits(model), plain)


def test_an_adapter_from_before_there_were_such_fields_loads(tmp_path: Path) -> None:
    model = attach(tiny(), ffn_r=None, shared="low_rank", alpha=8)
    model.save_pretrained(tmp_path)
    path = tmp_path / "adapter_config.json"
    written = json.loads(path.read_text())
    for field in ("ffn_r", "ffn_alpha", "shared_r"):
        assert written.pop(field) is None
    path.write_text(json.dumps(written))
    assert torch.equal(logits(PeftModel.from_pretrained(tiny(), tmp_path)), logits(model))


def test_a_low_rank_shared_module_has_a_rank_and_a_scale_of_its_own() -> None:
    model = attach(tiny(dtype=torch.float64), shared="low_rank", shared_r=2, specialized="none", alpha=6, ffn_r=None)
    attention = model.base_model.model.model.layers[0].self_attn
    A, N, B = (getattr(attention, f"hycam_shared_{letter}")["default"].weight.double() for letter in "ANB")
    assert A.shape == (2, 32) and N.shape == (2, 2) and B.shape == (32, 2)
    h = torch.randn(1, 4, 32, dtype=torch.float64)
    attention.base_layer = _Ones()
    with torch.no_grad():
        expected = 1 + nn.functional.silu(6 / 2 * h @ A.T @ N.T @ B.T)
        torch.testing.assert_close(attention(hidden_states=h), expected)


class _Ones(nn.Module):
    def forward(self, hidden_states: Tensor) -> Tensor:
        return torch.ones_like(hidden_states)


@pytest.mark.parametrize("field", ["ffn_r", "shared_r"])
def test_a_rank_below_one_is_refused(field: str) -> None:
    with pytest.raises(ValueError, match=f"{field} must be at least 1, not 0"):
        HyCAMConfig(**{field: 0})
    with pytest.raises(ValueError, match="ffn_alpha must be a number above 0"):
        HyCAMConfig(ffn_alpha=-1)


@pytest.mark.parametrize("architecture", FORMS)
def test_merged_it_gives_the_same_logits_without_a_product_and_unmerged_the_same_bits(architecture: str) -> None:
    base = tiny(architecture)
    before, plain = weights(base), logits(base)
    model = attach(base)
    expected = logits(model)
    model.merge_ffn()
    for layer in layers(model).values():
        layer.delta = lambda *_: pytest.fail("a merged layer computed its update")
    # float32 rounds another way, by 1e-6 of logits of order one, through two layers.
    torch.testing.assert_close(logits(model), expected, rtol=0, atol=1e-4)
    with pytest.warns(UserWarning, match="already merged"):
        model.merge_ffn()
    model.unmerge_ffn()
    for layer in layers(model).values():
        del layer.delta
    assert torch.equal(logits(model), expected)
    after = {name.replace(".base_layer", ""): value for name, value in weights(base).items()}
    assert all(torch.equal(after[name], value) for name, value in before.items())
    model.merge_ffn()
    with model.disable_adapter():
        assert torch.equal(logits(model), plain)
    assert torch.equal(logits(model), expected)
    model.merge_ffn()
    unloaded = model.unload()
    assert torch.equal(logits(unloaded), plain)
    assert all(torch.equal(weights(unloaded)[name], value) for name, value in before.items())


def test_nothing_is_saved_while_it_is_merged(tmp_path: Path) -> None:
    model = attach(tiny())
    model.save_pretrained(tmp_path / "before")
    model.merge_ffn()
    backbone = model.base_model.model
    for refused in (
        lambda: model.save_pretrained(tmp_path / "adapter"),
        lambda: backbone.save_pretrained(tmp_path / "backbone"),
        lambda: copy.deepcopy(model).state_dict(),
    ):
        with pytest.raises(ValueError, match=r"is merged into the backbone's weights.*unmerge_ffn\(\)"):
            refused()
    model.unmerge_ffn()
    model.save_pretrained(tmp_path / "after")
    name = "adapter_model.safetensors"
    assert (tmp_path / "before" / name).read_bytes() == (tmp_path / "after" / name).read_bytes()


def test_a_merge_that_one_layer_refuses_changes_no_layer() -> None:
    model = attach(tiny())
    with torch.no_grad():
        [*layers(model).values()][4].hycam_ffn_B["default"].weight[0, 0] = torch.nan
    before = weights(model)
    with pytest.raises(ValueError, match="not finite"):
        model.merge_ffn()
    assert all(torch.equal(value, before[name]) for name, value in weights(model).items())
    assert not any(layer.merged for layer in layers(model).values())


def test_layers_that_share_a_weight_are_not_merged() -> None:
    base = tiny()
    base.model.layers[1].mlp.up_proj.weight = base.model.layers[0].mlp.up_proj.weight
    with pytest.raises(ValueError, match="share one weight"):
        attach(base).merge_ffn()


def test_what_has_no_feed_forward_part_cannot_be_merged_and_a_modulation_never() -> None:
    model = attach(tiny(), ffn_r=None)
    with pytest.raises(HycamError, match="no feed-forward part"):
        model.merge_ffn()
    model.add_adapter("other", config())
    with pytest.raises(HycamError, match="no feed-forward part"):
        model.merge_ffn()
    model.set_adapter("other")
    for merge in (model.merge_and_unload, model.merge_adapter):
        with pytest.raises(ValueError, match=r"cannot be folded into the backbone's weights.*merge_ffn\(\)"):
            merge()
    model.merge_ffn()
    with pytest.warns(UserWarning, match="Unmerging"):
        model.set_adapter("default")
    assert not any(layer.merged for layer in layers(model).values())
