"""How many parameters each method trains on a backbone, counted without any weights."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any, cast

from hycam import backbones
from hycam.adapt import adapt, empty_backbone, trainable_parameters
from hycam.methods import METHODS


@dataclass(frozen=True)
class Budget:
    """What one method trains.

    Attributes:
        name: the method's.
        trainable_parameters: how many are trained.
        total_parameters: the backbone's own, adapter left out.
        share: trainable over total.
        rank: that of an equal-budget baseline; None for the others.
        deviation: of an equal-budget baseline, its trainable parameters over HyCAM's, minus 1; None for the others.
    """

    name: str
    trainable_parameters: int
    total_parameters: int
    share: float
    rank: int | None
    deviation: float | None


def budgets(backbone: str | os.PathLike[str]) -> list[Budget]:
    """The budget of every method, in the order of the table. The model is built on the meta device, afresh for each.

    Raises:
        HycamError: there is no such backbone, or a method cannot adapt it.
    """
    config = backbones.config(backbone)
    found: dict[str, Budget] = {}
    for name, entry in METHODS.items():
        model = empty_backbone(config)
        total = model.num_parameters()
        adapted = adapt(model, name, empty=True)
        trainable = trainable_parameters(adapted)
        rank = deviation = None
        if entry.matches_hycam:
            rank = cast(Any, adapted.peft_config["default"]).r
            deviation = trainable / found["hycam"].trainable_parameters - 1
        found[name] = Budget(name, trainable, total, trainable / total, rank, deviation)
    return list(found.values())
