"""The grid: from a study to its cells, each with an identity made from its resolved settings and the data's hash."""

from __future__ import annotations

import hashlib
import itertools
import json
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, get_type_hints

from hycam.backbones import load_tokenizer
from hycam.data.chosen import chosen_tasks
from hycam.data.prepare import prepare
from hycam.data.recipe import DataRecipe, MixtureRecipe
from hycam.errors import HycamError, nearest
from hycam.evaluation.retention_recipe import RetentionRecipe
from hycam.methods import method
from hycam.study.recipe import StudyMethod, StudyRecipe
from hycam.training.parse import field_names
from hycam.training.recipe import MethodRecipe, Recipe
from hycam.training.run import BASE

# What does not change a result, or is chosen by the machine.
_FREE = {"output", "training.log_every", "training.report_to", "training.save_every"}
# What does not change the rows that are prepared.
_NOT_DATA = {"mixture": MixtureRecipe(), "packing": False, "group_by_length": False}


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
        return _without({**asdict(self.recipe), "retention": asdict(self.retention)}, _FREE)

    @cached_property
    def identity(self) -> str:
        """SHA-256 of the data's fingerprint and of every setting that is not at its default.

        Defaults are left out so that a result stays valid when a later version adds a setting; a result file holds all
        of them, and is compared with them when it is read.
        """
        return _hash(self.data.fingerprint, self.resolved)

    @cached_property
    def trained(self) -> str:
        """The identity of what is trained, evaluation left out: cells that share it share a run folder."""
        recipe = {key: value for key, value in self.resolved.items() if key not in ("evaluation", "retention")}
        return _hash(self.data.fingerprint, recipe)

    @property
    def labels(self) -> dict[str, Any]:
        """What the cell is called in tables: everything but the resolved recipe."""
        names = ("backbone", "method", "fold", "seed", "task")
        return {**{name: getattr(self, name) for name in names}, "settings": dict(self.settings)}

    @property
    def name(self) -> str:
        """A readable name of one line: what sets the cell apart."""
        parts = [self.backbone, self.method, f"fold {self.fold}", f"seed {self.seed}"]
        parts += [f"{key.rpartition('.')[2]} {value}" for key, value in self.settings.items()]
        return ", ".join(parts + ([f"{self.task} alone"] if self.task else []))

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
        self._data: dict[str, Data] = {}
        _check_vary(study)

    def cells(self) -> list[Cell]:
        """Every cell, fold by fold, so that an unfinished study has all methods on some folds.

        Raises:
            HycamError: a method, a setting, a fold or the data do not work; nothing was started.
        """
        study = self.study
        found = []
        for seed, fold in itertools.product(study.seeds, study.folds):
            for settings in _combinations(study.vary):
                for backbone, label in itertools.product(study.backbones, study.methods):
                    entry = study.methods[label]
                    for rate in self._learning_rates(entry):
                        given = settings if rate is None else {**settings, "training.learning_rate": rate}
                        found += self._of(backbone, label, fold, seed, given)
        return _without_duplicates(found)

    def cell(self, backbone: str, label: str, fold: int, seed: int, settings: Mapping[str, Any],
             task: str | None = None) -> Cell:  # fmt: skip
        """One cell, with every setting resolved."""
        study, entry = self.study, self.study.methods[label]
        data = replace(study.data, fold=fold)
        recipe = Recipe(
            backbone=study.backbones[backbone],
            method=MethodRecipe(entry.name, entry.config, entry.optimizer),
            data=data,
            training=replace(study.training, seed=seed),
            evaluation=study.evaluation,
        )
        for name, value in settings.items():
            recipe = _with(recipe, name.split("."), value, name)
        if task is not None:
            alone = {name: float(name == task) for name in chosen_tasks(recipe.data)}
            recipe = replace(recipe, data=replace(recipe.data, mixture=MixtureRecipe("weights", weights=alone,
                                                                                    exhaustion="stop")))  # fmt: skip
        if entry.name == BASE:
            rate = None  # nothing is trained
        else:
            recipe.method.settings()
            rate = settings.get("training.learning_rate") or entry.learning_rate or self._rate(backbone, label)
            recipe = replace(recipe, training=replace(recipe.training, learning_rate=rate))
            recipe = replace(recipe, training=replace(recipe.training, learning_rate=recipe.learning_rate()))
        made = Cell(backbone, label, fold, seed, task, settings, recipe, study.retention, self._prepared(recipe))
        folder = runs_folder(study) / f"{_slug(label)}-fold{fold}-{made.trained[:12]}"
        return replace(made, recipe=replace(recipe, output=str(folder)))

    def _of(self, backbone: str, label: str, fold: int, seed: int, settings: Mapping[str, Any]) -> Iterator[Cell]:
        yield self.cell(backbone, label, fold, seed, settings)
        if self.study.single_tasks and self.study.methods[label].name != BASE:
            for task in chosen_tasks(self.study.data):
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
        rows = replace(recipe.data, **_NOT_DATA)
        key = json.dumps([recipe.backbone, asdict(rows)], sort_keys=True)
        if key not in self._data:
            self._data[key] = _prepare(recipe.backbone, rows, self._progress)
        return self._data[key]


def runs_folder(study: StudyRecipe) -> Path:
    """Where the run folders of a study lie."""
    return Path(study.runs) if study.runs is not None else Path(study.output) / "runs"


def differs(kept: Mapping[str, Any], cell: Cell) -> str | None:
    """The first setting, by name, of a kept result that is not the cell's; one that it lacks counts as its default."""
    now, default = _flat(cell.resolved), _flat(_default())
    before = _flat(kept)
    for name in sorted({*before, *now}):
        if before.get(name, default.get(name)) != now.get(name, default.get(name)):
            return f"{name} was {before.get(name)!r} and is {now.get(name)!r}"
    return None


def _prepare(backbone: str, recipe: DataRecipe, progress: Say | None) -> Data:
    data = prepare(recipe, load_tokenizer(backbone), progress)
    counts = data.counts["train"]
    return Data(
        data.fingerprint,
        {name: count.kept for name, count in counts.items()},
        {name: count.tokens for name, count in counts.items()},
    )


def _check_vary(study: StudyRecipe) -> None:
    known = [name for name in field_names(Recipe) if name != "output"]
    for name in study.vary:
        is_free = name.startswith(("method.config.", "training.extra.")) or name.startswith("method.optimizer.multipl")
        if name not in known and not is_free:
            raise HycamError(f'vary names "{name}", which is no field of a recipe.{nearest(name, known)}')
        own = {"data.fold": "folds", "training.seed": "seeds", "backbone": "backbones", "method.name": "methods"}
        if name in own:
            raise HycamError(f"vary cannot vary {name}: the study has {own[name]} for it.")


def _combinations(vary: Mapping[str, list[Any]]) -> Iterator[dict[str, Any]]:
    for values in itertools.product(*vary.values()):
        yield dict(zip(vary, values, strict=True))


def _with(kept: Any, path: list[str], value: Any, name: str) -> Any:
    """A copy of a dataclass or a dictionary with another value at a path of names."""
    first, *rest = path
    if isinstance(kept, dict):
        return {**kept, first: _with(kept.get(first, {}), rest, value, name) if rest else value}
    inner = _with(getattr(kept, first), rest, value, name) if rest else _typed(kept, first, value, name)
    return replace(kept, **{first: inner})


def _typed(owner: Any, field: str, value: Any, name: str) -> Any:
    """The value, with a whole number made a float where one is meant; a wrong type is refused."""
    hint = str(get_type_hints(type(owner))[field])
    if "float" in hint and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if isinstance(value, str) and "float" in hint:  # YAML reads 1e-4 as a word
        try:
            return float(value)
        except ValueError as error:
            raise HycamError(f"vary.{name} has the value {value!r}: a number was expected.") from error
    return value


def _without_duplicates(cells: list[Cell]) -> list[Cell]:
    """The cells without repetition; two of other names that are one training would be counted twice in a test."""
    seen: dict[str, Cell] = {}
    for cell in cells:
        other = seen.setdefault(cell.identity, cell)
        if other is not cell and other.labels != cell.labels:
            raise HycamError(f"Two cells are one and the same: {other.name}; and {cell.name}. Leave one of them out.")
    return list(seen.values())


def _hash(fingerprint: str, resolved: Mapping[str, Any]) -> str:
    """SHA-256 of the settings that are not at their defaults, and of the data."""
    default = _flat(_default())
    changed = {name: value for name, value in _flat(resolved).items() if value != default.get(name)}
    return hashlib.sha256(json.dumps([fingerprint, changed], sort_keys=True).encode()).hexdigest()


def _default() -> dict[str, Any]:
    return {**asdict(Recipe()), "retention": asdict(RetentionRecipe())}


def _flat(settings: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in settings.items():
        if isinstance(value, Mapping) and value:
            found |= _flat(value, f"{prefix}{name}.")
        elif value != {}:
            found[prefix + name] = value
    return found


def _without(settings: dict[str, Any], names: set[str], prefix: str = "") -> dict[str, Any]:
    return {
        name: _without(value, names, f"{prefix}{name}.") if isinstance(value, dict) else value
        for name, value in settings.items()
        if prefix + name not in names
    }


def _slug(label: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", label.lower()).strip("-") or "method"


