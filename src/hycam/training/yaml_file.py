"""YAML, read within bounds: a few bytes can nest, or repeat by aliases, to more than any machine holds."""

from __future__ import annotations

import reprlib
from pathlib import Path
from typing import Any

import yaml

from hycam.errors import HycamError

MOST_LEVELS = 50
MOST_VALUES = 100_000
_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_MERGE = "tag:yaml.org,2002:merge"


def read_yaml(path: Path) -> Any:
    """The content of a YAML file.

    Raises:
        HycamError: it cannot be read, is no UTF-8 or no YAML, has a key twice, nests deeper than ``MOST_LEVELS``, or
            has more than ``MOST_VALUES`` values once its aliases are written out. The message has file, line and
            column.
    """
    try:
        text = path.read_text(encoding="utf-8")
        _check_levels(path, text)
        check_keys(text, str(path))
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


def check_keys(text: str, name: str | None = None) -> None:
    """Refuses a mapping that has a key twice, of which PyYAML would keep the last and say nothing.

    A key that comes by ``<<`` may stand in the mapping as well: it is there to be overridden.

    Args:
        text: YAML.
        name: what the message calls the text; by default it shows how the text begins.

    Raises:
        HycamError: a key is there twice; the message has both lines.
        yaml.YAMLError: it is no YAML.
    """
    todo, seen = [yaml.compose(text, Loader=_LOADER)], set()
    while todo:
        node = todo.pop()
        if not isinstance(node, yaml.CollectionNode) or id(node) in seen:
            continue
        seen.add(id(node))  # by an alias a node may hold itself
        if isinstance(node, yaml.SequenceNode):
            todo += node.value
            continue
        lines: dict[Any, int] = {}
        for key, value in node.value:
            todo.append(value)
            if not isinstance(key, yaml.ScalarNode):
                continue  # which no dictionary takes, as loading it says
            known, line = _value(key), key.start_mark.line + 1
            if known in lines:
                both = f"on line {line}" if lines[known] == line else f"on lines {lines[known]} and {line}"
                raise HycamError(
                    f'{name or reprlib.repr(text)} has the key "{key.value}" twice, {both}, and only the last would '
                    "count. Join the two, or remove one."
                )
            lines[known] = line


def _value(key: yaml.ScalarNode) -> Any:
    """What the key of a dictionary is: ``"a"`` and ``a`` are the same one."""
    if key.tag == _MERGE:
        return key.tag, None
    constructor = yaml.constructor.SafeConstructor()
    return constructor.construct_object(key)


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
