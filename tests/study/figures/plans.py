"""A plan for each figure, of made-up results, as crowded as a real study."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from hycam.study.cells import Cell
from hycam.study.plan import Plan
from hycam.study.recipe import StudyMethod, SweepRecipe
from hycam.training.recipe import TrainingRecipe
from study.factory import (
    DIVERGED,
    METHODS,
    TASKS,
    Nlls,
    plan_of,
    retention_of,
    routing_of,
    steady,
    study_of,
    sweep_evaluation,
)

LEVELS = {"Full Finetune": 1.12, "LoRA": 1.05, "MultiLoRA": 1.07, "RieMoE-LoRA": 1.06, "HyCAM": 1.04, "base": 1.6}
RATES = [1e-4, 3e-4, 1e-3, 3e-3]
WITH_BASE = {"base": StudyMethod("base"), **{label: StudyMethod(name) for label, name in METHODS.items()}}
RATE, ROWS, EXPERTS = "training.learning_rate", "data.train_rows", "method.config.num_specialized"


def shifted(by: Any) -> Nlls:
    """The steady losses of ``LEVELS`` plus what ``by`` makes of a cell; a state instead where it gives one."""
    level = steady(LEVELS)

    def of(cell: Cell) -> Mapping[str, float] | str:
        change = by(cell)
        return change if isinstance(change, str) else {task: value + change for task, value in level(cell).items()}

    return of


def steps_away(cell: Cell) -> float:
    """Decades from 1e-3; of the backbone as it is, which has no learning rate, none."""
    return math.log10(cell.settings.get(RATE, 1e-3)) + 3


def folds() -> Plan:
    return plan_of(study_of(), steady(LEVELS), rows=20)


def sweep() -> Plan:
    def loss(cell: Cell) -> float | str:
        if cell.method == "Full Finetune" and cell.settings[RATE] >= 1e-3:
            return DIVERGED if cell.settings[RATE] > 1e-3 else 2.0
        return 0.1 * steps_away(cell) ** 2

    study = study_of(folds=[0], sweep=SweepRecipe(RATES), evaluation=sweep_evaluation())
    return plan_of(study, shifted(loss))


def ladder() -> Plan:
    study = study_of(folds=[0, 1, 2], vary={ROWS: [32, 128, 512]})
    return plan_of(study, shifted(lambda cell: -0.05 * math.log(cell.settings[ROWS])))


def experts() -> Plan:
    study = study_of(["HyCAM"], vary={EXPERTS: [1, 2, 3, 5, 8]})
    return plan_of(study, shifted(lambda cell: 0.01 * abs(cell.settings[EXPERTS] - 3)))


def sizes() -> Plan:
    parameters = {"Qwen 0.5B": 494_032_768, "Qwen 1.5B": 1_543_714_304, "Qwen 14B": 14_770_033_664}
    study = study_of(backbones={name: name for name in parameters})
    return plan_of(
        study,
        shifted(lambda cell: -0.01 * math.log10(parameters[cell.backbone]) if cell.method == "HyCAM" else 0.0),
        training=lambda cell: {"total_parameters": parameters[cell.backbone]},
    )


def costs() -> Plan:
    trained = {"Full Finetune": 134_515_008, "LoRA": 19_537_920, "HyCAM": 21_713_280}
    return plan_of(
        study_of(["Full Finetune", "LoRA", "HyCAM"], folds=[0, 1]),
        steady(LEVELS),
        training=lambda cell: {"trainable_parameters": trained[cell.method], "seconds": 100.0 + cell.fold},
    )


def frontier() -> Plan:
    def loss(cell: Cell) -> float:
        return 0.0 if cell.method == "base" else 0.1 * steps_away(cell) ** 2

    def retention(cell: Cell) -> dict[str, Any] | None:
        forgotten = (steps_away(cell) + 1) ** 2
        return None if cell.method == "base" else retention_of({"piqa": 0.01 * forgotten, "lambada": 0.03 * forgotten})

    study = study_of(WITH_BASE, folds=[0, 1], vary={RATE: RATES})
    return plan_of(study, shifted(loss), retention=retention)


def watched() -> Plan:
    """Retention at every validation: a step forgets a hundredth, and a hundred of them gain a method's level less 1."""

    def curve(cell: Cell) -> list[dict[str, Any]]:
        if cell.method == "base":
            return []
        gain, lines = LEVELS[cell.method] - 1, []
        for step in (0, 10, 20, 30) if cell.fold == 0 else (0, 10, 20):
            line: dict[str, Any] = {"step": step, "elapsed": float(step), "eval_loss": 2.0 - gain * step / 100}
            line |= {"retention_piqa": 0.005 * step, "retention_lambada": 0.015 * step, "kl_lambada": 7.0}
            lines += [line, {"step": step, "elapsed": float(step), "loss": 1.0}]
        return lines

    return plan_of(study_of(WITH_BASE, folds=[0, 1]), steady(LEVELS), curve=curve)


def alone() -> Plan:
    def losses(cell: Cell) -> dict[str, float]:
        together = 0.01 * cell.fold + 0.004
        return {
            task: 1.0 + 0.1 * at + (together if cell.task is None else 0.0 if cell.task == task else 0.2 + 0.1 * at)
            for at, task in enumerate(TASKS)
        }

    study = study_of(["LoRA", "HyCAM"], folds=[0, 1], single_tasks=True, training=TrainingRecipe(epochs=1.0))
    return plan_of(study, losses)


def routed(layers: int = 30) -> Plan:
    return plan_of(
        study_of(folds=[0, 1]),
        steady(LEVELS),
        routing=lambda cell: (
            routing_of(layers=layers, sharpness=0.2 + 0.1 * cell.fold) if cell.method == "HyCAM" else None
        ),
    )


def seeds() -> Plan:
    return plan_of(study_of(folds=[0], seeds=[100, 200, 300]), steady(LEVELS), curve=long_curve)


def long_curve(cell: Cell, lines: int = 150) -> list[dict[str, Any]]:
    """A log of many lines, in which one task is missing here and there."""
    draw = np.random.default_rng(cell.seed)
    curve = []
    for step in range(10, 10 * lines + 1, 10):
        line: dict[str, Any] = {"step": step, "elapsed": float(step), "loss": 2.0}
        line |= {f"loss_{task}": 1.0 + math.exp(-step / 300) + 0.05 * draw.normal() for task in TASKS}
        if step % 30 == 0:
            del line["loss_dolly"]
        if cell.method == "HyCAM":
            line |= {f"routing_{k}": 0.2 + 0.01 * (k - 2) for k in range(5)}
        curve.append(line)
    return curve


PLANS = {
    "forest": folds,
    "learning_rates": sweep,
    "task_loss": seeds,
    "num_specialized": experts,
    "data_ladder": ladder,
    "size_trend": sizes,
    "cost": costs,
    "frontier": frontier,
    "frontier_training": watched,
    "interference": alone,
    "routing": routed,
    "expert_load": seeds,
    "mutual_information": routed,
}
