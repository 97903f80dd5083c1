"""How far a study has come, and how long the rest will take by what its cells took so far."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

from hycam.study.cells import Cell
from hycam.study.results import Result, Results
from hycam.training.run import BASE


@dataclass(frozen=True)
class Estimate:
    """Seconds that cells take, by the finished cells nearest to them: the same method and backbone, then the backbone,
    then all. Training goes by planned tokens, everything else (loading, evaluation) by the cell."""

    done: Sequence[Result]

    def seconds(self, cell: Cell) -> float | None:
        """None while nothing like it was measured."""
        is_trained = cell.recipe.method.name != BASE
        known = [one for one in self.done if one.training or not is_trained]
        near = [one for one in known if (one.backbone, one.method) == (cell.backbone, cell.method)]
        near = near or [one for one in known if one.backbone == cell.backbone] or known
        if not near:
            return None
        rates = [one.training["seconds"] / one.training["tokens"] for one in near if one.training]
        rest = fmean(one.content["seconds"] - (one.training["seconds"] if one.training else 0.0) for one in near)
        return rest + (fmean(rates) if rates else 0.0) * cell.planned_tokens

    def left(self, cells: Iterable[Cell], spent: Mapping[str, float]) -> float | None:
        """Seconds of all of these, one after the other; ``spent`` is what the running ones took so far, by identity."""
        left = 0.0
        for cell in cells:
            seconds = self.seconds(cell)
            if seconds is None:
                return None
            left += max(0.0, seconds - spent.get(cell.identity, 0.0))
        return left


@dataclass(frozen=True)
class Status:
    """The cells of a study by what has become of them."""

    cells: Sequence[Cell]
    results: Results

    @property
    def unusable(self) -> list[Cell]:
        names = {path.name for path in self.results.unusable}
        return [cell for cell in self.cells if cell.file_name in names]

    @property
    def to_go(self) -> list[Cell]:
        """What the next run runs: everything without a result, and what failed (but not what diverged)."""
        settled = {one.identity for one in self.results.settled} | {cell.identity for cell in self.unusable}
        return [cell for cell in self.cells if cell.identity not in settled]

    @property
    def estimate(self) -> Estimate:
        return Estimate(self.results.done)


def spelled(seconds: float | None) -> str:
    """``1:05:09`` for 3,909 seconds."""
    if seconds is None:
        return "unknown"
    whole = round(seconds)
    return f"{whole // 3600}:{whole // 60 % 60:02d}:{whole % 60:02d}"
