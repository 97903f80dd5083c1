"""Recipes, data, adapters and results that were changed somewhere: each gives a result or a message, and soon.

``make test`` tries a few of each kind, always the same ones; ``make soak`` thousands, other ones each time. What fails
is shown made as small as it gets, with a line that repeats it.
"""

from __future__ import annotations

import shutil
import warnings
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, Phase, given, settings

from fuzz.targets import Adapters, Datasets, Recipes, Results
from fuzz.watched import explained, resident_bytes

FAMILIES = ("recipes", "datasets", "adapters", "results")
FEW, MANY = 50, 5_000
BATCH = 500
MOST_GROWTH = 48 << 20  # bytes over the second half of many inputs; what hypothesis notes of them is some of it

_HEALTH = list(HealthCheck)


@pytest.fixture
def target(request: pytest.FixtureRequest, tmp_path: Path, data_cache: Path) -> Iterator[object]:
    name = request.param
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if name == "adapters":
            yield Adapters(tmp_path, request.getfixturevalue("backbone"))
        else:
            yield {"recipes": Recipes, "datasets": Datasets, "results": Results}[name](tmp_path)


def try_out(target, examples: int, *, always_the_same: bool, data_cache: Path) -> None:
    @settings(max_examples=examples, deadline=None, database=None, derandomize=always_the_same, print_blob=True,
              suppress_health_check=_HEALTH, phases=(Phase.generate, Phase.shrink), report_multiple_bugs=False)  # fmt: skip
    @given(target.inputs)
    def one(value) -> None:
        with explained():
            target.run(value)

    one()
    for entry in data_cache.iterdir():  # prepared rows, some for each input
        shutil.rmtree(entry, ignore_errors=True)


@pytest.mark.parametrize("target", FAMILIES, indirect=True)
def test_a_few_changed_inputs_are_read_or_explained(target, data_cache: Path) -> None:
    try_out(target, FEW, always_the_same=True, data_cache=data_cache)


@pytest.mark.soak
@pytest.mark.parametrize("target", FAMILIES, indirect=True)
def test_thousands_of_changed_inputs_are_read_or_explained_and_leave_no_memory_behind(target, data_cache: Path) -> None:
    held = []
    for _ in range(MANY // BATCH):
        try_out(target, BATCH, always_the_same=False, data_cache=data_cache)
        held.append(resident_bytes())
    growth = held[-1] - held[len(held) // 2 - 1]
    print(f"{MANY} inputs; resident memory after every {BATCH}, MiB: {[round(one / 2**20) for one in held]}")
    assert growth < MOST_GROWTH, f"{growth / 2**20:.0f} MiB more after the second half"
