"""The layout of a cell's result file, as types that :mod:`msgspec` checks.

A result may come from another machine or another version, so its readers rely on nothing that is not checked here.
Fields that a later version adds are ignored.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta, Struct

from hycam.errors import HycamError

FORMAT = 1
_LARGEST = 1 << 53  # of the whole numbers that floating point can tell from their neighbours
_MOST_NATS = 700  # the largest NLL whose perplexity is still a number

Number = Annotated[float, Meta(ge=-_LARGEST, le=_LARGEST)]
Positive = Annotated[float, Meta(gt=0, le=_LARGEST)]
Count = Annotated[int, Meta(ge=0, le=_LARGEST)]
Some = Annotated[int, Meta(gt=0, le=_LARGEST)]
Logged = float | None  # a training that diverges logs NaN and infinity


class Labels(Struct):
    """What the cell was called; ``task`` is the only one that was trained, or null."""

    backbone: str
    method: str
    fold: Count
    seed: Count
    task: str | None
    settings: dict[str, Any]


class Environment(Struct):
    """Versions, commit and machine."""

    versions: dict[str, str | None]
    commit: str | None
    platform: str
    processor: str | None
    cores: Count | None
    gpu: str | None


class Training(Struct):
    """What training took, in all processes that worked on it one after the other."""

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
    """NLL in nats per token; null for a figure that is no finite number or was not measured."""

    perplexity: Number | None
    nll: Number | None
    bleu4: Number | None
    rougeL: Number | None

    def __post_init__(self) -> None:
        if self.perplexity is not None and not 0 <= (self.nll or 0) <= _MOST_NATS:
            raise ValueError(f"No perplexity belongs to an nll of {self.nll}")


class MacroScores(Scores):
    perplexity_mean: Number | None


class TaskScores(Scores):
    tokens: Some
    rows: Some
    generated_rows: Count
    bleu_signature: str | None = None
    rouge_tokens: str | None = None


class ScoredRows(Struct):
    """The rows of a task as columns: their identities, NLL in nats (a row's sum), tokens and ROUGE-L."""

    row: list[str]
    nll: list[Number | None]
    tokens: list[Some]
    rougeL: list[Number | None]

    def __post_init__(self) -> None:
        _check_lengths(self)
        if len(set(self.row)) < len(self.row):
            raise ValueError("`row` names a row twice")


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
            raise ValueError("`rows` are of other tasks than `tasks`")


class Items(Struct):
    """Of each item of a retention task the bits of its gold continuation, after training and before."""

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
            raise ValueError(f"`mutual_information` is not of {self.layers} layers")


class Line(Struct):
    """What every line of the log has."""

    step: Count
    elapsed: Number


class Curve(Struct):
    curve: list[Line]


class _Cell(Struct, tag_field="state"):
    """What every result has.

    ``settings`` are all that bear on it, ``data`` is the fingerprint of the data. Beside step and seconds the lines of
    the ``curve`` have some of ``loss``, ``loss_TASK``, ``balance_loss``, ``routing_K``, ``eval_loss``,
    ``eval_loss_TASK``, and, where retention was measured at validations, ``retention_TASK``, ``kl_lambada`` and
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
    """A finished cell; ``training`` is null for the backbone as it is, ``seconds`` are of the whole cell."""

    seconds: Positive
    training: Training | None
    evaluation: Evaluation
    retention: Retention | None
    routing: Routing | None


class Failure(Struct):
    reason: str
    step: Count | None


class Failed(_Cell, tag="failed"):
    """A cell without a result; ``seconds`` are null where its process ended without telling."""

    failure: Failure
    seconds: Number | None


class Diverged(Failed, tag="diverged"):
    """A cell whose loss or gradient became non-finite, or whose loss exploded: it would do so again."""


def check(content: Any) -> None:
    """Checks what a result file holds.

    Raises:
        HycamError: something is missing or of another kind; the message names the field.
    """
    if not isinstance(content, dict) or "format" not in content:
        raise HycamError("it is not the result of a cell")
    if content["format"] != FORMAT:
        raise HycamError(f"it has layout {content['format']} of another version of this package; this one has {FORMAT}")
    try:
        msgspec.convert(content, Done | Failed | Diverged)
        msgspec.convert(content, Curve)
    except msgspec.ValidationError as error:
        raise HycamError(f"it has another layout than this version reads: {error}") from error


def _check_lengths(columns: Struct) -> None:
    values = msgspec.structs.asdict(columns)
    lengths: Mapping[str, int] = {name: len(value) for name, value in values.items() if value is not None}
    if len(set(lengths.values())) > 1:
        raise ValueError(f"The columns have different lengths: {lengths}")
