"""The table of methods: a name, how to adapt a backbone with it, and its default learning rate.

This is the single place where a method is added; recipes, the command line and the contract tests all take their
methods from here.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from types import MappingProxyType
from typing import Any

from peft import LoraConfig, PeftConfig, PeftModel, TaskType, get_peft_model
from transformers import PreTrainedModel

from hycam.errors import HycamError, nearest, unknown
from hycam.tuners.hycam import HyCAMConfig


@dataclass(frozen=True)
class Method:
    """One way to adapt a frozen backbone.

    Attributes:
        name: what recipes and the command line call it.
        summary: one line on what is trained, with its source.
        config_class: the PEFT configuration.
        settings: what this method sets in it; a recipe's own settings go on top.
        learning_rate: what a recipe without a learning rate uses.
    """

    name: str
    summary: str
    config_class: type[PeftConfig]
    learning_rate: float
    settings: Mapping[str, Any] = field(default_factory=lambda: MappingProxyType({}))

    def config(self, settings: Mapping[str, Any] | None = None) -> PeftConfig:
        """The PEFT configuration, with ``settings`` over the method's own.

        Raises:
            HycamError: a setting that the method does not have (the nearest is named), or a value it refuses.
        """
        known = {entry.name for entry in fields(self.config_class)}
        for name in settings or {}:
            if name not in known:
                raise HycamError(f'The method {self.name} has no setting "{name}".{nearest(name, known)}')
        try:
            return self.config_class(task_type=TaskType.CAUSAL_LM, **{**self.settings, **(settings or {})})
        except (TypeError, ValueError) as error:
            raise HycamError(f"The settings of the method {self.name} do not work: {error}") from error


_HYCAM = "HyCAM (CIKM 2025)"
# The learning rates of lora and hycam come from `hycam compare recipes/quickstart-lr.yaml` (validation part); the
# ablations take that of hycam until each has been swept.
_ALL = [
    Method("lora", "LoRA, rank 64 on every linear layer (PEFT)", LoraConfig, 1e-3,
           {"r": 64, "lora_alpha": 64, "target_modules": "all-linear"}),
    Method("hycam", f"{_HYCAM}: a full shared module and five of rank 64 behind a router", HyCAMConfig, 1e-3),
    Method("hycam-shared-only", f"{_HYCAM}, ablation Shared-CAM-Only: the shared module alone", HyCAMConfig, 1e-3,
           {"specialized": "none"}),
    Method("hycam-fullspec", f"{_HYCAM}, ablation FullSpec: five full specialised modules", HyCAMConfig, 1e-3,
           {"specialized": "full"}),
    Method("hycam-speconly", f"{_HYCAM}, ablation SpecOnly: no shared module", HyCAMConfig, 1e-3, {"shared": "none"}),
    Method("hycam-inverse-peft", f"{_HYCAM}, ablation InversePEFT: low-rank shared, full special", HyCAMConfig, 1e-3,
           {"shared": "low_rank", "specialized": "full"}),
]  # fmt: skip
METHODS: dict[str, Method] = {entry.name: entry for entry in _ALL}


def method(name: str) -> Method:
    """The method of that name; a misspelt one is an error that names the nearest."""
    if name not in METHODS:
        raise unknown("method", name, METHODS)
    return METHODS[name]


def adapt(
    model: PreTrainedModel, name: str, settings: Mapping[str, Any] | None = None, *, empty: bool = False
) -> PeftModel:
    """Wraps ``model`` (in place, as PEFT does) with a freshly initialised adapter.

    Args:
        model: the backbone.
        name: a name in :data:`METHODS`.
        settings: fields of the method's configuration.
        empty: leave the adapter's weights on the meta device, for counting parameters.

    Raises:
        HycamError: the method or a setting is unknown, or does not work on this backbone.
    """
    config = method(name).config(settings)
    try:
        return get_peft_model(model, config, low_cpu_mem_usage=empty)
    except HycamError:
        raise
    except ValueError as error:  # PEFT's, such as layers that the backbone has not
        raise HycamError(f"The method {name} cannot adapt {type(model).__name__}: {error}") from error


def count_parameters(model: PeftModel) -> tuple[int, int]:
    """``(trainable, total)`` parameters, the total being those of the backbone (its share is what papers report)."""
    trainable, everything = model.get_nb_trainable_parameters()
    return trainable, everything - trainable
