"""A long training needs no more memory, files, threads or work for a checkpoint at its end than after its start.

The training is in a process of its own, in which Python takes all memory from the C library, so that this counts every
byte that is allocated. Pages in use say less: a heap that is full of small holes takes up a megabyte more now and then,
even thousands of steps after the start, and more of it in a process that is forked from the tests'.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import psutil
import pytest
import torch

from hycam.cli.main import main
from hycam.training.loop import Loop
from hycam.training.recipe import Recipe
from hycam.training.run import Run
from train_children import written

STEPS, EVERY, WARM = 5_000, 50, 1_000
PAGE = os.sysconf("SC_PAGE_SIZE")


def watch(notes: Path) -> None:
    """After every 50th step, notes what this process holds, and what its last checkpoint took."""
    step_ended, save = Loop.step_ended, Loop.save
    saved: dict[str, int] = {}

    def measured_save(self) -> None:
        calls = [0]

        def count(frame: object, event: str, argument: object) -> None:
            calls[0] += event in ("call", "c_call")

        sys.setprofile(count)
        try:
            save(self)
        finally:
            sys.setprofile(None)
        saved["calls"] = calls[0]
        folder = self.job.checkpoints.at(self.progress.step)
        saved["bytes"] = sum(path.stat().st_size for path in folder.rglob("*"))

    def measured_step(self) -> None:
        step_ended(self)
        if self.progress.step % EVERY == 0:
            process = Path("/proc/self")
            resident = int((process / "statm").read_text().split()[1]) * PAGE
            line = {"step": self.progress.step, "allocated": sum(psutil.heap_info()), "resident": resident, **saved}
            line |= {"files": len([*(process / "fd").iterdir()]), "threads": len([*(process / "task").iterdir()])}
            with notes.open("a") as file:
                file.write(json.dumps(line) + "\n")

    Loop.save, Loop.step_ended = measured_save, measured_step


def growth(steps: np.ndarray, values: np.ndarray) -> tuple[float, float]:
    """Slope of the median line (Theil and Sen) over 1,000 steps, and the lower end of its 95 % interval."""
    from scipy.stats import theilslopes

    slope, _, low, _ = theilslopes(values, steps / 1_000)
    return float(slope), float(low)


@pytest.mark.soak
def test_nothing_grows_over_five_thousand_steps(build: Callable[..., Recipe], tmp_path: Path) -> None:
    recipe = build(tmp_path / "run", "hycam", max_steps=STEPS, batch_size=1, gradient_accumulation=1, log_every=10,
                   evaluate_every=500, save_every=EVERY)  # fmt: skip
    notes = tmp_path / "notes"
    file = written(recipe, tmp_path / "recipe.yaml")
    command = [sys.executable, "-m", "training.test_long_run", str(file), str(notes)]
    tests = Path(__file__).parents[1]
    environment = {
        "HYCAM_CACHE": str(tmp_path / "cache"),
        "PYTHONPATH": f"{tests}:{tests.parent / 'src'}",
        "PYTHONMALLOC": "malloc",
    }
    done = subprocess.run(command, env={**os.environ, **environment}, capture_output=True, text=True, timeout=1800)
    assert done.returncode == 0, done.stderr
    lines = [json.loads(line) for line in notes.read_text().splitlines()]
    assert len(lines) == STEPS // EVERY
    late = [line for line in lines if line["step"] > WARM]
    steps = np.array([line["step"] for line in late])
    found = {}
    for what in ("allocated", "resident", "files", "threads", "calls", "bytes"):
        values = np.array([line[what] for line in late], float)
        found[what] = (float(np.median(values)), *growth(steps, values), values.max())
        print(f"{what}: median {found[what][0]:,.4f}, {found[what][1]:+,.5f} in 1,000 steps", flush=True)
    assert found["files"][1] == found["threads"][1] == 0.0
    assert found["files"][3] - found["files"][0] <= 3, "one or two are open for a moment"
    # One row of log a step that is kept would be some 300 bytes a step, and a tensor of this model at least a kilobyte.
    assert found["allocated"][2] < 100_000, "memory grows with the steps"
    resident = late[-1]["resident"] - late[0]["resident"]
    assert resident < 1_000 * (STEPS - WARM), "memory that the C library knows nothing of grows with the steps"
    assert found["bytes"][1] < 10, "a checkpoint grows with the steps"
    assert found["calls"][2] < 0.001 * found["calls"][0], "a checkpoint is more work with the steps"
    assert Run(Path(recipe.output)).summary()["steps"] == STEPS


if __name__ == "__main__":
    torch.set_num_threads(1)
    watch(Path(sys.argv[2]))
    sys.exit(main(["train", sys.argv[1]]))
