"""What each method costs: parameters, speed, memory, the size of what is saved, and how soon it is as good as LoRA."""

from __future__ import annotations

from hycam.study.comparisons import Comparison
from hycam.study.plan import Plan
from hycam.study.results import Result
from hycam.study.tables.blocks import beginning, headed
from hycam.study.tables.over_folds import (
    NONE,
    Line,
    Place,
    is_trained,
    lines,
    need,
    need_results,
    of_training,
    place,
    spread_note,
)
from hycam.study.tables.table import Entry, Table
from hycam.study.tables.timeline import Point, first, lowest, validations


def cost(plan: Plan, comparisons: list[Comparison]) -> Table:
    """Methods by what they take."""
    need_results(plan)
    found = lines(plan, lambda method: is_trained(plan, method))
    need(found, "This study trains nothing.")
    lora = _plain_lora(plan)
    begin, rows = beginning(plan), []
    for backbone in plan.study.backbones:
        for line in found:
            own = place(plan, line, backbone)
            rows.append([*headed(plan, backbone, line.label), *_taken(own), *_as_good(plan, own, lora)])
    columns = [*begin, "Trainable parameters", "Tokens per second", "Peak memory, GiB", "Saved, MiB", "Training, s"]
    notes = [
        "Tokens per second: training tokens, prompts included, over the seconds of training with its validations. Peak "
        "memory: of the GPU where one was used, else of the whole process. Saved: the adapter's files (the model's, "
        "where the backbone was trained).",
    ]
    if lora:
        columns += [f"Steps to {lora}'s best", f"Seconds to {lora}'s best"]
        notes.append(
            f"{lora}'s best: the lowest validation loss of its cell of the same fold; counted until the first "
            "validation that is as low, in the folds that come there."
        )
    return Table("cost", "Cost", " ".join([*notes, spread_note(plan), _machines(plan)]), columns, rows)


def _taken(own: Place) -> list[Entry]:
    def per_second(one: Result) -> float | None:
        return one.training["tokens"] / one.training["seconds"] if one.training else None

    def memory(one: Result) -> float | None:
        return one.training["peak_memory_bytes"] / 2**30 if one.training else None

    def saved(one: Result) -> float | None:
        return one.training["adapter_bytes"] / 2**20 if one.training else None

    return [
        own.entry(of_training("trainable_parameters"), form=",.0f", spread=False),
        own.entry(per_second, form=",.0f"),
        own.entry(memory, form=".2f"),
        own.entry(saved, form=",.1f", spread=False),
        own.entry(of_training("seconds"), form=",.0f"),
    ]


def _as_good(plan: Plan, own: Place, lora: str | None) -> list[Entry]:
    if lora is None:
        return []
    line = Line(lora, own.planned[0].settings)
    beside = {(one.fold, one.seed): one for one in place(plan, line, own.planned[0].backbone).done}

    def reached(one: Result) -> Point | None:
        other = beside.get((one.fold, one.seed))
        best = lowest(validations(other)) if other else None
        return first(validations(one), lambda point: point.loss <= best.loss) if best else None

    def steps(one: Result) -> float | None:
        point = reached(one)
        return None if point is None else point.step

    def seconds(one: Result) -> float | None:
        point = reached(one)
        return None if point is None else point.seconds

    entries = [own.entry(steps, form=",.0f"), own.entry(seconds, form=",.0f")]
    return [Entry("not reached", muted=True) if entry == NONE and beside else entry for entry in entries]


def _plain_lora(plan: Plan) -> str | None:
    """The label of LoRA as the table of methods has it."""
    return next((name for name, entry in plan.study.methods.items() if entry.name == "lora" and not entry.config), None)


def _machines(plan: Plan) -> str:
    """Where the cells ran."""
    known = [one.content["environment"] for one in plan.results.done]
    names = dict.fromkeys(one["gpu"] or f"{one['cores']} cores of {one['processor']}" for one in known)
    return f"Machine{'s' if len(names) > 1 else ''}: {'; '.join(names)}."
