"""What a checkpoint holds, and how training goes on from it to the bit.

::

    adapter_model.safetensors    what is trained, as ``save_pretrained`` writes it (full fine-tuning: model.safetensors)
    optimizer.pt, scheduler.pt   the states of the optimizer and the schedule
    rng_state_P.pth              the random numbers of process P
    progress_P.json              how far training had come, with the sums of process P since the last line of metrics

FSDP has ``pytorch_model_fsdp.bin`` and ``optimizer.bin`` in place of ``optimizer.pt``, DeepSpeed a folder of its own.

Whatever is a pickle is looked through before it is read, without making any object: a file that asks for more than
tensors and plain values is refused by its name. It is then read with ``weights_only=True``, except by DeepSpeed.
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
# Libraries would take these where those in safetensors are missing; none of ours has them.
_PICKLED_WEIGHTS = (WEIGHTS_NAME, WEIGHTS_INDEX_NAME, ADAPTER_WEIGHTS_NAME)
_STATES = (_OPTIMIZER, _SCHEDULE, "rng_state*.pth", "optimizer.bin", "pytorch_model_fsdp.bin", "global_step*/*.pt")
# The last pattern is DeepSpeed's, which reads its files back as any pickle. These are all that it puts into them beside
# tensors and plain values, and making one runs nothing.
_DEEPSPEED = {
    "deepspeed.runtime.zero.config.ZeroStageEnum",
    "deepspeed.runtime.fp16.loss_scaler.LossScaler",
    "deepspeed.utils.tensor_fragment.fragment_address",
}


@dataclass
class Progress:
    """How far a training has come.

    Attributes:
        step: optimizer steps so far, those that were left out included.
        seconds: of training, without what was done twice.
        logged: lines of metrics so far.
        tokens: without padding.
        flops: an estimate, six for each token and weight.
        loss_sum: of the losses of all steps that were logged.
        rows: of each task, that were trained on.
        best_loss: the lowest validation loss.
        best_step: the step after which it was.
        worse: validations in a row since then.
        is_finished: whether there is no step left.
        validation_due: whether the validation after this step was interrupted.
        validation: the last one.
        validated_at: the step after which that was; -1 before the first.
        watch: what is known of the steps.
        sums: what was summed since the last line of metrics.
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
        """Adds the rows of each task of a step."""
        self.rows = {name: self.rows.get(name, 0) + number for name, number in rows.items()}

    def shares(self) -> dict[str, float]:
        """Each task's share of the rows so far."""
        total = sum(self.rows.values())
        return {name: number / total for name, number in self.rows.items()}


@dataclass
class Trained:
    """What is trained, and what trains it, as accelerate has prepared them.

    Attributes:
        model: the adapted backbone.
        wrapped: the same, shared out: what the forward goes through.
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
    """Writes a checkpoint; every process has to call it, and it counts once it is sealed."""
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
    """Puts the weights of a checkpoint into the model; with DeepSpeed the optimizer's state too.

    The model has to be prepared where it is sharded; else it may be.
    """
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
    """Restores all but the weights of a checkpoint.

    Raises:
        HycamError: it does not say how far training had come.
    """
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
    """How far training had come.

    Raises:
        HycamError: the file says something else.
    """
    try:
        content = path.read_bytes()
        progress = msgspec.json.decode(content, type=Progress)
        if msgspec.to_builtins(progress) != msgspec.json.decode(content):
            raise ValueError("a part is missing, or one is not known")
    except (OSError, ValueError, RecursionError) as error:
        raise refused(path, f"it does not say how far training had come: {error}") from error
    return progress


def _read(path: Path) -> Any:
    return torch.load(path, map_location="cpu", weights_only=True)


def check_state(checkpoint: Path) -> None:
    """Checks that a checkpoint can be continued from without running what a file of it says.

    Args:
        checkpoint: its folder.

    Raises:
        HycamError: weights are pickled, a state asks for more than tensors and plain values or is damaged, or it is of
            a version that trained through transformers' Trainer. The message names the file.
    """
    if (checkpoint / _OF_TRAINER).exists():
        raise HycamError(
            f"{checkpoint} was written by an earlier version of hycam, which kept its state in another form. Finish "
            f"the run with that version, or delete {checkpoint.parent} to begin anew."
        )
    for name in _PICKLED_WEIGHTS:
        if (checkpoint / name).exists():
            raise HycamError(
                f"{checkpoint / name} is a pickle: to read one can run any code, so it is not read. A checkpoint has "
                f"its weights in safetensors. Delete {checkpoint} to continue from the one before."
            )
    for path in sorted(path for pattern in _STATES for path in checkpoint.glob(pattern)):
        try:
            unsafe = torch.serialization.get_unsafe_globals_in_checkpoint(path)
        except Exception as error:  # the reader of pickles raises whatever comes first
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
    """The error that names a file of a checkpoint which cannot be believed, and says how to go on."""
    return HycamError(
        f"{path} is damaged or was not written by training: {reason}. Nothing of it was used. Delete {path.parent} to "
        "continue from the checkpoint before it."
    )
