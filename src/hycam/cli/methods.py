"""``hycam methods``: every method with its trainable parameters on a backbone."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict

from jsonargparse import ArgumentParser
from rich.table import Table

from hycam.budget import budgets
from hycam.cli.arguments import parse
from hycam.console import plain_console, quiet_libraries
from hycam.methods import METHODS


def main(arguments: Sequence[str]) -> None:
    """Prints the table of methods; weights are neither downloaded nor allocated."""
    parser = ArgumentParser(
        prog="hycam methods", exit_on_error=False,
        description="Every method with its trainable parameters on a backbone. A folder that holds only a config.json "
        "is enough: no weights are read.",
    )  # fmt: skip
    parser.add_argument("--backbone", type=str, default="smollm2-135m", help="short name, folder or hub id")
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    chosen = parse(parser, arguments)
    quiet_libraries()
    entries = budgets(chosen.backbone)
    if chosen.json:
        always = ("name", "trainable_parameters", "total_parameters", "share")
        found = [{k: v for k, v in asdict(entry).items() if k in always or v is not None} for entry in entries]
        print(json.dumps(found, indent=2))
        return
    table = Table("method", "trainable", "share", "what is trained", box=None, padding=(0, 2, 0, 0))
    table.columns[1].justify = table.columns[2].justify = "right"
    for entry in entries:
        if entry.refused is not None:
            table.add_row(entry.name, "-", "-", entry.refused)
            continue
        summary = f"{METHODS[entry.name].summary}; {METHODS[entry.name].source}"
        if entry.deviation is not None:
            summary = f"{METHODS[entry.name].summary}: {entry.rank} ({entry.deviation:+.1%})"
        table.add_row(entry.name, f"{entry.trainable_parameters:,}", f"{entry.share:.2%}", summary)
    console = plain_console()
    console.print(table)
    console.print(
        f"{chosen.backbone} has {entries[0].total_parameters:,} parameters. Any other method of PEFT is "
        "`name: peft, config: {peft_type: ...}` in a recipe.",
        highlight=False,
    )
