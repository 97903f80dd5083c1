"""All that can be said of a recipe before its data are touched; what `hycam train` asks first."""

from __future__ import annotations

from dataclasses import dataclass

from transformers import PreTrainedConfig

from hycam import backbones
from hycam.methods import METHODS
from hycam.training.preflight.adapter import check_adapter
from hycam.training.preflight.backbone import Weights, check_backbone
from hycam.training.preflight.finding import Findings
from hycam.training.preflight.settings import check_settings, check_switches
from hycam.training.recipe import Recipe
from hycam.training.saving import mended


@dataclass(frozen=True)
class WithoutData:
    """The findings, and what was found out on the way; None where it could not be.

    Attributes:
        findings: in order.
        weights: the backbone's.
        config: the backbone's.
        trained: how many parameters are trained.
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
        config = found.attempt("backbone", backbones.config, recipe.backbone, recipe.trust_remote_code)
    if config is not None:
        found += _generation(recipe)
        found += check_switches(recipe, processes)
        if not any(one.about == "method" for one in found.errors):
            of_adapter, trained = check_adapter(recipe, config)
            found += of_adapter
    return WithoutData(found, weights, config, trained)


def _generation(recipe: Recipe) -> Findings:
    """The backbone's generation settings: without them it is not loaded, and with some of them not saved."""
    found = Findings()
    settings = found.attempt("backbone", backbones.generation_settings, recipe.backbone)
    entry = METHODS.get(recipe.method.name)
    if settings is not None and entry is not None and entry.trains_backbone and (left_out := mended(settings)[1]):
        found.warn(
            "backbone",
            f"The generation_config.json of {recipe.backbone} sets {', '.join(left_out)}, which does nothing beside "
            "its other settings and which no model can be saved with: it is left out of what is saved, which answers "
            "as before.",
        )
    return found
