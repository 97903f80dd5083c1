"""The tuner of MultiLoRA."""

from __future__ import annotations

from hycam.tuners.linear import StackedTuner
from hycam.tuners.multilora.config import MultiLoraConfig
from hycam.tuners.multilora.layer import MultiLoraLayer


class MultiLoraModel(StackedTuner):
    """Adapts a frozen backbone with MultiLoRA: every targeted linear layer becomes a :class:`MultiLoraLayer`."""

    prefix = "multilora_"
    tuner_layer_cls = MultiLoraLayer
    config_class = MultiLoraConfig
