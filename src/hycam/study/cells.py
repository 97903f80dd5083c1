"""A cell of a study: one training and its evaluation, identified by its data and its settings."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cache, cached_property
from typing import Any, NamedTuple

from hycam.evaluation.retention.recipe import RetentionRecipe
from hycam.training.recipe import Recipe
from hycam.training.run import BASE

# Settings that do not affect a result, or that depend on the machine.
_FREE = {"output", "training.log_every", "training.report_to", "training.save_every"}
# Fields of list entries (data.tasks) added since the first cells were named; at these values they are left out.
_LATER: dict[str, Any] = {"ignore": []}
_LONGEST_SLUG = 80  # characters of a label in a file name, whose length file systems limit


@dataclass(frozen=True)
class Data:
    """The fingerprint of a cell's data (all parts), and the training rows and tokens by task."""

    fingerprint: str
    rows: Mapping[str, int]
    tokens: Mapping[str, int]


@dataclass(frozen=True)
class Cell:
    """One training and its evaluation.

    Attributes:
        backbone, method: their labels.
        fold, seed: of the data, and of training.
        task: the only task it is trained on; None for all of them.
        settings: the varied fields and their values, including a sweep's ``training.learning_rate``.
        recipe: the resolved recipe; its ``output`` is the run folder.
        retention: how the loss of earlier abilities is measured.
        data: the fingerprint and size of its data.
        identity: see :func:`identity_of`; computed if empty.
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
    identity: str = ""

    def __post_init__(self) -> None:
        if not self.identity:
            object.__setattr__(self, "identity", identity_of(self.data.fingerprint, self.resolved))

    @cached_property
    def resolved(self) -> dict[str, Any]:
        """Every setting that affects the result, defaults included."""
        return _without({**asdict(self.recipe), "retention": asdict(self.retention)}, _FREE)

    @property
    def trained(self) -> str:
        """The identity of the training without its evaluation; cells that share it share a run folder.

        Retention measured at validations is part of the training, since it cannot be measured later.
        """
        later = {"evaluation"} if self.retention.at_validations else {"evaluation", "retention"}
        return identity_of(self.data.fingerprint, {key: one for key, one in self.resolved.items() if key not in later})

    @property
    def run_name(self) -> str:
        return f"{_slug(self.method)}-fold{self.fold}-{self.trained[:12]}"

    @property
    def file_name(self) -> str:
        return f"{_slug(self.method)}-fold{self.fold}-{self.identity[:12]}.json"

    @property
    def labels(self) -> dict[str, Any]:
        """The cell's labels in tables."""
        names = ("backbone", "method", "fold", "seed", "task")
        return {**{name: getattr(self, name) for name in names}, "settings": dict(self.settings)}

    @property
    def parts(self) -> dict[str, str]:
        """The parts of the cell's name, by what each describes."""
        words = {"backbone": self.backbone, "method": self.method, "fold": f"fold {self.fold}",
                 "seed": f"seed {self.seed}"}  # fmt: skip
        words |= {name: told(name, value) for name, value in self.settings.items()}
        return {**words, "task": f"{self.task} alone"} if self.task else words

    @property
    def name(self) -> str:
        return ", ".join(self.parts.values())

    @property
    def planned_tokens(self) -> int:
        """The approximate number of training tokens, prompts included."""
        if self.recipe.method.name == BASE:
            return 0
        training, tokens, rows = self.recipe.training, self.data.tokens, self.data.rows
        mine = [self.task] if self.task else list(tokens)
        total = sum(tokens[name] for name in mine)
        if training.max_steps is None:
            return int(total * training.epochs)
        batch = training.max_steps * training.batch_size * training.gradient_accumulation
        return int(batch * total / sum(rows[name] for name in mine))


class Names(NamedTuple):
    """Names of cells that are listed together.

    ``short`` has, by identity, the name without the parts that all cells share (the method always stays); ``common``
    has the shared parts on one line.
    """

    short: Mapping[str, str]
    common: str


def names_of(cells: Sequence[Cell]) -> Names:
    parts = [cell.parts for cell in cells]
    common = {
        key: text
        for key, text in (parts[0].items() if parts else ())
        if key != "method" and all(other.get(key) == text for other in parts)
    }
    short = {
        cell.identity: ", ".join(text for key, text in own.items() if key not in common)
        for cell, own in zip(cells, parts, strict=True)
    }
    return Names(short, ", ".join(common.values()))


def told(name: str, value: Any) -> str:
    """A varied field in words: ``train_rows 32``, or ``routing hard, noise never`` for a dictionary."""
    if isinstance(value, Mapping):
        return ", ".join(told(*entry) for entry in value.items())
    return f"{name.rpartition('.')[2]} {value}"


def identity_of(fingerprint: str, settings: Mapping[str, Any]) -> str:
    """SHA-256 (hexadecimal) of the data's fingerprint and of the settings that differ from their defaults.

    Defaults are left out so that identities stay the same when a later version adds a setting.
    """
    default = _default()
    changed = {name: value for name, value in _flat(settings).items() if value != default.get(name)}
    return hashlib.sha256(json.dumps([fingerprint, changed], sort_keys=True).encode()).hexdigest()


def difference(kept: Mapping[str, Any], wanted: Mapping[str, Any]) -> str | None:
    """The first setting, by name, in which two sets of settings differ; a missing one counts as its default."""
    before, now, default = _flat(kept), _flat(wanted), _default()
    for name in sorted({*before, *now}):
        if before.get(name, default.get(name)) != now.get(name, default.get(name)):
            return f"{name} was {before.get(name)!r} and is {now.get(name)!r}"
    return None


@cache
def _default() -> dict[str, Any]:
    return _flat({**asdict(Recipe()), "retention": asdict(RetentionRecipe())})


def _flat(settings: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """The settings by their dotted names; an empty dictionary has none."""
    found: dict[str, Any] = {}
    for name, value in settings.items():
        if isinstance(value, Mapping) and value:
            found |= _flat(value, f"{prefix}{name}.")
        elif value != {}:
            found[prefix + name] = [*map(_entry, value)] if isinstance(value, list) else value
    return found


def _entry(value: Any) -> Any:
    if not isinstance(value, Mapping):
        return value
    return {name: one for name, one in value.items() if name not in _LATER or one != _LATER[name]}


def _without(settings: dict[str, Any], names: set[str], prefix: str = "") -> dict[str, Any]:
    return {
        name: _without(value, names, f"{prefix}{name}.") if isinstance(value, dict) else value
        for name, value in settings.items()
        if prefix + name not in names
    }


def _slug(label: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", label.lower()).strip("-")[:_LONGEST_SLUG] or "method"
