"""Parsing for the verbs without a recipe, and ``--launch N``."""

from __future__ import annotations

from collections.abc import Sequence

from jsonargparse import ArgumentError, ArgumentParser, Namespace

from hycam.errors import UsageError


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
