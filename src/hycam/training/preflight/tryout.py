"""Tries a recipe in processes of its own, so that one that is killed ends in a message, and says what came of it."""

from __future__ import annotations

import json
import logging
import re
import signal
import subprocess
import sys
import tempfile
import traceback
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import yaml

from hycam.console import Silence
from hycam.errors import HycamError
from hycam.methods import method
from hycam.training.device import torch_device, torch_dtype
from hycam.training.launch import Failed, end_with_launcher, launch
from hycam.training.parse import parse_recipe
from hycam.training.preflight.findings import Findings
from hycam.training.preflight.trial import PHASES, Trial
from hycam.training.recipe import Recipe
from hycam.training.train import train
from hycam.tuners.hycam import HyCAMConfig

CHILD = "--trial"
"""``hycam check --trial FOLDER`` is one of the processes that :func:`try_out` starts."""

_RECOMPUTING = "lean"  # the backend of HyCAM's modulation that keeps the least
_TOO_LITTLE = re.compile(r"out of memory|(can't|cannot) allocate memory|not enough memory|bad_alloc", re.IGNORECASE)
_WHEN = {
    None: "before the data were there",
    "data": "while the backbone was loaded",
    "loaded": "while the backbone was adapted",
    "adapted": "in the first forward pass",
    "forward": "in the backward pass",
    "backward": "after a backward pass",
    "step": "after the optimizer's step",
    "validation": "at its end",
}
"""When a process ended, by the last phase that it has noted."""


def try_out(recipe: Recipe, world: int = 1) -> Findings:
    """Trains on the largest batch of the data, in as many processes as training will have, and measures it.

    Args:
        recipe: what is to be trained; the other checks have found nothing against it.
        world: how many processes train together.

    Returns:
        one finding; its details have the phases of each process (see :class:`Trial`).
    """
    with tempfile.TemporaryDirectory(prefix="hycam-trial-") as name:
        folder = Path(name)
        (folder / "recipe.yaml").write_text(yaml.safe_dump(asdict(recipe), sort_keys=False))
        ended = _launched(folder, world) if world > 1 else _in_a_process(folder)
        paths = [folder / f"{rank}.json" for rank in range(world)]
        records = [json.loads(path.read_text()) if path.exists() else {"phases": {}, "last": None} for path in paths]
    fullest = max(records, key=_peak)
    details = {
        "device": str(torch_device(recipe.training.device)),
        "peak_bytes": _peak(fullest),
        "free_bytes": min((one["free"] for one in records if "free" in one), default=None),
        "batch": fullest.get("batch"),
        "processes": [one["phases"] for one in records],
    }
    if all("done" in one for one in records):
        return _what_it_takes(recipe, fullest, details)
    return _why_it_ended(recipe, records, ended, details)


def run_child(folder: Path) -> int:
    """Trains as one of the processes of a trial, and writes into the folder how far it came; gives the exit status."""
    end_with_launcher()
    logging.getLogger("hycam").setLevel(logging.ERROR)  # warnings are among the findings of the other checks
    with suppress(OSError):  # where memory runs out, this is what has to end, and not the user's other programs
        Path("/proc/self/oom_score_adj").write_text("500")
    trial = Trial(parse_recipe(Recipe, [str(folder / "recipe.yaml")]), folder)
    try:
        train(trial.recipe, Silence(), trial=trial)
        trial.note(done=True)
    except KeyboardInterrupt:
        return 128 + signal.SIGINT
    except Exception as error:
        is_explained = isinstance(error, HycamError)
        if not is_explained and not _is_out_of_memory(error):
            traceback.print_exc()
        first = next(iter(str(error).strip().splitlines()), "")
        text = str(error) if is_explained else f"{type(error).__name__}: {first}"
        trial.note(error=text, out_of_memory=_is_out_of_memory(error))
        return 1
    finally:
        if dist.is_initialized():
            dist.destroy_process_group()
    return 0


def _in_a_process(folder: Path) -> str:
    """Runs the trial in one process; how that was ended, where it was ended by a signal."""
    process = subprocess.Popen([sys.executable, "-m", "hycam.cli.main", "check", CHILD, str(folder)])
    try:
        status = process.wait()
    finally:
        process.kill()
        process.wait()
    return f" by {signal.Signals(-status).name}" if status < 0 else ""


def _launched(folder: Path, world: int) -> str:
    """The same in several processes, through the launcher of ``hycam train``."""
    try:
        launch("check", [CHILD, str(folder)], world)
    except Failed as error:
        if error.status > 128:  # somebody has stopped it
            raise
        named = re.search(r"SIG\w+", str(error))
        return f" by {named[0]}" if named else ""
    return ""


def _is_out_of_memory(error: BaseException | None) -> bool:
    while error is not None:
        if isinstance(error, (torch.OutOfMemoryError, MemoryError)) or _TOO_LITTLE.search(str(error)):
            return True
        error = error.__cause__ or error.__context__
    return False


def _peak(record: dict[str, Any]) -> int:
    return max((phase["peak"] for phase in record["phases"].values()), default=0)


def _what_it_takes(recipe: Recipe, record: dict[str, Any], details: dict[str, Any]) -> Findings:
    phases, found = record["phases"], Findings("memory")
    moment = max(phases, key=lambda name: phases[name]["peak"])
    micro_batch = phases["forward"]["seconds"] + phases["backward"]["seconds"]
    seconds = recipe.training.gradient_accumulation * micro_batch + phases["step"]["seconds"]
    number = len(details["processes"])
    found.ok(
        f"It fits: at most {details['peak_bytes'] / 1e6:,.0f} MB{f' in each of {number} processes' * (number > 1)}, in "
        f"{PHASES[moment]}. {_there(details)} A step of such batches takes {seconds:.1f} s; the run has "
        f"{record['steps']:,}.",
        **details,
        moment=moment,
        step_seconds=seconds,
    )
    return found


def _why_it_ended(recipe: Recipe, records: list[dict[str, Any]], ended: str, details: dict[str, Any]) -> Findings:
    found = Findings("memory")
    # Who has run out of memory explains the others, and so does who was ended without a word.
    first = min(records, key=lambda one: (not one.get("out_of_memory"), "error" in one or "done" in one))
    when = _WHEN[first["last"]]
    if first.get("out_of_memory"):
        why = f"Memory ran out {when} ({first['error']})."
    elif "error" in first:
        found.error(f"The trial failed {when}: {first['error']}", "trial", **details)
        return found
    else:
        system = ", as the system does when memory runs out" if "SIGKILL" in ended else ""
        why = f"The trial was ended{ended}{system}, {when}."
    if details["batch"]:
        why += f" At the end of {PHASES[first['last']]} it had held {_peak(first) / 1e6:,.0f} MB. {_there(details)}"
    found.error(f"It does not fit. {why} {_advice(recipe, first)}", **details)
    return found


def _there(details: dict[str, Any]) -> str:
    batch = details["batch"]
    return (
        f"With the data there, {details['free_bytes'] / 1e6:,.0f} MB were free on {details['device']}. The largest "
        f"batch has {batch['rows']} rows, the longest of {batch['longest']:,} tokens."
    )


def _advice(recipe: Recipe, record: dict[str, Any]) -> str:
    """What takes less, that which costs the least first, as options."""
    settings, entry = recipe.training, method(recipe.method.name)
    found = []
    if record["last"] not in (None, "data", "loaded"):  # before that there is the backbone alone
        if settings.batch_size > 1:
            half, twice = settings.batch_size // 2, settings.gradient_accumulation * 2
            options = f"--training.batch_size {half} --training.gradient_accumulation {twice}"
            found.append(f"{options}: half the activations, and as many rows in a step")
        if entry.config_class is HyCAMConfig and settings.backend != _RECOMPUTING and not settings.torch_compile:
            found.append(f"--training.backend {_RECOMPUTING}: the modulation is computed anew in the backward pass")
        if settings.optimizer_states == "32bit" and not recipe.method.settings().preconditioned:
            found.append("--training.optimizer_states 8bit: a quarter of the optimizer's states")
        if not settings.gradient_checkpointing:
            found.append("--training.gradient_checkpointing true: every block is computed twice, and keeps little")
        half = max(1, record["batch"]["longest"] // 2)
        found.append(f"--data.max_length {half}: longer rows are shortened or dropped")
    if torch_dtype(settings.precision, torch_device(settings.device)) == torch.float32:
        found.append("--training.precision bfloat16: half the backbone")
    if recipe.quantization != "4bit" and not entry.trains_backbone:
        found.append("--quantization 4bit: an eighth of what the backbone's linear layers take in float32")
    return "\n  ".join(["What takes less memory:", *found]) if found else "Nothing in the recipe is left to save."
