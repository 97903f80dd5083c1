"""The files of a checkpoint that are pickles: looked through before training continues from them.

PyTorch writes the optimizer's, the scheduler's and the generators' states that way, and the trainer reads them back
with ``weights_only=True``, which runs nothing. It would say what it met, but not in which file. Here that is told
first, without making any object.
"""

from __future__ import annotations

import json
import re
from pathlib import Path

import torch
from transformers import TrainerState
from transformers.trainer import TRAINER_STATE_NAME
from transformers.trainer_pt_utils import safe_globals
from transformers.utils import ADAPTER_WEIGHTS_NAME, WEIGHTS_INDEX_NAME, WEIGHTS_NAME

from hycam.errors import HycamError

# The trainer would take these where those in safetensors are missing; none of ours has them.
_PICKLED_WEIGHTS = (WEIGHTS_NAME, WEIGHTS_INDEX_NAME, ADAPTER_WEIGHTS_NAME)
_STATES = ("optimizer.pt", "scheduler.pt", "scaler.pt", "rng_state*.pth", "optimizer.bin",
           "pytorch_model_fsdp.bin", "global_step*/*.pt")  # fmt: skip
# The last pattern is DeepSpeed's, which reads its files back as any pickle. These are all that it puts into them beside
# tensors and plain values, and making one runs nothing.
_DEEPSPEED = {
    "deepspeed.runtime.zero.config.ZeroStageEnum",
    "deepspeed.runtime.fp16.loss_scaler.LossScaler",
    "deepspeed.utils.tensor_fragment.fragment_address",
}


def check_state(checkpoint: Path) -> None:
    """Checks that a checkpoint can be continued from without running what a file of it says.

    Args:
        checkpoint: its folder.

    Raises:
        HycamError: weights are pickled, a state asks for more than tensors and plain values or is damaged, or
            the trainer's own state is no such thing. The message names the file.
    """
    for name in _PICKLED_WEIGHTS:
        if (checkpoint / name).exists():
            raise HycamError(
                f"{checkpoint / name} is a pickle: to read one can run any code, so it is not read. A checkpoint has "
                f"its weights in safetensors. Delete {checkpoint} to continue from the one before."
            )
    for path in sorted(path for pattern in _STATES for path in checkpoint.glob(pattern)):
        try:
            with safe_globals():
                unsafe = torch.serialization.get_unsafe_globals_in_checkpoint(path)
        except Exception as error:  # the reader of pickles raises whatever comes first
            raise refused(
                path, f"it cannot be read: {str(error).splitlines()[0] if str(error) else error!r}"
            ) from error
        unknown = set(unsafe) - (_DEEPSPEED if path.parent != checkpoint else set())
        if unknown:
            raise refused(path, f"it would run or make {', '.join(sorted(unknown)[:3])}")
    latest = checkpoint / "latest"  # names the folder that DeepSpeed reads
    if latest.exists() and not re.fullmatch(r"global_step\d+", latest.read_text(errors="replace").strip()):
        raise refused(latest, "it names no folder of the checkpoint")
    path = checkpoint / TRAINER_STATE_NAME
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        state = TrainerState(**content)
        if not (isinstance(state.global_step, int) and isinstance(state.stateful_callbacks, dict)):
            raise TypeError("global_step or stateful_callbacks is not what it should be")
    except (OSError, ValueError, TypeError, RecursionError) as error:
        raise refused(path, f"it is not the state of a trainer: {error}") from error


def refused(path: Path, reason: str) -> HycamError:
    """The error that names a file of a checkpoint which cannot be believed, and says how to go on."""
    return HycamError(
        f"{path} is damaged or was not written by training: {reason}. Nothing of it was used. Delete {path.parent} to "
        "continue from the checkpoint before it."
    )
