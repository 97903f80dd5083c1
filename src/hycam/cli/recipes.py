"""``hycam recipes``: lists, shows and copies the recipes that come with the package."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from itertools import takewhile
from pathlib import Path

from jsonargparse import ArgumentParser

from hycam.cli.arguments import parse
from hycam.errors import HycamError
from hycam.training.recipe_file import RECIPES, packaged_recipe, packaged_recipes


def main(arguments: Sequence[str]) -> None:
    """Runs ``list``, ``show`` or ``copy``."""
    parser = ArgumentParser(
        prog="hycam recipes", exit_on_error=False,
        description="The recipes that come with the package. Their names stand for them in every verb: "
        "`hycam study quickstart`, or in this form too: `hycam study recipes/quickstart.yaml`.",
    )  # fmt: skip
    verbs = parser.add_subcommands()
    listing = ArgumentParser(exit_on_error=False, description="Every recipe, with the first sentence of its header.")
    listing.add_argument("--json", action="store_true", help="print JSON instead of a table")
    verbs.add_subcommand("list", listing)
    show = ArgumentParser(exit_on_error=False, description="Prints a recipe.")
    show.add_argument("name", type=str, help="such as quickstart or paper/base")
    verbs.add_subcommand("show", show)
    copy = ArgumentParser(exit_on_error=False, description="Copies a recipe, to be changed.")
    copy.add_argument("name", type=str, help="such as quickstart or paper/base")
    copy.add_argument("to", type=str, nargs="?", help="a file, or a folder that is there; by default this folder")
    verbs.add_subcommand("copy", copy)
    chosen = parse(parser, arguments)
    given = chosen[chosen.subcommand]
    if chosen.subcommand == "list":
        _list(given.json)
    elif chosen.subcommand == "show":
        print(packaged_recipe(given.name).read_text(encoding="utf-8"), end="")
    else:
        _copy(packaged_recipe(given.name), Path(given.to or "."))


def _list(as_json: bool) -> None:
    found = {name: _summary(RECIPES / f"{name}.yaml") for name in packaged_recipes()}
    if as_json:
        print(json.dumps([{"name": name, "summary": summary} for name, summary in found.items()], indent=2))
        return
    width = max(map(len, found))
    for name, summary in found.items():
        print(f"{name:{width}}  {summary}")


def _summary(file: Path) -> str:
    """The first sentence of the comment at the top."""
    lines = file.read_text(encoding="utf-8").splitlines()
    comment = " ".join(line.strip("# ") for line in takewhile(lambda line: line.startswith("#"), lines))
    return comment.partition(". ")[0].rstrip(".") + "."


def _copy(file: Path, to: Path) -> None:
    target = to / file.name if to.is_dir() else to
    if target.exists():
        raise HycamError(f"{target} is there already. Name another file: hycam recipes copy NAME FILE.")
    if not target.parent.is_dir():
        raise HycamError(f"There is no folder {target.parent} to copy the recipe into.")
    shutil.copyfile(file, target)
    print(target)
