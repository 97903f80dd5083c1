"""Where a recipe is: a file of one's own, or one that comes with the package."""

from __future__ import annotations

from pathlib import Path

from hycam.errors import HycamError, nearest

RECIPES = Path(__file__).parents[1] / "recipes"
"""The recipes that come with the package."""


def recipe_file(given: str) -> Path:
    """The file of that path or, where there is none, the recipe of that name which comes with the package.

    ``recipes/pilot/pilot.yaml`` and ``pilot/pilot`` name the same one: a checkout has it under the first.

    Raises:
        HycamError: there is neither.
    """
    path = Path(given)
    if path.is_file():
        return path
    beside = (entry.name for entry in path.parent.glob("*.y*ml"))
    return packaged_recipe(given, nearest(path.name, beside))


def packaged_recipe(given: str, hint: str = "") -> Path:
    """The file of a recipe that comes with the package.

    Raises:
        HycamError: there is none of that name; the message ends in ``hint``, or else names the nearest.
    """
    name = given.removeprefix("recipes/").removesuffix(".yaml")
    if name not in packaged_recipes():
        raise HycamError(f"There is no recipe {given}.{hint or nearest(name, packaged_recipes())}")
    return RECIPES / f"{name}.yaml"


def packaged_recipes() -> list[str]:
    """The names of the recipes that come with the package, such as ``quickstart`` and ``pilot/pilot``."""
    return sorted(file.relative_to(RECIPES).with_suffix("").as_posix() for file in RECIPES.rglob("*.yaml"))
