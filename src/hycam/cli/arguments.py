"""Parsing for the verbs: a recipe or a study with its overrides, other arguments, and ``--launch N``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TypeVar

from jsonargparse import ArgumentError, ArgumentParser, Namespace

from hycam.cli.help import often_set
from hycam.errors import UsageError
from hycam.training.parse import parse_recipe

T = TypeVar("T")


def parsed(kind: type[T], groups: Mapping[str, Sequence[str]], words: Sequence[str], prog: str, description: str) -> T:
    """A recipe of this kind and the overrides after it; ``--help`` prints the fields of ``groups`` and exits.

    Raises:
        HycamError: see :func:`hycam.training.parse.parse_recipe`.
    """
    asked = [at for at, word in enumerate(words) if word in ("-h", "--help")]
    if asked and list(words[asked[0] + 1 :]) != ["all"]:
        print(often_set(kind, groups, prog, description), end="")
        raise SystemExit(0)
    return parse_recipe(kind, ["--help"] if asked else words, prog=prog, description=description)


def parse(parser: ArgumentParser, arguments: Sequence[str]) -> Namespace:
    """The parsed arguments; ``parser`` was made with ``exit_on_error=False``.

    Raises:
        UsageError: an argument is missing, unknown, or has a wrong value.
    """
    try:
        return parser.parse_args(list(arguments))
    except ArgumentError as error:
        raise UsageError(str(error)) from error


def without_launch(arguments: Sequence[str]) -> tuple[list[str], int | None]:
    """The arguments without ``--launch N``, and N, the number of processes that train together.

    Raises:
        UsageError: N is missing, or is not a number above 0.
    """
    words = list(arguments)
    for place, word in enumerate(words):
        if word == "--launch" or word.startswith("--launch="):
            given = words[place + 1 : place + 2] if word == "--launch" else [word.partition("=")[2]]
            if not given or not given[0].isdecimal() or int(given[0]) < 1:
                raise UsageError("--launch needs the number of processes, such as --launch 2.")
            return words[:place] + words[place + (2 if word == "--launch" else 1) :], int(given[0])
    return words, None
