"""What happens beside the steps: progress on the console, and metrics as JSON lines."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.trainer_callback import ExportableState

from hycam.console import Reports
from hycam.files import write_whole


class ProgressCallback(TrainerCallback):
    """Moves the bar with every step, with the last loss beside it."""

    def __init__(self, reporter: Reports) -> None:
        self.reporter = reporter
        self.note = ""

    def on_log(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, logs: Any = None, **_: Any
    ) -> None:
        for key, what in (("loss", "loss"), ("eval_loss", "validation loss")):
            if key in logs:
                self.note = f"{what} {logs[key]:.3f}"

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        self.reporter.update("training", state.global_step, state.max_steps, self.note)


class StepCallback(TrainerCallback):
    """Tells when the optimizer has taken its step."""

    def __init__(self, at: Callable[[str], None]) -> None:
        self.at = at

    def on_optimizer_step(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        self.at("step")


class JsonLinesCallback(TrainerCallback):
    """Appends everything that is logged to a file, one JSON object a line, with step and seconds of training so far.

    A resumed run repeats what came after its checkpoint, so the lines of that are dropped when it begins.

    Args:
        path: the file.
        elapsed: gives the seconds.
        logged: gives how often something was logged so far, as the checkpoint has it.
    """

    def __init__(self, path: Path, elapsed: Callable[[], float], logged: Callable[[], int]) -> None:
        self.path = path
        self.elapsed = elapsed
        self.logged = logged

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        before = self.path.read_text(encoding="utf-8", errors="replace") if self.path.exists() else ""
        kept = [line for line in before.splitlines() if _step(line) <= state.global_step]
        write_whole(self.path, "".join(f"{line}\n" for line in kept[: self.logged()]))

    def on_log(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, logs: Any = None, **_: Any
    ) -> None:
        line = {"step": state.global_step, "elapsed": round(self.elapsed(), 3), **logs}
        with self.path.open("a", encoding="utf-8") as handle:
            handle.write(json.dumps(line) + "\n")


def _step(line: str) -> float:
    """The step of a line of metrics; infinite for half a line, which an interruption leaves."""
    try:
        return json.loads(line)["step"]
    except (ValueError, KeyError, TypeError):
        return float("inf")


class RowCounter(TrainerCallback, ExportableState):
    """How many rows of each task were trained on (on this process); a resumed run goes on counting."""

    def __init__(self) -> None:
        self.rows: dict[str, int] = {}

    def add(self, rows: dict[str, int]) -> None:
        for name, number in rows.items():
            self.rows[name] = self.rows.get(name, 0) + number

    def shares(self) -> dict[str, float]:
        """Each task's share of the rows so far."""
        total = sum(self.rows.values())
        return {name: number / total for name, number in self.rows.items()}

    def state(self) -> dict[str, Any]:
        return {"args": {}, "attributes": {"rows": self.rows}}


class RankAllocationCallback(TrainerCallback):
    """Lets a method of PEFT that moves its rank between layers (AdaLoRA) do so after each step, as it asks for.

    Args:
        skipped: gives how many steps were left out so far; they are none for the method's schedule.
    """

    def __init__(self, skipped: Callable[[], int]) -> None:
        self.skipped = skipped

    def on_optimizer_step(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        model: Any = None,
        optimizer: Any = None,
        **kwargs: Any,
    ) -> None:
        if not optimizer.step_was_skipped:  # else there is no gradient to take importances from
            model.base_model.update_and_allocate(state.global_step - self.skipped())
