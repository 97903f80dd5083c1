"""A look into a trained adapter of a study: the modulation of one layer for a text, and a layer's values with the
adapter on and off. The adapter is in a run folder, which is not part of the results."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from datasets import Dataset
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from hycam.data.prepare import prepare
from hycam.inspection.modulation import ModulationMap, modulation_map
from hycam.inspection.representations import NEIGHBOURS, Projection, Representations, project, representations
from hycam.inspection.watch import token_texts
from hycam.study.cells import Cell
from hycam.study.comparisons import Comparison
from hycam.study.family import is_hycam
from hycam.study.figures.series import thinned
from hycam.study.figures.style import DIVERGING, blank, drawing, legend_below, looks, style
from hycam.study.plan import Plan
from hycam.study.tables.table import NotRun, need
from hycam.training.run import Run

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_MOST_TOKENS = 40
_COLUMNS = 200  # of a map, about the number of pixels
_QUANTILE = 0.995
_ROWS = 20  # of each task


def adapted_cell(plan: Plan) -> Cell:
    """A finished cell of HyCAM (the reference before its variants) whose adapter is on this machine; or NotRun."""
    finished = {one.identity for one in plan.results.done if one.task is None}
    kind = [cell for cell in plan.cells if cell.identity in finished and is_hycam(plan.study, cell.method)]
    need(kind, "It needs a finished cell of HyCAM.")
    for cell in sorted(kind, key=lambda cell: cell.method != plan.study.reference):
        if (Run(Path(cell.recipe.output)).adapter / "adapter_config.json").exists():
            return cell
    raise NotRun(f"It needs the adapter of a HyCAM cell, such as {kind[0].recipe.output}/adapter, which is not here.")


def opened(cell: Cell) -> tuple[PreTrainedModel, PreTrainedTokenizerBase, dict[str, Dataset]]:
    """The adapted backbone of a cell, its tokenizer, and the rows of each task of the part that it was scored on.

    Raises:
        HycamError: the backbone or the data are not on this machine.
    """
    model, tokenizer = Run(Path(cell.recipe.output)).load()
    return model, tokenizer, getattr(prepare(cell.recipe.data, tokenizer), cell.recipe.evaluation.part)


@drawing(
    "Modulation of one layer (the paper's Figure 4)",
    "The factors by which the adapter scales each feature of the attention output, minus 1, for every token of a "
    "response: red amplifies, blue suppresses. SiLU is never below -0.28, so the sum is never below -0.56. Colours end "
    "at 99.5 % of the values. Features are sorted by their mean over these tokens, and neighbours averaged where there "
    "are many; a middle dot is a space.",
)
def draw_modulation(plan: Plan, comparisons: list[Comparison]) -> Figure:
    """For the response of the first scored row."""
    cell = adapted_cell(plan)
    model, tokenizer, parts = opened(cell)
    task, rows = next(iter(parts.items()))
    ids, start = rows[0]["input_ids"], rows[0]["prompt_length"]
    tokens = token_texts(tokenizer, ids) if plan.study.texts else [f"{place:,}" for place in range(1, len(ids) + 1)]
    found = modulation_map(model, ids)
    title = f"{cell.name}\nlayer {found.layer}, response of {task}, row {rows[0]['row']}"
    return modulation_maps(found, tokens, title, start)


@style()
def modulation_maps(found: ModulationMap, tokens: Sequence[str], title: str, start: int = 0) -> Figure:
    """Maps of tokens by features: the sum and, if there are both, its two parts, on one scale that is white at zero.

    Args:
        found: the factors minus 1.
        tokens: the text's.
        title: of the figure.
        start: the first of at most 40 tokens to show.
    """
    shown = slice(start, start + _MOST_TOKENS)
    parts = {"sum": found.total, "shared": found.shared, "specialised": found.specialized}
    if found.shared is None or found.specialized is None:
        parts = {"shared" if found.specialized is None else "specialised": found.total}
    order = np.argsort(found.total[shown].mean(axis=0))
    maps = {name: thinned(values[shown][:, order], _COLUMNS) for name, values in parts.items() if values is not None}
    names = list(tokens)[shown]
    # A few features are scaled far more than the rest; on their scale the rest would be white.
    limit = max(float(np.quantile(np.abs(np.concatenate(list(maps.values()))), _QUANTILE)), 1e-9)
    figure = blank(1.3 + 0.155 * len(names))
    every = figure.subplots(1, len(maps), squeeze=False, sharey=True)[0]
    for axes, (name, values) in zip(every, maps.items(), strict=True):
        image = axes.imshow(values, cmap=DIVERGING, vmin=-limit, vmax=limit, aspect="auto", interpolation="nearest",
                            extent=(0, len(order), len(names) - 0.5, -0.5))  # fmt: skip
        axes.set_title(name)
        axes.set_xlabel("feature, sorted")
        axes.grid(False)
    every[0].set_yticks(range(len(names)), names, parse_math=False)
    every[0].set_ylabel("token")
    figure.colorbar(image, ax=list(every), label="factor minus 1", extend="both", pad=0.02)
    figure.suptitle(title)
    return figure


@drawing(
    "Representations with the adapter on and off (the paper's Figure 2)",
    "One t-SNE of the outputs of the middle layer's value projection, with and without the adapter together; a place "
    "is the mean over a row's response. Above: the mean distance to the ten nearest places of the same condition, "
    "between the vectors before t-SNE (which does not preserve distances), standardised over both conditions.",
)
def draw_representations(plan: Plan, comparisons: list[Comparison]) -> Figure:
    """For the responses of the first scored rows of each task."""
    cell = adapted_cell(plan)
    model, tokenizer, parts = opened(cell)
    found = representations(model, tokenizer, parts, _ROWS)
    return representation_maps(found, project(found), f"{cell.name}\nvalues of layer {found.layer}")


@style()
def representation_maps(found: Representations, plane: Projection, title: str) -> Figure:
    """The same plane without and with the adapter; each task has its own colour and marker."""
    figure = blank(3.9)
    every = figure.subplots(1, 2, sharex=True, sharey=True)
    tasks = np.asarray(found.tasks)
    conditions = (("adapter off", plane.off, plane.distance_off), ("adapter on", plane.on, plane.distance_on))
    for axes, (name, places, distance) in zip(every, conditions, strict=True):
        for task, look in looks(dict.fromkeys(found.tasks)).items():
            own = places[tasks == task]
            axes.plot(own[:, 0], own[:, 1], label=task, markersize=4, alpha=0.75, markeredgewidth=0,
                      **{**look, "linestyle": "none"})  # fmt: skip
        axes.set_title(f"{name}\nmean distance to the {NEIGHBOURS} nearest: {distance:.3f}")
        axes.set_xticks([])
        axes.set_yticks([])
    figure.suptitle(title)
    legend_below(figure)
    return figure
