"""The part of a recipe that says what the data are: the tasks, their splits, their mixture, and the form of a row."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

from hycam.errors import HycamError, nearest

PARTS = ("train", "validation", "test")

By = Literal["folds", "disjoint", "count", "column", "files"]
Exhaustion = Literal["stop", "cycle", "drop"]
Overlong = Literal["shorten", "drop"]
Strategy = Literal["concatenate", "proportional", "temperature", "equal", "weights"]
Turns = Literal["all", "last"]


@dataclass
class SplitRecipe:
    """How rows are divided into training, validation and test. Rows of one group are never separated.

    Args:
        by: ``folds`` is the five-fold scheme (7 : 2 : 1); ``disjoint`` divides the rows into replicates that share none
            and splits the one that ``data.fold`` names; ``count`` takes so many rows for validation and test and
            leaves the rest for training; ``column`` reads each row's part from a column; ``files`` has a file, a folder
            or (of a hub dataset) a split for each part.
        column: With ``column``, its name. Its values are train, validation and test.
        files: With ``files``, what to read for ``train``, ``validation`` and ``test``.
        replicates: With ``disjoint``, how many.
        validation_rows: With ``count`` and ``disjoint``, rows of the validation part.
        test_rows: With ``count`` and ``disjoint``, rows of the test part.
    """

    by: By = "folds"
    column: str | None = None
    files: dict[str, str] = field(default_factory=dict)
    replicates: int | None = None
    validation_rows: int | None = None
    test_rows: int | None = None

    def __post_init__(self) -> None:
        _check_choice("split.by", self.by, By)
        counts = ("validation_rows", "test_rows")
        needed = {"folds": (), "disjoint": ("replicates", *counts), "count": counts, "column": ("column",),
                  "files": ("files",)}  # fmt: skip
        for name in ("column", "files", "replicates", *counts):
            value, wanted = getattr(self, name), name in needed[self.by]
            if isinstance(value, int) and value < 1:
                raise HycamError(f"split.{name} is {value}: a number above 0 was expected.")
            if wanted and not value:
                raise HycamError(f"A split by {self.by} needs split.{name}.")
            if value and not wanted:
                raise HycamError(
                    f"split.{name} has no meaning in a split by {self.by}: leave it out, or change split.by."
                )
        if self.by == "files" and set(self.files) != set(PARTS):
            raise HycamError(f"split.files needs {', '.join(PARTS)}, and has {', '.join(self.files)}.")


@dataclass
class TaskRecipe:
    """One task, where its name or its path alone does not say everything.

    Args:
        name: What it is called; by default after its file, folder or repository. Alone, the name of a known task.
        path: A file, or a folder of files.
        hub: A dataset on the hub, ``owner/name``.
        subset: Of the hub dataset, where it has several configurations.
        revision: Of the hub dataset: a commit, tag or branch. Without one the newest is taken.
        hub_split: Which split of the hub dataset.
        columns: Its columns by what they hold: ``instruction``, ``input``, ``response``, ``system``, ``history``,
            ``messages`` (a conversation), ``tools`` (which it may call), ``group`` (rows with the same value stay
            together).
        tags: How a conversation spells ``role``, ``content``, ``user``, ``assistant``, ``system``, ``tool`` (what a
            tool gave) and ``call`` (of a tool), where it is neither OpenAI's way nor ShareGPT's.
        ignore: Columns, and keys of messages, that are ignored although they may change what is trained.
        rows: At most so many rows, picked by the hash of their identity.
        turns: Which answers of a conversation are trained: ``all`` or the ``last`` one.
        domain: What it is about, for tables.
        split: How it is split, where not as the other tasks.
    """

    name: str | None = None
    path: str | None = None
    hub: str | None = None
    subset: str | None = None
    revision: str | None = None
    hub_split: str = "train"
    columns: dict[str, str] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)
    ignore: list[str] = field(default_factory=list)
    rows: int | None = None
    turns: Turns = "all"
    domain: str = "own data"
    split: SplitRecipe | None = None

    def __post_init__(self) -> None:
        _check_choice("turns of a task", self.turns, Turns)
        if self.rows is not None and self.rows < 1:
            raise HycamError(f"rows of a task is {self.rows}: a number above 0 was expected.")


@dataclass
class MixtureRecipe:
    """In which proportions the tasks are trained on.

    Args:
        strategy: ``concatenate``: every row once an epoch, all shuffled. The others draw a task and then its next row:
            ``proportional`` with probabilities like the tasks' rows n, ``temperature`` like n ** (1 / temperature),
            ``equal`` all the same, ``weights`` like the given weights.
        temperature: Of ``temperature``: 1 is proportional, and the larger, the more equal.
        weights: Of ``weights``: a number for each task; only their ratios count.
        exhaustion: What happens when a task has no row left. ``stop`` ends the epoch there; ``cycle`` begins the task
            anew in another order (an epoch is as many draws as there are rows); ``drop`` goes on with the other tasks
            until every row was drawn once.
    """

    strategy: Strategy = "concatenate"
    temperature: float = 2.0
    weights: dict[str, float] = field(default_factory=dict)
    exhaustion: Exhaustion = "cycle"

    def __post_init__(self) -> None:
        _check_choice("mixture.strategy", self.strategy, Strategy)
        _check_choice("mixture.exhaustion", self.exhaustion, Exhaustion)
        if not (self.temperature > 0 and math.isfinite(self.temperature)):
            raise HycamError(f"mixture.temperature is {self.temperature}: a number above 0 was expected.")
        if bool(self.weights) != (self.strategy == "weights"):
            raise HycamError('mixture.weights and the strategy "weights" belong together: set both or neither.')
        for name, weight in self.weights.items():
            if not (weight >= 0 and math.isfinite(weight)):
                raise HycamError(f"mixture.weights.{name} is {weight}: a number of at least 0 was expected.")
        if self.weights and not any(self.weights.values()):
            raise HycamError("mixture.weights are all zero: nothing would be trained.")

    def check_tasks(self, names: list[str]) -> None:
        """Raises HycamError where the weights are not those of exactly these tasks."""
        if self.strategy != "weights":
            return
        for name in self.weights:
            if name not in names:
                raise HycamError(f'mixture.weights has a weight for "{name}", which is no task.{nearest(name, names)}')
        missing = [name for name in names if name not in self.weights]
        if missing:
            raise HycamError(f"mixture.weights lacks {', '.join(missing)}; a task that is not to be trained has 0.")


@dataclass
class DataRecipe:
    """What to train, validate and test on.

    Args:
        tasks: Names of tasks (``hycam data list`` has them), paths of files or folders, or tasks of your own with
            ``path`` or ``hub`` and what else they need.
        dataset_info: A ``dataset_info.json`` of LLaMA-Factory, or its folder: its entries are tasks by their names
            there. Without ``tasks``, all of them.
        fold: Which of the five folds, 0 to 4: one tenth of the rows is tested on, two tenths validated on. In a
            disjoint split, which of the replicates.
        seed: Orders the rows before they are split, and picks the rows where fewer are asked for.
        split: How the tasks are split.
        mixture: In which proportions they are trained on.
        prompt: ``alpaca`` is the Stanford Alpaca form; ``paper`` the same without a line end before the response, as
            the paper's code has it; ``chat`` the tokenizer's own chat template; anything else a template with
            ``{instruction}`` and, if wanted, ``{input}`` and ``{system}``.
        max_length: Most tokens of a row, prompt and response together.
        overlong: A longer row is shortened in the middle of its prompt (``shorten``) or left out (``drop``).
        skip_bad_rows: Malformed rows are counted and skipped, instead of an error.
        packing: Several rows in one of max_length, without one seeing another.
        group_by_length: Rows of similar length in a batch, for less padding.
        train_rows: At most so many training rows of each task, of those that fit; all of them by default.
        validation_rows: At most so many validation rows of each task.
        test_rows: At most so many test rows of each task.
    """

    tasks: list[str | TaskRecipe] = field(default_factory=list)
    dataset_info: str | None = None
    fold: int = 0
    seed: int = 2333
    split: SplitRecipe = field(default_factory=SplitRecipe)
    mixture: MixtureRecipe = field(default_factory=MixtureRecipe)
    prompt: str = "alpaca"
    max_length: int = 1200
    overlong: Overlong = "shorten"
    skip_bad_rows: bool = False
    packing: bool = False
    group_by_length: bool = False
    train_rows: int | None = None
    validation_rows: int | None = None
    test_rows: int | None = None

    def __post_init__(self) -> None:
        _check_choice("overlong", self.overlong, Overlong)
        for name in ("max_length", "train_rows", "validation_rows", "test_rows"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise HycamError(f"{name} is {value}: a number above 0 was expected.")
        if self.packing and self.group_by_length:
            raise HycamError("packing and group_by_length exclude each other: a packed row has no padding to save.")


def _check_choice(name: str, value: str, choices: Any) -> None:
    """Raises HycamError where ``value`` is not one of a Literal's: nothing else checks a recipe made in Python."""
    known = get_args(choices)
    if value not in known:
        raise HycamError(f'{name} is "{value}": {", ".join(known)} were expected.{nearest(str(value), known)}')
