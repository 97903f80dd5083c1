"""Training on several processes: the libraries' settings for a strategy, and what does not work with it."""

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
"""The strategies under which every process holds only a part."""

_GONE = r"gloo.*(Connection|Broken pipe|Timed out|peer)|Broken pipe|Connection (closed|reset) by peer"


def check(recipe: Recipe, number: int) -> None:
    """Raises HycamError if so many processes cannot train a recipe, with the reason and a way out. Loads nothing."""
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
            "take fsdp, which shards as much."
        )
    if strategy not in SHARDING:
        return
    config = method(recipe.method.name).config(recipe.method.config)
    refusals = (
        (recipe.method.settings().preconditioned, "The riemannian optimizer",
         "it needs whole factors of a product", "set method.optimizer.name to adamw"),
        (training.optimizer_states == "8bit", "training.optimizer_states=8bit",
         "bitsandbytes cannot step sharded weights", "leave the states at 32bit, which are sharded"),
        (training.torch_compile, "training.torch_compile",
         "weights are gathered and freed within what would be compiled", "leave it off"),
        (recipe.quantization is not None, f"quantization={recipe.quantization}",
         "quantised weights cannot be sharded", "leave the backbone as it is"),
        (training.on_divergence == "skip" and strategy != "fsdp", "training.on_divergence=skip",
         "DeepSpeed takes a step before its gradient can be checked", "fsdp, or leave it at stop"),
        (config is not None and config.peft_type == PeftType.ADALORA, "AdaLoRA",
         "it allocates ranks by whole weights and gradients", "take another method"),
    )  # fmt: skip
    for is_refused, what, why, instead in refusals:
        if is_refused:
            raise HycamError(
                f"{what} does not go with training.distributed.strategy={strategy}: {why}. Take the strategy ddp, or "
                f"{instead}."
            )


@contextmanager
def together() -> Iterator[None]:
    """Turns the errors of a lost connection to another process into LostProcess."""
    try:
        yield
    except RuntimeError as error:
        if started() == 1 or not (isinstance(error, dist.DistError) or re.search(_GONE, str(error))):
            raise
        raise LostProcess(
            f"Another of the {started()} processes does not answer, so this one cannot go on; its own messages say "
            "why. The same command continues from the last checkpoint."
        ) from error


def started() -> int:
    """The number of processes that train together, which every launcher puts into their environment."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def settings(recipe: Recipe, number: int) -> dict[str, Any]:
    """The fields of ``TrainingArguments`` for the recipe's strategy on so many processes."""
    strategy = recipe.training.distributed.strategy
    # Every rank normalises by the labelled tokens of all ranks, so the task loss is that of one large batch.
    own: dict[str, Any] = {"average_tokens_across_devices": True, "fsdp": None, "fsdp_config": None, "deepspeed": None}
    if "ddp_find_unused_parameters" not in recipe.training.extra:
        own["ddp_find_unused_parameters"] = False  # finding them takes time, and there are none
    if number == 1 or strategy == "ddp":
        return own
    if strategy == "fsdp":
        # Whole state dictionaries: a checkpoint is read with weights_only, and an adapter is small.
        sharding = {"version": 2, "auto_wrap_policy": "TRANSFORMER_BASED_WRAP", "state_dict_type": "FULL_STATE_DICT"}
        return own | {"fsdp": True, "fsdp_config": sharding}
    from deepspeed.ops import __compatible_ops__ as compiled

    # On a CPU it would be compiled for minutes, though only inference uses it. A run that is killed meanwhile leaves a
    # lock for which all later runs wait for ever.
    compiled["deepspeed_shm_comm"] = False
    zero = {
        "zero_optimization": {"stage": int(strategy[-1]), "stage3_gather_16bit_weights_on_model_save": True},
        "train_micro_batch_size_per_gpu": "auto",
        "gradient_accumulation_steps": "auto",
        "gradient_clipping": "auto",
        # DeepSpeed's own bf16 would round the trained weights.
        "bf16": {"enabled": False},
        "torch_autocast": {"enabled": recipe.uses_autocast(), "dtype": "bfloat16"},
        "zero_allow_untested_optimizer": True,
    }
    return own | {"deepspeed": zero, "bf16": False}


@contextmanager
def partitioned_as(dtype: torch.dtype, arguments: TrainingArguments) -> Iterator[None]:
    """Within, ZeRO-3 keeps a backbone that it partitions while loading in this type, not in that of training."""
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
    """The accelerator for the arguments."""
    names = ("bucket_cap_mb", "broadcast_buffers", "static_graph", "find_unused_parameters")
    chosen = {name: getattr(arguments, f"ddp_{name}") for name in names}
    ddp = DistributedDataParallelKwargs(**{name: value for name, value in chosen.items() if value is not None})
    fsdp = arguments.fsdp_plugin_args
    found = Accelerator(
        mixed_precision="bf16" if arguments.bf16 else "no",
        deepspeed_plugin=arguments.deepspeed_plugin,
        # Elsewhere accelerate would divide the loss by it, though the loss is a share of the step already.
        gradient_accumulation_steps=arguments.gradient_accumulation_steps if arguments.deepspeed else 1,
        fsdp_plugin=None if fsdp is None else FullyShardedDataParallelPlugin(**fsdp),
        kwargs_handlers=[ddp],
        log_with=arguments.report_to or None,
        project_dir=arguments.output_dir,
    )
    if fsdp is not None and found.distributed_type == DistributedType.MULTI_CPU:
        # accelerate allows FSDP2 on GPUs only, but PyTorch's works on CPUs too.
        found.state.fsdp_plugin = FullyShardedDataParallelPlugin(**fsdp)
        found.state.distributed_type = PartialState().distributed_type = DistributedType.FSDP
    return found


def synchronized(accelerator: Accelerator, wrapped: nn.Module) -> AbstractContextManager[Any]:
    """Within, gradients are averaged over the processes only if this micro-batch is the step's last."""
    return nullcontext() if accelerator.sync_gradients else accelerator.no_sync(wrapped)


def backward(accelerator: Accelerator, loss: Tensor) -> None:
    """The backward pass; under DeepSpeed the last of a step takes the step too."""
    scale = {"scale_wrt_gas": False} if accelerator.distributed_type == DistributedType.DEEPSPEED else {}
    accelerator.backward(loss, **scale)


def clip(accelerator: Accelerator, wrapped: nn.Module, limit: float) -> Tensor:
    """Clips the gradient to a norm and returns the norm that it had, over all processes."""
    norm = accelerator.clip_grad_norm_(wrapped.parameters(), limit)
    norm = norm.full_tensor() if isinstance(norm, DTensor) else norm
    return torch.as_tensor(0.0 if norm is None else norm, dtype=None if isinstance(norm, Tensor) else torch.float64)


def loads_onto(recipe: Recipe, device: torch.device) -> torch.device:
    """Where to load the backbone: before FSDP shards it, a device may be too small for it."""
    is_sharded_later = started() > 1 and recipe.training.distributed.strategy == "fsdp"
    return torch.device("cpu") if is_sharded_later else device


def parameters(model: PreTrainedModel, exclude_embeddings: bool = False) -> int:
    """The number of a backbone's parameters, also under ZeRO-3, where each is loaded in part."""
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
    """Within, every process has all weights, also under ZeRO-3."""
    if not any(hasattr(parameter, "ds_id") for parameter in model.parameters()):
        yield
        return
    from deepspeed.runtime.zero.partition_parameters import GatheredParameters

    with GatheredParameters(list(model.parameters())):
        yield


def whole_state(model: PeftModel | PreTrainedModel) -> dict[str, Tensor]:
    """The state dictionary of a model whose weights may be sharded; every process must call this.

    Returns:
        on the main process the whole weights, on the CPU; of an adapted model only the adapter's. Elsewhere nothing.
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
    """This process's part of a weight that may be sharded."""
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
