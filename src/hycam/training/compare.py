"""Several methods on the same data: a run folder each, and one file of results."""

from __future__ import annotations

import json
import multiprocessing
import signal
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from hycam.console import Reporter, quiet_libraries
from hycam.errors import HycamError
from hycam.files import write_whole
from hycam.machine import peak_memory_bytes
from hycam.training.device import torch_device
from hycam.training.evaluate import evaluate_run
from hycam.training.recipe import Candidate, Comparison, MethodRecipe, Recipe
from hycam.training.run import BASE, Run
from hycam.training.train import train

_RESULT = "result.json"
_UNTRAINED: dict[str, Any] = {
    "trainable_parameters": 0,
    "learning_rate": None,
    "tokens": 0,
    "seconds": 0.0,
    "peak_memory_bytes": 0,
}


def compare(comparison: Comparison, say: Callable[[str], None]) -> dict[str, dict[str, Any]]:
    """Trains and evaluates every method of a comparison, one after the other, and writes ``OUTPUT/results.json``.

    Each runs in a process of its own, so that its peak memory is its own. A method that is complete is not run again,
    so an interrupted comparison continues where it stopped.

    Args:
        comparison: what to compare.
        say: told which method begins.

    Returns:
        what ``results.json`` holds: by label, ``tasks`` (``perplexity``, ``bleu4``, ``rougeL`` and more of each),
        ``macro``, ``pooled``, ``perplexity`` (over tasks: exp of the mean NLL), ``trainable_parameters``,
        ``learning_rate``, ``training_tokens``, ``training_seconds``, ``seconds`` (with the evaluation) and
        ``peak_memory_bytes``.

    Raises:
        HycamError: nothing to compare, a misspelt method, a folder of another recipe, or what a single run raises.
    """
    if not comparison.methods:
        raise HycamError("The comparison names no method. Name some under `methods:`, such as `lora: {name: lora}`.")
    torch_device(comparison.training.device)
    recipes = {label: _recipe(comparison, label, candidate) for label, candidate in comparison.methods.items()}
    for recipe in recipes.values():
        if recipe.method.name != BASE:  # what is wrong with one is said before the first one trains
            recipe.method.settings()
            recipe.learning_rate()
        Run(Path(recipe.output)).check(recipe)
    results = {}
    for position, (label, recipe) in enumerate(recipes.items(), 1):
        say(f"{label} ({position} of {len(recipes)})")
        kept = _kept(recipe)
        results[label] = kept or _in_a_process_of_its_own(_run_one, recipe, label, position == 1)
    write_whole(Path(comparison.output) / "results.json", json.dumps(results, indent=2) + "\n")
    return results


def _recipe(comparison: Comparison, label: str, candidate: Candidate) -> Recipe:
    return Recipe(
        backbone=comparison.backbone,
        output=str(Path(comparison.output) / label),
        method=MethodRecipe(candidate.name, candidate.config, candidate.optimizer),
        data=comparison.data,
        training=replace(
            comparison.training,
            learning_rate=comparison.training.learning_rate
            if candidate.learning_rate is None
            else candidate.learning_rate,
        ),
        evaluation=comparison.evaluation,
    )


def _kept(recipe: Recipe) -> dict[str, Any] | None:
    """The result of a method that was trained and evaluated like this before."""
    path = Path(recipe.output) / _RESULT
    if not path.exists():
        return None
    kept = json.loads(path.read_text())
    return kept["result"] if kept["evaluation"] == asdict(recipe.evaluation) else None


def _in_a_process_of_its_own(function: Callable[..., dict[str, Any]], *arguments: Any) -> dict[str, Any]:
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(max_workers=1, mp_context=context, initializer=_die_on_ctrl_c) as pool:
        try:
            return pool.submit(function, *arguments).result()
        except KeyboardInterrupt:
            for process in multiprocessing.active_children():
                process.terminate()
            raise
        except BrokenProcessPool as error:
            raise HycamError("The process was ended from outside; most often the machine is out of memory.") from error


def _die_on_ctrl_c() -> None:
    """Ctrl-C reaches this process too; it is the parent that says what happened."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def _run_one(recipe: Recipe, label: str, is_first: bool) -> dict[str, Any]:
    quiet_libraries(informative=is_first)  # the data are the same for all
    run = Run(Path(recipe.output))
    with Reporter(label) as reporter:
        if recipe.method.name == BASE:
            run.begin(recipe)
            trained = _UNTRAINED
        else:
            trained = train(recipe, reporter)
        began = time.monotonic()
        metrics = evaluate_run(run, recipe.evaluation, reporter)
        evaluation_seconds = time.monotonic() - began
    result = {
        **metrics,
        "perplexity": metrics["macro"]["perplexity"],
        "trainable_parameters": trained["trainable_parameters"],
        "learning_rate": trained["learning_rate"],
        "training_tokens": trained["tokens"],
        "training_seconds": trained["seconds"],
        "seconds": trained["seconds"] + evaluation_seconds,
        "peak_memory_bytes": max(trained["peak_memory_bytes"], peak_memory_bytes()),
    }
    kept = {"evaluation": asdict(recipe.evaluation), "result": result}
    write_whole(run.folder / _RESULT, json.dumps(kept, indent=2) + "\n")
    return result
