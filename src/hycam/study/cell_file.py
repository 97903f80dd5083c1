"""The layout of a cell's result file, as types that :mod:`msgspec` checks.

A result may come from another machine or version, so readers rely only on what is checked here. Unknown fields, which a
later version may add, are ignored.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta, Struct

from hycam.errors import HycamError

FORMAT = 1
_LARGEST = 1 << 53  # the largest integer up to which float64 is exact
_MOST_NATS = 700  # the largest NLL whose perplexity is finite

Number = Annotated[float, Meta(ge=-_LARGEST, le=_LARGEST)]
Positive = Annotated[float, Meta(gt=0, le=_LARGEST)]
Count = Annotated[int, Meta(ge=0, le=_LARGEST)]
Some = Annotated[int, Meta(gt=0, le=_LARGEST)]
Logged = float | None  # a training that diverges logs NaN and infinity


class Labels(Struct):
    """``task`` is the only task that was trained, or null for all."""

    backbone: str
    method: str
    fold: Count
    seed: Count
    task: str | None
    settings: dict[str, Any]


class Environment(Struct):
    versions: dict[str, str | None]
    commit: str | None
    platform: str
    processor: str | None
    cores: Count | None
    gpu: str | None


class Training(Struct):
    """The cost of training, summed over all processes that worked on it in turn."""

    steps: Count
    tokens: Some
    seconds: Positive
    peak_memory_bytes: Count
    trainable_parameters: Count
    total_parameters: Count
    adapter_bytes: Count
    learning_rate: Positive
    rows: dict[str, Count]
    shares: dict[str, Number]
    validation: dict[str, float]


class Scores(Struct):
    """NLL in nats per token; null for a figure that is non-finite or was not measured."""

    perplexity: Number | None
    nll: Number | None
    bleu4: Number | None
    rougeL: Number | None

    def __post_init__(self) -> None:
        if self.perplexity is not None and not 0 <= (self.nll or 0) <= _MOST_NATS:
            raise ValueError(f"A perplexity was given for an nll of {self.nll}")


class MacroScores(Scores):
    perplexity_mean: Number | None


class TaskScores(Scores):
    tokens: Some
    rows: Some
    generated_rows: Count
    bleu_signature: str | None = None
    rouge_tokens: str | None = None


class ScoredRows(Struct):
    """The rows of a task as columns: identity, NLL in nats (summed over the row), tokens and ROUGE-L."""

    row: list[str]
    nll: list[Number | None]
    tokens: list[Some]
    rougeL: list[Number | None]

    def __post_init__(self) -> None:
        _check_lengths(self)
        if len(set(self.row)) < len(self.row):
            raise ValueError("`row` contains a row twice")


class Evaluation(Struct):
    part: Literal["test", "validation"]
    tasks: dict[str, TaskScores]
    macro: MacroScores
    pooled: Scores
    bleu_signature: str | None
    max_new_tokens: Count
    rows: dict[str, ScoredRows]

    def __post_init__(self) -> None:
        if set(self.rows) != set(self.tasks):
            raise ValueError("`rows` and `tasks` have different tasks")


class Items(Struct):
    """The bits of each item's gold continuation, after training and before (``base_``)."""

    row: list[str]
    bits: list[Number]
    base_bits: list[Number]
    bytes: list[Some]
    correct: list[bool] | None
    base_correct: list[bool] | None

    def __post_init__(self) -> None:
        _check_lengths(self)


class Retained(Struct):
    rows: Some
    bits_per_byte: Number
    base_bits_per_byte: Number
    difference: Number
    accuracy: Number | None
    base_accuracy: Number | None
    items: Items


class Divergence(Struct):
    """KL(base || adapted) in nats per token."""

    mean: Number
    tokens: Count
    texts: Count


class Retention(Struct):
    tasks: dict[str, Retained]
    kl: dict[str, Divergence]


class TaskRouting(Struct):
    """Mean routing probabilities, ``[layers][experts]``."""

    tokens: Count
    weights: list[list[Number]]


class Routing(Struct):
    tasks: dict[str, TaskRouting]
    mutual_information: list[Number]
    layers: Some
    experts: Some

    def __post_init__(self) -> None:
        for task, routed in self.tasks.items():
            if len(routed.weights) != self.layers or any(len(one) != self.experts for one in routed.weights):
                raise ValueError(f"The weights of {task} are not {self.layers} layers of {self.experts} modules")
        if len(self.mutual_information) != self.layers:
            raise ValueError(f"`mutual_information` does not have {self.layers} layers")


class Line(Struct):
    """The fields that every line of the log has."""

    step: Count
    elapsed: Number


class Curve(Struct):
    curve: list[Line]


class _Cell(Struct, tag_field="state"):
    """The fields of every result.

    ``settings`` are all that affect it, ``data`` is the fingerprint of the data. Beside ``step`` and ``elapsed``,
    lines of the ``curve`` may have ``loss``, ``loss_TASK``, ``balance_loss``, ``routing_K``, ``eval_loss``,
    ``eval_loss_TASK`` and, if retention was measured at validations, ``retention_TASK``, ``kl_lambada`` and
    ``kl_replies``.
    """

    format: Literal[1]
    identity: str
    cell: Labels
    settings: dict[str, Any]
    data: str
    environment: Environment
    curve: list[dict[str, Logged]]


class Done(_Cell, tag="done"):
    """A finished cell; ``training`` is null for the unadapted backbone, ``seconds`` is the time of the whole cell."""

    seconds: Positive
    training: Training | None
    evaluation: Evaluation
    retention: Retention | None
    routing: Routing | None


class Failure(Struct):
    reason: str
    step: Count | None


class Failed(_Cell, tag="failed"):
    """A cell without a result; ``seconds`` is null if its process died."""

    failure: Failure
    seconds: Number | None


class Diverged(Failed, tag="diverged"):
    """A cell whose loss or gradient became non-finite, or whose loss exploded; it would do so again."""


def check(content: Any) -> None:
    """Checks the content of a result file.

    Raises:
        HycamError: a field is missing or has the wrong type; the message names it.
    """
    if not isinstance(content, dict) or "format" not in content:
        raise HycamError("it is not a cell's result")
    if content["format"] != FORMAT:
        raise HycamError(f"it has layout {content['format']} of another version; this one reads {FORMAT}")
    try:
        msgspec.convert(content, Done | Failed | Diverged)
        msgspec.convert(content, Curve)
    except msgspec.ValidationError as error:
        raise HycamError(f"its layout is not the one that this version reads: {error}") from error


def _check_lengths(columns: Struct) -> None:
    values = msgspec.structs.asdict(columns)
    lengths: Mapping[str, int] = {name: len(value) for name, value in values.items() if value is not None}
    if len(set(lengths.values())) > 1:
        raise ValueError(f"The columns have different lengths: {lengths}")
