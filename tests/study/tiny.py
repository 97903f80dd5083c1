"""Studies that run in seconds: on a tiny backbone, and with their cells in this process."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from hycam.data.recipe import DataRecipe
from hycam.study.cells import Cell
from hycam.study.executors import Event, Finished, Progressed, Started
from hycam.study.plan import Plan
from hycam.study.recipe import StudyMethod, StudyRecipe
from hycam.training.recipe import EvaluationRecipe, TrainingRecipe

TRAINING = TrainingRecipe(max_steps=2, learning_rate=1e-2, log_every=1, device="cpu")
LORA = {"LoRA": StudyMethod("lora", {"r": 4})}
HYCAM = {"HyCAM": StudyMethod("hycam", {"r": 4})}
BASE = {"Base": StudyMethod("base")}


def study_on(backbone: str, tasks: list[str], folder: Path, **changes: Any) -> StudyRecipe:
    """A study of LoRA and HyCAM; other fields by name."""
    return StudyRecipe(
        **{
            "output": str(folder),
            "backbones": {"tiny": backbone},
            "methods": {**LORA, **HYCAM},
            "data": DataRecipe(tasks=list(tasks), max_length=300),
            "training": TRAINING,
            "evaluation": EvaluationRecipe(max_new_tokens=4, generate_rows=1),
            **changes,
        }
    )


class Inline:
    """Runs cells one after the other in this process; ``work`` may be something else than training and evaluation."""

    def __init__(self, work: Callable[[Cell, Any], tuple[str, Any]]) -> None:
        self.work = work
        self.ran: list[Cell] = []

    def run(self, cells: Sequence[Cell]) -> Iterator[Event]:
        for cell in cells:
            self.ran.append(cell)
            yield Started(cell)
            yield Progressed(cell, "training", 1, 2)
            yield Finished(cell, *self.work(cell, Silent()))


class Silent:
    """Is told how far work has come, and does not say it."""

    def update(self, what: str, done: int, total: int, note: str = "") -> None:
        pass


class Watch:
    """Notes what a study tells."""

    def __init__(self) -> None:
        self.plans: list[Plan] = []
        self.events: list[Event] = []

    def update(self, what: str, done: int, total: int) -> None:
        pass

    def begin(self, plan: Plan) -> None:
        self.plans.append(plan)

    def tell(self, event: Event) -> None:
        self.events.append(event)

    def end(self) -> None:
        pass
