"""The part of a recipe that says what the data are."""

from __future__ import annotations

from dataclasses import dataclass, field

from hycam.data.encode import Overlong
from hycam.data.prompts import PromptStyle
from hycam.errors import HycamError


@dataclass
class DataRecipe:
    """What to train, validate and test on.

    Args:
        tasks: Names of tasks (``hycam data list`` has them), or paths of files with instruction and output.
        fold: Which of the five folds, 0 to 4: one tenth of the rows is tested on, two tenths validated on.
        seed: Orders the rows before they are cut into folds, and picks the rows where fewer are asked for.
        prompt: ``alpaca`` is the Stanford Alpaca form; ``chat`` the tokenizer's own chat template.
        max_length: Most tokens of a row, prompt and response together.
        overlong: A longer row is shortened in the middle of its prompt (``shorten``) or left out (``drop``).
        train_rows: At most so many training rows of each task, of those that fit; all of them by default.
        validation_rows: At most so many validation rows of each task.
        test_rows: At most so many test rows of each task.
    """

    tasks: list[str] = field(default_factory=list)
    fold: int = 0
    seed: int = 2333
    prompt: PromptStyle = "alpaca"
    max_length: int = 1200
    overlong: Overlong = "shorten"
    train_rows: int | None = None
    validation_rows: int | None = None
    test_rows: int | None = None

    def __post_init__(self) -> None:
        for name in ("max_length", "train_rows", "validation_rows", "test_rows"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise HycamError(f"{name} is {value}: a number above 0 was expected.")
