"""The grid: from a study to its cells, with every setting resolved and the data prepared."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from transformers import PreTrainedTokenizerBase

from hycam.backbones import load_tokenizer
from hycam.data.chosen import chosen_tasks
from hycam.data.prepare import prepare
from hycam.data.recipe import MixtureRecipe
from hycam.errors import HycamError, nearest
from hycam.methods import method
from hycam.study.cells import Cell, Data
from hycam.study.recipe import StudyMethod, StudyRecipe
from hycam.study.vary import checked, combinations, with_setting
from hycam.training.recipe import MethodRecipe, Recipe
from hycam.training.run import BASE

# Fields that mean nothing where nothing is trained, and those among them that evaluation has too.
_OF_TRAINING, _OF_BOTH = ("training.", "method."), ("training.precision", "training.device")

Say = Callable[[str, int, int], None]


class Planner:
    """Makes the cells of a study; data that several cells share are prepared once.

    Args:
        study: what to run.
        rates: the best learning rate of a backbone's method, by their labels, where a sweep was made.
        progress: told how far the data are prepared.
    """

    def __init__(
        self, study: StudyRecipe, rates: Mapping[tuple[str, str], float] | None = None, progress: Say | None = None
    ) -> None:
        self.study = study
        self._rates = rates or {}
        self._progress = progress
        self._tokenizers: dict[str, PreTrainedTokenizerBase] = {}
        self._data: dict[str, Data] = {}
        self._vary = checked(study.vary)

    def cells(self) -> list[Cell]:
        """Every cell, fold by fold, so that an unfinished study has all methods on some folds.

        Raises:
            HycamError: a method, a setting, a fold or the data do not work; nothing was started.
        """
        study = self.study
        found: list[Cell] = []
        for seed, fold in itertools.product(study.seeds, study.folds):
            for settings in combinations(self._vary):
                for backbone, label in itertools.product(study.backbones, study.methods):
                    entry = study.methods[label]
                    for rate in self._learning_rates(entry):
                        given = settings if rate is None else {**settings, "training.learning_rate": rate}
                        found += self._of(backbone, label, fold, seed, given)
        return _without_duplicates(found)

    def cell(self, backbone: str, label: str, fold: int, seed: int, settings: Mapping[str, Any],
             task: str | None = None) -> Cell:  # fmt: skip
        """One cell, with every setting resolved. The backbone as it is has none of training and method."""
        study, entry = self.study, self.study.methods[label]
        if entry.name == BASE:
            settings = {
                name: value for name, value in settings.items() if not name.startswith(_OF_TRAINING) or name in _OF_BOTH
            }
        recipe = Recipe(
            backbone=study.backbones[backbone],
            trust_remote_code=study.trust_remote_code,
            method=MethodRecipe(entry.name, entry.config, entry.optimizer),
            data=replace(study.data, fold=fold),
            training=replace(study.training, seed=seed),
            evaluation=study.evaluation,
        )
        for name, value in settings.items():
            recipe = with_setting(recipe, name, value)
        if task is not None:
            alone = {name: float(name == task) for name in chosen_tasks(recipe.data)}
            recipe = with_setting(recipe, "data.mixture", MixtureRecipe("weights", weights=alone, exhaustion="stop"))
        if entry.name != BASE:
            recipe.method.settings()
            method(entry.name).config({**recipe.method.config, **recipe.evaluation.config})
            rate = settings.get("training.learning_rate") or entry.learning_rate or self._rate(backbone, label)
            recipe = with_setting(recipe, "training.learning_rate", rate)
            recipe = with_setting(recipe, "training.learning_rate", recipe.learning_rate())
        made = Cell(backbone, label, fold, seed, task, settings, recipe, study.retention, self._prepared(recipe))
        return with_setting(made, "recipe.output", str(runs_folder(study) / made.run_name))

    def _of(self, backbone: str, label: str, fold: int, seed: int, settings: Mapping[str, Any]) -> Iterator[Cell]:
        made = self.cell(backbone, label, fold, seed, settings)
        yield made
        if self.study.single_tasks and made.recipe.method.name != BASE:
            for task in chosen_tasks(made.recipe.data):
                yield self.cell(backbone, label, fold, seed, settings, task)

    def _learning_rates(self, entry: StudyMethod) -> list[float] | list[None]:
        swept = self.study.sweep.learning_rates
        return swept if swept and entry.name != BASE else [None]

    def _rate(self, backbone: str, label: str) -> float | None:
        if not self.study.learning_rates_from:
            return self.study.training.learning_rate
        if (backbone, label) not in self._rates:
            known = sorted({method for _, method in self._rates})
            raise HycamError(
                f"{self.study.learning_rates_from} has no learning rate for {label} on {backbone}."
                f"{nearest(label, known)} Give the method one of its own (methods.{label}.learning_rate), or sweep it."
            )
        return self._rates[backbone, label]

    def _prepared(self, recipe: Recipe) -> Data:
        # What does not change the rows that are prepared is left at its default.
        rows = replace(recipe.data, mixture=MixtureRecipe(), packing=False, group_by_length=False)
        key = json.dumps([recipe.backbone, asdict(rows)], sort_keys=True)
        if key not in self._data:
            if recipe.backbone not in self._tokenizers:
                self._tokenizers[recipe.backbone] = load_tokenizer(recipe.backbone, recipe.trust_remote_code)
            data = prepare(rows, self._tokenizers[recipe.backbone], self._progress)
            counts = data.counts["train"]
            kept = {name: count.kept for name, count in counts.items()}
            tokens = {name: count.tokens for name, count in counts.items()}
            self._data[key] = Data(data.fingerprint, kept, tokens)
        return self._data[key]


def runs_folder(study: StudyRecipe) -> Path:
    """Where the run folders of a study lie."""
    return Path(study.runs) if study.runs is not None else Path(study.output) / "runs"


def _without_duplicates(cells: list[Cell]) -> list[Cell]:
    """The cells without repetition; two of other names that are one training would be counted twice in a test."""
    seen: dict[str, Cell] = {}
    for cell in cells:
        other = seen.setdefault(cell.identity, cell)
        if other is not cell and other.labels != cell.labels:
            raise HycamError(f"Two cells are one and the same: {other.name}; and {cell.name}. Leave one of them out.")
    return list(seen.values())
