"""Which cells of two methods belong together: those of one backbone, fold, seed and setting, on the same rows."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from hycam.errors import HycamError
from hycam.study.results import Result, Results


@dataclass(frozen=True)
class Pair:
    """The finished cells of two methods that belong together.

    Attributes:
        backbone: its label.
        method: its label.
        against: the other method's.
        settings: the varied fields that both share.
        cells: by fold and seed the two results, on the same rows and with finite losses.
        left_out: folds and seeds that only one of the two can show, each with the reason.
    """

    backbone: str
    method: str
    against: str
    settings: Mapping[str, Any]
    cells: Mapping[tuple[int, int], tuple[Result, Result]]
    left_out: Sequence[str]

    @property
    def tasks(self) -> list[str]:
        return list(next(iter(self.cells.values()))[0].tasks) if self.cells else []


def pairs(results: Results, reference: str) -> list[Pair]:
    """The reference's cells beside those of every other method, backbone by backbone and setting by setting.

    A pair is given as soon as both methods have a cell that finished, failed or diverged, though none may be in common.

    Args:
        results: of a study; cells that were trained on one task alone do not enter.
        reference: a method's label; the study's first where it is not there.

    Raises:
        HycamError: two methods were scored on different rows of the same fold.
    """
    groups: dict[tuple[str, str], dict[str, dict[tuple[int, int], Result]]] = {}
    whole = [one for one in (*results.done, *results.failed) if one.task is None]
    for one in whole:
        group = groups.setdefault((one.backbone, json.dumps(one.settings, sort_keys=True)), {})
        group.setdefault(one.method, {})[one.fold, one.seed] = one
    own = {place: set(group) for place, group in groups.items()}
    # The backbone as it is has no settings of training, and stands beside all those of the others.
    for one in whole:
        for (backbone, settings), group in groups.items():
            if backbone == one.backbone and one.settings.items() <= json.loads(settings).items():
                group.setdefault(one.method, {})[one.fold, one.seed] = one
    methods = list(dict.fromkeys(method for group in groups.values() for method in group))
    first = reference if reference in methods else next(iter(methods), reference)
    backbones = list(dict.fromkeys(backbone for backbone, _ in groups))
    return [
        _pair(group[first], group[against])
        for place, group in sorted(groups.items(), key=lambda item: backbones.index(item[0][0]))
        for against in methods
        if against != first and {first, against} <= group.keys() and own[place] & {first, against}
    ]


def _pair(mine: Mapping[tuple[int, int], Result], others: Mapping[tuple[int, int], Result]) -> Pair:
    """Of all settled cells of two methods."""
    one, other = next(iter(mine.values())), next(iter(others.values()))
    places = sorted(mine.keys() | others.keys())
    has_seeds = len({seed for _, seed in places}) > 1
    cells, left_out = {}, []
    for fold, seed in places:
        both = (mine.get((fold, seed)), others.get((fold, seed)))
        lacking = [
            f"{method} {reason}"
            for method, result in zip((one.method, other.method), both, strict=True)
            if (reason := _lack(result))
        ]
        if lacking:
            left_out.append(f"fold {fold}{f' seed {seed}' if has_seeds else ''} ({', '.join(lacking)})")
        else:
            assert both[0] is not None and both[1] is not None
            _check_rows(both[0], both[1])
            cells[fold, seed] = (both[0], both[1])
    settings = max(one.settings, other.settings, key=len)
    return Pair(one.backbone, one.method, other.method, settings, cells, left_out)


def _lack(result: Result | None) -> str | None:
    """Why a cell cannot be compared."""
    if result is None:
        return "is not finished"
    if result.state != "done":
        return result.state
    infinite = [name for name, of_task in result.tasks.items() if of_task["nll"] is None]
    return f"has no finite loss on {', '.join(infinite)}" if infinite else None


def _check_rows(one: Result, other: Result) -> None:
    for task in {**one.tasks, **other.tasks}:
        counts = [_tokens(result, task) for result in (one, other)]
        if counts[0] != counts[1]:
            apart = sorted(dict(counts[0].items() ^ counts[1].items()))
            raise HycamError(
                f"{_named(one)} and {_named(other)} cannot be compared: they were scored on different rows of {task} "
                f"({len(counts[0])} and {len(counts[1])} rows; the first that they do not share, or that has other "
                f"tokens, is {apart[0]}). Remove the file whose data are out of date and run the study again."
            )


def _tokens(result: Result, task: str) -> dict[str, int]:
    """Response tokens by row."""
    if task not in result.tasks:
        return {}
    rows = result.rows(task)
    return dict(zip(rows.identities, rows.tokens.tolist(), strict=True))


def _named(result: Result) -> str:
    where = f" ({result.path})" if result.path else ""
    return f"{result.method} on fold {result.fold}, seed {result.seed}, {result.backbone}{where}"
