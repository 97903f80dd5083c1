"""Steps that would do harm: whose loss or gradient is not finite, or whose loss has exploded.

A step is judged after its backward pass and before the optimizer's step, by two numbers that are the same on every
process: the mean loss of its labelled tokens, and the norm of its gradient.

A loss has *exploded* when it exceeds the usual one by a margin. Both are in nats per token, so a margin of 6 means a
perplexity 400 times as large. The usual loss is the lowest median so far of 50 steps in a row (of as many as there are
at the start; it counts for good from 20 on). A median ignores a single odd batch, and the lowest one does not follow a
loss that creeps upward.

One such step may be a hard batch; :data:`IN_A_ROW` in a row are not.
"""

from __future__ import annotations

import logging
import math
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from hycam.errors import Diverged
from hycam.training.recipe import TrainingRecipe

_log = logging.getLogger(__name__)

IN_A_ROW = 5
_WINDOW = 50  # steps
_LEAST = 20  # steps before a median counts for good


@dataclass
class StepWatch:
    """The history by which steps are judged; every checkpoint holds it.

    Attributes:
        losses: of the last sound steps.
        lowest: their lowest median so far, once there were enough.
        exploded: ``step``, ``what`` and ``rows`` of the exploded steps since the last sound one, if they were taken.
        in_a_row: number of skipped steps since then.
        skipped: every skipped step: ``step``, ``reason``, ``loss`` and ``gradient_norm`` (null where not finite) and
            ``rows``.
    """

    losses: list[float] = field(default_factory=list)
    lowest: float | None = None
    exploded: list[dict[str, Any]] = field(default_factory=list)
    in_a_row: int = 0
    skipped: list[dict[str, Any]] = field(default_factory=list)

    def takes(
        self, step: int, loss: float, norm: float, settings: TrainingRecipe, rows: Callable[[], list[str]]
    ) -> bool:
        """Whether to take a step; it is recorded either way.

        Args:
            step: its number.
            loss: the mean over its labelled tokens.
            norm: of its gradient.
            settings: say what to do about a harmful step.
            rows: gives the identities of its rows.

        Raises:
            Diverged: training has to end here.
        """
        fault = self.fault(step, loss, norm, settings.divergence_margin)
        if fault is None:
            self.accept(loss)
            return True
        names = rows()
        if settings.on_divergence == "skip":
            self.skip(step, fault, loss, norm, names)
            self._end_if_too_many(step, fault, settings.max_skipped_steps, names)
            _log.warning("Step %d is skipped: %s (rows %s).", step, fault, ", ".join(names))
            return False
        if not (math.isfinite(loss) and math.isfinite(norm)):
            raise Diverged(step, fault, names)
        self.exploded.append({"step": step, "what": fault, "rows": names})
        if len(self.exploded) == IN_A_ROW:
            first = self.exploded[0]
            raise Diverged(first["step"], f"{first['what']}, and so on for {IN_A_ROW} steps", first["rows"])
        return True

    def _end_if_too_many(self, step: int, fault: str, most: int, rows: list[str]) -> None:
        if self.in_a_row == IN_A_ROW:
            first = self.skipped[-IN_A_ROW]
            more = f"{first['reason']}, and none of the {IN_A_ROW} steps from there on could be taken"
            raise Diverged(first["step"], more, first["rows"])
        if len(self.skipped) > most:
            more = f"{fault}, and {most:,} steps were skipped already (training.max_skipped_steps)"
            raise Diverged(step, more, rows)

    @property
    def usual(self) -> float | None:
        """The usual loss; None before the first step."""
        if self.lowest is None and self.losses:
            return statistics.median_low(self.losses)
        return self.lowest

    def accept(self, loss: float) -> None:
        """Records a sound step."""
        self.losses = [*self.losses[1 - _WINDOW :], loss]
        if len(self.losses) >= _LEAST:
            median = statistics.median_low(self.losses)
            self.lowest = median if self.lowest is None else min(self.lowest, median)
        self.exploded.clear()
        self.in_a_row = 0

    def fault(self, step: int, loss: float, norm: float, margin: float | None) -> str | None:
        """What is wrong with a step, as part of a sentence; None if nothing is."""
        if not math.isfinite(loss):
            return f"the loss of step {step} is not finite"
        if not math.isfinite(norm):
            return f"the gradient of step {step} is not finite, though the loss is {loss:.4g}"
        if margin is not None and self.usual is not None and loss > self.usual + margin:
            return f"the loss of step {step} is {loss:.4g}, where {self.usual:.4g} was usual"
        return None

    def skip(self, step: int, reason: str, loss: float, norm: float, rows: Sequence[str]) -> None:
        """Records a skipped step."""
        self.in_a_row += 1
        entry = {"step": step, "reason": reason, "loss": _finite(loss), "gradient_norm": _finite(norm)}
        self.skipped.append({**entry, "rows": list(rows)})


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
