"""The trained adapter of a study that figures look into: it lies in a run folder, which results do not carry along."""

from __future__ import annotations

from pathlib import Path

from datasets import Dataset
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from hycam.data.prepare import prepare
from hycam.methods import method
from hycam.study.cells import Cell
from hycam.study.plan import Plan
from hycam.study.tables.table import NotRun
from hycam.training.run import BASE, Run
from hycam.tuners.hycam import HyCAMConfig


def adapted_cell(plan: Plan) -> Cell:
    """A finished cell of HyCAM, the study's reference before its variants, whose adapter is on this machine.

    Raises:
        NotRun: there is none.
    """
    finished = {one.identity for one in plan.results.done if one.task is None}
    kind = [cell for cell in plan.cells if cell.identity in finished and _is_hycam(cell)]
    if not kind:
        raise NotRun("It needs a finished cell of HyCAM.")
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


def _is_hycam(cell: Cell) -> bool:
    settings = cell.recipe.method
    return settings.name != BASE and isinstance(method(settings.name).config(settings.config), HyCAMConfig)
