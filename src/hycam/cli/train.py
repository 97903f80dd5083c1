"""``hycam train RECIPE``: adapts a backbone; resumes where it stopped."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from hycam.console import Reporter, quiet_libraries
from hycam.training.parse import parse_recipe
from hycam.training.recipe import Recipe
from hycam.training.run import Run
from hycam.training.stopping import Stop
from hycam.training.train import train

_STEPS_SHOWN = 10


def main(arguments: Sequence[str]) -> None:
    """Parses the recipe and its overrides, trains, and says where the adapter is."""
    stop = Stop()
    with stop.listening():
        _main(arguments, stop)
        stop.check("The run is complete.")


def _main(arguments: Sequence[str], stop: Stop) -> None:
    recipe = parse_recipe(Recipe, arguments, prog="hycam train", description="Adapts a backbone as a recipe says.")
    quiet_libraries()
    run = Run(Path(recipe.output))
    if run.summary() is not None:
        print(f"{run.folder} is complete already; nothing is trained again.", file=sys.stderr)
    with Reporter() as reporter:
        summary = train(recipe, reporter, stop=stop)
    losses = ", ".join(
        f"{name.removeprefix('eval_loss_')} {loss:.3f}"
        for name, loss in summary["validation"].items()
        if name.startswith("eval_loss_")
    )
    print(f"Validation loss per token: {summary['validation']['eval_loss']:.3f} (mean over tasks; {losses})")
    if len(summary.get("shares", ())) > 1:  # a run of an older version has none
        shares = ", ".join(
            f"{name} {summary['rows'][name]:,} ({share:.1%}, wanted {summary['wanted_shares'][name]:.1%})"
            for name, share in summary["shares"].items()
        )
        print(f"Rows trained on: {shares}")
    if skipped := summary.get("skipped"):
        steps = ", ".join(str(entry["step"]) for entry in skipped[:_STEPS_SHOWN])
        more = f" and {len(skipped) - _STEPS_SHOWN:,} more" if len(skipped) > _STEPS_SHOWN else ""
        print(f"Left out: step {steps}{more} ({run.folder / 'training.json'} has the reason and the rows of each)")
    print(f"{summary['steps']} steps, {summary['tokens']:,} tokens, {summary['seconds']:.0f} s")
    print(f"Adapter: {run.adapter}" if run.adapter.exists() else f"Model: {run.model}")
