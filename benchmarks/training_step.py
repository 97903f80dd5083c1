"""A whole training step of HyCAM over one of PEFT's LoRA, on SmolLM2-135M and a CPU.

    python -m benchmarks.training_step

A step is forward, backward and AdamW, on 2 rows of 256 tokens, all of them labelled. LoRA is PEFT's own, r = 64 on all
linear layers, without dropout; HyCAM has the paper's settings, its Gumbel noise and its balance loss. Both stand on the
same backbone weights. There are three pairs, like for like:

    float32              all in float32
    bfloat16, PEFT       a bfloat16 backbone with PEFT's default, adapters in float32
    bfloat16             the adapters in bfloat16 too (``autocast_adapter_dtype=False``)

The result is the worst of the three. A step of the frozen backbone, forward and backward to the embeddings without any
gradient of a weight, shows what either adapter adds.
"""

from __future__ import annotations

import torch
from rich.console import Console
from rich.table import Table

from hycam import backbones
from hycam.adapt import trainable_parameters

from .interleaved import DEVICE, Effort, Ratio, Timing, arguments, effort, interleave, machine, worst
from .peft_adapters import ADAPTERS, adapted
from .training_models import adapter_step, frozen_step

BATCH, LENGTH = 2, 256
PAIRS = {  # of the backbone; whether PEFT puts the adapter into float32
    "float32": (torch.float32, True),
    "bfloat16, PEFT": (torch.bfloat16, True),
    "bfloat16": (torch.bfloat16, False),
}


def measure(dtype: torch.dtype, autocast_adapter_dtype: bool, effort: Effort) -> tuple[dict[str, Timing], str]:
    """LoRA (the measure), HyCAM and the frozen backbone; and the numbers of trained parameters."""
    torch.manual_seed(2333)
    backbone = backbones.load("smollm2-135m", dtype, DEVICE).requires_grad_(False).train()
    ids = torch.randint(backbone.config.vocab_size, (BATCH, LENGTH), device=DEVICE)
    models = {name: adapted(backbone, config, autocast_adapter_dtype) for name, config in ADAPTERS.items()}
    steps = {name: adapter_step(model, ids) for name, model in models.items()}
    sizes = ", ".join(f"{name} {trainable_parameters(model):,}" for name, model in models.items())
    return interleave({**steps, "frozen": frozen_step(backbone, ids)}, effort), sizes


def main() -> None:
    settings = effort(arguments(__doc__).parse_args())
    console, table = Console(width=120), Table(title=f"A training step on SmolLM2-135M over LoRA's\n{machine()}")
    for column in ("types", "LoRA, ms", "HyCAM / LoRA", "frozen backbone / LoRA"):
        table.add_column(column, justify="right")
    pairs: dict[str, Timing] = {}
    frozen: dict[str, Ratio] = {}
    for name, (dtype, autocast_adapter_dtype) in PAIRS.items():
        timings, sizes = measure(dtype, autocast_adapter_dtype, settings)
        pairs[f"step_vs_lora/{name}"] = timings["hycam"]
        frozen[f"frozen_vs_lora/{name}"] = timings["frozen"]
        milliseconds = f"{1000 * timings['lora'].seconds:.0f}"
        table.add_row(name, milliseconds, str(timings["hycam"]), str(timings["frozen"]))
    table.add_section()
    table.add_row("worst", "", str(worst(pairs.values())), "")
    settings.save({**frozen, **pairs, "step_vs_lora": worst(pairs.values())})
    console.print(table)
    console.print(f"Trained parameters: {sizes}", highlight=False)


if __name__ == "__main__":
    main()
