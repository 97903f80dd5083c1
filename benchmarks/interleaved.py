"""Times callables against each other: in turn and in one process, so that whatever slows the machine slows all."""

from __future__ import annotations

import json
import random
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

from hycam.machine import describe

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
RESULTS = Path(__file__).parent / "results" / ("gpu.json" if DEVICE == "cuda" else "cpu.json")


@dataclass(frozen=True)
class Timing:
    """What one callable took: its time over the first one's of the same round, over all rounds.

    Args:
        ratio: the median.
        low: the 10th percentile.
        high: the 90th percentile.
        seconds: the median of the time itself.
    """

    ratio: float
    low: float
    high: float
    seconds: float

    def __str__(self) -> str:
        return f"{self.ratio:.2f} ({self.low:.2f}-{self.high:.2f})"


def interleave(
    callables: dict[str, Callable[[], object]],
    seconds: float = 8,
    rounds: int = 7,
    before: Callable[[], object] = lambda: None,
) -> dict[str, Timing]:
    """Runs all callables once a round, in an order drawn anew for each round, and compares them with the first.

    Args:
        callables: by name; the first is the measure.
        seconds: how long to go on.
        rounds: how many rounds there are at least, even if they take longer. Two more come first, to warm up.
        before: called before every callable, untimed.
    """
    draw = random.Random(2333)
    times: dict[str, list[float]] = {name: [] for name in callables}
    for _ in range(2):
        _round(callables, list(callables), before)
    end = time.perf_counter() + seconds
    while time.perf_counter() < end or len(times[next(iter(times))]) < rounds:
        for name, took in _round(callables, draw.sample(list(callables), len(callables)), before).items():
            times[name].append(took)
    first = times[next(iter(times))]
    return {name: _timing(took, first) for name, took in times.items()}


def _round(
    callables: dict[str, Callable[[], object]], order: list[str], before: Callable[[], object]
) -> dict[str, float]:
    times = {}
    for name in order:
        before()
        _synchronize()
        start = time.perf_counter()
        callables[name]()
        _synchronize()
        times[name] = time.perf_counter() - start
    return times


def _synchronize() -> None:
    if DEVICE == "cuda":
        torch.cuda.synchronize()


def _timing(times: list[float], first: list[float]) -> Timing:
    ratios = [a / b for a, b in zip(times, first, strict=True)]
    tenths = statistics.quantiles(ratios, n=10, method="inclusive")
    return Timing(statistics.median(ratios), tenths[0], tenths[-1], statistics.median(times))


def machine() -> str:
    """Such as ``AMD EPYC, 2 threads, torch 2.13.0``."""
    facts = describe()
    processor = facts["gpu"] if DEVICE == "cuda" else f"{facts['processor']}, {torch.get_num_threads()} threads"
    return f"{processor}, torch {facts['versions']['torch']}"


def save(timings: dict[str, Timing]) -> None:
    """Puts the ratios into the machine's results file, in place of those of the same names; the others stay."""
    here = machine()
    entries = {entry["name"]: entry for entry in json.loads(RESULTS.read_text())} if RESULTS.exists() else {}
    for name, timing in timings.items():
        values = {key: round(getattr(timing, key), 3) for key in ("ratio", "low", "high")}
        entries[name] = {"name": name, **values, "machine": here}
    RESULTS.parent.mkdir(exist_ok=True)
    lines = ",\n".join(f"  {json.dumps(entries[name])}" for name in sorted(entries))
    RESULTS.write_text(f"[\n{lines}\n]\n")
