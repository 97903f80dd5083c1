"""Steps that would do harm: whose loss or gradient is not finite, or whose loss has exploded.

A step is judged when its gradient is there and before the optimizer takes it, by two numbers that are the same on every
process: the loss, which is the mean over the step's labelled tokens, and the norm of the gradient.

A loss has *exploded* when it is more than a margin above what was usual. Both are nats per token, so a margin of 6 is a
perplexity four hundred times as large. What was usual is the lowest median of 50 steps in a row so far (of those there
are, from 20 on; before that, the median of what there is). A median, so that one odd batch neither sets off an alarm
nor raises the bar; the lowest one, so that a loss that creeps upward cannot take its bar along.

One such step may just be a hard batch, and five in a row (:data:`IN_A_ROW`) are not.
"""

from __future__ import annotations

import logging
import math
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from hycam.errors import Diverged

_log = logging.getLogger(__name__)

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


@dataclass
class StepWatch:
    """What is known of the steps so far; it is kept in every checkpoint, and a resumed run goes on from it.

    Attributes:
        losses: of the last sound steps.
        lowest: the lowest median of them so far, once there were enough.
        exploded: ``step``, ``what`` and ``rows`` of each step of the present row of exploded ones that were taken all
            the same.
        in_a_row: how many steps were left out just now, one after the other.
        skipped: all steps that were left out: ``step``, ``reason``, ``loss`` and ``gradient_norm`` (null where not
            finite) and ``rows``.
    """

    losses: list[float] = field(default_factory=list)
    lowest: float | None = None
    exploded: list[dict[str, Any]] = field(default_factory=list)
    in_a_row: int = 0
    skipped: list[dict[str, Any]] = field(default_factory=list)

    def takes(self, step: int, loss: float, norm: float, policy: Policy, rows: Callable[[], list[str]]) -> bool:
        """Whether a step is to be taken; it is noted either way.

        Args:
            step: its number.
            loss: the mean over its labelled tokens.
            norm: of its gradient.
            policy: what to do where it would do harm.
            rows: gives the identities of its rows.

        Raises:
            Diverged: training is to end here.
        """
        fault = self.fault(step, loss, norm, policy.margin)
        if fault is None:
            self.accept(loss)
            return True
        names = rows()
        if policy.skips:
            self.leave_out(step, fault, loss, norm, names)
            self._end_if_too_many(step, fault, policy.most, names)
            _log.warning("Step %d is left out: %s (rows %s).", step, fault, ", ".join(names))
            return False
        if not (math.isfinite(loss) and math.isfinite(norm)):
            raise Diverged(step, fault, names)
        self.exploded.append({"step": step, "what": fault, "rows": names})
        if len(self.exploded) == IN_A_ROW:
            first = self.exploded[0]
            raise Diverged(first["step"], f"{first['what']}, and so it went on for {IN_A_ROW} steps", first["rows"])
        return True

    def _end_if_too_many(self, step: int, fault: str, most: int, rows: list[str]) -> None:
        if self.in_a_row == IN_A_ROW:
            first = self.skipped[-IN_A_ROW]
            more = f"{first['reason']}, and of the {IN_A_ROW} steps from there on none could be taken"
            raise Diverged(first["step"], more, first["rows"])
        if len(self.skipped) > most:
            more = f"{fault}, and {most:,} steps were left out already (training.max_skipped_steps)"
            raise Diverged(step, more, rows)

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
            return f"the loss of step {step} is not finite"
        if not math.isfinite(norm):
            return f"the gradient of step {step} is not finite, though the loss is {loss:.4g}"
        if margin is not None and self.usual is not None and loss > self.usual + margin:
            return f"the loss of step {step} is {loss:.4g}, where {self.usual:.4g} was usual"
        return None

    def leave_out(self, step: int, reason: str, loss: float, norm: float, rows: Sequence[str]) -> None:
        """Takes note of a step that is left out."""
        self.in_a_row += 1
        entry = {"step": step, "reason": reason, "loss": _finite(loss), "gradient_norm": _finite(norm)}
        self.skipped.append({**entry, "rows": list(rows)})


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
