"""What ``hycam data list | preview | stats | split | fetch`` read and print."""

from __future__ import annotations

import json
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from jsonargparse import Namespace
from rich.table import Table

from hycam.console import plain_console
from hycam.data.chosen import Chosen, chosen_tasks, task
from hycam.data.load import load_task
from hycam.data.partition import digest, partition, rows_of
from hycam.data.preview import preview
from hycam.data.recipe import PARTS, DataRecipe, MixtureRecipe, TaskRecipe
from hycam.data.sources import Task
from hycam.data.tasks import EMBEDDED, PAPER, TASKS
from hycam.errors import HycamError
from hycam.training.recipe import Recipe


def _recipe(chosen: Namespace, **settings: object) -> tuple[DataRecipe, str, bool]:
    """The data that the named recipe or study, or else the defaults, and the command line ask for.

    Returns:
        the data; the backbone (a study's first); whether code that comes with the backbone may run.
    """
    data, backbone, trusted = DataRecipe(), Recipe.backbone, False
    if chosen.recipe is not None:
        from hycam.study.recipe import StudyRecipe
        from hycam.training.parse import parse_recipe

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


VERBS = {"list": _list, "preview": _preview, "stats": _stats, "split": _split, "fetch": _fetch}
