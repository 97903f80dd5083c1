"""Studies with made-up results, in the layout of a result file, for what reads them: tables, figures, tests, reports.

``plan_of(study_of(), nlls)`` is a plan whose cells are those of the real grid and whose results say what ``nlls`` does.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any
from zlib import crc32

import numpy as np

from hycam.data.chosen import chosen_tasks
from hycam.data.recipe import DataRecipe
from hycam.study.cell_file import FORMAT
from hycam.study.cells import Cell, Data
from hycam.study.grid import Planner
from hycam.study.plan import Plan
from hycam.study.recipe import StudyMethod, StudyRecipe
from hycam.study.results import Result, Results
from hycam.training.recipe import EvaluationRecipe, Recipe
from hycam.training.run import BASE

METHODS = {
    "Full Finetune": "full",
    "LoRA": "lora",
    "MultiLoRA": "multilora",
    "RieMoE-LoRA": "riemoe-lora",
    "HyCAM": "hycam",
}
TASKS = ("auto_cot", "icliniq", "dolly", "code_alpaca", "webgpt")
DIVERGED = "diverged"
FAILED = "failed"

# What a cell gives: nats per response token of each task, DIVERGED or FAILED; None where it was not run.
Nlls = Callable[[Cell], Mapping[str, float] | str | None]


def study_of(
    methods: Sequence[str] | Mapping[str, StudyMethod] = tuple(METHODS),
    tasks: Sequence[str] = TASKS,
    folds: Sequence[int] = (0, 1, 2, 3, 4),
    **changes: Any,
) -> StudyRecipe:
    """A study of these methods (labels of ``METHODS``, or labels with their settings); other fields by name."""
    if not isinstance(methods, Mapping):
        methods = {label: StudyMethod(METHODS[label]) for label in methods}
    return StudyRecipe(**{"data": DataRecipe(tasks=list(tasks), prompt="paper"), "methods": dict(methods),
                          "folds": list(folds), **changes})  # fmt: skip


def sweep_evaluation() -> EvaluationRecipe:
    """What a sweep has to score."""
    return EvaluationRecipe(part="validation", generate_rows=0)


def plan_of(study: StudyRecipe, nlls: Nlls, **parts: Any) -> Plan:
    """The plan of a study without its data; ``parts`` are those of :func:`result_of`, values or functions of a cell."""
    cells = _Planner(study).cells()
    results = []
    for cell in cells:
        given = nlls(cell)
        if given is not None:
            own = {name: value(cell) if callable(value) else value for name, value in parts.items()}
            results.append(result_of(cell, given, **own))
    done = [one for one in results if one.state == "done"]
    return Plan(study, cells, Results(done, [one for one in results if one.state != "done"]))


def steady(by_method: Mapping[str, float], gap: float = 0.1, fold_effect: float = 0.01, noise: float = 0.002) -> Nlls:
    """Nats per token that differ by method, task and fold: ``by_method`` + gap * task + fold_effect * fold + noise."""

    def of(cell: Cell) -> Mapping[str, float]:
        return {
            task: by_method[cell.method] + gap * at + fold_effect * cell.fold
            + noise * _unit(cell.backbone, cell.method, cell.fold, cell.seed, task)
            for at, task in enumerate(tasks_of(cell))
        }  # fmt: skip

    return of


def tasks_of(cell: Cell) -> list[str]:
    """All tasks that a cell is scored on, those it was not trained on included."""
    return list(chosen_tasks(cell.recipe.data))


def result_of(
    cell: Cell,
    nlls: Mapping[str, float] | str,
    *,
    rows: int = 6,
    bleu4: Mapping[str, float] | None = None,
    rougeL: Mapping[str, float] | None = None,
    training: Mapping[str, Any] | None = None,
    curve: Sequence[Mapping[str, Any]] | None = None,
    retention: Mapping[str, Any] | None = None,
    routing: Mapping[str, Any] | None = None,
) -> Result:
    """The result of a cell: done with these nats per token, or DIVERGED at step 7, or FAILED.

    Args:
        cell: whose.
        nlls: by task, or the state.
        rows: scored rows of each task; their tokens and their spread about the mean depend on the row alone, so that
            methods are paired.
        bleu4: by task; None where nothing was generated.
        rougeL: likewise.
        training: changes of the training part's fields.
        curve: what was logged; by default that of :func:`curve_of`.
        retention: as :func:`retention_of` makes it.
        routing: as :func:`routing_of` makes it.
    """
    head = {"format": FORMAT, "identity": cell.identity, "cell": cell.labels, "settings": cell.resolved,
            "data": cell.data.fingerprint, "environment": environment()}  # fmt: skip
    if isinstance(nlls, str):
        step = 7 if nlls == DIVERGED else None
        failure = {"reason": f"Training diverged: the loss of step {step} is no finite number." if step else "no disk",
                   "step": step}  # fmt: skip
        return Result({**head, "state": nlls, "failure": failure, "curve": [], "seconds": 5.0})
    is_trained = cell.recipe.method.name != BASE
    drawn = curve if curve is not None else curve_of(cell, nlls) if is_trained else []
    content = {
        **head,
        "state": "done",
        "training": {**training_of(cell, nlls), **(training or {})} if is_trained else None,
        "curve": list(drawn),
        "evaluation": evaluation_of(cell, nlls, rows, bleu4, rougeL),
        "retention": retention,
        "routing": routing,
        "seconds": 100.0,
    }
    return Result(content)


def environment() -> dict[str, Any]:
    return {"versions": {"python": "3.11", "hycam": "0.1.0", "torch": "2.13.0"}, "commit": "0" * 40,
            "platform": "Linux", "processor": "a processor", "cores": 2, "gpu": None}  # fmt: skip


def training_of(cell: Cell, nlls: Mapping[str, float]) -> dict[str, Any]:
    """What training took: 40 steps of 250 tokens in 80 seconds, and parameters by the method's name."""
    parameters = 1000 + 10 * sum(map(ord, cell.recipe.method.name))
    mine = [cell.task] if cell.task else list(nlls)
    return {
        "steps": 40,
        "tokens": 10_000,
        "seconds": 80.0,
        "peak_memory_bytes": 2**30,
        "trainable_parameters": parameters,
        "total_parameters": 100_000,
        "adapter_bytes": 4 * parameters,
        "learning_rate": cell.recipe.training.learning_rate,
        "data": cell.data.fingerprint,
        "rows": dict.fromkeys(mine, 20),
        "shares": dict.fromkeys(mine, 1 / len(mine)),
        "validation": {"eval_loss": _mean(nlls)},
    }


def curve_of(
    cell: Cell, nlls: Mapping[str, float], steps: int = 40, every: int = 10, seconds: float = 2.0
) -> list[dict[str, Any]]:
    """Losses that fall by a half each ``every`` steps towards ``nlls``, with validation; HyCAM's have routing.

    ``seconds`` is what a step takes.
    """
    lines: list[dict[str, Any]] = []
    for step in range(every, steps + 1, every):
        above = 0.5 ** (step / every)
        losses = {task: value + above for task, value in nlls.items()}
        line: dict[str, Any] = {"step": step, "elapsed": seconds * step - 0.01, "loss": _mean(losses)}
        line |= {f"loss_{task}": value for task, value in losses.items()}
        if cell.recipe.method.name.startswith("hycam"):
            line |= {"balance_loss": 0.2 + above / 10, **{f"routing_{k}": 0.2 for k in range(5)}}
        lines.append(line)
        validation = {"step": step, "elapsed": seconds * step, "eval_loss": _mean(losses)}
        lines.append({**validation, **{f"eval_loss_{task}": value for task, value in losses.items()}})
    return lines


def evaluation_of(
    cell: Cell,
    nlls: Mapping[str, float],
    rows: int,
    bleu4: Mapping[str, float] | None = None,
    rougeL: Mapping[str, float] | None = None,
) -> dict[str, Any]:
    """The ``evaluation`` part; the rows' sums give exactly the means, up to rounding."""
    tasks, kept = {}, {}
    for task, nll in nlls.items():
        tokens = [20 + 10 * (row % 3) for row in range(rows)]
        raw = np.array([_unit(task, cell.fold, row) for row in range(rows)])
        spread = raw - np.average(raw, weights=tokens)
        kept[task] = {
            "row": [f"{task}.jsonl:{1000 * cell.fold + row}" for row in range(rows)],
            "nll": [(nll + 0.1 * spread[row]) * tokens[row] for row in range(rows)],
            "tokens": tokens,
            "rougeL": [rougeL[task] if rougeL else None] * rows,
        }
        tasks[task] = {"perplexity": math.exp(nll), "nll": nll, "tokens": sum(tokens), "rows": rows,
                       "bleu4": bleu4[task] if bleu4 else None, "rougeL": rougeL[task] if rougeL else None,
                       "generated_rows": rows if bleu4 or rougeL else 0}  # fmt: skip
    scores = {"bleu4": _mean(bleu4) if bleu4 else None, "rougeL": _mean(rougeL) if rougeL else None}
    macro = {"perplexity": math.exp(_mean(nlls)), "perplexity_mean": _mean({t: math.exp(v) for t, v in nlls.items()}),
             "nll": _mean(nlls), **scores}  # fmt: skip
    pooled = {"perplexity": macro["perplexity"], "nll": macro["nll"], **scores}
    return {"part": cell.recipe.evaluation.part, "tasks": tasks, "macro": macro, "pooled": pooled,
            "bleu_signature": "nrefs:1" if bleu4 else None, "max_new_tokens": 256, "rows": kept}  # fmt: skip


def retention_of(
    differences: Mapping[str, float], rows: int = 8, accuracy: float | None = 0.5, kl: Mapping[str, float] | None = None
) -> dict[str, Any]:
    """The ``retention`` part: bits per byte that rose by ``differences`` over 1.0 of the base; KL in nats by text."""
    tasks = {}
    for task, difference in differences.items():
        spread = np.array([_unit(task, row) for row in range(rows)])
        spread = 0.1 * (spread - spread.mean())
        correct = None if accuracy is None else [row < accuracy * rows for row in range(rows)]
        tasks[task] = {
            "rows": rows, "bits_per_byte": 1.0 + difference, "base_bits_per_byte": 1.0, "difference": difference,
            "accuracy": accuracy, "base_accuracy": accuracy,
            "items": {"row": [f"{task}:{row}" for row in range(rows)], "bytes": [50] * rows,
                      "bits": [50 * (1.0 + difference + one) for one in spread], "base_bits": [50.0] * rows,
                      "correct": correct, "base_correct": correct},
        }  # fmt: skip
    return {
        "tasks": tasks,
        "kl": {name: {"mean": mean, "tokens": 100, "texts": 4} for name, mean in (kl or {}).items()},
    }


def routing_of(
    tasks: Sequence[str] = TASKS, layers: int = 3, experts: int = 5, sharpness: float = 0.3
) -> dict[str, Any]:
    """The ``routing`` part: every task leans towards an expert of its own, by ``sharpness`` (0: none does)."""
    weights = {}
    for at, task in enumerate(tasks):
        own = np.full((layers, experts), (1 - sharpness) / experts)
        own[:, at % experts] += sharpness
        weights[task] = own
    stacked = np.stack(list(weights.values()))  # tasks, layers, experts
    mixed = stacked.mean(axis=0)
    information = (stacked * np.log2(stacked / mixed)).sum(axis=2).mean(axis=0)
    return {"tasks": {task: {"tokens": 500, "weights": own.tolist()} for task, own in weights.items()},
            "mutual_information": information.tolist(), "layers": layers, "experts": experts}  # fmt: skip


# Rows of the five datasets as they can be had: iCliniq is a quarter of the paper's, WebGPT a twentieth.
_ROWS = {"auto_cot": 5_816, "icliniq": 2_002, "dolly": 15_011, "code_alpaca": 20_022, "webgpt": 901}


class _Planner(Planner):
    """The grid of a study whose data are not here: seven tenths of the rows, or 100 of another task; 10,000 tokens."""

    def _prepared(self, recipe: Recipe) -> Data:
        tasks = list(chosen_tasks(recipe.data))
        fingerprint = f"{crc32(repr((recipe.backbone, recipe.data.fold, tasks)).encode()):08x}"
        rows = {task: round(0.7 * _ROWS[task]) if task in _ROWS else 100 for task in tasks}
        return Data(fingerprint, rows, dict.fromkeys(tasks, 10_000))


def _mean(values: Mapping[str, float]) -> float:
    return math.fsum(values.values()) / len(values)


def _unit(*of: Any) -> float:
    """A number in [-1, 1) that depends on ``of`` alone."""
    return float(np.random.default_rng(crc32(repr(of).encode())).uniform(-1, 1))
