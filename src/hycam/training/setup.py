"""What a training sets up: the model, its optimizer and the learning-rate schedule."""

from __future__ import annotations

import inspect
from typing import Any, cast

import torch
from peft import PeftModel
from torch import Tensor, nn
from torch.optim.lr_scheduler import ReduceLROnPlateau
from transformers import PreTrainedModel, PreTrainedTokenizerBase, TrainingArguments, get_scheduler
from transformers.optimization import GreedyLR
from transformers.trainer_pt_utils import get_parameter_names
from transformers.trainer_utils import align_special_tokens

from hycam.optim import OptimizerSettings, RiemannianAdamW, factor_pairs, parameter_groups

OPTIMIZERS = {"32bit": "adamw_torch", "8bit": "adamw_bnb_8bit"}
"""transformers' name of AdamW, by ``training.optimizer_states``."""

# Norms and biases do not decay, as in transformers' Trainer.
_NO_DECAY = [r"bias", r"layernorm", r"rmsnorm", r"(?:^|\.)norm(?:$|\.)", r"_norm(?:$|\.)"]


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
    """Lets AdaLoRA move rank between layers after a step."""
    tuner: Any = getattr(model, "base_model", None)
    if hasattr(tuner, "update_and_allocate"):
        tuner.update_and_allocate(step)


def build_optimizer(
    model: nn.Module, settings: OptimizerSettings, arguments: TrainingArguments
) -> torch.optim.Optimizer:
    """AdamW with the method's parameter groups; preconditioned, or with 8-bit states, if the recipe says so.

    Raises:
        HycamError: a multiplier names a weight that is not trained, or there are no factors to precondition.
    """
    decaying = get_parameter_names(model, [nn.LayerNorm], _NO_DECAY)
    groups = parameter_groups(model, settings, arguments.learning_rate, arguments.weight_decay, decaying)
    options: dict[str, Any] = {
        "lr": arguments.learning_rate,
        "betas": (arguments.adam_beta1, arguments.adam_beta2),
        "eps": arguments.adam_epsilon,
    }
    if settings.preconditioned:
        return RiemannianAdamW(groups, pairs=factor_pairs(model), damping=settings.damping, **options)
    if arguments.optim != OPTIMIZERS["8bit"]:
        return torch.optim.AdamW(groups, **options)
    from bitsandbytes.optim import AdamW, GlobalOptimManager

    optimizer = AdamW(groups, optim_bits=8, **options)
    # Few rows of an embedding have a gradient in a step, and in a block of 8-bit states they would swamp the others.
    embeddings = (module.weight for module in model.modules() if isinstance(module, nn.Embedding))
    trained = [weight for weight in embeddings if weight.requires_grad]
    GlobalOptimManager.get_instance().override_config(trained, "optim_bits", 32)
    return optimizer


def build_schedule(optimizer: torch.optim.Optimizer, arguments: TrainingArguments, steps: int) -> Any:
    """The learning-rate schedule over so many steps."""
    return get_scheduler(
        arguments.lr_scheduler_type,
        optimizer=optimizer,
        num_warmup_steps=arguments.get_warmup_steps(steps),
        num_training_steps=steps,
        scheduler_specific_kwargs=cast("dict[str, Any] | None", arguments.lr_scheduler_kwargs),
    )


def takes_the_loss(schedule: Any) -> bool:
    """Whether a schedule is stepped with each validation loss rather than after each step."""
    return isinstance(schedule, (ReduceLROnPlateau, GreedyLR))
