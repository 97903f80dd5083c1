"""The hook in which a tuner checks saved weights, for releases of PEFT before 0.21, which do not call it.

They copy the weights of a file with ``load_state_dict``, so the check runs when that begins. This file goes when the
lower bound of PEFT is 0.21.
"""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING, Any

from peft.config import PeftConfig
from peft.tuners.tuners_utils import BaseTuner
from torch import Tensor, nn


class _Older(BaseTuner):
    """Calls ``_remap_adapter_state_dict_for_load`` of the tuner as PEFT 0.21 does, before any weight is copied.

    Both class methods are PEFT 0.21's defaults.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.register_load_state_dict_pre_hook(_check)

    @classmethod
    def _remap_adapter_state_dict_for_load(
        cls, model: nn.Module, config: PeftConfig, adapter_name: str, state_dict: dict[str, Tensor]
    ) -> dict[str, Tensor]:
        return state_dict

    @classmethod
    def _remove_adapter_name_from_key(cls, key: str, adapter_name: str) -> str:
        return key.replace(f".{adapter_name}.", ".").removesuffix(f".{adapter_name}")


if TYPE_CHECKING or hasattr(BaseTuner, "_remap_adapter_state_dict_for_load"):
    CheckedBeforeLoading = BaseTuner
else:
    CheckedBeforeLoading = _Older


def _check(tuner: _Older, state_dict: dict[str, Any], prefix: str, *_: Any) -> None:
    found = {name.removeprefix(prefix): value for name, value in state_dict.items() if name.startswith(prefix)}
    parameters = dict(tuner.named_parameters(remove_duplicate=False))
    found = {f"{name}.weight" if f"{name}.weight" in parameters else name: value for name, value in found.items()}
    if _is_whole_model(parameters, found):
        return  # a checkpoint of the whole model, not an adapter
    named = [adapter for adapter in tuner.peft_config if any(_belongs(name, adapter) for name in found)]
    for adapter in named or tuner.active_adapters:
        others = [other for other in named if other != adapter]
        its = {name: value for name, value in found.items() if not any(_belongs(name, other) for other in others)}
        tuner._remap_adapter_state_dict_for_load(tuner, tuner.peft_config[adapter], adapter, its)


def _belongs(name: str, adapter: str) -> bool:
    return f".{adapter}." in name or name.endswith(f".{adapter}")


def _is_whole_model(parameters: dict[str, nn.Parameter], found: dict[str, Any]) -> bool:
    names = defaultdict(list)  # a tied parameter has several
    for name, parameter in parameters.items():
        names[parameter].append(name)
    return all(any(name in found for name in several) for several in names.values())
