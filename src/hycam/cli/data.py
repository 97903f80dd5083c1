"""``hycam data list | preview | stats | split | fetch``: the tasks, what a model sees of them, their splits."""

from __future__ import annotations

from collections.abc import Sequence

from jsonargparse import ArgumentParser
from jsonargparse.typing import PositiveInt

from hycam.cli.arguments import parse
from hycam.cli.importing import importing
from hycam.data.recipe import Overlong
from hycam.training.recipe import Recipe


def parser() -> ArgumentParser:
    """The parser of ``hycam data``; the chosen verb is under ``action``."""
    whole = ArgumentParser(
        prog="hycam data", exit_on_error=False, description="The tasks, what a model sees of them, and their splits."
    )
    verbs = whole.add_subcommands(dest="action")

    def verb(name: str, help: str, description: str) -> ArgumentParser:
        made = ArgumentParser(exit_on_error=False, description=description)
        verbs.add_subcommand(name, made, help=help)
        return made

    listed = verb("list", "the known tasks", "The known tasks, with the rows of those whose data are on this machine.")
    listed.add_argument("--json", action="store_true", help="print JSON instead of a table")

    shown = verb(
        "preview",
        "rows as the model sees them, and what becomes of all rows",
        "Rows as the model sees them, token by token, with what is trained marked; what becomes of all.",
    )
    _add_tokenizer(shown)
    _add_source(shown)
    shown.add_argument("task", type=str, help="name of a task, a file or a folder")
    shown.add_argument("--rows", type=PositiveInt, default=3, help="how many rows to print")
    shown.add_argument("--prompt", type=str, default=None, help="alpaca (the default), paper, chat or a template")
    shown.add_argument("--max_length", type=PositiveInt, default=None, help="most tokens of a row")
    shown.add_argument("--overlong", type=Overlong, default=None, help="what becomes of longer rows")

    counted = verb(
        "stats",
        "rows and tokens, as in the paper's Table 1",
        "Rows and tokens of tasks, counted as Table 1 of the paper counts them.",
    )
    _add_tokenizer(counted)
    _add_source(counted)
    which = "tasks, files or folders; by default the recipe's, or the paper's five"
    counted.add_argument("tasks", type=str, nargs="*", default=[], help=which)
    counted.add_argument("--prompt", type=str, default="paper", help="paper (the default), alpaca, chat or a template")
    counted.add_argument("--json", action="store_true", help="print JSON instead of a table")

    divided = verb("split", "which rows are in which part", "Which rows are trained, validated and tested on.")
    _add_source(divided)
    divided.add_argument("task", type=str, help="name of a task, a file or a folder")
    divided.add_argument("--fold", type=int, default=None, help="which of the five folds, 0 to 4")
    divided.add_argument("--seed", type=int, default=None, help="orders the rows before they are split")
    divided.add_argument("--rows", action="store_true", help="print the identity of every row too")
    divided.add_argument("--json", action="store_true", help="print JSON instead of lines")

    fetched = verb("fetch", "bring data into the cache", "Brings data into the cache and says where they are.")
    which = "names of tasks; by default all that come with pip alone"
    fetched.add_argument("tasks", type=str, nargs="*", default=[], help=which)
    return whole


def _add_tokenizer(made: ArgumentParser) -> None:
    which = f"a backbone's (the recipe's, or {Recipe.backbone}): short name, folder or hub id; or llama-3"
    made.add_argument("--tokenizer", "--backbone", type=str, default=None, help=which)


def _add_source(made: ArgumentParser) -> None:
    made.add_argument("--recipe", type=str, default=None, help="a recipe that says what the task is")
    listing = "a dataset_info.json of LLaMA-Factory, or its folder"
    made.add_argument("--dataset_info", type=str, default=None, help=listing)
    made.add_argument("--skip_bad_rows", action="store_true", help="count and skip malformed rows")


def main(arguments: Sequence[str]) -> None:
    """Parses the arguments and does what they ask for; prints to standard output."""
    parsed = parse(parser(), arguments)
    with importing():
        from hycam.cli.data_run import VERBS
        from hycam.console import quiet_libraries

        quiet_libraries(informative=parsed.action != "list")
    VERBS[parsed.action](parsed[parsed.action])
