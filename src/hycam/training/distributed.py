"""Training on several processes: how a recipe's strategy becomes the libraries' settings, and what does not work."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, cast

import torch
import torch.distributed as dist
from accelerate import Accelerator, PartialState
from accelerate.utils import DistributedDataParallelKwargs, DistributedType, FullyShardedDataParallelPlugin
from peft import PeftModel
from peft.utils import PeftType
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from transformers import PreTrainedModel, TrainingArguments
from transformers.integrations import is_deepspeed_available

from hycam import processes
from hycam.errors import HycamError, LostProcess
from hycam.methods import method
from hycam.training.recipe import Recipe

SHARDING = ("fsdp", "zero2", "zero3")
"""The strategies under which no process holds everything."""

_GONE = r"gloo.*(Connection|Broken pipe|Timed out|peer)|Broken pipe|Connection (closed|reset) by peer"


def check(recipe: Recipe, number: int) -> None:
    """Checks that a recipe can be trained by so many processes. Loads nothing and needs none of them.

    Raises:
        HycamError: what does not work, why, and what to use instead.
    """
    if number == 1:
        return
    training, strategy = recipe.training, recipe.training.distributed.strategy
    for library, variable in (("FSDP", "ACCELERATE_USE_FSDP"), ("DeepSpeed", "ACCELERATE_USE_DEEPSPEED")):
        if os.environ.get(variable) == "true":
            raise HycamError(
                f"accelerate's own settings ask for {library}, and the recipe says how the processes share the work "
                f"(training.distributed.strategy={strategy}). Start it with accelerate launch --multi_gpu, on a "
                "CPU too."
            )
    here = int(os.environ.get("LOCAL_WORLD_SIZE", number))
    if training.torch_device().type == "cuda" and here > torch.cuda.device_count():
        raise HycamError(
            f"{here} processes need a GPU each, and PyTorch sees {torch.cuda.device_count()} here. Start fewer, or set "
            "training.device to cpu."
        )
    if strategy.startswith("zero") and not is_deepspeed_available():
        raise HycamError(
            f"training.distributed.strategy={strategy} needs the package deepspeed: pip install 'hycam[deepspeed]', or "
            "take fsdp, which shares out as much."
        )
    if strategy not in SHARDING:
        return
    does_not_go = f"does not go with training.distributed.strategy={strategy}"
    if recipe.method.settings().preconditioned:
        raise HycamError(
            f"The riemannian optimizer {does_not_go}: it needs both factors of a product whole, and no process has "
            "them. Take the strategy ddp, or set method.optimizer.name to adamw."
        )
    if training.optimizer_states == "8bit":
        raise HycamError(
            f"training.optimizer_states=8bit {does_not_go}: bitsandbytes knows no weights that lie in parts on several "
            "processes. Leave the states at 32bit, which are shared out, or take the strategy ddp."
        )
    if training.torch_compile:
        raise HycamError(
            f"training.torch_compile {does_not_go}, whose weights come and go inside of what would be compiled. Leave "
            "it off, or take the strategy ddp."
        )
    if recipe.quantization is not None:
        raise HycamError(
            f"quantization={recipe.quantization} {does_not_go}: the packed weights cannot be shared out. Take the "
            "strategy ddp, or leave the backbone as it is."
        )
    if training.on_divergence == "skip" and strategy != "fsdp":
        raise HycamError(
            f"training.on_divergence=skip {does_not_go}: DeepSpeed takes a step before its gradient can be looked at. "
            "Leave it at stop, or take the strategy ddp or fsdp."
        )
    config = method(recipe.method.name).config(recipe.method.config)
    if config is not None and config.peft_type == PeftType.ADALORA:
        raise HycamError(
            f"AdaLoRA {does_not_go}: it moves its ranks by looking at whole weights and gradients. Take the strategy "
            "ddp, or another method."
        )


@contextmanager
def together() -> Iterator[None]:
    """Says so when another process has gone, in the middle of whatever this one wanted of it.

    Raises:
        LostProcess: that.
    """
    try:
        yield
    except RuntimeError as error:
        if started() == 1 or not (isinstance(error, dist.DistError) or re.search(_GONE, str(error))):
            raise
        raise LostProcess(
            f"Another of the {started()} processes does not answer, so this one cannot go on; its own messages say "
            "more. The same command continues from the last checkpoint."
        ) from error


def started() -> int:
    """How many processes train together, as every launcher says in the environment of each."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def settings(recipe: Recipe, number: int) -> dict[str, Any]:
    """The fields of ``TrainingArguments`` for the recipe's strategy on so many processes."""
    strategy = recipe.training.distributed.strategy
    # Every rank normalises by the labelled tokens of all of them, so the task loss is that of the one large batch.
    own: dict[str, Any] = {"average_tokens_across_devices": True, "fsdp": None, "fsdp_config": None, "deepspeed": None}
    if "ddp_find_unused_parameters" not in recipe.training.extra:
        own["ddp_find_unused_parameters"] = False  # looking for them takes time, and there are none
    if number == 1 or strategy == "ddp":
        return own
    if strategy == "fsdp":
        # Whole state dictionaries: a checkpoint is read with weights_only, and an adapter is small.
        sharding = {"version": 2, "auto_wrap_policy": "TRANSFORMER_BASED_WRAP", "state_dict_type": "FULL_STATE_DICT"}
        return own | {"fsdp": True, "fsdp_config": sharding}
    from deepspeed.ops import __compatible_ops__ as compiled

    # On a CPU it would be compiled when training begins, for minutes, and only inference uses it. Whoever is killed
    # meanwhile leaves a lock for which every later run waits for ever.
    compiled["deepspeed_shm_comm"] = False
    zero = {
        "zero_optimization": {"stage": int(strategy[-1]), "stage3_gather_16bit_weights_on_model_save": True},
        "train_micro_batch_size_per_gpu": "auto",
        "gradient_accumulation_steps": "auto",
        "gradient_clipping": "auto",
        # Its own bf16 would round the weights that are trained, in the adapter too, and save them so.
        "bf16": {"enabled": False},
        "torch_autocast": {"enabled": recipe.uses_autocast(), "dtype": "bfloat16"},
        "zero_allow_untested_optimizer": True,
    }
    return own | {"deepspeed": zero, "bf16": False}


@contextmanager
def partitioned_as(dtype: torch.dtype, arguments: TrainingArguments) -> Iterator[None]:
    """ZeRO-3, which divides a backbone while it is loaded, keeps it in this type, and not in that of the training."""
    zero = getattr(arguments, "hf_deepspeed_config", None)
    if zero is None:
        yield
        return
    zero.config["bf16"]["enabled"] = dtype == torch.bfloat16
    try:
        yield
    finally:
        zero.config["bf16"]["enabled"] = False


def accelerator(arguments: TrainingArguments) -> Accelerator:
    """What shares the work out, as the arguments say."""
    names = ("bucket_cap_mb", "broadcast_buffers", "static_graph", "find_unused_parameters")
    chosen = {name: getattr(arguments, f"ddp_{name}") for name in names}
    ddp = DistributedDataParallelKwargs(**{name: value for name, value in chosen.items() if value is not None})
    fsdp = arguments.fsdp_plugin_args
    found = Accelerator(
        mixed_precision="bf16" if arguments.bf16 else "no",
        deepspeed_plugin=arguments.deepspeed_plugin,
        # Elsewhere accelerate would divide the loss by it, and the loss has its share of the step already.
        gradient_accumulation_steps=arguments.gradient_accumulation_steps if arguments.deepspeed else 1,
        fsdp_plugin=None if fsdp is None else FullyShardedDataParallelPlugin(**fsdp),
        kwargs_handlers=[ddp],
        log_with=arguments.report_to or None,
        project_dir=arguments.output_dir,
    )
    if fsdp is not None and found.distributed_type == DistributedType.MULTI_CPU:
        # accelerate leaves FSDP2 to GPUs, and everything under it works on a CPU too.
        found.state.fsdp_plugin = FullyShardedDataParallelPlugin(**fsdp)
        found.state.distributed_type = PartialState().distributed_type = DistributedType.FSDP
    return found


def synchronized(accelerator: Accelerator, wrapped: nn.Module) -> AbstractContextManager[Any]:
    """Within, gradients are averaged over the processes if this micro-batch is the step's last, and kept if not."""
    return nullcontext() if accelerator.sync_gradients else accelerator.no_sync(wrapped)


def backward(accelerator: Accelerator, loss: Tensor) -> None:
    """The backward pass; under DeepSpeed the step's last one takes the step too."""
    scale = {"scale_wrt_gas": False} if accelerator.distributed_type == DistributedType.DEEPSPEED else {}
    accelerator.backward(loss, **scale)


def clip(accelerator: Accelerator, wrapped: nn.Module, limit: float) -> Tensor:
    """Clips the gradient of all processes to a norm; its norm before that."""
    norm = accelerator.clip_grad_norm_(wrapped.parameters(), limit)
    norm = norm.full_tensor() if isinstance(norm, DTensor) else norm
    return torch.as_tensor(0.0 if norm is None else norm, dtype=None if isinstance(norm, Tensor) else torch.float64)


def loads_onto(recipe: Recipe, device: torch.device) -> torch.device:
    """Where the backbone is loaded: what FSDP will shard may be more than a device holds."""
    is_sharded_later = started() > 1 and recipe.training.distributed.strategy == "fsdp"
    return torch.device("cpu") if is_sharded_later else device


def parameters(model: PreTrainedModel, exclude_embeddings: bool = False) -> int:
    """How many a backbone has, also where ZeRO-3 has loaded only a part of each."""
    left_out = {id(one.weight) for one in model.modules() if exclude_embeddings and isinstance(one, nn.Embedding)}
    parts = [one for one in model.parameters() if hasattr(one, "ds_numel")]
    if not parts:
        return model.num_parameters(exclude_embeddings=exclude_embeddings)
    return sum(one.ds_numel for one in parts if id(one) not in left_out)


def most(value: int, device: torch.device) -> int:
    """The largest of all processes' values."""
    return -int(processes.all_reduce(torch.tensor(-value), device, minimum=True))


@contextmanager
def weights_at_hand(model: nn.Module) -> Iterator[None]:
    """Every process has all weights inside, also where ZeRO-3 has loaded only its part of each."""
    if not any(hasattr(parameter, "ds_id") for parameter in model.parameters()):
        yield
        return
    from deepspeed.runtime.zero.partition_parameters import GatheredParameters

    with GatheredParameters(list(model.parameters())):
        yield


def whole_state(model: PeftModel | PreTrainedModel) -> dict[str, Tensor]:
    """The state dictionary of a model whose weights may lie in parts on several processes; all have to call it.

    Returns:
        on the main process the weights on the CPU, whole; of a model with an adapter only what belongs to that, since
        nobody wants to gather the rest. On the other processes nothing.
    """
    prefix = str(model.base_model.prefix) if isinstance(model, PeftModel) else ""
    found: dict[str, Tensor] = {}
    seen: dict[int, Tensor] = {}  # tied weights stay one tensor
    for name, tensor in model.state_dict(keep_vars=True).items():
        if not (tensor.requires_grad or prefix in name):
            continue
        if id(tensor) not in seen:
            whole = _whole(tensor)
            seen[id(tensor)] = whole.to("cpu", copy=True) if processes.is_main() else whole.new_empty(0)
        found[name] = seen[id(tensor)]
    return found if processes.is_main() else {}


def own_part(weight: Tensor) -> Tensor:
    """What this process holds of a weight that may lie in parts on several."""
    if isinstance(weight, DTensor):
        return weight.to_local()
    return getattr(weight, "ds_tensor", weight)


def _whole(tensor: Tensor) -> Tensor:
    if isinstance(tensor, DTensor):
        return cast(DTensor, tensor.detach()).full_tensor()
    if not hasattr(tensor, "ds_id"):
        return tensor.detach()
    from deepspeed.runtime.zero.partition_parameters import GatheredParameters

    with GatheredParameters([tensor]):
        return tensor.detach().clone()
