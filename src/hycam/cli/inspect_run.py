"""What ``hycam inspect`` loads, computes and shows."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from datasets import Dataset
from jsonargparse import Namespace
from rich.table import Table
from rich.text import Text
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from hycam.console import Reporter, plain_console, quiet_libraries
from hycam.data.prepare import prepare
from hycam.errors import HycamError
from hycam.inspection.modulation import modulation_map
from hycam.inspection.representations import NEIGHBOURS, project, representations
from hycam.inspection.routing import routing_by_task, routing_of_text
from hycam.inspection.watch import token_texts
from hycam.machine import share_cores
from hycam.tables import Tables
from hycam.training.run import Run

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_NO_ROUTER = "The run has no HyCAM router: there is no routing to show."

Shown = tuple[dict[str, Any], Table, "Figure | None"]
"""Every number, a table, and a figure if requested."""


def inspect(chosen: Namespace) -> None:
    """Loads a run and prints what its arguments ask for."""
    run = Run(Path(chosen.run))
    run.recipe()
    quiet_libraries(informative=False)
    share_cores()
    model, tokenizer = run.load()
    if chosen.what == "modulation":
        found, table, figure = _modulation(chosen, model, tokenizer)
    elif chosen.what == "representations":
        found, table, figure = _representations(chosen, model, tokenizer, _parts(run, chosen.part, tokenizer))
    elif chosen.text is not None:
        found, table, figure = _routing_of_text(chosen, model, tokenizer)
    else:
        found, table, figure = _routing(chosen, model, tokenizer, _parts(run, chosen.part, tokenizer))
    if chosen.json:
        print(json.dumps(found))
    else:
        plain_console().print(table)
    if figure is not None:
        _save(figure, Path(chosen.figure), quietly=chosen.json)


def _routing(
    chosen: Namespace, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, parts: dict[str, Dataset]
) -> Shown:
    found = routing_by_task(model, tokenizer, parts, chosen.rows)
    if found is None:
        raise HycamError(_NO_ROUTER)
    table = _table(f"task ({_layers(chosen.layer)})", *_modules(found["experts"]), "tokens")
    for task, entry in found["tasks"].items():
        weights = _of_layer(np.asarray(entry["weights"]), chosen.layer)
        table.add_row(task, *(f"{weight:.3f}" for weight in weights), f"{entry['tokens']:,}")
    information = _of_layer(np.asarray(found["mutual_information"]), chosen.layer)
    table.caption = f"Mutual information of task and module: {information:.4f} bits ({_layers(chosen.layer)})."
    return found, table, _drawn_routing(chosen, found)


def _routing_of_text(chosen: Namespace, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> Shown:
    ids = _ids(chosen, model, tokenizer)
    weights = routing_of_text(model, ids)
    if weights is None:
        raise HycamError(_NO_ROUTER)
    tokens = token_texts(tokenizer, ids)
    table = _table(f"token ({_layers(chosen.layer)})", *_modules(weights.shape[2]))
    for token, of_token in zip(tokens, _of_layer(weights, chosen.layer), strict=True):
        table.add_row(Text(token), *(f"{weight:.3f}" for weight in of_token))
    mean = {"tokens": len(ids), "weights": weights.mean(axis=1).tolist()}
    figure = _drawn_routing(chosen, {"tasks": {"text": mean}, "layers": len(weights), "experts": weights.shape[2]})
    return {"text": chosen.text, "tokens": tokens, "weights": weights.tolist()}, table, figure


def _modulation(chosen: Namespace, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> Shown:
    ids = _ids(chosen, model, tokenizer)
    found = modulation_map(model, ids, chosen.layer)
    tokens = token_texts(tokenizer, ids)
    table = _table(f"token (layer {found.layer})", "mean size", "smallest", "largest", "suppressed")
    for token, factors in zip(tokens, found.total, strict=True):
        table.add_row(Text(token), f"{np.abs(factors).mean():.4f}", f"{factors.min():+.4f}", f"{factors.max():+.4f}",
                      f"{np.mean(factors < 0):.0%}")  # fmt: skip
    table.caption = "Factors minus 1 over the features of the attention output."
    parts = {"total": found.total, "shared": found.shared, "specialized": found.specialized}
    numbers = {name: None if values is None else values.tolist() for name, values in parts.items()}
    figure = None
    if chosen.figure is not None:
        from hycam.study.figures.adapters import modulation_maps

        figure = modulation_maps(found, tokens, f"layer {found.layer}")
    return {"layer": found.layer, "text": chosen.text, "tokens": tokens, **numbers}, table, figure


def _representations(
    chosen: Namespace, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, parts: dict[str, Dataset]
) -> Shown:
    found = representations(model, tokenizer, parts, chosen.rows, chosen.layer, chosen.per)
    plane = project(found)
    table = _table(f"values of layer {found.layer}", "places", f"mean distance to the {NEIGHBOURS} nearest")
    for name, distance in (("adapter on", plane.distance_on), ("adapter off", plane.distance_off)):
        table.add_row(name, str(len(found.tasks)), f"{distance:.4f}")
    table.caption = "Of vectors standardised over both, feature by feature."
    figure = None
    if chosen.figure is not None:
        from hycam.study.figures.adapters import representation_maps

        figure = representation_maps(found, plane, f"values of layer {found.layer}")
    numbers = {"layer": found.layer, "tasks": found.tasks, "on": plane.on.tolist(), "off": plane.off.tolist(),
               "distance_on": plane.distance_on, "distance_off": plane.distance_off}  # fmt: skip
    return numbers, table, figure


def _drawn_routing(chosen: Namespace, routing: dict[str, Any]) -> Figure | None:
    if chosen.figure is None:
        return None
    from hycam.study.figures.routing import routing_maps

    return routing_maps(routing, Path(chosen.run).name)


def _save(figure: Figure, path: Path, quietly: bool) -> None:
    from hycam.study.figures import save

    written = save(figure, path.parent, path.stem if path.suffix in (".png", ".svg") else path.name)
    if not quietly:
        print(f"Figure: {', '.join(map(str, written))}")


def _parts(run: Run, part: str, tokenizer: PreTrainedTokenizerBase) -> dict[str, Dataset]:
    with Reporter() as reporter:
        return getattr(prepare(run.recipe().data, tokenizer, reporter.update), part)


def _ids(chosen: Namespace, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """The token ids of the text, checked against the backbone's tables."""
    ids = list(tokenizer(chosen.text)["input_ids"])
    if not ids:
        raise HycamError("The text has no token.")
    Tables.of(model).check([ids])
    return ids


def _of_layer(values: np.ndarray, layer: int | None) -> np.ndarray:
    """``[layers, ...]`` at one routed layer, or averaged over them."""
    if layer is None:
        return values.mean(axis=0)
    if layer >= len(values):
        raise HycamError(f"There is no routed layer {layer}: the adapter has layers 0 to {len(values) - 1}.")
    return values[layer]


def _layers(layer: int | None) -> str:
    return "mean over layers" if layer is None else f"layer {layer}"


def _modules(count: int) -> list[str]:
    return ["module 1", *(str(k) for k in range(2, count + 1))]


def _table(first: str, *columns: str) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0), caption_justify="left")
    table.add_column(first, no_wrap=True)
    for column in columns:
        table.add_column(column, justify="right", no_wrap=True)
    return table
