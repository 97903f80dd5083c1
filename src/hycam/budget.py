"""How many parameters each method trains on a backbone, counted without any weights."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any, cast

from hycam import backbones
from hycam.adapt import adapt, empty_backbone, trainable_parameters
from hycam.errors import HycamError
from hycam.methods import METHODS


@dataclass(frozen=True)
class Budget:
    """What one method trains.

    Attributes:
        name: the method's.
        trainable_parameters: how many are trained; None where the method refuses the backbone.
        total_parameters: the backbone's own, adapter left out.
        share: trainable over total.
        rank: that of an equal-budget baseline; None for the others.
        deviation: of an equal-budget baseline, its trainable parameters over HyCAM's, minus 1; None for the others.
        refused: why the method cannot adapt this backbone; None where it can.
    """

    name: str
    trainable_parameters: int | None
    total_parameters: int
    share: float | None = None
    rank: int | None = None
    deviation: float | None = None
    refused: str | None = None


def budgets(backbone: str | os.PathLike[str]) -> list[Budget]:
    """The budget of every method, in the order of the table. The model is built on the meta device, afresh for each.

    Raises:
        HycamError: there is no such backbone.
    """
    config = backbones.config(backbone)
    total = empty_backbone(config).num_parameters()
    found: dict[str, Budget] = {}
    for name, entry in METHODS.items():
        try:
            adapted = adapt(empty_backbone(config), name, empty=True)
        except HycamError as error:
            found[name] = Budget(name, None, total, refused=str(error))
            continue
        trainable = trainable_parameters(adapted)
        rank = deviation = None
        if entry.matches_hycam:
            rank = cast(Any, adapted.peft_config["default"]).r
            deviation = trainable / cast(int, found["hycam"].trainable_parameters) - 1
        found[name] = Budget(name, trainable, total, trainable / total, rank, deviation)
    return list(found.values())
