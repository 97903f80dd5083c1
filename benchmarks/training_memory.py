"""The most memory that a training holds, as `hycam check` estimates it and as a real `hycam train` takes it.

    python -m benchmarks.training_memory

Every setting is two processes of their own: `hycam check RECIPE --json`, and `hycam train RECIPE` for a few steps,
whose peak resident memory the system tells when it ends. One thread; the rows are made up, with lengths from a few
words to some hundreds. Where the allocator puts things differs from run to run, so the peak of one setting differs by
some percent too.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from argparse import ArgumentParser
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

_WORDS = ("road", "goes", "over", "the", "green", "hill", "and", "down", "to", "sea", "where", "small", "boats", "wait")
_ROWS = 40  # of each of two tasks


@dataclass(frozen=True)
class Setting:
    """A training: which method, what of ``training``, and the longest row."""

    method: str
    training: dict[str, Any] = field(default_factory=dict)
    max_length: int = 320
    tiny: bool = False

    @property
    def name(self) -> str:
        changes = ", ".join(f"{name}={value}" for name, value in self.training.items())
        return f"{'tiny, ' if self.tiny else ''}{self.method}{f', {changes}' if changes else ''}, {self.max_length}"


SETTINGS = [
    Setting("hycam"),
    Setting("hycam", {"backend": "recompute"}, 512),
    Setting("hycam", {"backend": "reference", "batch_size": 1}),
    Setting("hycam", {"precision": "bfloat16"}),
    Setting("hycam", {"gradient_checkpointing": True, "batch_size": 4}),
    Setting("hycam", {"optimizer_states": "8bit", "batch_size": 1, "gradient_accumulation": 2}, 512),
    Setting("lora", {"batch_size": 3}, 256),
    Setting("lora", {"precision": "bfloat16"}),
    Setting("multilora", {"gradient_checkpointing": True}),
    Setting("moe-lora", {"gradient_checkpointing": True, "precision": "bfloat16", "max_steps": 2}, 192),
    Setting("riemoe-lora", {"max_steps": 2}, 192),
    Setting("full", {}, 256),
    Setting("full", {"precision": "bfloat16", "batch_size": 1}, 256),
    Setting("hycam", {"batch_size": 8}, 512, tiny=True),
    Setting("lora", {"batch_size": 8, "gradient_checkpointing": True}, 512, tiny=True),
]


@dataclass(frozen=True)
class Measured:
    """Both figures of a setting, in bytes; ``parts`` are the estimate's."""

    setting: Setting
    estimated: int
    measured: int
    parts: dict[str, int]

    @property
    def deviation(self) -> float:
        return self.estimated / self.measured - 1


def measure(settings: list[Setting], folder: Path, tiny_backbone: str | None = None) -> Iterator[Measured]:
    """Estimates and trains each setting in processes of its own; ``folder`` is for the recipes and the runs."""
    tasks = [str(_rows(folder / f"task{number}.jsonl", number)) for number in (0, 1)]
    for number, setting in enumerate(settings):
        path = folder / f"{number}.json"
        output = folder / f"run{number}"
        recipe = {
            "backbone": tiny_backbone if setting.tiny else "smollm2-135m",
            "output": str(output),
            "method": {"name": setting.method},
            "data": {
                "tasks": tasks, "max_length": setting.max_length, "train_rows": 24,
                "validation_rows": 4, "test_rows": 4,
            },
            "training": {
                "device": "cpu", "precision": "float32", "max_steps": 3, "log_every": 1, "gradient_accumulation": 1,
                **setting.training,
            },
        }  # fmt: skip
        path.write_text(json.dumps(recipe))
        checked, _ = _run("check", str(path), "--json")
        found = next(one for one in json.loads(checked) if "peak_bytes" in one["details"])["details"]
        _, peak = _run("train", str(path))
        yield Measured(setting, found["peak_bytes"], peak, found["parts"])


def _rows(path: Path, seed: int) -> Path:
    lines = []
    for row in range(_ROWS):
        asked, answered = 5 + (37 * row + seed) % 150, 5 + (53 * row + seed) % 100
        text = [" ".join(_WORDS[(row + at) % len(_WORDS)] for at in range(number)) for number in (asked, answered)]
        lines.append(json.dumps({"instruction": f"{row}: {text[0]}", "input": "", "output": text[1]}))
    path.write_text("\n".join(lines) + "\n")
    return path


def _run(*arguments: str) -> tuple[str, int]:
    """What a verb prints, and the peak of its resident memory in bytes."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "hycam.cli.main", *arguments]
    with tempfile.NamedTemporaryFile("r") as peak:
        watched = [sys.executable, "-c", _WATCH, peak.name, *command]
        done = subprocess.run(watched, capture_output=True, text=True, env=environment)
        if done.returncode and arguments[0] == "train":
            raise RuntimeError(f"{command} failed: {done.stderr[-2000:]}")
        return done.stdout, int(peak.read()) * (1 if sys.platform == "darwin" else 1024)


# A process of little memory between this one and the one that is measured: on Linux the peak of a child is never below
# what the process held that it was forked from.
_WATCH = """
import os, subprocess, sys
process = subprocess.Popen(sys.argv[2:])
_, status, usage = os.wait4(process.pid, 0)
print(usage.ru_maxrss, file=open(sys.argv[1], "w"))
sys.exit(os.waitstatus_to_exitcode(status))
"""


def table(results: list[Measured]) -> Table:
    """Setting, both figures in MB, and the deviation."""
    shown = Table("setting", "estimated, MB", "measured, MB", "deviation", title="Peak memory of a training on the CPU")
    for one in results:
        shown.add_row(
            one.setting.name, f"{one.estimated / 1e6:,.0f}", f"{one.measured / 1e6:,.0f}", f"{one.deviation:+.1%}"
        )
    return shown


def main() -> None:
    parser = ArgumentParser(description=__doc__)
    parser.add_argument("--tiny", help="the folder of a tiny backbone, for the settings that are of one")
    parser.add_argument("--only", type=int, nargs="*", help="numbers of the settings to measure, from 0")
    chosen = parser.parse_args()
    settings = [SETTINGS[number] for number in chosen.only] if chosen.only else SETTINGS
    settings = [one for one in settings if chosen.tiny or not one.tiny]
    results = []
    with tempfile.TemporaryDirectory() as folder:
        for one in measure(settings, Path(folder), chosen.tiny):
            results.append(one)
            print(f"{one.setting.name}: {one.deviation:+.1%}", file=sys.stderr, flush=True)
            print(json.dumps({"setting": one.setting.name, "estimated": one.estimated, "measured": one.measured}))
    Console(width=120).print(table(results))


if __name__ == "__main__":
    main()
