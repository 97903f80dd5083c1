"""A recipe's training as ``transformers.TrainingArguments``, whose names ``training.extra`` takes."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path
from typing import Any

from transformers import TrainingArguments

from hycam.errors import HycamError, nearest
from hycam.training import distributed
from hycam.training.recipe import Recipe
from hycam.training.run import Run
from hycam.training.setup import OPTIMIZERS

EXTRA = {
    "adam_beta1", "adam_beta2", "adam_epsilon", "lr_scheduler_kwargs",
    "dataloader_num_workers", "dataloader_pin_memory", "dataloader_prefetch_factor",
    "ddp_backend", "ddp_broadcast_buffers", "ddp_bucket_cap_mb", "ddp_find_unused_parameters", "ddp_static_graph",
    "ddp_timeout", "eval_delay", "full_determinism", "logging_first_step", "neftune_noise_alpha", "project", "run_name",
    "tf32", "torch_empty_cache_steps",
}  # fmt: skip
"""The settings that training uses and the recipe has no field for."""


def training_arguments(recipe: Recipe) -> TrainingArguments:
    """The recipe's training settings for the loop; where there are several processes, they connect.

    Raises:
        HycamError: ``training.extra`` has an unknown setting, or one that the recipe has a field for; or a value does
            not work.
    """
    own = _settings(recipe)
    _check_extra(recipe.training.extra, own)
    try:
        return TrainingArguments(**own, **recipe.training.extra)
    except (TypeError, ValueError) as error:
        raise HycamError(f"The training settings do not work: {error}") from error


def _check_extra(extra: dict[str, Any], own: dict[str, Any]) -> None:
    known = [entry.name for entry in fields(TrainingArguments)]
    for name in extra:
        if name in own:
            raise HycamError(
                f"training.extra cannot set {name}: the recipe has a field for it, or training needs it so."
            )
        if name in EXTRA:
            continue
        hint = nearest(name, EXTRA)
        if name == "label_smoothing_factor":
            raise HycamError(f"training.extra cannot set {name}: the balance loss could not act beside it.")
        if name in known:
            raise HycamError(f"training.extra cannot set {name}: training does not use it.{hint}")
        raise HycamError(f'training.extra has an unknown setting "{name}".{hint}')


def _settings(recipe: Recipe) -> dict[str, Any]:
    settings = recipe.training
    # The best adapter has to be there to go back to, so early stopping keeps one at every validation.
    save_every = settings.save_every if settings.early_stopping_patience is None else settings.evaluate_every
    return {
        "output_dir": str(Run(Path(recipe.output)).checkpoints),
        "learning_rate": recipe.learning_rate(),
        "num_train_epochs": settings.epochs,
        "max_steps": settings.max_steps or -1,
        "per_device_train_batch_size": settings.batch_size,
        "per_device_eval_batch_size": recipe.evaluation.batch_size,
        "gradient_accumulation_steps": settings.gradient_accumulation,
        "optim": OPTIMIZERS[settings.optimizer_states],
        "weight_decay": settings.weight_decay,
        "lr_scheduler_type": settings.scheduler,
        "warmup_steps": settings.warmup_ratio,
        "max_grad_norm": settings.max_grad_norm,
        "gradient_checkpointing": settings.gradient_checkpointing,
        # The recipe has fields for the first two, which are applied to the model itself.
        "torch_compile": False,
        "use_liger_kernel": False,
        "torch_compile_backend": None,
        "torch_compile_mode": None,
        "liger_kernel_config": None,
        "use_cpu": settings.torch_device().type == "cpu",
        # A frozen backbone has its type already and the adapter stays in float32, so there is nothing to autocast.
        "bf16": recipe.uses_autocast(),
        "fp16": False,
        "eval_strategy": "steps" if settings.evaluate_every else "no",
        "eval_steps": settings.evaluate_every,
        "save_strategy": "steps" if save_every else "no",
        "save_steps": save_every or 500,
        "logging_steps": settings.log_every,
        "report_to": settings.report_to or "none",
        "seed": settings.seed,
        **distributed.settings(recipe, distributed.started()),
    }
