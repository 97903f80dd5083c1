"""``hycam inspect RUN``: how an adapter routes, what it scales, and how it changes the representations."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from jsonargparse import ArgumentParser
from jsonargparse.typing import NonNegativeInt, PositiveInt

from hycam.cli.arguments import parse
from hycam.cli.importing import importing
from hycam.errors import UsageError

_DESCRIPTION = """What an adapter does.
routing: the router's mean probabilities for each task, or for --text token by token;
modulation: the factors minus 1 of one layer for --text;
representations: one t-SNE of a layer's values with the adapter on and off."""


def main(arguments: Sequence[str]) -> None:
    """Loads a run and prints a table, or JSON with every number."""
    parser = ArgumentParser(prog="hycam inspect", exit_on_error=False, description=_DESCRIPTION)
    parser.add_argument("run", type=str, help="the run folder")
    parser.add_argument("what", type=Literal["routing", "modulation", "representations"], nargs="?", default="routing",
                        help="routing, modulation or representations")  # fmt: skip
    parser.add_argument("--text", type=str, default=None, help="a text, used without a prompt template")
    parser.add_argument("--layer", type=NonNegativeInt, default=None,
                        help="counted from 0; by default the middle one, for routing the mean")  # fmt: skip
    parser.add_argument("--rows", type=PositiveInt, default=20, help="rows of each task to use")
    parser.add_argument(
        "--part", type=Literal["test", "validation", "train"], default="test", help="of the run's data to use"
    )
    parser.add_argument("--per", type=Literal["row", "token"], default="row",
                        help="whether a representation is the mean over a response or a token")  # fmt: skip
    parser.add_argument("--figure", type=str, default=None, help="also draw it, as FIGURE.png and FIGURE.svg")
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    chosen = parse(parser, arguments)
    if chosen.what == "modulation" and chosen.text is None:
        raise UsageError("hycam inspect RUN modulation needs a text (--text).")
    with importing():
        from hycam.cli.inspect_run import inspect
    inspect(chosen)
