"""A whole training step of HyCAM, and of HyCAM with low-rank feed-forward updates, over one of PEFT's LoRA.

    python -m benchmarks.training_step

On SmolLM2-135M and a CPU. A step is forward, backward and AdamW, on 2 rows of 256 tokens, all of them labelled. LoRA is
PEFT's own, r = 64 on all linear layers, without dropout; HyCAM has the paper's settings, its Gumbel noise and its
balance loss; ``hycam-ffn`` is at LoRA's size (the method ``hycam-ffn-matched``). All stand on the same weights of the
backbone. There are three pairs, like for like:

    float32              all in float32
    bfloat16, PEFT       a bfloat16 backbone with PEFT's default, adapters in float32
    bfloat16             the adapters in bfloat16 too (``autocast_adapter_dtype=False``)

The result is the worst of the three. ``peak`` counts the most bytes that are allocated at once in a step, over those
that are there before it: weights and the optimizer's states, which are equal at equal size. A step of the frozen
backbone, forward and backward to the embeddings without any gradient of a weight, shows what either adapter adds.
"""

from __future__ import annotations

import torch
from rich.console import Console
from rich.table import Table

from hycam import backbones
from hycam.adapt import matched_settings, trainable_parameters
from hycam.methods import method

from .counting import peak_bytes
from .interleaved import DEVICE, Effort, Ratio, Timing, arguments, effort, interleave, machine, worst
from .peft_adapters import ADAPTERS, adapted
from .training_models import adapter_step, frozen_step

BATCH, LENGTH = 2, 256
FFN = "hycam-ffn"
PAIRS = {  # of the backbone; whether PEFT puts the adapter into float32
    "float32": (torch.float32, True),
    "bfloat16, PEFT": (torch.bfloat16, True),
    "bfloat16": (torch.bfloat16, False),
}


def measure(
    dtype: torch.dtype, autocast_adapter_dtype: bool, effort: Effort
) -> tuple[dict[str, Timing], dict[str, int], str]:
    """The times of LoRA (the measure), both forms of HyCAM and the frozen backbone; the adapters' peaks in bytes; and
    the numbers of trained parameters."""
    torch.manual_seed(2333)
    backbone = backbones.load("smollm2-135m", dtype, DEVICE).requires_grad_(False).train()
    ids = torch.randint(backbone.config.vocab_size, (BATCH, LENGTH), device=DEVICE)
    matched = method("hycam-ffn").config(matched_settings(method("hycam-ffn-matched"), {}, backbone.config))
    assert matched is not None
    configs = {**ADAPTERS, FFN: matched}
    models = {name: adapted(backbone, config, autocast_adapter_dtype) for name, config in configs.items()}
    steps = {name: adapter_step(model, ids) for name, model in models.items()}
    sizes = ", ".join(f"{name} {trainable_parameters(model):,}" for name, model in models.items())
    timings = interleave({**steps, "frozen": frozen_step(backbone, ids)}, effort)
    return timings, {name: peak_bytes(one) for name, one in steps.items()}, sizes


def main() -> None:
    settings = effort(arguments(__doc__).parse_args())
    console, table = Console(width=120), Table(title=f"A training step on SmolLM2-135M over LoRA's\n{machine()}")
    for column in ("types", "LoRA, ms", "HyCAM", FFN, "frozen backbone", "peak, LoRA, MiB", "HyCAM", FFN):
        table.add_column(column, justify="right")
    results: dict[str, Ratio] = {}
    for types, (dtype, autocast_adapter_dtype) in PAIRS.items():
        timings, peaks, sizes = measure(dtype, autocast_adapter_dtype, settings)
        over = {name: Ratio(*[peak / peaks["lora"]] * 3) for name, peak in peaks.items()}
        found = {"step_vs_lora": timings["hycam"], "ffn_step_vs_lora": timings[FFN], "peak_vs_lora": over["hycam"],
                 "ffn_peak_vs_lora": over[FFN], "frozen_vs_lora": timings["frozen"]}  # fmt: skip
        results |= {f"{name}/{types}": ratio for name, ratio in found.items()}
        table.add_row(
            types, f"{1000 * timings['lora'].seconds:.0f}", *(str(timings[name]) for name in ("hycam", FFN, "frozen")),
            f"{peaks['lora'] / 2**20:.0f}", *(f"{over[name].ratio:.3f}" for name in ("hycam", FFN)),
        )  # fmt: skip
    for name in ("step_vs_lora", "ffn_step_vs_lora", "peak_vs_lora", "ffn_peak_vs_lora"):
        results[name] = worst([ratio for key, ratio in results.items() if key.startswith(f"{name}/")])
    settings.save(results)
    console.print(table)
    console.print(f"Trained parameters: {sizes}", highlight=False)


if __name__ == "__main__":
    main()
