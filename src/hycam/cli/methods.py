"""``hycam methods``: every method with its trainable parameters on a backbone."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from typing import Any

from jsonargparse import ArgumentParser
from rich.table import Table

from hycam.cli.arguments import parse
from hycam.cli.importing import importing
from hycam.console import plain_console, quiet_libraries
from hycam.errors import HycamError


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
    with importing():
        from hycam.methods import METHODS

        quiet_libraries()
    entries = budgets(chosen.backbone)
    if chosen.json:
        print(json.dumps(entries, indent=2))
        return
    table = Table("method", "trainable", "share", "what is trained", box=None, padding=(0, 2, 0, 0))
    table.columns[1].justify = table.columns[2].justify = "right"
    for entry in entries:
        name, method = entry["name"], METHODS[entry["name"]]
        if "refused" in entry:
            table.add_row(name, "-", "-", entry["refused"])
            continue
        summary = f"{method.summary}; {method.source}"
        if "rank" in entry:
            summary = f"{method.summary}: {entry['rank']} ({entry['deviation']:+.1%})"
        table.add_row(name, f"{entry['trainable_parameters']:,}", f"{entry['share']:.2%}", summary)
    console = plain_console()
    console.print(table)
    console.print(
        f"{chosen.backbone} has {entries[0]['total_parameters']:,} parameters. Any other method of PEFT is "
        "`name: peft, config: {peft_type: ...}` in a recipe.",
        highlight=False,
    )


def budgets(backbone: str | os.PathLike[str]) -> list[dict[str, Any]]:
    """The size of every method on a backbone, in the order of the table, counted without weights.

    Returns:
        ``name``, ``trainable_parameters``, ``total_parameters`` (of the backbone alone) and ``share`` of each; also
        ``rank`` and ``deviation`` (from the other's number of trainable parameters, relative) of a ``-matched`` method.
        A method that cannot adapt the backbone has None for its figures, and the reason as ``refused``.

    Raises:
        HycamError: there is no such backbone.
    """
    from hycam import backbones
    from hycam.adapt import adapt, empty_backbone, trainable_parameters
    from hycam.methods import METHODS

    config = backbones.config(backbone)
    total = empty_backbone(config).num_parameters()
    found: dict[str, dict[str, Any]] = {}
    for name, method in METHODS.items():
        found[name] = {"name": name, "trainable_parameters": None, "total_parameters": total, "share": None}
        try:
            adapted = adapt(empty_backbone(config), name, empty=True)  # afresh, since adapters change it
        except HycamError as error:
            found[name]["refused"] = str(error)
            continue
        trainable = trainable_parameters(adapted)
        found[name] |= {"trainable_parameters": trainable, "share": trainable / total}
        if method.same_size_as:
            found[name]["rank"] = getattr(adapted.peft_config["default"], method.rank)
            found[name]["deviation"] = trainable / found[method.same_size_as]["trainable_parameters"] - 1
    return list(found.values())
