"""Times callables against each other: in turn and in one process, so that whatever slows the machine slows all."""

from __future__ import annotations

import argparse
import json
import random
import statistics
import sys
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import torch

from hycam.machine import describe

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
RESULTS = Path(__file__).parent / "results" / ("gpu.json" if DEVICE == "cuda" else "cpu.json")


@dataclass(frozen=True)
class Ratio:
    """One quantity over another.

    Args:
        ratio: the median over the rounds; of counted quantities the value itself.
        low: the 10th percentile.
        high: the 90th percentile.
    """

    ratio: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.ratio:.2f} ({self.low:.2f}-{self.high:.2f})"


R = TypeVar("R", bound=Ratio)


@dataclass(frozen=True)
class Timing(Ratio):
    """What one callable took: its time over the first one's of the same round, over all rounds.

    Args:
        seconds: the median of the time itself.
    """

    seconds: float


@dataclass(frozen=True)
class Effort:
    """How long to measure, and whether the results are written down.

    Args:
        seconds: how long each comparison goes on.
        rounds: how many rounds it has at least, even if they take longer.
        keeps: whether ratios go into the results file.
    """

    seconds: float = 8
    rounds: int = 7
    keeps: bool = True

    def save(self, ratios: dict[str, Ratio]) -> None:
        if self.keeps:
            save(ratios)


def arguments(description: str | None) -> argparse.ArgumentParser:
    """The options that every benchmark has; :func:`effort` reads them."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=Effort.seconds, help="how long each comparison goes on")
    parser.add_argument("--rounds", type=int, default=Effort.rounds, help="how many rounds it has at least")
    parser.add_argument("--dry-run", action="store_true", help="write no results")
    return parser


def effort(chosen: argparse.Namespace) -> Effort:
    return Effort(chosen.seconds, chosen.rounds, not chosen.dry_run)


def interleave(
    callables: dict[str, Callable[[], object]],
    effort: Effort = Effort(),
    before: Callable[[], object] = lambda: None,
) -> dict[str, Timing]:
    """Runs all callables once a round, in an order drawn anew for each round, and compares them with the first.

    On a terminal the round is shown.

    Args:
        callables: by name; the first is the measure.
        effort: how long to go on. Two more rounds come first, to warm up.
        before: called before every callable, untimed.
    """
    draw = random.Random(2333)
    times: dict[str, list[float]] = {name: [] for name in callables}
    for _ in range(2):
        _show_progress("warming up")
        _round(callables, list(callables), before)
    end, done = time.perf_counter() + effort.seconds, 0
    while time.perf_counter() < end or done < effort.rounds:
        done += 1
        _show_progress(f"round {done}")
        for name, took in _round(callables, draw.sample(list(callables), len(callables)), before).items():
            times[name].append(took)
    _show_progress("")
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


def _show_progress(text: str) -> None:
    if sys.stderr.isatty():
        print(f"\r{text:20}\r", end="", file=sys.stderr, flush=True)


def _timing(times: list[float], first: list[float]) -> Timing:
    ratios = [a / b for a, b in zip(times, first, strict=True)]
    tenths = statistics.quantiles(ratios, n=10, method="inclusive") if len(ratios) > 1 else ratios
    return Timing(statistics.median(ratios), tenths[0], tenths[-1], statistics.median(times))


def worst(ratios: Iterable[R]) -> R:
    """The largest of several, which is what a bound is held against."""
    return max(ratios, key=lambda ratio: ratio.ratio)


def machine() -> str:
    """Such as ``AMD EPYC, 2 threads, torch 2.13.0``."""
    facts = describe()
    processor = facts["gpu"] if DEVICE == "cuda" else f"{facts['processor']}, {torch.get_num_threads()} threads"
    return f"{processor}, torch {facts['versions']['torch']}"


def save(ratios: dict[str, Ratio]) -> None:
    """Puts the ratios into the machine's results file, in place of those of the same names; the others stay."""
    here = machine()
    entries = {entry["name"]: entry for entry in json.loads(RESULTS.read_text())} if RESULTS.exists() else {}
    for name, ratio in ratios.items():
        values = {key: round(getattr(ratio, key), 3) for key in ("ratio", "low", "high")}
        entries[name] = {"name": name, **values, "machine": here}
    RESULTS.parent.mkdir(exist_ok=True)
    lines = ",\n".join(f"  {json.dumps(entries[name])}" for name in sorted(entries))
    RESULTS.write_text(f"[\n{lines}\n]\n")
