"""The fields that a study varies: their names and values checked, their combinations, and one put into a recipe."""

from __future__ import annotations

import itertools
from argparse import ArgumentError
from collections.abc import Iterator, Mapping
from dataclasses import fields, is_dataclass, replace
from typing import Any, get_type_hints

from jsonargparse import Namespace

from hycam.errors import HycamError, nearest
from hycam.training.parse import field_names, recipe_parser
from hycam.training.recipe import Recipe

# Below these names stand fields that the recipe itself does not know.
_OPEN = ("method.config.", "method.optimizer.multipliers.", "training.extra.", "evaluation.config.")
# What a study has a list for, or makes itself.
_OWN = {"data.fold": "folds", "training.seed": "seeds", "backbone": "backbones", "method.name": "methods"}


def checked(vary: Mapping[str, list[Any]]) -> dict[str, list[Any]]:
    """The values of each field, as its type has them (``1e-4`` is a word to YAML, and a number to a learning rate).

    Raises:
        HycamError: a name is no field of a recipe (the nearest is named), or one that a study has a list for; or a
            value is not of the field's type.
    """
    known = [name for name in field_names(Recipe) if name != "output"]
    for name in vary:
        if name in _OWN:
            raise HycamError(f"vary cannot vary {name}: the study has {_OWN[name]} for it.")
        if name not in known and not name.startswith(_OPEN):
            raise HycamError(f'vary names "{name}", which is no field of a recipe.{nearest(name, known)}')
        if is_dataclass(_hint(name)):
            raise HycamError(f"vary names {name}, which has fields of its own: vary one of them, such as "
                             f"{next(entry for entry in known if entry.startswith(f'{name}.'))}.")  # fmt: skip
    return {name: [_typed(name, value) for value in values] for name, values in vary.items()}


def combinations(vary: Mapping[str, list[Any]]) -> Iterator[dict[str, Any]]:
    """Every combination of the values, by name; the last field changes fastest."""
    for values in itertools.product(*vary.values()):
        yield dict(zip(vary, values, strict=True))


def with_setting(kept: Any, name: str, value: Any) -> Any:
    """A copy of a recipe (or a part of one) with another value in a field, by its name with dots."""
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
    """The type of a field as its source has it, such as ``int | None``."""
    owner, _, last = name.rpartition(".")
    entries = fields(_hint(owner) if owner else Recipe)
    return next(str(entry.type) for entry in entries if entry.name == last)


def told(name: str, value: Any) -> str:
    """A varied field in words: ``train_rows 32``, or ``routing hard, noise never`` where it is a dictionary."""
    if isinstance(value, Mapping):
        return ", ".join(told(*entry) for entry in value.items())
    return f"{name.rpartition('.')[2]} {value}"
