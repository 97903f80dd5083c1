"""Pairs the cells of two methods: same backbone, fold, seed and settings, scored on the same rows."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from hycam.errors import HycamError
from hycam.study.results import Result, Results
from hycam.study.significance import Scored

Cells = dict[tuple[int, int], Result]
"""By fold and seed."""


@dataclass(frozen=True)
class Pair:
    """The paired cells of two methods on one backbone and setting.

    Attributes:
        backbone, method, against: labels; ``against`` is the other method.
        settings: the varied fields that both share.
        cells: by fold and seed the two results, on the same rows and with finite losses.
        left_out: the folds and seeds without such a pair, each with the reason.
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
    """Pairs the reference with every other method, for each backbone and setting.

    There is a pair as soon as both methods have a cell that finished, failed or diverged, even without a common fold.

    Args:
        results: of a study; cells trained on one task alone are skipped.
        reference: a method's label; the first method of the study if it has no such label.

    Raises:
        HycamError: two methods were scored on different rows of the same fold.
    """
    groups: dict[tuple[str, str], dict[str, Cells]] = {}
    whole = [one for one in (*results.done, *results.failed) if one.task is None]
    for one in whole:
        group = groups.setdefault((one.backbone, json.dumps(one.settings, sort_keys=True)), {})
        group.setdefault(one.method, {})[one.fold, one.seed] = one
    own = {place: set(group) for place, group in groups.items()}
    # The unadapted backbone has no training settings, and is compared with the others at each of theirs.
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


def _pair(mine: Cells, others: Cells) -> Pair:
    one, other = next(iter(mine.values())), next(iter(others.values()))
    places = sorted(mine.keys() | others.keys())
    has_seeds = len({seed for _, seed in places}) > 1
    cells, left_out = {}, []
    for place in places:
        lacks = {one.method: _lack(mine.get(place)), other.method: _lack(others.get(place))}
        if lacking := [f"{method} {reason}" for method, reason in lacks.items() if reason]:
            fold, seed = place
            left_out.append(f"fold {fold}{f' seed {seed}' if has_seeds else ''} ({', '.join(lacking)})")
        else:
            cells[place] = (mine[place], others[place])
            if differing := other_rows(*cells[place]):
                raise HycamError(
                    f"{_named(mine[place])} and {_named(others[place])} cannot be compared: they were scored on "
                    f"different rows of {differing}. Remove the file with outdated data and run the study again."
                )
    settings = max(one.settings, other.settings, key=len)
    return Pair(one.backbone, one.method, other.method, settings, cells, left_out)


def _lack(result: Result | None) -> str | None:
    if result is None:
        return "is not finished"
    if result.state != "done":
        return result.state
    infinite = [name for name, of_task in result.tasks.items() if of_task["nll"] is None]
    return f"has no finite loss on {', '.join(infinite)}" if infinite else None


def row_differences(one: Result, other: Result, task: str) -> Scored:
    """The differences of the rows' NLL of a task, and the rows' tokens; both cells have the same rows."""
    mine, others = one.rows(task), other.rows(task)
    return mine.identities, mine.nll - others.nll, mine.tokens


def other_rows(one: Result, other: Result) -> str:
    """The first task for which two cells were scored on different rows, and how these differ; else empty."""
    for task in {**one.tasks, **other.tasks}:
        mine, others = (_tokens(result, task) for result in (one, other))
        if mine != others:
            first = min(dict(mine.items() ^ others.items()))
            return (
                f"{task} ({len(mine)} and {len(others)} rows; the first that they do not share, or that has other "
                f"tokens, is {first})"
            )
    return ""


def _tokens(result: Result, task: str) -> dict[str, int]:
    if task not in result.tasks:
        return {}
    rows = result.rows(task)
    return dict(zip(rows.identities, rows.tokens.tolist(), strict=True))


def _named(result: Result) -> str:
    where = f" ({result.path})" if result.path else ""
    return f"{result.method} on fold {result.fold}, seed {result.seed}, {result.backbone}{where}"
