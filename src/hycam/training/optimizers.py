"""The optimizer and the learning-rate schedule of a training."""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import nn
from torch.optim.lr_scheduler import ReduceLROnPlateau
from transformers import TrainingArguments, get_scheduler
from transformers.optimization import GreedyLR
from transformers.trainer_pt_utils import get_parameter_names

from hycam.optim import OptimizerSettings, RiemannianAdamW, factor_pairs, parameter_groups

OPTIMIZERS = {"32bit": "adamw_torch", "8bit": "adamw_bnb_8bit"}
"""AdamW as transformers calls it, by what ``training.optimizer_states`` says."""

# Norms and biases do not decay, as in transformers' Trainer.
_NO_DECAY = [r"bias", r"layernorm", r"rmsnorm", r"(?:^|\.)norm(?:$|\.)", r"_norm(?:$|\.)"]


def build_optimizer(
    model: nn.Module, settings: OptimizerSettings, arguments: TrainingArguments
) -> torch.optim.Optimizer:
    """AdamW with the parameter groups of the method, preconditioned or with 8-bit states where it is asked for.

    Raises:
        HycamError: a multiplier is for a weight that is not trained here, or there are no factors to precondition.
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
    # Most rows of an embedding have no gradient in a step, and the few large ones of a block would drown the others.
    embeddings = (module.weight for module in model.modules() if isinstance(module, nn.Embedding))
    trained = [weight for weight in embeddings if weight.requires_grad]
    GlobalOptimManager.get_instance().override_config(trained, "optim_bits", 32)
    return optimizer


def build_schedule(optimizer: torch.optim.Optimizer, arguments: TrainingArguments, steps: int) -> Any:
    """The schedule that the arguments name, over so many steps."""
    return get_scheduler(
        arguments.lr_scheduler_type,
        optimizer=optimizer,
        num_warmup_steps=arguments.get_warmup_steps(steps),
        num_training_steps=steps,
        scheduler_specific_kwargs=cast("dict[str, Any] | None", arguments.lr_scheduler_kwargs),
    )


def takes_the_loss(schedule: Any) -> bool:
    """Whether a schedule is stepped by the loss of each validation, and not by the steps."""
    return isinstance(schedule, (ReduceLROnPlateau, GreedyLR))
