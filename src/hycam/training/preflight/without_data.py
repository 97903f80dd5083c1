"""All that can be said of a recipe before its data are touched; what `hycam train` asks first."""

from __future__ import annotations

from typing import NamedTuple

from torch import nn
from transformers import PreTrainedConfig, PreTrainedModel

from hycam import backbones
from hycam.adapt import adapt, empty_backbone, trainable_parameters
from hycam.errors import HycamError
from hycam.methods import METHODS, method
from hycam.optim import factor_pairs, parameter_groups
from hycam.training.preflight.backbone import Weights, check_backbone
from hycam.training.preflight.findings import Findings
from hycam.training.preflight.settings import check_settings, check_switches
from hycam.training.recipe import Recipe
from hycam.training.saving import check_saves, check_shared, mended
from hycam.training.savings import blocks_to_compile


class WithoutData(NamedTuple):
    """The findings in order, and what was found out on the way (``trained``: the parameters that are trained); None
    where it could not be.
    """

    findings: Findings
    weights: Weights | None
    config: PreTrainedConfig | None
    trained: int | None


def check_without_data(recipe: Recipe, processes: int = 1) -> WithoutData:
    """Settings, backbone and adapter, for a training by so many processes. Of a backbone that is not here only the
    configuration is fetched.
    """
    found = check_settings(recipe)
    of_backbone, weights = check_backbone(recipe.backbone)
    found += of_backbone
    config = trained = None
    if weights is not None:
        config = found.attempt(backbones.config, recipe.backbone, recipe.trust_remote_code, about="backbone")
    if config is not None:
        found += _generation(recipe)
        found += check_switches(recipe, processes)
        if not any(one.about == "method" for one in found.errors):
            of_adapter, trained = check_adapter(recipe, config)
            found += of_adapter
    return WithoutData(found, weights, config, trained)


def check_adapter(recipe: Recipe, config: PreTrainedConfig) -> tuple[Findings, int | None]:
    """What loading the backbone and making the optimizer would refuse, found on the meta device.

    Returns:
        the findings, and how many parameters are trained; None where there is no adapted model.
    """
    found = Findings("method")
    entry = method(recipe.method.name)
    backbone = found.attempt(_empty, recipe, config, about="backbone")
    if backbone is None:
        return found, None
    _switches(recipe, backbone, found)
    if entry.trains_backbone:
        found.attempt(check_saves, recipe.backbone, backbone, about="backbone")
        found.attempt(check_shared, recipe.backbone, backbone, about="backbone")
    adapted = found.attempt(lambda: adapt(backbone, entry.name, recipe.method.config, empty=True))
    if adapted is None:
        return found, None
    trained = trainable_parameters(adapted)
    if trained == 0:
        found.error(f"The method {entry.name} trains nothing with these settings. Change method.config.")
    optimizer = recipe.method.settings()
    found.attempt(parameter_groups, adapted, optimizer, 1.0, 0.0, ())
    if optimizer.preconditioned:
        found.attempt(factor_pairs, adapted)
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
        found.attempt(blocks_to_compile, backbone, about="settings")
    if settings.gradient_checkpointing and not getattr(backbone, "supports_gradient_checkpointing", False):
        found.error(
            f"{type(backbone).__name__} has no gradient checkpointing. Leave training.gradient_checkpointing off.",
            about="settings",
        )


def _generation(recipe: Recipe) -> Findings:
    """The backbone's generation settings: without them it is not loaded, and with some of them not saved."""
    found = Findings("backbone")
    settings = found.attempt(backbones.generation_settings, recipe.backbone)
    entry = METHODS.get(recipe.method.name)
    if settings is not None and entry is not None and entry.trains_backbone and (left_out := mended(settings)[1]):
        found.warn(
            f"The generation_config.json of {recipe.backbone} sets {', '.join(left_out)}, which does nothing beside "
            "its other settings and which no model can be saved with: it is left out of what is saved, which answers "
            "as before."
        )
    return found
