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
from hycam.study.results import Result
from hycam.training.recipe import EvaluationRecipe, TrainingRecipe
from study.factory import result_of, tasks_of

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


def pretend(value: Callable[[Cell], float | str]) -> Callable[[Cell, Any], tuple[str, Any]]:
    """Work that is not done: a cell's nats per token on each task, or its state."""

    def work(cell: Cell, _: Any) -> tuple[str, Any]:
        given = value(cell)
        result = result_of(cell, given if isinstance(given, str) else dict.fromkeys(tasks_of(cell), given))
        return result.state, content_of(result)

    return work


def content_of(result: Result) -> dict[str, Any]:
    """What running its cell gave."""
    head = ("format", "identity", "state", "cell", "settings", "data")
    return {key: part for key, part in result.content.items() if key not in head}


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
