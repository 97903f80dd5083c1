"""One run, from a recipe to a saved adapter: check, load, adapt, loop, finish."""

from __future__ import annotations

import logging
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any, cast

import torch
from peft import PeftModel
from safetensors import SafetensorError
from transformers import PreTrainedModel, enable_full_determinism, set_seed

from hycam import backbones, processes
from hycam.adapt import adapt, empty_backbone, trainable_parameters
from hycam.console import Reports, Silence
from hycam.data.mixture import Mixture
from hycam.data.prepare import prepare
from hycam.errors import Diverged, HycamError, Interrupted
from hycam.files import needs_room, unwritable
from hycam.lock import alone
from hycam.machine import peak_memory_bytes
from hycam.methods import method
from hycam.ops import set_backend
from hycam.training import distributed
from hycam.training.arguments import training_arguments
from hycam.training.checkpoints import Checkpoints
from hycam.training.job import Also, Job, Trial
from hycam.training.loop import Loop
from hycam.training.packing import check_packing
from hycam.training.preflight import log_all, stop_at_errors
from hycam.training.preflight.check import check_without_data
from hycam.training.preflight.data import check_lengths, check_tables
from hycam.training.preflight.settings import check_schedule, room_needed, trained_kind
from hycam.training.recipe import Recipe
from hycam.training.run import Run
from hycam.training.saving import check_saves, mended
from hycam.training.savings import compile_blocks, use_liger
from hycam.training.state import check_state
from hycam.training.stopping import Stop

_log = logging.getLogger(__name__)


def train(
    recipe: Recipe, reporter: Reports, also: Also | None = None, stop: Stop | None = None, trial: Trial | None = None
) -> dict[str, Any]:
    """Trains an adapter as the recipe says; continues from the last whole checkpoint where there is one.

    On a CPU the result is the same to the bit, however often training was interrupted. A complete run is left as it is.
    Mistakes in the recipe, the backbone's configuration, the data and the folder are found before the backbone is
    loaded, and too little room on the disk before the first step.

    Args:
        recipe: what to train.
        reporter: shows the progress of training and validation.
        also: computes further figures at every validation, from the model and its tokenizer, to be logged with the
            losses; there is then one more validation, before the first step.
        stop: whether the process was asked to end.
        trial: chooses the rows and is told when each phase has ended; nothing is saved then.

    Returns:
        the summary that ``training.json`` holds: ``steps``, ``tokens`` (without padding), ``seconds`` (of training,
        without interruptions), ``peak_memory_bytes``, ``trainable_parameters``, ``total_parameters``,
        ``learning_rate``, ``data`` (its fingerprint), ``thinks`` (whether most responses begin with a thought),
        ``rows`` and ``shares`` (of each task, as trained on), ``wanted_shares`` (those of the mixture), ``skipped``
        (steps, see :class:`hycam.training.divergence.StepWatch`) and ``validation`` (the last: ``eval_loss`` and each
        task's).

    Raises:
        Diverged: further steps would do harm.
        HycamError: a part of the recipe does not work, another process trains in the folder, or it cannot be written;
            nothing that was there is lost.
        Interrupted: the process was asked to end; there is a checkpoint if training had begun.
    """
    with set_backend(recipe.training.backend), distributed.together(), ExitStack() as undo:
        job = _check(recipe, reporter, also, stop or Stop(), trial)
        complete, resumed = processes.on_main(partial(_begin, job, undo))
        if complete is not None:
            return complete
        log_all(check_lengths(recipe.data, job.data) + check_schedule(recipe, job.max_steps, len(job.rows)))
        model, total = _load(job, undo)
        job.reached("loaded")
        adapted, trainable = _adapt(job, model, undo)
        job.reached("adapted")
        loop = Loop(adapted, job)
        undo.enter_context(job.stop.held())
        validation = _run(job, loop, resumed)
        return _finish(job, loop, {"trainable_parameters": trainable, "total_parameters": total}, validation)


def _check(recipe: Recipe, reporter: Reports, also: Also | None, stop: Stop, trial: Trial | None) -> Job:
    """Finds everything that does not work before the backbone is loaded."""
    # First, so that a misspelt setting is reported before anything is loaded.
    stop_at_errors(check_without_data(recipe, distributed.started()).findings)
    run, trusted = Run(Path(recipe.output)), recipe.trust_remote_code
    # Before the arguments: once they ask for ZeRO-3, no model can be made without weights.
    empty = empty_backbone(backbones.config(recipe.backbone, trusted), trusted)
    arguments = training_arguments(recipe)
    _ = arguments.device  # connects the processes
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
    goes_back = recipe.training.early_stopping_patience is not None
    checkpoints = Checkpoints(run.checkpoints, beside=[run.metrics], goes_back=goes_back)
    return Job(recipe, run, arguments, tokenizer, data, checkpoints, reporter, stop, also, trial)


def _begin(job: Job, undo: ExitStack) -> tuple[dict[str, Any] | None, Path | None]:
    """Takes the run folder; returns the summary if the run is complete, or the checkpoint to continue from."""
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


def _load(job: Job, undo: ExitStack) -> tuple[PreTrainedModel, int]:
    """The backbone, and the number of its parameters."""
    recipe, settings = job.recipe, job.recipe.training
    set_seed(settings.seed)
    trains_backbone = method(recipe.method.name).trains_backbone
    # Trained weights are float32: bfloat16 cannot represent a step of a usual learning rate.
    dtype = torch.float32 if trains_backbone else settings.torch_dtype()
    device = distributed.loads_onto(recipe, settings.torch_device())
    with distributed.partitioned_as(dtype, job.arguments):
        model = backbones.load(recipe.backbone, dtype, device, recipe.trust_remote_code, recipe.quantization)
    total = distributed.parameters(model)
    if trains_backbone:
        model.generation_config, _ = mended(model.generation_config)
    if settings.use_liger_kernel:
        use_liger(model, undo)
    return model, total


def _adapt(job: Job, model: PreTrainedModel, undo: ExitStack) -> tuple[PreTrainedModel | PeftModel, int]:
    """The adapted backbone, and the number of trained parameters."""
    recipe, settings = job.recipe, job.recipe.training
    adapted = adapt(model, recipe.method.name, recipe.method.config)
    if settings.torch_compile:
        compile_blocks(adapted, undo)
    trainable = trainable_parameters(adapted)
    if job.trial is None:
        needs_room(job.run.folder, room_needed(recipe, trainable), f"{trained_kind(recipe)} and its checkpoints")
    if job.batches.packing:
        with distributed.weights_at_hand(adapted):
            check_packing(cast(PreTrainedModel, adapted))
    seeded = enable_full_determinism if job.arguments.full_determinism else set_seed
    seeded(settings.seed + processes.rank())  # each process draws its own noise and dropout
    return adapted, trainable


def _run(job: Job, loop: Loop, resumed: Path | None) -> dict[str, float]:
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


def _finish(job: Job, loop: Loop, sizes: dict[str, int], validation: dict[str, float]) -> dict[str, Any]:
    """Saves what was trained, and the summary, which marks the run as complete."""
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
        "wanted_shares": Mixture(job.recipe.data.mixture, job.rows.sizes, job.recipe.training.seed).wanted(),
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
