"""MoE-LoRA, the layer of RieMoE-LoRA, as a PEFT method."""

from hycam.tuners.moelora.config import MoeLoraConfig
from hycam.tuners.moelora.layer import MoeLoraLayer
from hycam.tuners.moelora.model import MoeLoraModel
from hycam.tuners.registration import register

register(MoeLoraConfig, MoeLoraModel)

__all__ = ["MoeLoraConfig", "MoeLoraLayer", "MoeLoraModel"]
