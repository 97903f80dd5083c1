"""The tasks that a recipe asks for, each with where it is, how it is split, and what else was said of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from hycam.data.llama_factory import DatasetInfo, dataset_info
from hycam.data.own import is_path, name_of, own_parts, own_task
from hycam.data.recipe import DataRecipe, SplitRecipe, TaskRecipe
from hycam.data.tasks import TASKS, Task, task
from hycam.errors import HycamError, unknown


@dataclass(frozen=True)
class Chosen:
    """One task of a recipe. ``parts`` has a task for each part where it is split by files, and is empty otherwise."""

    name: str
    entry: TaskRecipe
    split: SplitRecipe
    task: Task | None
    parts: Mapping[str, Task]


def chosen_tasks(recipe: DataRecipe) -> dict[str, Chosen]:
    """The tasks of a recipe by name, in its order.

    Raises:
        HycamError: there is none, an unknown one or two of one name; an entry contradicts itself; the mixture's weights
            are not those of the tasks.
    """
    info = dataset_info(recipe.dataset_info) if recipe.dataset_info is not None else None
    wanted: list[str | TaskRecipe] = [*(recipe.tasks or (info.tasks() if info else ()))]
    if not wanted:
        raise HycamError('No task is named. Name some under "tasks"; `hycam data list` shows those there are.')
    found: dict[str, Chosen] = {}
    for entry in wanted:
        one = _chosen(entry, recipe.split, info)
        if one.name in found:
            raise HycamError(
                f'Two tasks are called "{one.name}": {_where(found[one.name])} and {_where(one)}. A file is called '
                "after its name, unless the recipe gives it another (name: ...); rename one of them, or leave one out."
            )
        found[one.name] = one
    recipe.mixture.check_tasks(list(found))
    return found


def _chosen(entry: str | TaskRecipe, split: SplitRecipe, info: DatasetInfo | None) -> Chosen:
    if isinstance(entry, str):
        if entry.lstrip().startswith(("[", "{")):
            raise HycamError(f"{entry} is neither a task nor a list of tasks: in a recipe its mistake would be named.")
        if info is not None and entry in info.names:
            entry = info.task(entry)
        elif entry in TASKS:
            entry = TaskRecipe(name=entry)
        elif is_path(entry):
            entry = TaskRecipe(path=entry)
        else:
            raise unknown("task", entry, [*TASKS, *(info.names if info else ())])
    split = entry.split or split
    if entry.name is not None and entry.path is None and entry.hub is None and split.by != "files":
        return _known(entry, split, info)
    if split.by == "files":
        return Chosen(name_of(entry), entry, split, None, own_parts(entry, split.files))
    return Chosen(name_of(entry), entry, split, own_task(entry, split.column), {})


def _known(entry: TaskRecipe, split: SplitRecipe, info: DatasetInfo | None) -> Chosen:
    """A task of the table, or of LLaMA-Factory's, with settings of its own."""
    assert entry.name is not None
    if info is not None and entry.name in info.names:
        raise HycamError(
            f'"{entry.name}" is an entry of {info.path}: say what is to be different there, and name it alone.'
        )
    known = task(entry.name)
    if split.by == "column" or entry.columns or entry.tags or entry.ignore:
        raise HycamError(
            f'The columns of the task "{entry.name}" are known: it has no columns or tags to name, and none to ignore.'
        )
    if entry.subset or entry.revision or entry.hub_split != TaskRecipe.hub_split:
        raise HycamError(f'Where the task "{entry.name}" comes from is known: set hub for another dataset there.')
    return Chosen(known.name, entry, split, known, {})


def _where(one: Chosen) -> str:
    return (one.task or one.parts["train"]).sources[0].describe()
