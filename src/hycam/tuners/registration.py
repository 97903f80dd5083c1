"""Makes the project's methods known to PEFT. The only file that touches PEFT's enum and mappings."""

from __future__ import annotations

from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING
from peft.utils import PeftType, register_peft_method

from hycam.tuners.base import AdapterLayer
from hycam.tuners.weights import NAMES_ARE_OLDER


def _add_peft_type(name: str) -> None:
    """Adds a member to PEFT's enum of methods. Python's enums are closed, so it is put in by hand."""
    if name in PeftType.__members__:
        return
    member = str.__new__(PeftType, name)
    member._name_ = name
    member._value_ = name
    PeftType._member_names_.append(name)
    PeftType._member_map_[name] = member
    PeftType._value2member_map_[name] = member
    type.__setattr__(PeftType, name, member)


def register() -> None:
    """Registers every method of this package; a second call does nothing."""
    for name in ("HYCAM", "MULTILORA", "MOELORA"):
        _add_peft_type(name)
    from hycam.tuners.hycam import HyCAMConfig, HyCAMModel
    from hycam.tuners.moelora import MoeLoraConfig, MoeLoraModel
    from hycam.tuners.multilora import MultiLoraConfig, MultiLoraModel

    for name, config_class, tuner in (
        ("hycam", HyCAMConfig, HyCAMModel),
        ("multilora", MultiLoraConfig, MultiLoraModel),
        ("moelora", MoeLoraConfig, MoeLoraModel),
    ):
        if PeftType(name.upper()) not in PEFT_TYPE_TO_CONFIG_MAPPING:
            register_peft_method(name=name, config_cls=config_class, model_cls=tuner)
            if not NAMES_ARE_OLDER:
                _read_saved_names(tuner.tuner_layer_cls)


def _read_saved_names(layer: type[AdapterLayer]) -> None:
    """Lets ``load_adapter`` of a ``transformers`` model find the weights of a file, as PEFT's own loading does.

    It puts the adapter's name behind a saved one, ``hycam_A.default``; in the model that is ``hycam_A.default.weight``.
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
