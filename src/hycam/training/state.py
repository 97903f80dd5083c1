"""What a checkpoint holds, and how training continues from it, equal to the bit.

::

    adapter_model.safetensors    the trained weights, as ``save_pretrained`` writes them (or model.safetensors)
    optimizer.pt, scheduler.pt   the states of optimizer and schedule
    rng_state_P.pth              the random states of process P
    progress_P.json              the progress, with the sums of process P since the last line of metrics

FSDP has ``pytorch_model_fsdp.bin`` and ``optimizer.bin`` in place of ``optimizer.pt``, DeepSpeed a folder of its own.

Pickles are scanned before they are read: one that holds more than tensors and plain values is refused by name. They
are then read with ``weights_only=True``, except by DeepSpeed.
"""

from __future__ import annotations

import random
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import msgspec
import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import (
    DistributedType,
    load_fsdp_model,
    load_fsdp_optimizer,
    save_fsdp_model,
    save_fsdp_optimizer,
)
from peft import PeftModel
from safetensors.torch import load_file
from transformers import PreTrainedModel
from transformers.utils import ADAPTER_WEIGHTS_NAME, WEIGHTS_INDEX_NAME, WEIGHTS_NAME

from hycam import processes
from hycam.errors import HycamError
from hycam.training import distributed
from hycam.training.checkpoints import PROGRESS
from hycam.training.divergence import StepWatch
from hycam.training.metrics import Sums
from hycam.training.saving import save_weights

_OPTIMIZER, _SCHEDULE, _OF_TRAINER = "optimizer.pt", "scheduler.pt", "trainer_state.json"
# Libraries would load these if those in safetensors were missing; we never write them.
_PICKLED_WEIGHTS = (WEIGHTS_NAME, WEIGHTS_INDEX_NAME, ADAPTER_WEIGHTS_NAME)
_STATES = (_OPTIMIZER, _SCHEDULE, "rng_state*.pth", "optimizer.bin", "pytorch_model_fsdp.bin", "global_step*/*.pt")
# The last pattern is DeepSpeed's, which reads its files as any pickle. Beside tensors and plain values they hold only
# these, whose construction runs nothing.
_DEEPSPEED = {
    "deepspeed.runtime.zero.config.ZeroStageEnum",
    "deepspeed.runtime.fp16.loss_scaler.LossScaler",
    "deepspeed.utils.tensor_fragment.fragment_address",
}


@dataclass
class Progress:
    """How far a training has come.

    Attributes:
        step: optimizer steps so far, skipped ones included.
        seconds: of training, without repeated steps.
        logged: lines of metrics so far.
        tokens: without padding.
        flops: an estimate, six for each token and weight.
        loss_sum: of all steps that were logged.
        rows: trained on, of each task.
        best_loss: the lowest validation loss.
        best_step: the step of that validation.
        worse: validations since then.
        is_finished: whether no step is left.
        validation_due: whether the validation of this step was interrupted.
        validation: the last one.
        validated_at: the step of that; -1 before the first.
        watch: the history by which steps are judged.
        sums: since the last line of metrics.
    """

    step: int = 0
    seconds: float = 0.0
    logged: int = 0
    tokens: int = 0
    flops: float = 0.0
    loss_sum: float = 0.0
    rows: dict[str, int] = field(default_factory=dict)
    best_loss: float | None = None
    best_step: int | None = None
    worse: int = 0
    is_finished: bool = False
    validation_due: bool = False
    validation: dict[str, float] = field(default_factory=dict)
    validated_at: int = -1
    watch: StepWatch = field(default_factory=StepWatch)
    sums: Sums = field(default_factory=Sums)

    def count_rows(self, rows: Mapping[str, int]) -> None:
        """Adds a step's rows of each task."""
        self.rows = {name: self.rows.get(name, 0) + number for name, number in rows.items()}

    def shares(self) -> dict[str, float]:
        """Each task's share of the rows so far."""
        total = sum(self.rows.values())
        return {name: number / total for name, number in self.rows.items()}


@dataclass
class Trained:
    """Model, optimizer and schedule, as accelerate has prepared them.

    Attributes:
        model: the adapted backbone.
        wrapped: the same, distributed; the forward goes through it.
    """

    accelerator: Accelerator
    model: PreTrainedModel | PeftModel
    wrapped: Any
    optimizer: Any
    schedule: Any

    @property
    def is_fsdp(self) -> bool:
        return self.accelerator.distributed_type == DistributedType.FSDP

    @property
    def is_deepspeed(self) -> bool:
        return self.accelerator.distributed_type == DistributedType.DEEPSPEED


def save(trained: Trained, progress: Progress, folder: Path) -> None:
    """Writes a checkpoint, which counts once it is sealed; every process must call this."""
    model, is_adapter = trained.model, isinstance(trained.model, PeftModel)
    folder.mkdir(parents=True, exist_ok=True)
    whole = distributed.whole_state(model) if processes.world_size() > 1 else None
    if processes.is_main():
        save_weights(model, folder, whole)
        torch.save(trained.schedule.state_dict(), folder / _SCHEDULE)
    if trained.is_deepspeed:
        trained.wrapped.save_checkpoint(str(folder), exclude_frozen_parameters=is_adapter)
    elif trained.is_fsdp:
        plugin, accelerator = trained.accelerator.state.fsdp_plugin, trained.accelerator
        save_fsdp_model(plugin, accelerator, trained.wrapped, str(folder), adapter_only=True)
        save_fsdp_optimizer(plugin, accelerator, trained.optimizer, trained.wrapped, str(folder))
    elif processes.is_main():
        torch.save(trained.optimizer.state_dict(), folder / _OPTIMIZER)
    name, keys, *rest = cast("tuple[Any, ...]", np.random.get_state())
    numbers = {"python": random.getstate(), "numpy": (name, keys.tolist(), *rest), "cpu": torch.get_rng_state()}
    if torch.cuda.is_available():
        numbers["cuda"] = torch.cuda.get_rng_state()
    torch.save(numbers, folder / f"rng_state_{processes.rank()}.pth")
    content = msgspec.json.format(msgspec.json.encode(progress), indent=1)
    (folder / f"progress_{processes.rank()}.json").write_bytes(content + b"\n")


def load_weights(trained: Trained, folder: Path) -> None:
    """Loads the weights of a checkpoint; with DeepSpeed the optimizer's state too. A sharded model must be prepared."""
    model = trained.model
    if trained.is_deepspeed:
        trained.wrapped.load_checkpoint(str(folder), load_module_strict=not isinstance(model, PeftModel))
    elif trained.is_fsdp:
        plugin = trained.accelerator.state.fsdp_plugin
        load_fsdp_model(plugin, trained.accelerator, trained.wrapped, str(folder), adapter_only=True)
    elif isinstance(model, PeftModel):
        model.load_adapter(str(folder), model.active_adapter, is_trainable=True)
    else:
        for file in sorted(folder.glob("*.safetensors")):
            model.load_state_dict(load_file(file), strict=False)  # tied weights are in it once


def restore(trained: Trained, folder: Path) -> Progress:
    """Restores all but the weights of a checkpoint; raises as :func:`read_progress`."""
    if trained.is_fsdp:
        plugin, accelerator = trained.accelerator.state.fsdp_plugin, trained.accelerator
        load_fsdp_optimizer(plugin, accelerator, trained.optimizer, trained.wrapped, str(folder))
    elif not trained.is_deepspeed:
        trained.optimizer.load_state_dict(_read(folder / _OPTIMIZER))
    trained.schedule.load_state_dict(_read(folder / _SCHEDULE))
    numbers = _read(folder / f"rng_state_{processes.rank()}.pth")
    random.setstate(numbers["python"])
    np.random.set_state(numbers["numpy"])
    torch.set_rng_state(numbers["cpu"])
    if torch.cuda.is_available() and "cuda" in numbers:
        torch.cuda.set_rng_state(numbers["cuda"])
    return read_progress(folder / f"progress_{processes.rank()}.json")


def read_progress(path: Path) -> Progress:
    """Reads ``progress_P.json``; raises HycamError if it holds anything else."""
    try:
        content = path.read_bytes()
        progress = msgspec.json.decode(content, type=Progress)
        if msgspec.to_builtins(progress) != msgspec.json.decode(content):
            raise ValueError("a field is missing or unknown")
    except (OSError, ValueError, RecursionError) as error:
        raise refused(path, f"it does not say how far training had come: {error}") from error
    return progress


def _read(path: Path) -> Any:
    return torch.load(path, map_location="cpu", weights_only=True)


def check_state(checkpoint: Path) -> None:
    """Checks that loading a checkpoint runs no code of its files.

    Raises:
        HycamError: weights are pickled, a state is damaged or holds more than tensors and plain values, or the
            checkpoint is of a version that trained through transformers' Trainer. The message names the file.
    """
    if (checkpoint / _OF_TRAINER).exists():
        raise HycamError(
            f"{checkpoint} was written by an earlier version of hycam, which kept its state in another form. Finish "
            f"the run with that version, or delete {checkpoint.parent} to begin anew."
        )
    for name in _PICKLED_WEIGHTS:
        if (checkpoint / name).exists():
            raise HycamError(
                f"{checkpoint / name} is a pickle, which can run any code when it is read. A checkpoint has its "
                f"weights in safetensors. Delete {checkpoint} to continue from the one before."
            )
    for path in sorted(path for pattern in _STATES for path in checkpoint.glob(pattern)):
        try:
            unsafe = torch.serialization.get_unsafe_globals_in_checkpoint(path)
        except Exception as error:  # unpickling raises anything
            raise refused(path, f"it cannot be read: {(str(error) or repr(error)).splitlines()[0]}") from error
        unknown = set(unsafe) - (_DEEPSPEED if path.parent != checkpoint else set())
        if unknown:
            raise refused(path, f"it would run or make {', '.join(sorted(unknown)[:3])}")
    latest = checkpoint / "latest"  # names the folder that DeepSpeed reads
    if latest.exists() and not re.fullmatch(r"global_step\d+", latest.read_text(errors="replace").strip()):
        raise refused(latest, "it names no folder of the checkpoint")
    for path in (checkpoint / PROGRESS, *checkpoint.glob("progress_*.json")):
        read_progress(path)


def refused(path: Path, reason: str) -> HycamError:
    """The error for a file of a checkpoint that cannot be trusted, with how to go on."""
    return HycamError(
        f"{path} is damaged or was not written by training: {reason}. Nothing of it was used. Delete {path.parent} to "
        "continue from the checkpoint before it."
    )
