"""The data part of a recipe: the tasks, their splits, their mixture, and the form of a row."""

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
        by: ``folds`` is the five-fold scheme (7 : 2 : 1); ``disjoint`` divides the rows into replicates without common
            rows and splits the one that ``data.fold`` selects; ``count`` takes that many rows for validation and test
            and the rest for training; ``column`` reads the part of each row from a column; ``files`` has a file, a
            folder or (for a hub dataset) a split for each part.
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
                raise HycamError(f"split.{name} has no meaning in a split by {self.by}: remove it, or change split.by.")
        if self.by == "files" and set(self.files) != set(PARTS):
            raise HycamError(f"split.files needs {', '.join(PARTS)}, and has {', '.join(self.files)}.")


@dataclass
class TaskRecipe:
    """One task, if its name or path alone is not enough.

    Args:
        name: Of the task; by default that of its file, folder or repository. Alone, the name of a known task.
        path: A file, or a folder of files.
        hub: A dataset on the hub, ``owner/name``.
        subset: Of the hub dataset, if it has several configurations.
        revision: Of the hub dataset: a commit, tag or branch. The newest by default.
        hub_split: Which split of the hub dataset.
        columns: Which column holds what: ``instruction``, ``input``, ``response``, ``system``, ``history``,
            ``messages`` (a conversation), ``tools`` (that it may call), ``group`` (rows with the same value stay
            together).
        tags: How a conversation spells ``role``, ``content``, ``user``, ``assistant``, ``system``, ``tool`` (the output
            of a tool) and ``call`` (of a tool), if neither as OpenAI nor as ShareGPT does.
        ignore: Columns, and keys of messages, to ignore although they may change what is trained.
        rows: Maximum number of rows, selected by the hash of their identity.
        turns: Which answers of a conversation are trained: ``all`` or the ``last`` one.
        domain: What it is about, for tables.
        split: How it is split, if not like the other tasks.
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
    """The proportions in which tasks are trained.

    Args:
        strategy: ``concatenate``: every row once an epoch, all shuffled. The others draw a task and then its next row:
            ``proportional`` in proportion to the number of rows n, ``temperature`` to n ** (1 / temperature),
            ``equal`` with equal probabilities, ``weights`` in proportion to the given weights.
        temperature: For ``temperature``: 1 is proportional; the larger, the more equal.
        weights: For ``weights``: a number for each task; only their ratios count.
        exhaustion: What happens when a task has no rows left. ``stop`` ends the epoch; ``cycle`` restarts the task in
            another order (an epoch has as many draws as there are rows); ``drop`` continues with the other tasks until
            every row was drawn once.
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
        """Raises HycamError unless there is a weight for each of these tasks and no other."""
        if self.strategy != "weights":
            return
        for name in self.weights:
            if name not in names:
                raise HycamError(f'mixture.weights names "{name}", which is not a task.{nearest(name, names)}')
        missing = [name for name in names if name not in self.weights]
        if missing:
            raise HycamError(f"mixture.weights lacks {', '.join(missing)}; use 0 for a task that is not trained.")


@dataclass
class DataRecipe:
    """What to train, validate and test on.

    Args:
        tasks: Names of tasks (``hycam data list`` shows them), paths of files or folders, or tasks of your own with
            ``path`` or ``hub`` and their other fields.
        dataset_info: A ``dataset_info.json`` of LLaMA-Factory, or its folder: its entries can be named as tasks.
            Without ``tasks``, all of them are.
        fold: Which of the five folds, 0 to 4: a tenth of the rows is for testing, two tenths for validation. In
            a disjoint split, which of the replicates.
        seed: Orders the rows before they are split, and selects rows if fewer are wanted.
        split: How the tasks are split.
        mixture: The proportions in which tasks are trained.
        prompt: ``alpaca`` is the Stanford Alpaca form; ``paper`` the same without a line end before the response, as
            in the paper's code; ``chat`` the tokenizer's own chat template; anything else a template with
            ``{instruction}`` and, if wanted, ``{input}`` and ``{system}``.
        max_length: Maximum number of tokens of a row, prompt and response together.
        overlong: Shorten a longer row in the middle of its prompt (``shorten``), or drop it (``drop``).
        skip_bad_rows: Count and skip malformed rows, instead of an error.
        packing: Pack several rows into one of max_length, without one seeing another.
        group_by_length: Batch rows of similar length, for less padding.
        train_rows: Maximum number of training rows of each task, of those that fit; all by default.
        validation_rows: Maximum number of validation rows of each task.
        test_rows: Maximum number of test rows of each task.
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
    """Raises HycamError unless ``value`` is one of a Literal's: nothing else checks a recipe built in Python."""
    known = get_args(choices)
    if value not in known:
        raise HycamError(f'{name} is "{value}": {", ".join(known)} were expected.{nearest(str(value), known)}')
