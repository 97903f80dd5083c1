"""How many parameters each method trains on a backbone, counted without any weights."""

from __future__ import annotations

import os
from dataclasses import dataclass

import torch
from transformers import AutoModelForCausalLM

from hycam import backbones
from hycam.methods import METHODS, adapt, count_parameters


@dataclass(frozen=True)
class Budget:
    """``share`` is trainable over total parameters, the total being the backbone's own."""

    name: str
    trainable_parameters: int
    total_parameters: int
    share: float


def budgets(backbone: str | os.PathLike[str]) -> list[Budget]:
    """The budget of every method, in the order of the table. The model is built on the meta device, afresh for each.

    Raises:
        HycamError: there is no such backbone, or a method cannot adapt it.
    """
    config = backbones.config(backbone)
    found = []
    for name in METHODS:
        with torch.device("meta"):
            model = AutoModelForCausalLM.from_config(config)
        trainable, total = count_parameters(adapt(model, name, empty=True))
        found.append(Budget(name, trainable, total, trainable / total))
    return found
