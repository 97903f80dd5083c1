"""``hycam data list | preview | fetch``: the tasks, a row as tokens, the embedded data."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict

from jsonargparse import ArgumentParser, Namespace
from jsonargparse.typing import PositiveInt
from rich.console import Console
from rich.table import Table

from hycam.cli.arguments import parse
from hycam.console import quiet_libraries
from hycam.data.catalog import catalog, fetch
from hycam.data.encode import Overlong
from hycam.data.preview import preview
from hycam.data.prompts import PromptStyle
from hycam.data.recipe import DataRecipe
from hycam.data.tasks import EMBEDDED, task


def parser() -> ArgumentParser:
    """The parser of ``hycam data``; the chosen verb is under ``action``."""
    listing = ArgumentParser(
        exit_on_error=False, description="The known tasks, with the rows of those whose data are on this machine."
    )
    listing.add_argument("--json", action="store_true", help="print JSON instead of a table")

    shown = ArgumentParser(
        exit_on_error=False, description="Rows as the model sees them: token by token, with what is trained marked."
    )
    shown.add_argument("task", type=str, help="name of a task, or a file with instruction and output")
    shown.add_argument("--rows", type=PositiveInt, default=3, help="how many rows to print")
    shown.add_argument("--prompt", type=PromptStyle, default=DataRecipe.prompt, help="form of the prompt")
    shown.add_argument(
        "--backbone", type=str, default="smollm2-135m", help="whose tokenizer: short name, folder or hub id"
    )
    shown.add_argument("--max_length", type=PositiveInt, default=DataRecipe.max_length, help="most tokens of a row")
    shown.add_argument("--overlong", type=Overlong, default=DataRecipe.overlong, help="what becomes of longer rows")

    fetched = ArgumentParser(exit_on_error=False, description="Brings data into the cache and says where they are.")
    fetched.add_argument("tasks", type=str, nargs="*", help="names of tasks; by default all that come with pip alone")

    whole = ArgumentParser(
        prog="hycam data", exit_on_error=False, description="The tasks, a row as tokens, the embedded data."
    )
    verbs = whole.add_subcommands(dest="action")
    verbs.add_subcommand("list", listing, help="the known tasks")
    verbs.add_subcommand("preview", shown, help="a row as the model sees it")
    verbs.add_subcommand("fetch", fetched, help="bring data into the cache")
    return whole


def main(arguments: Sequence[str]) -> None:
    """Parses the arguments and does what they ask for; prints to standard output."""
    parsed = parse(parser(), arguments)
    quiet_libraries()
    chosen = parsed[parsed.action]
    if parsed.action == "list":
        _list(chosen.json)
    elif parsed.action == "preview":
        _preview(chosen)
    else:
        _fetch(chosen.tasks)


def _list(as_json: bool) -> None:
    entries = catalog()
    if as_json:
        print(json.dumps([asdict(entry) for entry in entries], indent=2))
        return
    table = Table("task", "domain", "rows", "licence", "source", box=None, padding=(0, 2, 0, 0))
    table.columns[2].justify = "right"
    table.columns[4].min_width = 26
    for entry in entries:
        rows = "-" if entry.rows is None else f"{entry.rows:,}"
        table.add_row(entry.name, entry.domain, rows, entry.licence, entry.source)
    console = Console()
    console.print(table)
    if any(entry.rows is None for entry in entries):
        console.print('"-": not on this machine yet; `hycam data fetch` brings the embedded ones.', highlight=False)


def _preview(chosen: Namespace) -> None:
    from hycam.backbones import load_tokenizer

    preview(
        chosen.task,
        load_tokenizer(chosen.backbone),
        Console(),
        rows=chosen.rows,
        style=chosen.prompt,
        max_length=chosen.max_length,
        overlong=chosen.overlong,
    )


def _fetch(names: list[str]) -> None:
    wanted = names or EMBEDDED
    for name in wanted:
        task(name)  # a misspelt name is said before anything is fetched
    terminal = Console(stderr=True)
    for number, name in enumerate(wanted, 1):
        with terminal.status(f"Fetching {name} ({number} of {len(wanted)})"):  # shown on a terminal only
            where = fetch(name)
        print(f"{name}: {where}")
