"""YAML files, in which a duplicate key is an error."""

from __future__ import annotations

import reprlib
from pathlib import Path
from typing import Any

import yaml

from hycam.errors import HycamError

_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_MERGE = "tag:yaml.org,2002:merge"


def read_yaml(path: Path) -> Any:
    """The content of a YAML file.

    Raises:
        HycamError: it cannot be read, is not YAML in UTF-8, or has a duplicate key. The message says where.
    """
    try:
        text = path.read_text(encoding="utf-8")
        check_keys(text, str(path))
        return yaml.safe_load(text)
    except HycamError:
        raise
    except OSError as error:
        raise HycamError(f"{path} cannot be read: {error.strerror or error}.") from error
    except Exception as error:  # a value that contradicts its tag makes PyYAML raise anything
        mark = getattr(error, "problem_mark", None)
        where = f"{path}:{mark.line + 1}:{mark.column + 1}" if mark else str(path)
        raise HycamError(f"{where} is not YAML: {getattr(error, 'problem', None) or error}.") from error


def check_keys(text: str, name: str | None = None) -> None:
    """Refuses duplicate keys, of which PyYAML would silently keep the last. A merged key (``<<``) may be overridden.

    Args:
        text: YAML.
        name: what the message calls the text; by default its beginning.

    Raises:
        HycamError: a key is there twice; the message has both lines.
        yaml.YAMLError: it is not YAML.
    """
    todo, seen = [yaml.compose(text, Loader=_LOADER)], set()
    while todo:
        node = todo.pop()
        if not isinstance(node, yaml.CollectionNode) or id(node) in seen:
            continue
        seen.add(id(node))  # an alias may make a node contain itself
        if isinstance(node, yaml.SequenceNode):
            todo += node.value
            continue
        lines: dict[Any, int] = {}
        for key, value in node.value:
            todo.append(value)
            if not isinstance(key, yaml.ScalarNode):
                continue  # loading it fails
            known, line = _value(key), key.start_mark.line + 1
            if known in lines:
                both = f"on line {line}" if lines[known] == line else f"on lines {lines[known]} and {line}"
                raise HycamError(
                    f'{name or reprlib.repr(text)} has the key "{key.value}" twice, {both}, and only the last would '
                    "count. Join the two, or remove one."
                )
            lines[known] = line


def _value(key: yaml.ScalarNode) -> Any:
    """A key as it is loaded: ``"a"`` and ``a`` are the same."""
    if key.tag == _MERGE:
        return key.tag, None
    constructor = yaml.constructor.SafeConstructor()
    return constructor.construct_object(key)
