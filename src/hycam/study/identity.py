"""What tells one cell from another: its data, and every setting that bears on its result."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from hycam.evaluation.retention.recipe import RetentionRecipe
from hycam.training.recipe import Recipe

# What does not change a result, or is chosen by the machine.
_FREE = {"output", "training.log_every", "training.report_to", "training.save_every"}
# Fields of an entry of a list (of data.tasks) that came after cells had been named; as here they are left out.
_LATER: dict[str, Any] = {"ignore": []}


def resolved(recipe: Recipe, retention: RetentionRecipe) -> dict[str, Any]:
    """Every setting that bears on the result, defaults included."""
    return _without({**asdict(recipe), "retention": asdict(retention)}, _FREE)


def identity_of(fingerprint: str, settings: Mapping[str, Any]) -> str:
    """SHA-256 (hexadecimal) of the data's fingerprint and of the settings that are not at their defaults.

    Defaults are left out so that an identity stays what it is when a later version adds a setting.
    """
    default = _flat(_default())
    changed = {name: value for name, value in _flat(settings).items() if value != default.get(name)}
    return hashlib.sha256(json.dumps([fingerprint, changed], sort_keys=True).encode()).hexdigest()


def difference(kept: Mapping[str, Any], wanted: Mapping[str, Any]) -> str | None:
    """The first setting, by name, in which two sets of them differ; one that is missing counts as its default."""
    before, now, default = _flat(kept), _flat(wanted), _flat(_default())
    for name in sorted({*before, *now}):
        if before.get(name, default.get(name)) != now.get(name, default.get(name)):
            return f"{name} was {before.get(name)!r} and is {now.get(name)!r}"
    return None


def _default() -> dict[str, Any]:
    return {**asdict(Recipe()), "retention": asdict(RetentionRecipe())}


def _flat(settings: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """The settings by their names with dots; an empty dictionary is none."""
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
