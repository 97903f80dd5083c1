"""The grid: from a study to its cells, with every setting resolved and the data prepared."""

from __future__ import annotations

import itertools
import json
from argparse import ArgumentError
from collections.abc import Callable, Mapping
from dataclasses import asdict, fields, is_dataclass, replace
from pathlib import Path
from typing import Any, get_type_hints

from jsonargparse import Namespace
from transformers import PreTrainedTokenizerBase

from hycam.backbones import load_tokenizer
from hycam.data.chosen import chosen_tasks
from hycam.data.prepare import prepare
from hycam.data.recipe import MixtureRecipe
from hycam.errors import HycamError, nearest
from hycam.methods import method
from hycam.study.cells import Cell, Data
from hycam.study.recipe import StudyRecipe
from hycam.training.parse import field_names, recipe_parser
from hycam.training.recipe import MethodRecipe, Recipe
from hycam.training.run import BASE

# Fields that only matter for training, and those among them that evaluation uses too.
_OF_TRAINING, _OF_BOTH = ("training.", "method."), ("training.precision", "training.device")

# Dictionaries with fields that the recipe itself does not know.
_OPEN = ("method.config.", "method.optimizer.multipliers.", "training.extra.", "evaluation.config.")
# What the study has a list of its own for.
_OWN = {"data.fold": "folds", "training.seed": "seeds", "backbone": "backbones", "method.name": "methods"}

RATE = "training.learning_rate"
Say = Callable[[str, int, int], None]


class Planner:
    """Makes the cells of a study; prepares data that several cells share only once.

    Args:
        study: what to run.
        rates: learning rates from a sweep, by the labels of backbone and method.
        progress: receives the progress of preparing the data.
    """

    def __init__(
        self, study: StudyRecipe, rates: Mapping[tuple[str, str], float] | None = None, progress: Say | None = None
    ) -> None:
        self.study = study
        self._rates = rates or {}
        self._progress = progress
        self._tokenizers: dict[str, PreTrainedTokenizerBase] = {}
        self._data: dict[str, Data] = {}
        self._vary = vary_values(study.vary)

    def cells(self) -> list[Cell]:
        """Every cell, fold by fold, so that an unfinished study has all methods on some folds.

        Raises:
            HycamError: a method, a setting, a fold or the data are invalid.
        """
        study = self.study
        found: list[Cell] = []
        for seed, fold in study.places:
            for values in itertools.product(*self._vary.values()):
                settings = dict(zip(self._vary, values, strict=True))
                for backbone, label in itertools.product(study.backbones, study.methods):
                    is_trained = study.methods[label].name != BASE
                    swept = study.sweep.learning_rates if is_trained else []
                    for given in [{**settings, RATE: rate} for rate in swept] or [settings]:
                        found.append(self.cell(backbone, label, fold, seed, given))
                        if study.single_tasks and is_trained:
                            tasks = chosen_tasks(found[-1].recipe.data)
                            found += [self.cell(backbone, label, fold, seed, given, task) for task in tasks]
        return _without_duplicates(found)

    def cell(self, backbone: str, label: str, fold: int, seed: int, settings: Mapping[str, Any],
             task: str | None = None) -> Cell:  # fmt: skip
        """One cell with every setting resolved; the unadapted backbone has no settings of training and method."""
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
            rate = settings.get(RATE) or entry.learning_rate or self._rate(backbone, label)
            recipe = with_setting(recipe, RATE, rate)
            recipe = with_setting(recipe, RATE, recipe.learning_rate())
        made = Cell(backbone, label, fold, seed, task, settings, recipe, study.retention, self._prepared(recipe))
        return with_setting(made, "recipe.output", str(runs_folder(study) / made.run_name))

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
        # Fields that do not change the prepared rows keep their defaults, so that cells share them.
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
    return Path(study.runs) if study.runs is not None else Path(study.output) / "runs"


def _without_duplicates(cells: list[Cell]) -> list[Cell]:
    """Removes repeated cells; the same training under two labels would count twice in a test, so it is refused."""
    seen: dict[str, Cell] = {}
    for cell in cells:
        other = seen.setdefault(cell.identity, cell)
        if other is not cell and other.labels != cell.labels:
            raise HycamError(f"Two cells are one and the same: {other.name}; and {cell.name}. Remove one of them.")
    return list(seen.values())


def vary_values(vary: Mapping[str, list[Any]]) -> dict[str, list[Any]]:
    """The varied values, converted to their field's type (YAML reads ``1e-4`` as text).

    Raises:
        HycamError: a name is not a recipe field (the message names the nearest), or the study has a list for it; or a
            value has the wrong type.
    """
    known = [name for name in field_names(Recipe) if name != "output"]
    for name in vary:
        if name in _OWN:
            raise HycamError(f"vary cannot vary {name}: the study has {_OWN[name]} for it.")
        if name not in known and not name.startswith(_OPEN):
            raise HycamError(f'vary names "{name}", which is not a recipe field.{nearest(name, known)}')
        if is_dataclass(_hint(name)):
            raise HycamError(f"vary names {name}, which has fields of its own: vary one of them, such as "
                             f"{next(entry for entry in known if entry.startswith(f'{name}.'))}.")  # fmt: skip
    return {name: [_typed(name, value) for value in values] for name, values in vary.items()}


def with_setting(kept: Any, name: str, value: Any) -> Any:
    """A copy of a recipe (or a part of one) with another value in a field, given by its dotted name."""
    first, _, rest = name.partition(".")
    if isinstance(kept, dict):
        return {**kept, first: with_setting(kept.get(first, {}), rest, value) if rest else value}
    return replace(kept, **{first: with_setting(getattr(kept, first), rest, value) if rest else value})


def _typed(name: str, value: Any) -> Any:
    if name.startswith(_OPEN):
        return value
    content = value
    for part in reversed(name.split(".")):
        content = {part: content}
    try:
        typed = recipe_parser(Recipe).parse_object(content)[name]
    except ArgumentError as error:
        raise HycamError(f"vary.{name} has the value {value!r}: {_spelled_type(name)} was expected.") from error
    if isinstance(typed, list) and any(isinstance(entry, Namespace) for entry in typed):
        raise HycamError(f"vary.{name} cannot vary entries with settings of their own: name them, or their paths.")
    return typed


def _hint(name: str) -> Any:
    """The type of a field of a recipe; None below an open dictionary."""
    kind: Any = Recipe
    for part in name.split("."):
        if not is_dataclass(kind):
            return None
        kind = get_type_hints(kind)[part]
    return kind


def _spelled_type(name: str) -> str:
    """The type of a field as written in the source, such as ``int | None``."""
    owner, _, last = name.rpartition(".")
    entries = fields(_hint(owner) if owner else Recipe)
    return next(str(entry.type) for entry in entries if entry.name == last)
