"""Puts a method of the table on a backbone, and counts what it trains."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
from peft import PeftModel, get_peft_model
from peft.mapping import PEFT_TYPE_TO_TUNER_MAPPING
from peft.utils import PeftType
from torch import nn
from transformers import AutoModelForCausalLM, PreTrainedModel

from hycam.errors import HycamError
from hycam.methods import Method, method
from hycam.tuners.base import Tuner
from hycam.tuners.hycam import HyCAMConfig
from hycam.tuners.targets import check_targets, linear_layers

if TYPE_CHECKING:
    from transformers import PreTrainedConfig  # transformers 4 spells it otherwise


def adapt(
    model: PreTrainedModel, name: str, settings: Mapping[str, Any] | None = None, *, empty: bool = False
) -> PeftModel | PreTrainedModel:
    """Wraps ``model`` (in place, as PEFT does) with a freshly initialised adapter.

    ``settings`` are fields of the method's configuration. ``empty`` leaves the adapter's weights on the meta device,
    for counting parameters.

    Returns:
        the adapted model; for full fine-tuning the backbone itself, all of it trainable.

    Raises:
        HycamError: the method or a setting is unknown, or does not work on this backbone.
    """
    entry = method(name)
    if entry.same_size_as:
        settings = matched_settings(entry, settings, model.config)
        entry = method(name.removesuffix("-matched"))
    config = entry.config(settings)
    if config is None:
        return model.requires_grad_(True)
    try:
        if not issubclass(PEFT_TYPE_TO_TUNER_MAPPING[PeftType(config.peft_type)], Tuner):  # ours check themselves
            check_targets(config, model, "linear layers", linear_layers(model))
        return get_peft_model(model, config, low_cpu_mem_usage=empty)
    except HycamError:
        raise
    except (ValueError, TypeError, re.error) as error:  # from PEFT, such as layers that the backbone does not have
        raise HycamError(f"The method {name} cannot adapt {type(model).__name__}: {error}") from error


def trainable_parameters(model: nn.Module) -> int:
    """The number of trained parameters, also under ZeRO-3, where each process holds only a part of them."""
    trained = (parameter for parameter in model.parameters() if parameter.requires_grad)
    return sum(getattr(parameter, "ds_numel", parameter.numel()) for parameter in trained)


def empty_backbone(
    config: PreTrainedConfig, trust_remote_code: bool = False, dtype: torch.dtype = torch.float32
) -> PreTrainedModel:
    """The backbone of a configuration, on the meta device: shapes without weights, of one type."""
    with torch.device("meta"):
        return AutoModelForCausalLM.from_config(config, trust_remote_code=trust_remote_code, dtype=dtype)


def matched_settings(entry: Method, settings: Mapping[str, Any] | None, config: PreTrainedConfig) -> dict[str, Any]:
    """The settings with the rank whose number of trainable parameters is nearest to the other method's on a backbone.

    The count is linear in the rank, so two ranks give it for all. No weights are made.

    Raises:
        HycamError: the other method does not work on this backbone, or trains less there than this one at rank one.
    """
    assert entry.same_size_as is not None
    entry.config(settings)

    def count(name: str, chosen: Mapping[str, Any]) -> int:
        return trainable_parameters(adapt(empty_backbone(config), name, chosen, empty=True))

    plain = entry.name.removesuffix("-matched")
    budget = count(entry.same_size_as, {})
    first, second = (count(plain, {**(settings or {}), entry.rank: rank}) for rank in (1, 2))
    if budget < first:
        raise HycamError(
            f"The method {entry.same_size_as} trains {budget:,} parameters on this backbone and {plain} at rank one "
            f"already {first:,}: no rank matches it. Use {plain} with fewer target_modules"
            f"{' or shared: low_rank' if entry.config_class is HyCAMConfig else ''}."
        )
    if second == first:
        raise HycamError(
            f"The size of {plain} does not depend on {entry.rank} with these settings, so no rank matches that of "
            f"{entry.same_size_as}."
        )
    return {**(settings or {}), entry.rank: 1 + round((budget - first) / (second - first))}
