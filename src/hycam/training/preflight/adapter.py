"""The adapted backbone on the meta device: all that its configuration and the method's settings say to each other."""

from __future__ import annotations

from torch import nn
from transformers import PreTrainedConfig, PreTrainedModel

from hycam.adapt import adapt, empty_backbone, trainable_parameters
from hycam.errors import HycamError
from hycam.methods import method
from hycam.optim import factor_pairs, parameter_groups
from hycam.training.preflight.finding import Findings
from hycam.training.recipe import Recipe
from hycam.training.saving import check_saves, check_shared
from hycam.training.savings import blocks_to_compile

_ABOUT = "method"


def check_adapter(recipe: Recipe, config: PreTrainedConfig) -> tuple[Findings, int | None]:
    """What loading the backbone and making the optimizer would refuse, found without a weight.

    Returns:
        the findings, and how many parameters are trained; None where there is no adapted model.
    """
    found = Findings()
    entry = method(recipe.method.name)
    backbone = found.attempt("backbone", _empty, recipe, config)
    if backbone is None:
        return found, None
    _switches(recipe, backbone, found)
    if entry.trains_backbone:
        found.attempt("backbone", check_saves, recipe.backbone, backbone)
        found.attempt("backbone", check_shared, recipe.backbone, backbone)
    adapted = found.attempt(_ABOUT, lambda: adapt(backbone, entry.name, recipe.method.config, empty=True))
    if adapted is None:
        return found, None
    trained = trainable_parameters(adapted)
    if trained == 0:
        found.error(_ABOUT, f"The method {entry.name} trains nothing with these settings. Change method.config.")
    optimizer = recipe.method.settings()
    found.attempt(_ABOUT, parameter_groups, adapted, optimizer, 1.0, 0.0, ())
    if optimizer.preconditioned:
        found.attempt(_ABOUT, factor_pairs, adapted)
    return found, trained


def _empty(recipe: Recipe, config: PreTrainedConfig) -> PreTrainedModel:
    try:
        return empty_backbone(config, recipe.trust_remote_code)
    except (ValueError, ImportError, TypeError, AttributeError) as error:  # no such class, or a configuration with gaps
        raise HycamError(
            f"No causal language model can be made of the configuration of {recipe.backbone} (type "
            f"{config.model_type}): {str(error).strip().splitlines()[0]}"
        ) from error


def _switches(recipe: Recipe, backbone: nn.Module, found: Findings) -> None:
    settings = recipe.training
    if settings.torch_compile:
        found.attempt("settings", blocks_to_compile, backbone)
    if settings.gradient_checkpointing and not getattr(backbone, "supports_gradient_checkpointing", False):
        found.error(
            "settings",
            f"{type(backbone).__name__} has no gradient checkpointing. Leave training.gradient_checkpointing off.",
        )
