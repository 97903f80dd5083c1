"""The grid: from a study to its cells, each with an identity made from its resolved settings and the data's hash."""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from transformers import PreTrainedTokenizerBase

from hycam.backbones import load_tokenizer
from hycam.data.chosen import chosen_tasks
from hycam.data.prepare import prepare
from hycam.data.recipe import DataRecipe, MixtureRecipe
from hycam.errors import HycamError, nearest
from hycam.evaluation.retention.recipe import RetentionRecipe
from hycam.methods import method
from hycam.study.identity import identity_of, resolved
from hycam.study.recipe import StudyMethod, StudyRecipe
from hycam.study.vary import checked, combinations, told, with_setting
from hycam.training.recipe import MethodRecipe, Recipe
from hycam.training.run import BASE

# Fields that mean nothing where nothing is trained, and those among them that evaluation has too.
_OF_TRAINING, _OF_BOTH = ("training.", "method."), ("training.precision", "training.device")
_LONGEST_SLUG = 80  # of a label in the name of a file, which a file system limits


@dataclass(frozen=True)
class Data:
    """What a cell's data are: the fingerprint of all parts, and the rows and tokens of the training part by task."""

    fingerprint: str
    rows: Mapping[str, int]
    tokens: Mapping[str, int]


@dataclass(frozen=True)
class Cell:
    """One training and its evaluation.

    Attributes:
        backbone: its label.
        method: its label.
        fold: of the data.
        seed: of training.
        task: the only task it is trained on; None for all of them.
        settings: the varied fields with their values, by name; a sweep's ``training.learning_rate`` among them.
        recipe: the resolved recipe; its ``output`` is the run folder.
        retention: what is measured of the abilities from before.
        data: what its data are.
    """

    backbone: str
    method: str
    fold: int
    seed: int
    task: str | None
    settings: Mapping[str, Any]
    recipe: Recipe
    retention: RetentionRecipe
    data: Data

    @cached_property
    def resolved(self) -> dict[str, Any]:
        """Every setting that bears on the result, defaults included."""
        return resolved(self.recipe, self.retention)

    @cached_property
    def identity(self) -> str:
        """SHA-256 of the data and the settings; see :func:`hycam.study.identity.identity_of`."""
        return identity_of(self.data.fingerprint, self.resolved)

    @cached_property
    def trained(self) -> str:
        """The identity of what is trained, evaluation left out: cells that share it share a run folder.

        What is measured at validations belongs to the training, since it cannot be measured later.
        """
        later = {"evaluation"} if self.retention.at_validations else {"evaluation", "retention"}
        recipe = {key: value for key, value in self.resolved.items() if key not in later}
        return identity_of(self.data.fingerprint, recipe)

    @property
    def labels(self) -> dict[str, Any]:
        """What the cell is called in tables: everything but the resolved recipe."""
        names = ("backbone", "method", "fold", "seed", "task")
        return {**{name: getattr(self, name) for name in names}, "settings": dict(self.settings)}

    @property
    def parts(self) -> dict[str, str]:
        """What sets a cell apart, in words, by what they are about."""
        words = {"backbone": self.backbone, "method": self.method, "fold": f"fold {self.fold}",
                "seed": f"seed {self.seed}"}  # fmt: skip
        words |= {name: told(name, value) for name, value in self.settings.items()}
        return {**words, "task": f"{self.task} alone"} if self.task else words

    @property
    def name(self) -> str:
        """All of that on one line."""
        return ", ".join(self.parts.values())

    @property
    def file_name(self) -> str:
        return f"{_slug(self.method)}-fold{self.fold}-{self.identity[:12]}.json"

    @property
    def planned_tokens(self) -> int:
        """About how many tokens, prompts included, are trained on."""
        if self.recipe.method.name == BASE:
            return 0
        training, tokens, rows = self.recipe.training, self.data.tokens, self.data.rows
        mine = [self.task] if self.task else list(tokens)
        total = sum(tokens[name] for name in mine)
        if training.max_steps is None:
            return int(total * training.epochs)
        batch = training.max_steps * training.batch_size * training.gradient_accumulation
        return int(batch * total / sum(rows[name] for name in mine))


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
        data = replace(study.data, fold=fold)
        recipe = Recipe(
            backbone=study.backbones[backbone],
            trust_remote_code=study.trust_remote_code,
            method=MethodRecipe(entry.name, entry.config, entry.optimizer),
            data=data,
            training=replace(study.training, seed=seed),
            evaluation=study.evaluation,
        )
        for name, value in settings.items():
            recipe = with_setting(recipe, name, value)
        if task is not None:
            alone = {name: float(name == task) for name in chosen_tasks(recipe.data)}
            recipe = replace(recipe, data=replace(recipe.data, mixture=MixtureRecipe("weights", weights=alone,
                                                                                    exhaustion="stop")))  # fmt: skip
        if entry.name == BASE:
            rate = None  # nothing is trained
        else:
            recipe.method.settings()
            method(entry.name).config({**recipe.method.config, **recipe.evaluation.config})
            rate = settings.get("training.learning_rate") or entry.learning_rate or self._rate(backbone, label)
            recipe = replace(recipe, training=replace(recipe.training, learning_rate=rate))
            recipe = replace(recipe, training=replace(recipe.training, learning_rate=recipe.learning_rate()))
        made = Cell(backbone, label, fold, seed, task, settings, recipe, study.retention, self._prepared(recipe))
        folder = runs_folder(study) / f"{_slug(label)}-fold{fold}-{made.trained[:12]}"
        return replace(made, recipe=replace(recipe, output=str(folder)))

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
            self._data[key] = _prepare(rows, self._tokenizers[recipe.backbone], self._progress)
        return self._data[key]


def runs_folder(study: StudyRecipe) -> Path:
    """Where the run folders of a study lie."""
    return Path(study.runs) if study.runs is not None else Path(study.output) / "runs"


def _prepare(recipe: DataRecipe, tokenizer: PreTrainedTokenizerBase, progress: Say | None) -> Data:
    data = prepare(recipe, tokenizer, progress)
    counts = data.counts["train"]
    return Data(
        data.fingerprint,
        {name: count.kept for name, count in counts.items()},
        {name: count.tokens for name, count in counts.items()},
    )


def _without_duplicates(cells: list[Cell]) -> list[Cell]:
    """The cells without repetition; two of other names that are one training would be counted twice in a test."""
    seen: dict[str, Cell] = {}
    for cell in cells:
        other = seen.setdefault(cell.identity, cell)
        if other is not cell and other.labels != cell.labels:
            raise HycamError(f"Two cells are one and the same: {other.name}; and {cell.name}. Leave one of them out.")
    return list(seen.values())


def _slug(label: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", label.lower()).strip("-")[:_LONGEST_SLUG] or "method"
