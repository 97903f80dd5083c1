"""Which modules are adapted, by name."""

from __future__ import annotations

import pytest
import torch
from peft import LoraConfig, PeftConfig, get_peft_model
from torch import nn

from architectures import tiny
from hycam import HyCAMConfig
from hycam.errors import HycamError
from hycam.tuners.targets import check_targets, linear_layers, shortest_suffixes

from .stacked import METHODS, attach, config, kinds

LLAMA = ["self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj", "mlp.gate_proj", "mlp.up_proj",
         "mlp.down_proj"]  # fmt: skip
OF_LLAMA = [f"model.layers.{layer}.{name}" for layer in (0, 1) for name in LLAMA]


def check(config: LoraConfig, model: nn.Module) -> None:
    check_targets(config, model, "linear layers", linear_layers(model))


@pytest.mark.parametrize(
    ("wanted", "others", "expected"),
    [
        (["a.0.q", "a.1.q"], ["a", "a.0", "a.1", "a.0.k"], ["q"]),
        (["a.0.q", "a.0.k"], ["a.0"], ["q", "k"]),
        (["a.0.q"], ["b.q"], ["0.q"]),  # "q" alone would match b.q
        (["a.0.q"], ["q"], ["0.q"]),  # the whole name of another module
        (["a.0.q"], ["b.0.q"], ["a.0.q"]),  # nothing shorter tells them apart
        (["a.0.q"], ["a.0.big_q"], ["0.q"]),  # PEFT's modules_to_save would match by letters
        (["a.0.q", "a.1.q"], ["b.1.q"], ["0.q", "a.1.q"]),
        (["q"], ["b.q"], ["q"]),  # no longer suffix exists
        ([], ["a"], []),
    ],
)
def test_a_suffix_is_as_short_as_it_can_be_without_matching_anything_else(wanted, others, expected) -> None:
    assert shortest_suffixes(wanted, [*others, *wanted]) == expected


def test_the_linear_layers_are_all_but_the_output_layer() -> None:
    assert linear_layers(tiny()) == OF_LLAMA
    # GPT-2 holds its maps as Conv1D.
    of_gpt2 = ["attn.c_attn", "attn.c_proj", "mlp.c_fc", "mlp.c_proj"]
    assert linear_layers(tiny("gpt2")) == [f"transformer.h.{layer}.{name}" for layer in (0, 1) for name in of_gpt2]


def test_a_model_that_is_not_of_transformers_has_no_output_layer_to_leave_out() -> None:
    assert linear_layers(nn.Sequential(nn.Linear(2, 2), nn.ReLU(), nn.Linear(2, 2))) == ["0", "2"]


@pytest.mark.parametrize("method", METHODS)
def test_the_inside_of_an_adapter_is_not_a_linear_layer_of_the_backbone(method: str) -> None:
    assert linear_layers(attach(method).base_model.model) == OF_LLAMA


def test_the_inside_of_other_adapters_is_left_out_too() -> None:
    lora = get_peft_model(tiny(), LoraConfig(r=2, target_modules=["q_proj", "down_proj"]))
    assert linear_layers(lora.base_model.model) == OF_LLAMA
    # HyCAM wraps the attention module as a whole: what lies inside is the adapter's affair.
    hycam = get_peft_model(tiny(), HyCAMConfig(r=2))
    assert linear_layers(hycam.base_model.model) == [name for name in OF_LLAMA if ".mlp." in name]


@pytest.mark.parametrize(
    "settings",
    [{"target_modules": ["query"]}, {"target_modules": "query"}, {"target_modules": r".*\.query"},
     {"target_modules": ["q_proj"], "layers_to_transform": [7]},
     {"target_modules": ["q_proj"], "exclude_modules": ["self_attn.q_proj"]}],
)  # fmt: skip
def test_targets_that_match_nothing_are_refused_with_a_list_of_what_there_is(settings: dict) -> None:
    with pytest.raises(HycamError, match=r"matches nothing.*LlamaForCausalLM\. Its adaptable parts are q, k\.$"):
        check_targets(LoraConfig(**settings), tiny(), "adaptable parts", ["a.0.q", "a.0.k", "a.1.q", "a.1.k"])


@pytest.mark.parametrize("targets", [None, "all-linear", "ALL-LINEAR", ["q_proj"], ["query", "q_proj"], r".*q_proj"])
def test_targets_that_match_something_or_are_left_open_pass_and_change_nothing(targets) -> None:
    with torch.device("meta"):
        base = tiny()
    before = kinds(base)
    check(LoraConfig(target_modules=targets), base)
    assert kinds(base) == before


@pytest.mark.parametrize("method", ["hycam", *METHODS])
def test_an_adapter_of_some_layers_is_deleted_beside_one_of_others(method: str) -> None:
    def of(layer: int) -> PeftConfig:
        settings = {"task_type": "CAUSAL_LM", "r": 2, "layers_to_transform": [layer]}
        return HyCAMConfig(**settings) if method == "hycam" else config(method, **settings)

    model = get_peft_model(tiny(), of(0))
    model.add_adapter("other", of(1))
    for name in ("other", "default"):
        model.delete_adapter(name)
        assert not [key for key, _ in model.named_parameters() if f".{name}." in key]
