"""One run, from a recipe to a saved adapter: check, load, adapt, loop, finish."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, cast

import torch
from peft import PeftModel
from safetensors import SafetensorError
from transformers import PreTrainedModel, PreTrainedTokenizerBase, TrainingArguments, enable_full_determinism, set_seed

from hycam import backbones, processes
from hycam.adapt import adapt, empty_backbone, trainable_parameters
from hycam.console import Reports, Silence
from hycam.data.batches import Batches
from hycam.data.mixture import Mixture
from hycam.data.prepare import Prepared, prepare
from hycam.errors import Diverged, HycamError, Interrupted
from hycam.files import needs_room, unwritable
from hycam.lock import alone
from hycam.machine import peak_memory_bytes
from hycam.methods import method
from hycam.ops import set_backend
from hycam.training import distributed
from hycam.training.arguments import training_arguments
from hycam.training.checkpoints import Checkpoints
from hycam.training.device import torch_device, torch_dtype
from hycam.training.divergence import Policy
from hycam.training.loop import Loop
from hycam.training.packing import check_packing
from hycam.training.plan import Plan, Trial
from hycam.training.preflight import log_all, stop_at_errors
from hycam.training.preflight.batches import batches_of, steps_of
from hycam.training.preflight.data import check_lengths, check_tables
from hycam.training.preflight.output import room_needed, trained_kind
from hycam.training.preflight.settings import check_schedule
from hycam.training.preflight.without_data import check_without_data
from hycam.training.recipe import Recipe
from hycam.training.rows import MixedRows
from hycam.training.run import Run
from hycam.training.saving import check_saves, mended
from hycam.training.savings import compile_blocks, use_liger
from hycam.training.state import check_state
from hycam.training.stopping import Stop

_log = logging.getLogger(__name__)

Also = Callable[[PreTrainedModel, PreTrainedTokenizerBase], Mapping[str, float]]


@dataclass
class _Job:
    """A training whose recipe and data were found to work."""

    recipe: Recipe
    run: Run
    arguments: TrainingArguments
    tokenizer: PreTrainedTokenizerBase
    data: Prepared
    checkpoints: Checkpoints
    reporter: Reports  # silent on all processes but the main one
    stop: Stop
    trial: Trial | None


def train(
    recipe: Recipe, reporter: Reports, also: Also | None = None, stop: Stop | None = None, trial: Trial | None = None
) -> dict[str, Any]:
    """Trains an adapter as the recipe says; continues from the last whole checkpoint where there is one.

    However often it was interrupted, what it ends with on a CPU is to the bit what one process ends with. A run that is
    complete is left as it is. Everything that can be found wrong with the recipe, the backbone's configuration, the
    data and the folder is found before the backbone is loaded, and too little room on the disk before the first step.

    Args:
        recipe: what to train.
        reporter: shows how far training and validation have come.
        also: gives further figures at every validation, of the model and its tokenizer, which are logged beside the
            losses; there is one validation more then, before the first step.
        stop: whether the process was asked to end.
        trial: chooses the rows, is told when each phase has ended, and has nothing saved.

    Returns:
        the summary that ``training.json`` holds: ``steps``, ``tokens`` (without padding), ``seconds`` (of training,
        interruptions left out), ``peak_memory_bytes``, ``trainable_parameters``, ``total_parameters``,
        ``learning_rate``, ``data`` (its fingerprint), ``thinks`` (whether most responses begin with a thought),
        ``rows`` and ``shares`` (of each task, that were trained on), ``wanted_shares`` (as the mixture has them),
        ``skipped`` (the steps that were left out, see :class:`hycam.training.divergence.StepWatch`) and ``validation``
        (the last pass: ``eval_loss`` and each task's).

    Raises:
        Diverged: no good can come of further steps.
        HycamError: a part of the recipe does not work, another process trains in the folder, or it cannot be written;
            nothing that was there is lost.
        Interrupted: the process was asked to end; a checkpoint is saved if it had begun to train.
    """
    with set_backend(recipe.training.backend), distributed.together(), ExitStack() as undo:
        job = _check(recipe, reporter, stop or Stop(), trial)
        complete, resumed = processes.on_main(partial(_begin, job, undo))
        if complete is not None:
            return complete
        rows, mixture, batches = _batches(job)
        total, model = _load(job, undo)
        _reached(trial, "loaded")
        trainable, adapted = _adapt(job, model, batches.packing, undo)
        _reached(trial, "adapted")
        loop = _loop(job, adapted, rows, batches, also)
        undo.enter_context(job.stop.held())
        validation = _run(job, loop, resumed)
        sizes = {"trainable_parameters": trainable, "total_parameters": total}
        return _finish(job, loop, sizes, mixture.wanted(), validation)


def _check(recipe: Recipe, reporter: Reports, stop: Stop, trial: Trial | None) -> _Job:
    """Finds everything that does not work before the backbone is loaded."""
    # A misspelt setting is said before anything is loaded.
    stop_at_errors(check_without_data(recipe, distributed.started()).findings)
    run, settings = Run(Path(recipe.output)), recipe.training
    device, trusted = torch_device(settings.device), recipe.trust_remote_code
    # Before the arguments, under whose ZeRO-3 there is no model without weights.
    empty = empty_backbone(backbones.config(recipe.backbone, trusted), trusted)
    autocast = method(recipe.method.name).trains_backbone and _dtype(recipe) == torch.bfloat16
    arguments = training_arguments(recipe, run, recipe.learning_rate(), device.type, autocast)
    _ = arguments.device  # brings the processes together
    if not processes.is_main():
        reporter = Silence()
    tokenizer = backbones.load_tokenizer(recipe.backbone, trusted)
    tokenizer.padding_side = "right"
    check_saves(recipe.backbone, tokenizer)
    data = prepare(recipe.data, tokenizer, reporter.update)
    if trial is not None:
        data = trial.select(data)
    of_tables = check_tables(recipe, data, tokenizer, empty)
    stop_at_errors(one for one in of_tables if one.about != "settings")
    log_all(one for one in of_tables if one.about == "settings")
    goes_back = settings.early_stopping_patience is not None
    checkpoints = Checkpoints(run.checkpoints, beside=[run.metrics], goes_back=goes_back)
    return _Job(recipe, run, arguments, tokenizer, data, checkpoints, reporter, stop, trial)


def _begin(job: _Job, undo: ExitStack) -> tuple[dict[str, Any] | None, Path | None]:
    """Takes the run folder; the summary of a run that is complete, and the checkpoint to go on from."""
    run = job.run
    run.check(job.recipe)
    if run.summary() is None or run.damage():
        undo.enter_context(alone(run.folder, "trains in"))
        if run.summary() is not None and (wrong := run.damage()):
            _log.warning("%s It is made again.", wrong)
            run.reopen()
    run.begin(job.recipe, job.data.fingerprint, processes.world_size())
    if (complete := run.summary()) is not None:
        return complete, None
    resumed = job.checkpoints.resume_from()
    if resumed is not None:
        check_state(resumed)
    return None, resumed


def _batches(job: _Job) -> tuple[MixedRows, Mixture, Batches]:
    recipe, data = job.recipe, job.data
    rows = MixedRows(data.train)
    mixture = Mixture(recipe.data.mixture, rows.sizes, recipe.training.seed)
    batches = batches_of(recipe, rows, processes.world_size(), processes.rank())
    log_all(check_lengths(recipe.data, data) + check_schedule(recipe, steps_of(recipe, batches), len(rows)))
    return rows, mixture, batches


def _load(job: _Job, undo: ExitStack) -> tuple[int, PreTrainedModel]:
    """The number of the backbone's parameters, and the backbone."""
    recipe, settings = job.recipe, job.recipe.training
    set_seed(settings.seed)
    trains_backbone = method(recipe.method.name).trains_backbone
    # Weights that are trained are kept in float32: a step of a learning rate is less than bfloat16 can tell.
    weights = torch.float32 if trains_backbone else _dtype(recipe)
    place = distributed.loads_onto(recipe, torch_device(settings.device))
    with distributed.partitioned_as(weights, job.arguments):
        model = backbones.load(recipe.backbone, weights, place, recipe.trust_remote_code, recipe.quantization)
    total = distributed.parameters(model)
    if trains_backbone:
        model.generation_config, _ = mended(model.generation_config)
    if settings.use_liger_kernel:
        use_liger(model, undo)
    return total, model


def _adapt(job: _Job, model: PreTrainedModel, packs: bool, undo: ExitStack) -> tuple[int, PreTrainedModel | PeftModel]:
    """The number of parameters to be trained, and the adapted backbone."""
    recipe, settings = job.recipe, job.recipe.training
    adapted = adapt(model, recipe.method.name, recipe.method.config)
    if settings.torch_compile:
        compile_blocks(adapted, undo)
    trainable = trainable_parameters(adapted)
    if job.trial is None:
        needs_room(job.run.folder, room_needed(recipe, trainable), f"{trained_kind(recipe)} and its checkpoints")
    if packs:
        with distributed.weights_at_hand(adapted):
            check_packing(cast(PreTrainedModel, adapted))
    seeded = enable_full_determinism if job.arguments.full_determinism else set_seed
    seeded(settings.seed + processes.rank())  # noise and dropout are of each process's own
    return trainable, adapted


def _loop(
    job: _Job, adapted: PreTrainedModel | PeftModel, rows: MixedRows, batches: Batches, also: Also | None
) -> Loop:
    settings = job.recipe.training
    plan = Plan(
        rows,
        batches,
        job.data.validation,
        Policy(settings.on_divergence == "skip", settings.divergence_margin, settings.max_skipped_steps),
        settings.early_stopping_patience,
        None if also is None else partial(also, cast(PreTrainedModel, adapted), job.tokenizer),
        job.trial,
    )
    optimizer, metrics = job.recipe.method.settings(), job.run.metrics
    return Loop(
        adapted, job.tokenizer, job.arguments, plan, optimizer, job.checkpoints, metrics, job.stop, job.reporter
    )


def _run(job: _Job, loop: Loop, resumed: Path | None) -> dict[str, float]:
    """The loop, whose errors say where the same command goes on."""
    try:
        return loop.run(resumed)
    except Interrupted as error:
        where = _continues(job.checkpoints)
        raise Interrupted(error.number, f"Step {loop.progress.step} was done; the same command {where}.") from None
    except Diverged as error:
        good = [str(job.checkpoints.at(step)) for step in job.checkpoints.steps()[-1:]]
        raise Diverged(error.step, error.what, error.rows, *good) from error
    except (OSError, RuntimeError, SafetensorError) as error:
        reason = unwritable(error)
        if reason is None:
            raise
        raise HycamError(
            f"{job.run.folder} cannot be written ({reason}), and training stopped at step {loop.progress.step}. "
            f"Make room, or make it writable; the same command {_continues(job.checkpoints)}."
        ) from error


def _continues(checkpoints: Checkpoints) -> str:
    last = checkpoints.steps()[-1:]
    return f"continues from step {last[0]}" if last else "begins anew"


def _finish(
    job: _Job, loop: Loop, sizes: dict[str, int], wanted: dict[str, float], validation: dict[str, float]
) -> dict[str, Any]:
    """Saves what was trained, and the summary, which says that the run is complete."""
    progress = loop.progress
    summary = {
        "steps": progress.step,
        "tokens": progress.tokens,
        "seconds": progress.seconds,
        "peak_memory_bytes": distributed.most(peak_memory_bytes(), job.arguments.device),
        **sizes,
        "learning_rate": job.recipe.learning_rate(),
        "data": job.data.fingerprint,
        "thinks": job.data.thinks,
        "rows": progress.rows,
        "shares": progress.shares(),
        "wanted_shares": wanted,
        "skipped": progress.watch.skipped,
        "validation": validation,
    }
    if job.trial is not None:
        return summary
    state = distributed.whole_state(loop.model) if processes.world_size() > 1 else None

    def finish() -> dict[str, Any]:
        job.run.finish(loop.model, job.tokenizer, summary, state)
        return summary

    return processes.on_main(finish)


def _dtype(recipe: Recipe) -> torch.dtype:
    return torch_dtype(recipe.training.precision, torch_device(recipe.training.device))


def _reached(trial: Trial | None, phase: str) -> None:
    if trial is not None:
        trial.at(phase)
