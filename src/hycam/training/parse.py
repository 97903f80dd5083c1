"""A recipe from a YAML file and the command line, with errors that name the field and the nearest one."""

from __future__ import annotations

import re
import reprlib
from collections.abc import Iterable, Sequence
from dataclasses import fields, is_dataclass
from functools import cache
from pathlib import Path
from types import NoneType
from typing import Any, TypeVar, get_args, get_origin, get_type_hints

import yaml
from jsonargparse import (
    ActionConfigFile,
    ArgumentError,
    ArgumentParser,
    Namespace,
    get_loader,
    set_loader,
    set_parsing_settings,
)

from hycam.errors import HycamError, UsageError, nearest
from hycam.training.recipe_file import recipe_file

T = TypeVar("T")
_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_MERGE = "tag:yaml.org,2002:merge"

# By default jsonargparse imports and calls any class_path in a field of type Any: the recipe of a stranger's run folder
# could run any program.
set_parsing_settings(
    instantiate_subclass_spec_in_any=False, import_path_denylist=["*"], import_path_allowlist=["hycam"]
)

_load_yaml = get_loader("yaml")


def _load_once(text: str) -> Any:
    """Loads the value of an option as jsonargparse does, but refuses duplicate keys."""
    check_keys(text)
    return _load_yaml(text)


set_loader("yaml", _load_once, (yaml.YAMLError,))


@cache
def recipe_parser(kind: type, **kwargs: Any) -> ArgumentParser:
    """A parser with an option for every field of the dataclass ``kind``, nested ones with dots."""
    parser = ArgumentParser(exit_on_error=False, **kwargs)
    parser.add_argument("--recipe", action=ActionConfigFile, help="the recipe, a YAML file (or the first argument)")
    parser.add_class_arguments(kind, None)
    return parser


def parse_recipe(kind: type[T], arguments: Sequence[str], **kwargs: Any) -> T:
    """Reads a recipe and the overrides after it.

    Args:
        kind: the dataclass to fill.
        arguments: the recipe, if any (see :func:`hycam.training.recipe_file.recipe_file`), and then options such as
            ``--training.learning_rate 1e-4``.
        kwargs: for the parser, such as ``prog`` and ``description``.

    Raises:
        HycamError: the file is missing or not YAML, a field is unknown, or a value has the wrong type.
        UsageError: an option does not exist.
    """
    words = list(arguments)
    if words and not words[0].startswith("-"):
        words = ["--recipe", *words]
    paths = []
    for at, word in enumerate(words):
        is_path, is_both = at > 0 and words[at - 1] == "--recipe", word.startswith("--recipe=")
        if is_path or is_both:
            paths.append(recipe_file(word.partition("=")[2] if is_both else word))
            words[at] = f"--recipe={paths[-1]}" if is_both else str(paths[-1])
    for path in paths:
        _check_file(kind, path)
    parser = recipe_parser(kind, **kwargs)  # type: ignore[arg-type]  # a class is hashable
    try:
        parsed = parser.parse_args(words)
        _check_values(kind, parsed, "")
        filled = parser.instantiate(parsed)
    except ArgumentError as error:
        raise _explained(kind, str(error)) from error
    except HycamError:
        raise
    except OverflowError as error:
        raise HycamError(
            f"{' or '.join(map(str, paths)) or 'An option'} has a number that is too large ({error})."
        ) from error
    except ValueError as error:
        raise _refused(str(error)) from error
    return kind(**{entry.name: filled[entry.name] for entry in fields(kind)})  # type: ignore[arg-type]


def field_names(kind: type, prefix: str = "") -> list[str]:
    """The names of all fields, nested ones with dots.

    ``data.fold``; ``methods.*.name`` under any label; ``data.tasks.[].path`` in the entries of a list.
    """
    names = []
    for name, annotation in get_type_hints(kind).items():
        names.append(prefix + name)
        inside, where = annotation, ""
        if get_origin(annotation) is dict:
            inside, where = get_args(annotation)[1], "*."
        elif get_origin(annotation) is list:
            inside, where = get_args(annotation)[0], "[]."
        for possible in (inside, *get_args(inside)):  # itself, or one of a union
            if is_dataclass(possible):
                names += field_names(possible, f"{prefix}{name}.{where}")  # type: ignore[arg-type]
    return names


def _check_file(kind: type, path: Path) -> None:
    """Finds unknown fields; jsonargparse would name neither the file nor the nearest field."""
    content = read_yaml(path)
    if not isinstance(content, dict):
        raise HycamError(f"{path} holds no recipe: fields such as `backbone:` and `data:` were expected.")
    _check_fields(content, "", "", set(field_names(kind)), path)


def _check_fields(content: dict[Any, Any], prefix: str, pattern: str, known: set[str], path: Path) -> None:
    """``prefix`` is the place of ``content`` in the file; ``pattern`` the same with a star for every free label."""
    is_labelled = any(name.startswith(f"{pattern}*.") for name in known)
    for key, value in content.items():
        name, as_known = f"{prefix}{key}", f"{pattern}{'*' if is_labelled else key}"
        if as_known not in known and not is_labelled:
            hint = nearest(as_known, known).replace(".[]", "")
            raise HycamError(f'{path} has an unknown field "{name}".{hint}')
        if value is not None and not isinstance(value, dict) and (group := _fields_of(as_known, known)):
            raise HycamError(f"{path}: {_is_group(name, group)}")
        if isinstance(value, dict) and any(entry.startswith(f"{as_known}.") for entry in known):
            _check_fields(value, f"{name}.", f"{as_known}.", known, path)
        if isinstance(value, list) and any(entry.startswith(f"{as_known}.[].") for entry in known):
            for number, item in enumerate(value):
                if isinstance(item, dict):
                    _check_fields(item, f"{name}[{number}].", f"{as_known}.[].", known, path)


def _fields_of(group: str, known: Iterable[str]) -> list[str]:
    """The names of a group's own fields; empty for a field that is not a group, and for lists and dictionaries."""
    inside = (name.removeprefix(f"{group}.") for name in known if name.startswith(f"{group}."))
    return sorted(name for name in inside if "." not in name and name not in ("*", "[]"))


def _is_group(name: str, fields: Sequence[str]) -> str:
    # A word in place of a group is usually its name, as in `executor: ray`.
    example = "name" if "name" in fields else fields[0]
    return f"{name} has fields of its own ({', '.join(fields)}): set one of them, such as `{name}: {{{example}: ...}}`."


def _check_values(kind: type, parsed: Any, prefix: str) -> None:
    """Refuses null where it is not allowed, and names that are not text; jsonargparse accepts some of both."""
    for name, annotation in get_type_hints(kind).items():
        value, kinds = parsed[name], (annotation, *get_args(annotation))
        if value is None and NoneType not in kinds and annotation is not Any:
            raise HycamError(f"{prefix}{name} is null: leave it out for its default, or give it a value.")
        if isinstance(value, dict):
            for key in value:
                if not isinstance(key, str):
                    raise HycamError(f"{prefix}{name} has {key!r} as a name, which is not text: put it in quotes.")
        inner = [one for one in (*kinds, *(arg for one in kinds for arg in get_args(one))) if is_dataclass(one)]
        if not inner or isinstance(value, (str, int, float, NoneType)):
            continue
        if annotation is inner[0] or set(get_args(annotation)) == {inner[0], NoneType}:
            found = {f"{prefix}{name}.": value}
        elif isinstance(value, list):
            found = {f"{prefix}{name}[{at}].": item for at, item in enumerate(value)}
        else:
            found = {f"{prefix}{name}.{label}.": item for label, item in dict(value).items()}
        for place, item in found.items():
            if isinstance(item, Namespace):
                _check_values(inner[0], item, place)  # type: ignore[arg-type]


def _explained(kind: type, message: str) -> HycamError:
    unknown_option = re.search(r"unrecognized arguments: --([\w.]+)", message)
    if unknown_option:
        name = unknown_option.group(1)
        return UsageError(f"There is no option --{name}.{nearest(name, field_names(kind))}")
    keys = re.findall(r'Parser key "([\w.]+)":', message)
    if keys:
        # In an entry of a list the innermost key is the wrong one, with the reason after it.
        key, rest = ".".join(dict.fromkeys(keys)), message.rpartition(f'Parser key "{keys[-1]}":')[2].strip()
        unknown_field = re.search(r"[Oo]ption '(\w+)' is not accepted", rest)
        if unknown_field:
            known = (name.rpartition(".")[2] for name in field_names(kind) if name.startswith(f"{key}."))
            return HycamError(f'{key} has an unknown field "{unknown_field[1]}".{nearest(unknown_field[1], known)}')
        if group := _fields_of(key, field_names(kind)):
            return HycamError(_is_group(key, group))
        expected = re.search(r"Expected an? (?:<class ')?(?:typing\.)?(.+?)(?:'>)?(?:\. Got|\n|$)", rest)
        got = re.search(r"(?:Got value|Given value): (.*)", rest)
        what = f"expected {expected.group(1)}" if expected else rest.splitlines()[0].rstrip(".")
        return HycamError(f"{key} has a wrong value: {what}{f', got {got.group(1)}' if got else ''}.")
    return HycamError(message)


def _refused(message: str) -> HycamError:
    """Why a dataclass in a list refuses its fields: its own message among those of all types tried."""
    reasons = re.findall(r"^\s*- (?!Expected|Does not validate)(.*)$", message, re.MULTILINE)
    return HycamError(reasons[0] if reasons else message)


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
