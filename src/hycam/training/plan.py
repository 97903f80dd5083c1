"""What a loop trains on, and who follows it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

import datasets

from hycam.data.batches import Batches
from hycam.training.divergence import Policy
from hycam.training.rows import MixedRows


class Trial(Protocol):
    """Follows a training through its phases, to see what each needs; nothing is saved of it."""

    def select(self, data: Any) -> Any:
        """The part of the prepared data to train on."""

    def at(self, phase: str) -> None:
        """Called whenever one has ended: loaded, adapted, forward, backward, step, validation."""


@dataclass(frozen=True)
class Plan:
    """What is trained on, and what is looked at beside the steps.

    Attributes:
        rows: the training rows of all tasks.
        batches: which of them make up each micro-batch of this process.
        validation: the validation rows of each task.
        policy: what to do about a step that would do harm.
        patience: validations without a better loss before training stops and goes back to the best; None for never.
        also: gives further figures of each validation, which are logged beside its losses.
        trial: is told the phases.
    """

    rows: MixedRows
    batches: Batches
    validation: dict[str, datasets.Dataset]
    policy: Policy = field(default_factory=Policy)
    patience: int | None = None
    also: Callable[[], Mapping[str, float]] | None = None
    trial: Trial | None = None
