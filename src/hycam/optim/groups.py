"""The settings of a method's optimizer, and the parameter groups that follow from them."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

from torch import nn

from hycam.errors import HycamError


@dataclass(frozen=True)
class OptimizerSettings:
    """What a method's optimizer has beyond AdamW with one learning rate.

    Attributes:
        preconditioned: whether the gradients of low-rank factors are preconditioned
            (:class:`hycam.optim.RiemannianAdamW`).
        damping: delta of the preconditioner.
        multipliers: learning rates over that of the other weights, by the name of an adapter's weight such as
            ``multilora_scaling``.
        no_decay: names of further weights without weight decay, like norms and biases.
    """

    preconditioned: bool = False
    damping: float = 1e-6
    multipliers: Mapping[str, float] = field(default_factory=lambda: MappingProxyType({}))
    no_decay: tuple[str, ...] = ()


def parameter_groups(
    model: nn.Module,
    settings: OptimizerSettings,
    learning_rate: float,
    weight_decay: float,
    decaying: Collection[str],
) -> list[dict[str, Any]]:
    """The trainable parameters of a model as groups for an optimizer.

    Args:
        model: the adapted backbone.
        settings: which weights have a learning rate or no decay of their own.
        learning_rate: of all others.
        weight_decay: of the weights that decay.
        decaying: the names of the parameters that decay by the trainer's rule (norms and biases do not).

    Raises:
        HycamError: a multiplier is for a weight that is not trained here.
    """
    trained = {part for name, p in model.named_parameters() if p.requires_grad for part in name.split(".")}
    for weight in settings.multipliers:
        if weight not in trained:
            raise HycamError(f'No trained weight is called "{weight}", so it cannot have a learning rate of its own.')
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        parts = name.split(".")
        multiplier = next((value for weight, value in settings.multipliers.items() if weight in parts), 1.0)
        decays = name in decaying and not any(weight in parts for weight in settings.no_decay)
        groups.setdefault((learning_rate * multiplier, weight_decay if decays else 0.0), []).append(parameter)
    return [{"params": members, "lr": lr, "weight_decay": decay} for (lr, decay), members in groups.items()]
