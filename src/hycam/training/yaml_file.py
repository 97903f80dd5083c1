"""A YAML file, read within bounds: a few bytes can nest, or repeat by aliases, to more than any machine holds."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from hycam.errors import HycamError

MOST_LEVELS = 50
MOST_VALUES = 100_000
_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


def read_yaml(path: Path) -> Any:
    """The content of a YAML file.

    Raises:
        HycamError: it cannot be read, is no UTF-8 or no YAML, nests deeper than ``MOST_LEVELS``, or has more than
            ``MOST_VALUES`` values once its aliases are written out. The message has file, line and column.
    """
    try:
        text = path.read_text(encoding="utf-8")
        _check_levels(path, text)
        content = yaml.safe_load(text)
    except HycamError:
        raise
    except OSError as error:
        raise HycamError(f"{path} cannot be read: {error.strerror or error}.") from error
    except Exception as error:  # a value that is not what its tag says makes the library raise whatever comes first
        mark = getattr(error, "problem_mark", None)
        where = f"{path}:{mark.line + 1}:{mark.column + 1}" if mark else str(path)
        raise HycamError(f"{where} is not YAML: {getattr(error, 'problem', None) or error}.") from error
    _check_size(path, content)
    return content


def _check_levels(path: Path, text: str) -> None:
    """As a stream: the reader that makes values takes seconds for some thousand brackets."""
    level = 0
    for event in yaml.parse(text, Loader=_LOADER):
        if isinstance(event, yaml.CollectionStartEvent):
            level += 1
            if level > MOST_LEVELS:
                mark = event.start_mark
                raise HycamError(
                    f"{path}:{mark.line + 1}:{mark.column + 1} is nested deeper than {MOST_LEVELS} levels."
                )
        elif isinstance(event, yaml.CollectionEndEvent):
            level -= 1


def _check_size(path: Path, content: Any) -> None:
    todo, values = [content], 0
    while todo:
        one = todo.pop()
        values += 1
        if values > MOST_VALUES:  # also where a value holds itself
            raise HycamError(f"{path} has more than {MOST_VALUES:,} values, its aliases written out.")
        if isinstance(one, dict):
            todo += one.values()
        elif isinstance(one, (list, tuple, set)):
            todo += one
