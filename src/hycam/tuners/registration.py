"""Registers a method with PEFT. The only file that touches PEFT's enum."""

from __future__ import annotations

from peft.config import PeftConfig
from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING
from peft.utils import PeftType, register_peft_method

from hycam.tuners.base import AdapterLayer, Tuner
from hycam.tuners.weights import NAMES_ARE_OLDER


def _add_peft_type(name: str) -> None:
    """Adds a member to PEFT's enum of methods, by hand since Python's enums are closed."""
    if name in PeftType.__members__:
        return
    member = str.__new__(PeftType, name)
    member._name_ = name
    member._value_ = name
    PeftType._member_names_.append(name)
    PeftType._member_map_[name] = member
    PeftType._value2member_map_[name] = member
    type.__setattr__(PeftType, name, member)


def register(config_class: type[PeftConfig], tuner: type[Tuner]) -> None:
    """Registers a method with PEFT under the tuner's prefix, once.

    The method's folder calls this after its imports, before any configuration is made: that needs the enum's member.
    """
    name = tuner.prefix.removesuffix("_")
    _add_peft_type(name.upper())
    if PeftType(name.upper()) not in PEFT_TYPE_TO_CONFIG_MAPPING:
        register_peft_method(name=name, config_cls=config_class, model_cls=tuner)
        if not NAMES_ARE_OLDER:
            _read_saved_names(tuner.tuner_layer_cls)


def _read_saved_names(layer: type[AdapterLayer]) -> None:
    """Lets ``load_adapter`` of a ``transformers`` model find the weights of a file, as PEFT's loading does.

    It appends the adapter's name to a saved one, ``hycam_A.default``; the model has ``hycam_A.default.weight``.
    """
    try:
        from transformers.conversion_mapping import (
            get_checkpoint_conversion_mapping,
            register_checkpoint_conversion_mapping,
        )
        from transformers.core_model_loading import WeightRenaming
    except ImportError:  # transformers 4 leaves the loading to PEFT
        return
    names = "|".join(name for name in layer.adapter_layer_names if name not in layer.linear_names)
    renaming = WeightRenaming(rf"((?:{names})\.[^.]+)$", r"\1.weight")
    for_all_models = "legacy"
    known = get_checkpoint_conversion_mapping(for_all_models) or []
    register_checkpoint_conversion_mapping(for_all_models, [*known, renaming], overwrite=True)
