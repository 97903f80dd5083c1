"""Adapters that stand beside a linear layer: several low-rank maps B_i A_i, held as one stack.

MultiLoRA and MoE-LoRA differ in how they weigh the maps; what they share is here.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any, cast

import torch
from peft.config import PeftConfig
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from hycam.errors import HycamError
from hycam.tuners.base import AdapterLayer, Tuner
from hycam.tuners.targets import ALL_LINEAR, check_targets, last_parts, linear_layers, shortest_suffixes
from hycam.tuners.weights import Weight


@dataclass
class StackedConfig(PeftConfig):
    """The settings that :class:`MultiLoraConfig` and :class:`MoeLoraConfig` share.

    Raises:
        ValueError: a value outside its range, with the value.
    """

    r: int = field(default=64, metadata={"help": "Rank of each low-rank map."})
    alpha: float | None = field(default=None, metadata={"help": "None: factor 1; a number: factor alpha / r."})
    dropout: float = field(default=0.0, metadata={"help": "Dropout of what the low-rank maps read, in training."})
    target_modules: list[str] | str | None = field(
        default=None, metadata={"help": "Linear layers to adapt; None takes all but the output layer."}
    )
    exclude_modules: list[str] | str | None = field(default=None, metadata={"help": "Modules to leave out."})
    layers_to_transform: list[int] | int | None = field(default=None, metadata={"help": "Layers to adapt."})
    layers_pattern: list[str] | str | None = field(default=None, metadata={"help": "Name of the list of layers."})
    modules_to_save: list[str] | None = field(default=None, metadata={"help": "Further modules to train and save."})
    init_weights: bool = field(default=True, metadata={"help": "True starts as the backbone itself."})

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("target_modules", "exclude_modules"):
            value: Any = getattr(self, name)
            if isinstance(value, list):
                setattr(self, name, set(value))
        self.check_positive("r")
        if self.alpha is not None and not 0 < self.alpha < math.inf:
            raise ValueError(f"alpha must be a number above 0, or None for the factor 1, not {self.alpha!r}.")
        if not 0 <= self.dropout < 1:
            raise ValueError(f"dropout must be at least 0 and below 1, not {self.dropout!r}.")
        is_pattern = isinstance(self.target_modules, str) and self.target_modules.lower() != ALL_LINEAR
        if is_pattern and self.layers_to_transform is not None:
            raise ValueError(
                f"layers_to_transform has no effect beside a pattern (target_modules={self.target_modules!r}): "
                "write the layers into the pattern, or name the modules in a list."
            )
        if self.layers_pattern and self.layers_to_transform is None:
            raise ValueError("layers_pattern has no effect without layers_to_transform.")

    def check_positive(self, name: str) -> None:
        value = getattr(self, name)
        if not isinstance(value, int):
            raise ValueError(f"{name} must be a whole number, not {value!r}.")
        if value < 1:
            raise ValueError(f"{name} must be at least 1, not {value!r}.")

    @property
    def scale(self) -> float:
        return 1.0 if self.alpha is None else self.alpha / self.r


class StackedLayer(AdapterLayer):
    """A linear layer ``W`` with n low-rank maps beside it, ``y = W x + delta(x)``.

    Held per adapter, with the method's prefix in front: ``A`` ``[n, r, in]`` and ``B`` ``[n, out, r]``.

    Args:
        base_layer: an ``nn.Linear``, or the ``Conv1D`` of GPT-2 and its kin, which holds its weight transposed.
    """

    prefix: str
    starts_at_zero: str  # the name of what is zero in an adapter that changes nothing

    def __init__(self, base_layer: nn.Module) -> None:
        super().__init__(base_layer)
        linear = self.get_base_layer()
        if isinstance(linear, Conv1D):
            self.in_features, self.out_features = linear.weight.shape
        else:
            self.in_features, self.out_features = cast(int, linear.in_features), cast(int, linear.out_features)
        self.configs: dict[str, Any] = {}

    def update_layer(self, adapter_name: str, config: Any) -> None:
        """Adds the weights of one adapter."""
        self.configs[adapter_name] = config
        self.add_weights(adapter_name, config)
        self.reset_adapter_parameters(adapter_name, config.init_weights)
        self._move_adapter_to_device_of_base_layer(adapter_name)
        self.set_adapter(self.active_adapters)

    def add_weights(self, adapter: str, config: Any) -> None:
        """Adds the method's own weights to the dictionaries, unset."""
        raise NotImplementedError

    def add_factors(self, adapter: str, maps: int, r: int) -> None:
        A, B = torch.empty(maps, r, self.in_features), torch.empty(maps, self.out_features, r)
        getattr(self, f"{self.prefix}A")[adapter], getattr(self, f"{self.prefix}B")[adapter] = Weight(A), Weight(B)

    def adapter_weight(self, name: str, adapter: str) -> Tensor:
        """The weight of this name, without the method's prefix, of one adapter."""
        return getattr(self, self.prefix + name)[adapter].weight

    @torch.no_grad()
    def reset_adapter_parameters(self, adapter_name: str, identity: bool) -> None:
        """Every map is drawn as ``nn.Linear`` is, uniform in ``±1/sqrt(fan_in)`` (Kaiming with a = sqrt 5).

        ``identity``: what the method starts at zero is set to zero, so that delta is exactly 0.
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
        names = [name for name, _ in self.model.named_modules()]
        linear = linear_layers(self.model)
        targets = peft_config.target_modules
        if targets is None or (isinstance(targets, str) and targets.lower() == ALL_LINEAR):
            if not linear:
                raise HycamError(f"{type(self.model).__name__} has no linear layer to adapt.")
            peft_config.target_modules = shortest_suffixes(linear, names)
            check_targets(peft_config, self.model, "linear layers", linear)
            return peft_config
        check_targets(peft_config, self.model, "linear layers", linear)
        known = set(linear)
        wrong = [name for name in names if name and name not in known and self._matches(peft_config, name)]
        if wrong:
            raise HycamError(
                f"target_modules={targets!r} matches {wrong[0]}, which is not a linear layer inside the backbone. "
                f"Name some of {', '.join(last_parts(linear))}."
            )
        return peft_config

    def _matches(self, config: StackedConfig, name: str) -> bool:
        is_inside = any(part in name for part in (".base_layer", f".{self.prefix}"))
        return not is_inside and bool(self._check_target_module_exists(config, name))

    def _create_and_replace(  # type: ignore[override]
        self,
        config: StackedConfig,
        adapter_name: str,
        target: nn.Module,
        target_name: str,
        parent: nn.Module,
        current_key: str,
        **_: Any,
    ) -> None:
        layer = target
        if not isinstance(layer, self.tuner_layer_cls):
            layer = self.tuner_layer_cls(target)
            self._replace_module(parent, target_name, layer, target)
        layer.update_layer(adapter_name, config)
