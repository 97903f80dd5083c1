"""The backbone that an adapted model came from, to be measured beside it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import cache
from typing import cast

from peft import LoraConfig, PeftConfig, PeftModel
from transformers import PreTrainedModel

from hycam.tuners.base import Tuner

Base = Callable[[], AbstractContextManager[PreTrainedModel]]
"""Gives the backbone for as long as it is needed; the adapted model may be out of use meanwhile."""


def base_of(model: PreTrainedModel, load: Callable[[], PreTrainedModel]) -> Base:
    """The adapted model with its adapter disabled where that is known to give the backbone back, else a loaded one.

    Args:
        model: a PEFT model, or a fully fine-tuned one.
        load: loads the backbone; called once at most, when it is first needed. It is kept beside ``model`` then, which
            is still half of what its training took, with gradients and the optimizer's two moments.
    """
    if isinstance(model, PeftModel) and _gives_back(model):

        @contextmanager
        def disabled() -> Iterator[PreTrainedModel]:
            with model.disable_adapter():
                yield cast(PreTrainedModel, model)

        return disabled
    loaded = cache(load)
    return lambda: nullcontext(loaded())


def _gives_back(model: PeftModel) -> bool:
    """Our own adapters and plain LoRA do. Trained biases, and initialisations that change the backbone, do not."""
    return isinstance(model.base_model, Tuner) or all(map(_is_plain_lora, model.peft_config.values()))


def _is_plain_lora(config: PeftConfig) -> bool:
    return (
        isinstance(config, LoraConfig)
        and config.bias == "none"
        and isinstance(config.init_lora_weights, bool)
        and config.layer_replication is None
    )
