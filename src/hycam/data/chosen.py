"""The tasks that a recipe asks for: names, files, folders, hub datasets, entries of LLaMA-Factory's list."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import permutations
from pathlib import Path

from hycam.data.columns import COLUMNS, ByColumns
from hycam.data.llama_factory import DatasetInfo, dataset_info
from hycam.data.messages import TAGS
from hycam.data.read import ENDINGS, is_data_file
from hycam.data.recipe import PARTS, DataRecipe, SplitRecipe, TaskRecipe
from hycam.data.rows import label_of
from hycam.data.sources import NamedFile, OnHub, Source, Task, expanded, is_there
from hycam.data.tasks import TASKS
from hycam.errors import HycamError, nearest, unknown


@dataclass(frozen=True)
class Chosen:
    """One task of a recipe. ``tasks`` is one that has all rows, or in a split by files one for each of ``PARTS``."""

    name: str
    entry: TaskRecipe
    split: SplitRecipe
    tasks: tuple[Task, ...]


def chosen_tasks(recipe: DataRecipe) -> dict[str, Chosen]:
    """The tasks of a recipe by name, in its order.

    Raises:
        HycamError: there is none, an unknown one, or two of one name; an entry contradicts itself; the weights of the
            mixture do not match the tasks.
    """
    info = dataset_info(recipe.dataset_info) if recipe.dataset_info is not None else None
    wanted: list[str | TaskRecipe] = [*(recipe.tasks or (info.tasks() if info else ()))]
    if not wanted:
        raise HycamError('No task is named. Name some under "tasks"; `hycam data list` shows those there are.')
    found: dict[str, Chosen] = {}
    for entry in wanted:
        one = _chosen(entry, recipe.split, info)
        if one.name in found:
            where = " and ".join(each.tasks[0].sources[0].describe() for each in (found[one.name], one))
            raise HycamError(
                f'Two tasks are called "{one.name}": {where}. A task is called after its file unless the recipe names '
                "it (name: ...): rename one of them, or remove one."
            )
        found[one.name] = one
    recipe.mixture.check_tasks(list(found))
    return found


def _chosen(entry: str | TaskRecipe, split: SplitRecipe, info: DatasetInfo | None) -> Chosen:
    if isinstance(entry, str):
        if entry.lstrip().startswith(("[", "{")):
            raise HycamError(
                f"{entry} is neither a task nor a list of tasks. In a recipe file the error would be located."
            )
        if info is not None and entry in info.names:
            entry = info.task(entry)
        elif entry in TASKS:
            entry = TaskRecipe(name=entry)
        elif is_path(entry):
            entry = TaskRecipe(path=entry)
        else:
            raise unknown("task", entry, [*TASKS, *(info.names if info else ())])
    split = entry.split or split
    if split.by == "files":
        of_parts = own_parts(entry, split.files)
        tasks = tuple(of_parts[part] for part in PARTS)
    elif entry.name is not None and entry.path is None and entry.hub is None:
        tasks = (_known(entry, entry.name, split, info),)
    else:
        tasks = (own_task(entry, split.column),)
    return Chosen(name_of(entry), entry, split, tasks)


def _known(entry: TaskRecipe, name: str, split: SplitRecipe, info: DatasetInfo | None) -> Task:
    """A task of the table with settings of its own."""
    if info is not None and name in info.names:
        raise HycamError(f'"{name}" is an entry of {info.path}: make your changes there, and name it alone here.')
    known = task(name)
    if split.by == "column" or entry.columns or entry.tags or entry.ignore:
        raise HycamError(
            f'The columns of the task "{name}" are known: it has no columns or tags to name, and none to ignore.'
        )
    if entry.subset or entry.revision or entry.hub_split != TaskRecipe.hub_split:
        raise HycamError(f'Where the task "{name}" comes from is known: set hub for another dataset there.')
    return known


def task(name_or_path: str) -> Task:
    """The task of that name, or the file or folder at that path as a task named after it.

    Raises:
        HycamError: it is neither a known name nor like a path; the message names the nearest known task.
    """
    if name_or_path in TASKS:
        return TASKS[name_or_path]
    if not is_path(name_or_path):
        raise unknown("task", name_or_path, TASKS)
    return own_task(TaskRecipe(path=name_or_path))


def is_path(word: str) -> bool:
    """Whether a word in a list of tasks means a file or a folder: it exists, or looks like a path."""
    path = Path(word)
    return (bool(word) and is_there(path)) or len(path.parts) > 1 or is_data_file(path.name)


def own_task(entry: TaskRecipe, part_column: str | None = None) -> Task:
    """The task of an entry that has a path or a hub dataset.

    Args:
        entry: of the recipe.
        part_column: the column with each row's part, if the task is split by one.

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
    """A task for each part: the named splits of the entry's hub dataset, or the named files or folders.

    Raises:
        HycamError: as :func:`own_task`.
    """
    convert = _converter(entry, None)
    if entry.path:
        raise HycamError(f'The task "{name_of(entry)}" is split by files, so its path would not be read: remove it.')
    paths = {part: expanded(file).absolute() for part, file in files.items()}
    # If their names are the same, paths below the common folder tell the files apart.
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
    """The name of an entry's task: its own, or that of its file, folder or repository."""
    if entry.name is not None:
        return entry.name
    if entry.hub:
        return entry.hub.rpartition("/")[2]
    if not entry.path:
        raise HycamError("A task needs a name if it has neither a path nor a hub dataset.")
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
