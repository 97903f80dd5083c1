"""Makes the project's methods known to PEFT. The only file that touches PEFT's enum and mappings."""

from __future__ import annotations

from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING
from peft.utils import PeftType, register_peft_method


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
