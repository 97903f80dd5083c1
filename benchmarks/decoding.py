"""Latency of greedy decoding with HyCAM over that of the backbone, on SmolLM2-135M and a CPU.

    python -m benchmarks.decoding

One prompt of 32 tokens, 64 new ones with a key-value cache, ``generate`` of transformers on both sides, on the same
backbone weights; HyCAM's weights are packed, as ``hycam generate`` has them. The adapter is drawn at random, so that it
modulates; an end token does not end the text. Three ways of holding it:

    float32              all in float32
    bfloat16, PEFT       a bfloat16 backbone with PEFT's default, an adapter in float32
    bfloat16             the adapter in bfloat16 too (``autocast_adapter_dtype=False``)

The result is the worst of the three. A token needs every weight once, so the sizes alone give a ratio: the bytes of
backbone and adapter over those of the backbone.
"""

from __future__ import annotations

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn
from transformers import PreTrainedModel

from hycam import HyCAMConfig, backbones, packed
from hycam.adapt import trainable_parameters

from .interleaved import DEVICE, Effort, Timing, arguments, effort, interleave, machine, worst
from .peft_adapters import adapted
from .training_step import PAIRS

PROMPT, NEW_TOKENS = 32, 64


def decode(model: nn.Module, prompt: Tensor) -> Tensor:
    """``NEW_TOKENS`` greedy tokens after ``prompt`` ``(1, seq)``."""
    with packed(model):
        return model.generate(  # type: ignore[operator]
            input_ids=prompt,
            attention_mask=torch.ones_like(prompt),
            max_new_tokens=NEW_TOKENS,
            min_new_tokens=NEW_TOKENS,
            do_sample=False,
            pad_token_id=0,
        )


def measure(dtype: torch.dtype, autocast_adapter_dtype: bool, effort: Effort) -> tuple[dict[str, Timing], float]:
    """The backbone (the measure) and HyCAM; and the ratio of bytes."""
    torch.manual_seed(2333)
    base: PreTrainedModel = backbones.load("smollm2-135m", dtype, DEVICE).requires_grad_(False)
    config = HyCAMConfig(task_type="CAUSAL_LM", init_weights=False)
    hycam = adapted(base, config, autocast_adapter_dtype).eval()
    adapter_bytes = torch.finfo(torch.float32 if autocast_adapter_dtype else dtype).bits // 8
    weights = trainable_parameters(hycam) * adapter_bytes / (base.num_parameters() * torch.finfo(dtype).bits // 8)
    prompt = torch.randint(base.config.vocab_size, (1, PROMPT), device=DEVICE)
    return interleave(
        {"base": lambda: decode(base, prompt), "hycam": lambda: decode(hycam, prompt)}, effort
    ), 1 + weights


def main() -> None:
    settings = effort(arguments(__doc__).parse_args())
    console, table = Console(width=120), Table(title=f"Greedy decoding, HyCAM over SmolLM2-135M\n{machine()}")
    for column in ("types", "backbone, ms a token", "latency", "bytes of weights"):
        table.add_column(column, justify="right")
    pairs: dict[str, Timing] = {}
    for name, (dtype, autocast_adapter_dtype) in PAIRS.items():
        timings, weights = measure(dtype, autocast_adapter_dtype, settings)
        pairs[f"decode_vs_base/{name}"] = timings["hycam"]
        milliseconds = f"{1000 * timings['base'].seconds / NEW_TOKENS:.1f}"
        table.add_row(name, milliseconds, str(timings["hycam"]), f"{weights:.2f}")
    table.add_section()
    table.add_row("worst", "", str(worst(pairs.values())), "")
    settings.save({**pairs, "decode_vs_base": worst(pairs.values())})
    console.print(table)


if __name__ == "__main__":
    main()
