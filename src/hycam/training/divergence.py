"""Steps that would do harm: whose loss or gradient is no finite number, or whose loss has exploded.

A step is judged when its gradient is there and before the optimizer takes it, by two numbers that are the same on every
process: the loss, which is the mean over the step's labelled tokens, and the norm of the gradient.

A loss has *exploded* when it is more than a margin above what was usual. Both are nats per token, so a margin of 6 is a
perplexity four hundred times as large. What was usual is the lowest median of 50 steps in a row so far (of those there
are, from 20 on; before that, the median of what there is). A median, so that one odd batch neither sets off an alarm
nor raises the bar; the lowest one, so that a loss that creeps upward cannot take its bar along.

One such step may just be a hard batch, and five in a row (:data:`IN_A_ROW`) are not.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from transformers import TrainerCallback
from transformers.trainer_callback import ExportableState

IN_A_ROW = 5
_WINDOW = 50  # steps
_LEAST = 20  # steps before a median is believed in for good


@dataclass(frozen=True)
class Policy:
    """What a recipe wants done about a harmful step.

    Attributes:
        skips: leave it out; else end training.
        margin: nats above the usual at which a loss has exploded; None for never.
        most: steps that are left out in all before training ends anyway.
    """

    skips: bool = False
    margin: float | None = None
    most: int = 100


class StepWatch(TrainerCallback, ExportableState):
    """What is known of the steps so far; it is kept in every checkpoint, and a resumed run goes on from it.

    Attributes:
        losses: of the last sound steps.
        lowest: the lowest median of them so far, once there were enough.
        exploded: ``step`` and ``rows`` of each step of the present row of exploded ones that were taken all the same.
        in_a_row: how many steps were left out just now, one after the other.
        skipped: all steps that were left out: ``step``, ``reason``, ``loss`` and ``gradient_norm`` (null where no
            finite number) and ``rows``.
    """

    def __init__(self) -> None:
        self.losses: list[float] = []
        self.lowest: float | None = None
        self.exploded: list[dict[str, Any]] = []
        self.in_a_row = 0
        self.skipped: list[dict[str, Any]] = []

    @property
    def usual(self) -> float | None:
        """The loss that later ones are compared with; None before the first."""
        if self.lowest is None and self.losses:
            return statistics.median_low(self.losses)
        return self.lowest

    def accept(self, loss: float) -> None:
        """Takes note of a sound step."""
        self.losses = [*self.losses[1 - _WINDOW :], loss]
        if len(self.losses) >= _LEAST:
            median = statistics.median_low(self.losses)
            self.lowest = median if self.lowest is None else min(self.lowest, median)
        self.exploded.clear()
        self.in_a_row = 0

    def fault(self, step: int, loss: float, norm: float, margin: float | None) -> str | None:
        """What is wrong with a step, as a part of a sentence; None if nothing is."""
        if not math.isfinite(loss):
            return f"the loss of step {step} is no finite number"
        if not math.isfinite(norm):
            return f"the gradient of step {step} is no finite number, though the loss is {loss:.4g}"
        if margin is not None and self.usual is not None and loss > self.usual + margin:
            return f"the loss of step {step} is {loss:.4g}, where {self.usual:.4g} was usual"
        return None

    def leave_out(self, step: int, reason: str, loss: float, norm: float, rows: Sequence[str]) -> None:
        """Takes note of a step that is left out."""
        self.in_a_row += 1
        entry = {"step": step, "reason": reason, "loss": _finite(loss), "gradient_norm": _finite(norm)}
        self.skipped.append({**entry, "rows": list(rows)})

    def state(self) -> dict[str, Any]:
        return {"args": {}, "attributes": dict(vars(self))}


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
