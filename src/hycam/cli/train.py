"""``hycam train RECIPE``: adapts a backbone; resumes where it stopped.

With ``--launch N`` it starts N processes on this machine, which run the same command without that option, as those of
torchrun, accelerate and deepspeed do.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hycam.cli.arguments import parsed, without_launch
from hycam.cli.help import RECIPE
from hycam.cli.importing import importing
from hycam.console import Reporter, Silence, quiet_libraries
from hycam.errors import UsageError
from hycam.training.recipe import Recipe

if TYPE_CHECKING:
    from hycam.training.run import Run
    from hycam.training.stopping import Stop

_STEPS_SHOWN = 10
DESCRIPTION = "Adapts a backbone as a recipe says. --launch N, anywhere, starts N processes that do it together."


def main(arguments: Sequence[str]) -> None:
    """Parses the recipe and its overrides, trains, and says where the adapter is."""
    words, number = without_launch(arguments)
    recipe = parsed(Recipe, RECIPE, words, "hycam train", DESCRIPTION)
    with importing():
        from hycam.training import distributed, train  # noqa: F401  # all that training needs
        from hycam.training.launch import launch
        from hycam.training.stopping import Stop
    if number is None or number == 1 or _is_complete(recipe):
        stop = Stop()
        with stop.listening():
            _train(recipe, stop)
            stop.check("The run is complete.")
    elif distributed.started() > 1:
        raise UsageError(
            f"--launch {number} is in a command that already has {distributed.started()} processes: drop it."
        )
    else:
        distributed.check(recipe, number)
        launch("train", words, number)


def _is_complete(recipe: Recipe) -> bool:
    from hycam.training.run import Run

    run = Run(Path(recipe.output))
    return run.summary() is not None and not run.damage()


def _train(recipe: Recipe, stop: Stop) -> None:
    """Trains as one process, or as one of several."""
    import torch.distributed as dist

    from hycam.machine import share_cores
    from hycam.training import distributed
    from hycam.training.launch import end_with_launcher
    from hycam.training.run import Run
    from hycam.training.train import train

    started, is_main = distributed.started(), os.environ.get("RANK", "0") == "0"
    quiet_libraries(informative=is_main)
    share_cores()
    strategy = recipe.training.distributed.strategy
    if started > 1:
        end_with_launcher()
    if _is_complete(recipe):
        if is_main:
            print(f"{recipe.output} is complete already; nothing is trained again.", file=sys.stderr)
    elif started == 1 and strategy != "ddp":
        print(
            f"There is one process, so training.distributed.strategy={strategy} has no effect. --launch N starts "
            "several.",
            file=sys.stderr,
        )
    with Reporter() if is_main else nullcontext(Silence()) as reporter:
        summary = train(recipe, reporter, stop=stop)
    if dist.is_initialized():
        dist.destroy_process_group()
    if is_main:
        _say(Run(Path(recipe.output)), summary)


def _say(run: Run, summary: dict[str, Any]) -> None:
    losses = ", ".join(
        f"{name.removeprefix('eval_loss_')} {loss:.3f}"
        for name, loss in summary["validation"].items()
        if name.startswith("eval_loss_")
    )
    print(f"Validation loss per token: {summary['validation']['eval_loss']:.3f} (mean over tasks; {losses})")
    if len(summary.get("shares", ())) > 1:  # older versions have none
        shares = ", ".join(
            f"{name} {summary['rows'][name]:,} ({share:.1%}, wanted {summary['wanted_shares'][name]:.1%})"
            for name, share in summary["shares"].items()
        )
        print(f"Rows trained on: {shares}")
    if skipped := summary.get("skipped"):
        steps = ", ".join(str(entry["step"]) for entry in skipped[:_STEPS_SHOWN])
        more = f" and {len(skipped) - _STEPS_SHOWN:,} more" if len(skipped) > _STEPS_SHOWN else ""
        print(f"Skipped: step {steps}{more} ({run.folder / 'training.json'} has the reason and the rows of each)")
    print(f"{summary['steps']} steps, {summary['tokens']:,} tokens, {summary['seconds']:.0f} s")
    print(f"Adapter: {run.adapter}" if run.adapter.exists() else f"Model: {run.model}")
