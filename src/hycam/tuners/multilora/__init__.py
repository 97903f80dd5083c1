"""MultiLoRA as a PEFT method."""

from hycam.tuners.multilora.config import MultiLoraConfig
from hycam.tuners.multilora.layer import MultiLoraLayer
from hycam.tuners.multilora.model import MultiLoraModel
from hycam.tuners.registration import register

register(MultiLoraConfig, MultiLoraModel)

__all__ = ["MultiLoraConfig", "MultiLoraLayer", "MultiLoraModel"]
