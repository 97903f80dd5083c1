"""Adapters that stand beside a linear layer: several low-rank maps B_i A_i, held as one stack.

MultiLoRA and MoE-LoRA differ in how they weigh the maps; what they share is here.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from hycam.errors import HycamError
from hycam.tuners.base import AdapterLayer, Tuner
from hycam.tuners.config import AdapterConfig
from hycam.tuners.targets import linear_layers, settle_targets
from hycam.tuners.weights import Weight


@dataclass
class StackedConfig(AdapterConfig):
    """The settings that :class:`MultiLoraConfig` and :class:`MoeLoraConfig` share; ``target_modules=None`` takes every
    linear layer but the output layer, and so does ``"all-linear"``.

    Args:
        dropout: dropout of what the low-rank maps read, in training.

    Raises:
        ValueError: a value outside its range, with the value.
    """

    dropout: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.dropout < 1:
            raise ValueError(f"dropout must be at least 0 and below 1, not {self.dropout!r}.")


class StackedLayer(AdapterLayer):
    """A linear layer ``W`` with n low-rank maps beside it, ``y = W x + delta(x)``.

    Held per adapter, with the method's prefix in front: ``A`` ``[n, r, in]`` and ``B`` ``[n, out, r]``.

    Args:
        base_layer: an ``nn.Linear``, or GPT-2's ``Conv1D``, which holds its weight transposed.
    """

    prefix: str
    starts_at_zero: str  # the weight that is zero in an untrained adapter

    def __init__(self, base_layer: nn.Module) -> None:
        super().__init__(base_layer)
        linear = self.get_base_layer()
        if isinstance(linear, Conv1D):
            self.in_features, self.out_features = linear.weight.shape
        else:
            self.in_features, self.out_features = cast(int, linear.in_features), cast(int, linear.out_features)
        self.configs: dict[str, Any] = {}

    def update_layer(self, adapter_name: str, config: Any) -> None:
        self.configs[adapter_name] = config
        self.add_weights(adapter_name, config)
        self.reset_adapter_parameters(adapter_name, config.init_weights)
        self._move_adapter_to_device_of_base_layer(adapter_name)
        self.set_adapter(self.active_adapters)

    def add_weights(self, adapter: str, config: Any) -> None:
        """Adds the method's own weights to the dictionaries, unset."""
        raise NotImplementedError

    def add_factors(self, adapter: str, maps: int | None, r: int) -> None:
        """Adds A and B, unset; without the dimension n where ``maps`` is None, for a single map."""
        n = () if maps is None else (maps,)
        A, B = torch.empty(*n, r, self.in_features), torch.empty(*n, self.out_features, r)
        getattr(self, f"{self.prefix}A")[adapter], getattr(self, f"{self.prefix}B")[adapter] = Weight(A), Weight(B)

    def adapter_weight(self, name: str, adapter: str) -> Tensor:
        """The weight of this name, without the method's prefix, of one adapter."""
        return getattr(self, self.prefix + name)[adapter].weight

    @torch.no_grad()
    def reset_adapter_parameters(self, adapter_name: str, identity: bool) -> None:
        """Every map is drawn as ``nn.Linear`` is, uniform in ``±1/sqrt(fan_in)`` (Kaiming with a = sqrt 5).

        With ``identity``, the weight ``starts_at_zero`` is zero, so that delta is exactly 0.
        """
        for name, parameter in self.adapter_parameters(adapter_name).items():
            if identity and name.startswith(self.starts_at_zero):
                parameter.zero_()
            else:
                bound = 1 / math.sqrt(parameter.shape[-1])
                parameter.uniform_(-bound, bound)

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        result = self.base_layer(x, *args, **kwargs)
        if self.disable_adapters or self.merged or not self.active_adapters:
            return result
        adapter = self.active_adapters[0]
        if adapter not in self.configs:
            return result
        x = self._cast_input_dtype(x, self.adapter_weight("A", adapter).dtype)
        return (result + self.delta(x, adapter, self.configs[adapter])).to(result.dtype)

    def delta(self, x: Tensor, adapter: str, config: Any) -> Tensor:
        """What the adapter adds, ``(..., in) -> (..., out)``."""
        raise NotImplementedError


class StackedTuner(Tuner):
    """Adapts linear layers; ``target_modules=None`` takes all of them but the output layer."""

    tuner_layer_cls: type[StackedLayer]

    def _prepare_adapter_config(self, peft_config: StackedConfig, model_config: dict) -> StackedConfig:  # type: ignore[override]
        linear = linear_layers(self.model)
        if not linear:
            raise HycamError(f"{type(self.model).__name__} has no linear layer to adapt.")
        settle_targets(peft_config, self.model, "linear layer", linear, self.prefix, takes_all_linear=True)
        return peft_config
