"""One run, from a recipe to a saved adapter."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import fields
from functools import partial
from pathlib import Path
from typing import Any, cast

import torch
from safetensors import SafetensorError
from transformers import (
    EarlyStoppingCallback,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    TrainingArguments,
    set_seed,
)
from transformers.trainer_callback import PrinterCallback
from transformers.trainer_callback import ProgressCallback as TqdmCallback

from hycam import backbones, processes
from hycam.adapt import adapt, empty_backbone, trainable_parameters
from hycam.console import Reports, Silence
from hycam.data.mixture import Mixture
from hycam.data.prepare import prepare
from hycam.errors import Diverged, HycamError, Interrupted, nearest
from hycam.files import needs_room, unwritable
from hycam.lock import alone
from hycam.machine import peak_memory_bytes
from hycam.methods import method
from hycam.ops import set_backend
from hycam.training import distributed
from hycam.training.callbacks import JsonLinesCallback, ProgressCallback, RankAllocationCallback
from hycam.training.checkpoints import Checkpoints
from hycam.training.device import torch_device, torch_dtype
from hycam.training.divergence import Policy
from hycam.training.packing import check_packing
from hycam.training.preflight import log_all, stop_at_errors
from hycam.training.preflight.batches import batches_of, steps_of
from hycam.training.preflight.data import check_lengths, check_tables
from hycam.training.preflight.output import room_needed, trained_kind
from hycam.training.preflight.settings import check_schedule
from hycam.training.preflight.trial import Trial
from hycam.training.preflight.without_data import check_without_data
from hycam.training.recipe import Recipe
from hycam.training.rows import MixedRows
from hycam.training.run import Run
from hycam.training.saving import check_saves, mended
from hycam.training.savings import OPTIMIZERS, compile_blocks, use_liger
from hycam.training.state_files import check_state
from hycam.training.stopping import Stop
from hycam.training.trainer import MultiTaskTrainer

_log = logging.getLogger(__name__)


def train(
    recipe: Recipe,
    reporter: Reports,
    also: Callable[[PreTrainedModel, PreTrainedTokenizerBase], Mapping[str, float]] | None = None,
    stop: Stop | None = None,
    trial: Trial | None = None,
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
        return _train(recipe, reporter, also, stop or Stop(), undo, trial)


def _train(
    recipe: Recipe,
    reporter: Reports,
    also: Callable[[PreTrainedModel, PreTrainedTokenizerBase], Mapping[str, float]] | None,
    stop: Stop,
    undo: ExitStack,
    trial: Trial | None,
) -> dict[str, Any]:
    at = trial.at if trial is not None else lambda phase: None
    # A misspelt setting is said before anything is loaded.
    stop_at_errors(check_without_data(recipe, distributed.started()).findings)
    run = Run(Path(recipe.output))
    settings = recipe.training
    device = torch_device(settings.device)
    entry = method(recipe.method.name)
    optimizer = recipe.method.settings()
    rate = recipe.learning_rate()
    dtype = torch_dtype(settings.precision, device)
    arguments = training_arguments(
        recipe, run, rate, device.type, autocast=entry.trains_backbone and dtype == torch.bfloat16
    )
    if not processes.is_main():  # known by now: the arguments have brought the processes together
        reporter = Silence()
    tokenizer = backbones.load_tokenizer(recipe.backbone, recipe.trust_remote_code)
    tokenizer.padding_side = "right"
    check_saves(recipe.backbone, tokenizer)
    data = prepare(recipe.data, tokenizer, reporter.update)
    if trial is not None:
        data = trial.select(data)
    empty = empty_backbone(backbones.config(recipe.backbone, recipe.trust_remote_code), recipe.trust_remote_code)
    of_tables = check_tables(recipe, data, tokenizer, empty)
    stop_at_errors(one for one in of_tables if one.about != "settings")
    log_all(one for one in of_tables if one.about == "settings")
    goes_back = settings.early_stopping_patience is not None
    checkpoints = Checkpoints(run.checkpoints, beside=[run.metrics], goes_back=goes_back)

    def begin() -> tuple[dict[str, Any] | None, Path | None]:
        run.check(recipe)
        if run.summary() is None or run.damage():
            undo.enter_context(alone(run.folder, "trains in"))
            if run.summary() is not None and (wrong := run.damage()):
                _log.warning("%s It is made again.", wrong)
                run.reopen()
        run.begin(recipe, data.fingerprint, processes.number())
        if (complete := run.summary()) is not None:
            return complete, None
        resumed = checkpoints.resume_from()
        if resumed is not None:
            check_state(resumed)
        return None, resumed

    complete, resumed = processes.by_main(begin)
    if complete is not None:
        return complete
    arguments.eval_on_start = also is not None and resumed is None
    rows = MixedRows(data.train)
    mixture = Mixture(recipe.data.mixture, rows.sizes, settings.seed)
    batches = batches_of(recipe, rows, processes.number(), processes.index())
    log_all(check_lengths(recipe.data, data) + check_schedule(recipe, steps_of(recipe, batches), len(rows)))

    set_seed(settings.seed)
    # Weights that are trained are kept in float32: a step of a learning rate is less than bfloat16 can tell.
    weights = torch.float32 if entry.trains_backbone else dtype
    place = distributed.loads_onto(recipe, device)
    with distributed.partitioned_as(weights, arguments):
        model = backbones.load(recipe.backbone, weights, place, recipe.trust_remote_code, recipe.quantization)
    at("loaded")
    total = distributed.parameters(model)
    if entry.trains_backbone:
        model.generation_config, _ = mended(model.generation_config)
    if settings.use_liger_kernel:
        use_liger(model, undo)
    adapted = adapt(model, entry.name, recipe.method.config)
    if settings.torch_compile:
        compile_blocks(adapted, undo)
    trainable = trainable_parameters(adapted)
    at("adapted")
    if trial is None:
        needs_room(run.folder, room_needed(recipe, trainable), f"{trained_kind(recipe)} and its checkpoints")
    if batches.packing:
        with distributed.weights_at_hand(adapted):
            check_packing(cast(PreTrainedModel, adapted))
    trainer = MultiTaskTrainer(
        adapted,
        arguments,
        tokenizer,
        rows,
        batches,
        data.validation,
        optimizer,
        checkpoints,
        stop,
        Policy(settings.on_divergence == "skip", settings.divergence_margin, settings.max_skipped_steps),
        progress=lambda done, rows: reporter.update("validation", done, rows),
        also=None if also is None else partial(also, cast(PreTrainedModel, adapted), tokenizer),
        at=at,
    )
    if processes.index():  # noise and dropout are of each process's own
        set_seed(settings.seed + processes.index())
    for unwanted in (PrinterCallback, TqdmCallback):
        trainer.remove_callback(unwanted)
    trainer.add_callback(ProgressCallback(reporter))
    if processes.is_main():
        trainer.add_callback(JsonLinesCallback(run.metrics, trainer.elapsed, lambda: trainer.logged))
    if hasattr(adapted.base_model, "update_and_allocate"):
        trainer.add_callback(RankAllocationCallback(lambda: len(trainer.watch.skipped)))
    if settings.early_stopping_patience is not None:
        trainer.add_callback(EarlyStoppingCallback(settings.early_stopping_patience))
    undo.enter_context(stop.held())
    try:
        trainer.train(resume_from_checkpoint=None if resumed is None else str(resumed))
        seconds = trainer.elapsed()
        trainer.check_weights()
        validation = _last_validation(trainer, goes_back)
        at("validation")
    except Interrupted as error:
        last = checkpoints.steps()[-1:]
        where = f"continues from step {last[0]}" if last else "begins anew"
        raise Interrupted(
            error.number, f"Step {trainer.state.global_step} was done; the same command {where}."
        ) from None
    except Diverged as error:
        good = [str(checkpoints.at(step)) for step in checkpoints.steps()[-1:]]
        raise Diverged(error.step, error.what, error.rows, *good) from error
    except (OSError, RuntimeError, SafetensorError) as error:
        reason = unwritable(error)
        if reason is None:
            raise
        last = checkpoints.steps()[-1:]
        where = f"continues from step {last[0]}" if last else "begins anew"
        raise HycamError(
            f"{run.folder} cannot be written ({reason}), and training stopped at step {trainer.state.global_step}. "
            f"Make room, or make it writable; the same command {where}."
        ) from error
    summary = {
        "steps": trainer.state.global_step,
        "tokens": trainer.state.num_input_tokens_seen,
        "seconds": seconds,
        "peak_memory_bytes": distributed.most(peak_memory_bytes(), arguments.device),
        "trainable_parameters": trainable,
        "total_parameters": total,
        "learning_rate": rate,
        "data": data.fingerprint,
        "thinks": data.thinks,
        "rows": trainer.counter.rows,
        "shares": trainer.counter.shares(),
        "wanted_shares": mixture.wanted(),
        "skipped": trainer.watch.skipped,
        "validation": validation,
    }
    if trial is not None:
        return summary
    state = distributed.whole_state(adapted) if processes.number() > 1 else None

    def finish() -> dict[str, Any]:
        run.finish(adapted, tokenizer, summary, state)
        return summary

    return processes.by_main(finish)


def _last_validation(trainer: MultiTaskTrainer, goes_back: bool) -> dict[str, float]:
    """The validation of the weights that training ended with."""
    # They may be those of an earlier step by now: early stopping goes back to the best ones.
    if trainer.validated_at == trainer.state.global_step and not goes_back:
        return trainer.last_validation
    try:
        return trainer.evaluate()
    except Interrupted:
        if not goes_back:  # else they are not those that belong to this step
            trainer.leave()
        raise


def training_arguments(
    recipe: Recipe, run: Run, learning_rate: float, device: str, autocast: bool
) -> TrainingArguments:
    """What the recipe's training is for the trainer.

    Args:
        recipe: the recipe.
        run: where checkpoints go.
        learning_rate: the recipe's, or its method's.
        device: ``cpu`` or ``cuda``.
        autocast: whether to compute in bfloat16 with weights in float32.

    Raises:
        HycamError: ``training.extra`` has what there is not, or what the recipe has a field for; a value does not work.
    """
    settings = recipe.training
    # The best adapter has to be there to go back to, so early stopping keeps one at every validation.
    save_every = settings.save_every if settings.early_stopping_patience is None else settings.evaluate_every
    own = _settings(recipe, run, learning_rate, device, save_every, autocast)
    known = [entry.name for entry in fields(TrainingArguments)]
    for name in settings.extra:
        if name not in known:
            raise HycamError(f'training.extra has an unknown setting "{name}".{nearest(name, known)}')
        if name in own:
            raise HycamError(
                f"training.extra cannot set {name}: the recipe has a field for it, or training needs it so."
            )
        if name == "label_smoothing_factor":
            raise HycamError(
                "training.extra cannot set label_smoothing_factor: the balance loss could not act beside it."
            )
    try:
        arguments = TrainingArguments(**own, **settings.extra)
    except (TypeError, ValueError) as error:
        raise HycamError(f"The training settings do not work: {error}") from error
    # The Trainer would split every batch over all GPUs that it sees, and rows and their positions would part.
    arguments._n_gpu = min(arguments.n_gpu, 1)
    return arguments


def _settings(
    recipe: Recipe, run: Run, learning_rate: float, device: str, save_every: int | None, autocast: bool
) -> dict[str, Any]:
    settings = recipe.training
    return {
        "output_dir": str(run.checkpoints),
        "learning_rate": learning_rate,
        "num_train_epochs": settings.epochs,
        "max_steps": settings.max_steps or -1,
        "per_device_train_batch_size": settings.batch_size,
        "per_device_eval_batch_size": recipe.evaluation.batch_size,
        "gradient_accumulation_steps": settings.gradient_accumulation,
        "optim": OPTIMIZERS[settings.optimizer_states],
        "weight_decay": settings.weight_decay,
        "lr_scheduler_type": settings.scheduler,
        "warmup_steps": settings.warmup_ratio,
        "max_grad_norm": settings.max_grad_norm,
        "gradient_checkpointing": settings.gradient_checkpointing,
        "gradient_checkpointing_kwargs": {"use_reentrant": False} if settings.gradient_checkpointing else None,
        # Both are put on the model here: the trainer would compile it as one, and let Liger take the logits away.
        "torch_compile": False,
        "torch_compile_backend": None,
        "torch_compile_mode": None,
        "use_liger_kernel": False,
        "liger_kernel_config": None,
        "use_cpu": device == "cpu",
        # A frozen backbone has its type already and the adapter stays in float32, so there is nothing to autocast.
        "bf16": autocast,
        "fp16": False,
        "eval_strategy": "steps" if settings.evaluate_every else "no",
        "eval_steps": settings.evaluate_every,
        "save_strategy": "steps" if save_every else "no",
        "save_steps": save_every or 500,
        "save_total_limit": None,  # the trainer would go by the clock; see Checkpoints.rotate
        "load_best_model_at_end": settings.early_stopping_patience is not None,
        "metric_for_best_model": "loss",
        "greater_is_better": False,
        "logging_steps": settings.log_every,
        "logging_nan_inf_filter": False,  # it waits for the device in every micro-batch, and no such step is logged
        # A packed row has no padding, and no mask that says so.
        "include_num_input_tokens_seen": "all" if recipe.data.packing else "non_padding",
        "restore_callback_states_from_checkpoint": True,  # early stopping goes on counting
        "report_to": settings.report_to or "none",
        "seed": settings.seed,
        "remove_unused_columns": False,
        "disable_tqdm": True,
        **distributed.settings(recipe, distributed.started(), autocast),
    }
