"""A cell's validation losses over its steps and seconds, as its curve has them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from hycam.study.results import Result


@dataclass(frozen=True)
class Point:
    """One validation: after so many steps and seconds, the mean over tasks of the NLL per token."""

    step: int
    seconds: float
    loss: float


def validations(result: Result) -> list[Point]:
    """The validations of a cell in their order, without those whose loss was no finite number."""
    return [
        Point(line["step"], line["elapsed"], line["eval_loss"])
        for line in result.content["curve"]
        if line.get("eval_loss") is not None
    ]


def lowest(points: Sequence[Point]) -> Point | None:
    """The validation with the lowest loss, the first of several."""
    return min(points, key=lambda point: point.loss, default=None)


def first(points: Sequence[Point], wanted: Callable[[Point], bool]) -> Point | None:
    """The first validation that is wanted."""
    return next((point for point in points if wanted(point)), None)
