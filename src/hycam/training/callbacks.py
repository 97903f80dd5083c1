"""What happens beside the steps: progress on the console, and metrics as JSON lines."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.trainer_callback import ExportableState

from hycam.console import Reports


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


class JsonLinesCallback(TrainerCallback):
    """Appends everything that is logged to a file, one JSON object a line, with step and seconds of training so far.

    A resumed run goes on counting from where its checkpoint stood; what was done after that is counted once.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.began = time.monotonic()

    def elapsed(self) -> float:
        """Seconds of training so far."""
        return time.monotonic() - self.began

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        # A resumed run repeats the steps after its checkpoint, so their lines from before are dropped.
        kept = []
        if self.path.exists():
            # Whole lines only: an interruption may have cut the last one.
            lines = (json.loads(line) for line in self.path.read_text().splitlines(keepends=True) if line[-1] == "\n")
            kept = [line for line in lines if line["step"] <= state.global_step and state.global_step > 0]
        self.path.write_text("".join(json.dumps(line) + "\n" for line in kept))
        self.began = time.monotonic() - (kept[-1]["elapsed"] if kept else 0.0)

    def on_log(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, logs: Any = None, **_: Any
    ) -> None:
        line = {"step": state.global_step, "elapsed": round(self.elapsed(), 3), **logs}
        with self.path.open("a") as handle:
            handle.write(json.dumps(line) + "\n")


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
    """Lets a method of PEFT that moves its rank between layers (AdaLoRA) do so after each step, as it asks for."""

    def on_optimizer_step(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, model: Any = None, **kwargs: Any
    ) -> None:
        model.base_model.update_and_allocate(state.global_step)
