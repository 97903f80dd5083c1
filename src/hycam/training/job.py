"""One training: its recipe, data and run folder, and who follows it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

from transformers import PreTrainedModel, PreTrainedTokenizerBase, TrainingArguments

from hycam import processes
from hycam.console import Reports
from hycam.data.batches import Batches
from hycam.data.prepare import Prepared
from hycam.training.checkpoints import Checkpoints
from hycam.training.recipe import Recipe
from hycam.training.rows import MixedRows, batches_of, steps_in_epoch, steps_of
from hycam.training.run import Run
from hycam.training.stopping import Stop

Also = Callable[[PreTrainedModel, PreTrainedTokenizerBase], Mapping[str, float]]
"""Further figures at every validation."""


class Trial(Protocol):
    """Follows a training through its phases, to measure each; nothing is saved then."""

    def select(self, data: Prepared) -> Prepared:
        """The part of the data to train on."""

    def at(self, phase: str) -> None:
        """Called at the end of each: loaded, adapted, forward, backward, step, validation (after each batch)."""


@dataclass
class Job:
    """A training whose recipe and data have passed the checks.

    Attributes:
        arguments: as :func:`hycam.training.arguments.training_arguments` gives them.
        checkpoints: where they are kept.
        reporter: shows the progress; silent on all processes but the main one.
        stop: whether the process was asked to end.
        also: see :func:`hycam.training.train.train`.
        trial: is told the phases.
    """

    recipe: Recipe
    run: Run
    arguments: TrainingArguments
    tokenizer: PreTrainedTokenizerBase
    data: Prepared
    checkpoints: Checkpoints
    reporter: Reports
    stop: Stop
    also: Also | None = None
    trial: Trial | None = None

    @cached_property
    def rows(self) -> MixedRows:
        """The training rows of all tasks."""
        return MixedRows(self.data.train)

    @cached_property
    def batches(self) -> Batches:
        """The micro-batches of this process."""
        return batches_of(self.recipe, self.rows, processes.world_size(), processes.rank())

    @cached_property
    def steps_in_epoch(self) -> int:
        return steps_in_epoch(self.recipe, self.batches)

    @cached_property
    def max_steps(self) -> int:
        return steps_of(self.recipe, self.batches)

    def reached(self, phase: str) -> None:
        """Tells a trial that a phase has ended."""
        if self.trial is not None:
            self.trial.at(phase)
