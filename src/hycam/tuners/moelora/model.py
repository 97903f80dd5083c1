"""The tuner of MoE-LoRA."""

from __future__ import annotations

from hycam.tuners.linear import StackedTuner
from hycam.tuners.moelora.config import MoeLoraConfig
from hycam.tuners.moelora.layer import MoeLoraLayer


class MoeLoraModel(StackedTuner):
    """Adapts a frozen backbone with MoE-LoRA: every targeted linear layer becomes a :class:`MoeLoraLayer`."""

    prefix = "moelora_"
    tuner_layer_cls = MoeLoraLayer
    config_class = MoeLoraConfig
