"""MultiLoRA and MoE-LoRA on a tiny backbone and on a layer alone, for the tests of both."""

from __future__ import annotations

from typing import Any

import torch
from peft import PeftModel, get_peft_model
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from architectures import tiny, tokens
from hycam import MoeLoraConfig, MultiLoraConfig
from hycam.tuners.linear import StackedConfig, StackedLayer
from hycam.tuners.moelora import MoeLoraLayer
from hycam.tuners.multilora import MultiLoraLayer

METHODS = ["multilora", "moelora"]
LAYERS: dict[str, type[StackedLayer]] = {"multilora": MultiLoraLayer, "moelora": MoeLoraLayer}


def config(method: str, **settings: Any) -> StackedConfig:
    """Three maps of rank 2, unless told otherwise."""
    if method == "multilora":
        return MultiLoraConfig(**{"task_type": "CAUSAL_LM", "r": 2, "num_branches": 3, **settings})
    return MoeLoraConfig(**{"task_type": "CAUSAL_LM", "r": 2, "num_experts": 3, **settings})


def attach(method: str, base: nn.Module | None = None, **settings: Any) -> PeftModel:
    return get_peft_model(tiny() if base is None else base, config(method, **settings)).eval()


def adapted(model: nn.Module) -> list[str]:
    """The names of the adapted layers inside the backbone."""
    model = model.base_model.model if isinstance(model, PeftModel) else model
    return [name for name, module in model.named_modules() if isinstance(module, StackedLayer)]


def kinds(model: nn.Module) -> dict[str, type[nn.Module]]:
    return {name: type(module) for name, module in model.named_modules()}


@torch.no_grad()
def logits(model: nn.Module) -> Tensor:
    return model(input_ids=tokens()).logits


def linear(kind: str, in_features: int, out_features: int) -> nn.Module:
    """An ``nn.Linear`` with bias, or the same map as a ``Conv1D``, drawn with entries of order one."""
    base = Conv1D(out_features, in_features) if kind == "Conv1D" else nn.Linear(in_features, out_features)
    with torch.no_grad():
        for parameter in base.parameters():
            parameter.normal_()
    return base


def layer(method: str, base: nn.Module, dtype: torch.dtype = torch.float64, **settings: Any) -> Any:
    """A layer alone in ``dtype``, with weights of order one in its adapter, as if it had been trained."""
    made = LAYERS[method](base)
    made.update_layer("default", config(method, **{"init_weights": False, **settings}))
    made = made.to(dtype)
    with torch.no_grad():
        for parameter in made.adapter_parameters("default").values():
            parameter.normal_()
    return made
