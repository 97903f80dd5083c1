"""Tasks that are not in the table: a file, a folder or a hub dataset that a recipe names."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from itertools import permutations
from pathlib import Path

from hycam.data.columns import COLUMNS, ByColumns
from hycam.data.messages import TAGS
from hycam.data.read import ENDINGS, is_data_file
from hycam.data.recipe import TaskRecipe
from hycam.data.rows import label_of
from hycam.data.sources import NamedFile, OnHub, Source, Task, expanded, is_there
from hycam.errors import HycamError, nearest


def is_path(word: str) -> bool:
    """Whether a word in a list of tasks means a file or a folder: it is there, or it looks like one."""
    path = Path(word)
    return (bool(word) and is_there(path)) or len(path.parts) > 1 or is_data_file(path.name)


def own_task(entry: TaskRecipe, part_column: str | None = None) -> Task:
    """The task of an entry that has a path or a hub dataset.

    Args:
        entry: what it is, and where.
        part_column: has each row's part, where the task is split by a column.

    Raises:
        HycamError: the entry contradicts itself, or names columns or tags that do not exist.
    """
    if bool(entry.path) == bool(entry.hub):
        raise HycamError(f'The task "{name_of(entry)}" needs either a path or a hub dataset.')
    convert = _converter(entry, part_column)
    if entry.path:
        return _task(entry, NamedFile(expanded(entry.path), convert))
    return _task(entry, _on_hub(entry, entry.hub_split, convert))


def own_parts(entry: TaskRecipe, files: Mapping[str, str]) -> dict[str, Task]:
    """A task for each part: of the entry's hub dataset the named splits, else the named files or folders.

    Raises:
        HycamError: as :func:`own_task`.
    """
    convert = _converter(entry, None)
    if entry.path:
        raise HycamError(f'The task "{name_of(entry)}" is split by files, so its path would not be read: leave it out.')
    paths = {part: expanded(file).absolute() for part, file in files.items()}
    # As much of the path as it takes to tell the files apart.
    above = Path(os.path.commonpath([path.parent for path in paths.values()]))
    same_names = len({label_of(path.name) for path in paths.values()}) < len(paths)
    labels = {
        part: label_of(path.relative_to(above).as_posix() if same_names else path.name) for part, path in paths.items()
    }
    places = {part: Path(os.path.realpath(path)) for part, path in paths.items()}
    for one, other in permutations(files, 2):
        same = places[one] == places[other] or places[one] in places[other].parents or labels[one] == labels[other]
        if files[one] == files[other] or (not entry.hub and same):
            raise HycamError(
                f'The task "{name_of(entry)}" has the same rows for {one} and {other}: {files[one]} and {files[other]}.'
            )
    if entry.hub:
        return {part: _task(entry, _on_hub(entry, name, convert)) for part, name in files.items()}
    return {part: _task(entry, NamedFile(path, convert, labels[part])) for part, path in paths.items()}


def name_of(entry: TaskRecipe) -> str:
    """What the task of an entry is called: as it says, or after its file, folder or repository."""
    if entry.name is not None:
        return entry.name
    if entry.hub:
        return entry.hub.rpartition("/")[2]
    if not entry.path:
        raise HycamError("A task of your own needs a name where it has neither a path nor a hub dataset.")
    plain = label_of(expanded(entry.path).absolute().name)
    return next((plain[: -len(ending)] for ending in ENDINGS if plain.lower().endswith(ending)), plain)


def _task(entry: TaskRecipe, source: Source) -> Task:
    return Task(name=name_of(entry), domain=entry.domain, licence="own data", sources=(source,))


def _on_hub(entry: TaskRecipe, split: str, convert: ByColumns) -> OnHub:
    return OnHub(str(entry.hub), entry.revision, convert, split, entry.subset)


def _converter(entry: TaskRecipe, part_column: str | None) -> ByColumns:
    name = name_of(entry)
    if not entry.hub and (entry.subset or entry.revision or entry.hub_split != TaskRecipe.hub_split):
        raise HycamError(
            f'The task "{name}" has a subset, a revision or a hub_split, which only a hub dataset has: set hub.'
        )
    _check_words(f'columns of the task "{name}"', entry.columns, [word for word in COLUMNS if word != "part"])
    _check_words(f'tags of the task "{name}"', entry.tags, TAGS)
    missing = {"instruction", "response"} - entry.columns.keys()
    if len(missing) == 1 and "messages" not in entry.columns:
        raise HycamError(f'The columns of the task "{name}" lack {missing.pop()}: say which column holds it.')
    columns = entry.columns if part_column is None else {**entry.columns, "part": part_column}
    return ByColumns(columns, entry.tags, tuple(entry.ignore))


def _check_words(what: str, words: Mapping[str, str], known: Sequence[str]) -> None:
    for word in words:
        if word not in known:
            raise HycamError(
                f'The {what} have an unknown word "{word}".{nearest(word, known)} Known: {", ".join(known)}.'
            )
