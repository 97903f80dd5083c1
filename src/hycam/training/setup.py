"""What is set on a model before it is trained."""

from __future__ import annotations

import inspect
from typing import Any, cast

import torch
from peft import PeftModel
from torch import Tensor, nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase, TrainingArguments
from transformers.trainer_utils import align_special_tokens


def prepare_model(
    model: PreTrainedModel | PeftModel, tokenizer: PreTrainedTokenizerBase, arguments: TrainingArguments
) -> None:
    """Sets gradient checkpointing, special tokens and noise on the embeddings, as the arguments say."""
    if arguments.gradient_checkpointing:
        # transformers 5.20 has another name for it; both forward to the backbone.
        enable = getattr(model, "activation_checkpointing_enable", None) or model.gradient_checkpointing_enable
        enable({"use_reentrant": False})
    align_special_tokens(model, tokenizer)
    cast(Any, model.config).use_cache = False
    if arguments.neftune_noise_alpha is not None:
        add_noise(model.get_input_embeddings(), arguments.neftune_noise_alpha)


def add_noise(embeddings: nn.Module, alpha: float) -> None:
    """NEFTune (arXiv 2310.05914): uniform noise of size alpha / sqrt(tokens x dimension) on embeddings in training."""

    def noisy(module: nn.Module, inputs: Any, output: Tensor) -> Tensor:
        if not module.training:
            return output
        size = alpha / (output.size(1) * output.size(2)) ** 0.5
        return output + torch.zeros_like(output).uniform_(-size, size)

    embeddings.register_forward_hook(noisy)


def accepts_items(model: PreTrainedModel | PeftModel) -> bool:
    """Whether a model divides its summed loss by ``num_items_in_batch``, the labelled tokens of a whole step."""
    backbone = model.get_base_model() if isinstance(model, PeftModel) else model
    if hasattr(backbone, "accepts_loss_kwargs"):
        return bool(backbone.accepts_loss_kwargs)
    parameters = inspect.signature(backbone.forward).parameters.values()
    return any(parameter.kind == inspect.Parameter.VAR_KEYWORD for parameter in parameters)


def allocate_ranks(model: PreTrainedModel | PeftModel, step: int) -> None:
    """Lets a method that moves its rank between layers (AdaLoRA) do so after a step that was taken."""
    tuner: Any = getattr(model, "base_model", None)
    if hasattr(tuner, "update_and_allocate"):
        tuner.update_and_allocate(step)
