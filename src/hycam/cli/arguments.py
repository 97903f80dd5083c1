"""Parsing for the verbs that take no recipe."""

from __future__ import annotations

from collections.abc import Sequence

from jsonargparse import ArgumentError, ArgumentParser, Namespace

from hycam.errors import UsageError


def parse(parser: ArgumentParser, arguments: Sequence[str]) -> Namespace:
    """The parsed arguments; ``parser`` is made with ``exit_on_error=False``.

    Raises:
        UsageError: an argument is missing, unknown, or has a wrong value.
    """
    try:
        return parser.parse_args(list(arguments))
    except ArgumentError as error:
        raise UsageError(str(error)) from error
