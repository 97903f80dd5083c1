"""The modulation map of one layer for a text (Figure 4 of the paper)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from hycam.inspection.modulation import ModulationMap, modulation_map
from hycam.inspection.tokens import token_texts
from hycam.study.comparisons import Comparison
from hycam.study.figures.inspected import adapted_cell, opened
from hycam.study.figures.series import thinned
from hycam.study.figures.style import DIVERGING, blank, styled
from hycam.study.plan import Plan

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MOST_TOKENS = 40
_COLUMNS = 200  # of a map, about as many as there are pixels
_QUANTILE = 0.995


def draw_modulation(plan: Plan, comparisons: list[Comparison]) -> Figure:
    """Of the response of the first row that was scored, after its prompt."""
    cell = adapted_cell(plan)
    model, tokenizer, parts = opened(cell)
    task, rows = next(iter(parts.items()))
    ids, start = rows[0]["input_ids"], rows[0]["prompt_length"]
    tokens = token_texts(tokenizer, ids) if plan.study.texts else [f"{place:,}" for place in range(1, len(ids) + 1)]
    found = modulation_map(model, ids)
    title = f"{cell.name}\nlayer {found.layer}, response of {task}, row {rows[0]['row']}"
    return modulation_maps(found, tokens, title, start)


@styled
def modulation_maps(found: ModulationMap, tokens: Sequence[str], title: str, start: int = 0) -> Figure:
    """Maps of tokens by features: the sum and, where there are both, its two parts, on one scale that is white at zero.

    Features are sorted by their mean over these tokens, and where there are more than pixels neighbours are averaged.

    Args:
        found: the factors minus 1.
        tokens: the text's.
        title: what it is of.
        start: the first token that is shown, of ``MOST_TOKENS`` at most.
    """
    shown = slice(start, start + MOST_TOKENS)
    parts = {"sum": found.total, "shared": found.shared, "specialised": found.specialized}
    if found.shared is None or found.specialized is None:
        parts = {"shared" if found.specialized is None else "specialised": found.total}
    order = np.argsort(found.total[shown].mean(axis=0))
    maps = {name: thinned(values[shown][:, order], _COLUMNS) for name, values in parts.items() if values is not None}
    names = list(tokens)[shown]
    # A few features are scaled far more than the rest; drawn to their scale the rest would be white.
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
