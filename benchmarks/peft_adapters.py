"""HyCAM and PEFT's LoRA as PEFT puts them on a backbone, with the settings of the comparison."""

from __future__ import annotations

import copy

from peft import LoraConfig, PeftConfig, PeftModel, get_peft_model
from transformers import PreTrainedModel

from hycam import HyCAMConfig

from .training_models import sharing_weights

ADAPTERS = {
    "lora": LoraConfig(task_type="CAUSAL_LM", r=64, lora_alpha=64, target_modules="all-linear"),
    "hycam": HyCAMConfig(task_type="CAUSAL_LM"),
}


def adapted(backbone: PreTrainedModel, config: PeftConfig, autocast_adapter_dtype: bool = True) -> PeftModel:
    """An adapter on a copy of the backbone that shares its weights, in training mode."""
    model, own = sharing_weights(backbone), copy.deepcopy(config)  # PEFT fills in the configuration that it is given
    return get_peft_model(model, own, autocast_adapter_dtype=autocast_adapter_dtype).train()
