"""Weights of adapters that are not linear layers, named as PEFT names its own."""

from __future__ import annotations

from typing import Any

import torch
from peft.tuners.tuners_utils import BaseTuner
from torch import Tensor, nn

from hycam.errors import HycamError

# Before PEFT 0.21 a tuner cannot rename saved keys, so a state dictionary has the older names there.
NAMES_ARE_OLDER = not hasattr(BaseTuner, "_remove_adapter_name_from_key")


class Weight(nn.Module):
    """One tensor of one adapter. A module of its own, so that its name ends in ``hycam_A.default.weight``.

    Libraries rely on such names: TRL copies an adapter to its reference by every name with ``.default.`` in it.

    Args:
        weight: the tensor.
    """

    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        self.weight = nn.Parameter(weight)

    @property
    def shape(self) -> torch.Size:
        """Makes ``load_adapter`` of ``transformers`` 5 fail with a message where a state has the older names.

        It would take this module for the parameter of that name, ask for its shape, and replace it.
        """
        if not NAMES_ARE_OLDER:
            raise AttributeError
        raise HycamError(
            "An adapter of this kind is loaded by a transformers model's own from_pretrained or load_adapter from PEFT "
            "0.21 on only. Upgrade PEFT, or load it with PeftModel.from_pretrained."
        )


class Weights(nn.ModuleDict):
    """One :class:`Weight` for each adapter.

    The parameter itself was once here, as ``hycam_A.default``; checkpoints with such names still load.
    """

    def __init__(self) -> None:
        super().__init__()
        self.register_load_state_dict_pre_hook(_take_older_names)
        if NAMES_ARE_OLDER:
            self.register_state_dict_post_hook(_give_older_names)


def _take_older_names(weights: Weights, state: dict[str, Any], prefix: str, *_: Any) -> None:
    for adapter in weights:
        if f"{prefix}{adapter}" in state:
            state[f"{prefix}{adapter}.weight"] = state.pop(f"{prefix}{adapter}")


def _give_older_names(weights: Weights, state: dict[str, Any], prefix: str, _: Any) -> None:
    for adapter in weights:
        if f"{prefix}{adapter}.weight" in state:
            state[f"{prefix}{adapter}"] = state.pop(f"{prefix}{adapter}.weight")
