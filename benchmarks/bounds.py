"""What the results say of each bound, as a table in Markdown.

python -m benchmarks.bounds
"""

from __future__ import annotations

import json
from dataclasses import dataclass

from .interleaved import RESULTS


@dataclass(frozen=True)
class Bound:
    """``most``: what the ratio may be. ``aim``: what it was meant to be."""

    name: str
    what: str
    most: float
    aim: float


CPU, GPU = "cpu.json", "gpu.json"
BOUNDS = {
    CPU: (
        Bound("saved_bytes", "what a layer keeps for its backward pass, recompute / released structure", 0.22, 0.17),
        Bound("layer_eager_fp32", "layer time, eager / released structure, float32", 0.75, 0.65),
        Bound("layer_eager_bf16", "the same in bfloat16", 0.60, 0.50),
        Bound("layer_recompute_fp32", "layer time, recompute / released structure, float32", 0.90, 0.75),
        Bound("layer_recompute_bf16", "the same in bfloat16", 0.75, 0.60),
        Bound("step_vs_lora", "training step on SmolLM2-135M, HyCAM / PEFT's LoRA", 1.05, 0.90),
        Bound("ffn_step_vs_lora", "the same of `hycam-ffn-matched`, at LoRA's size", 1.05, 1.00),
        Bound("ffn_peak_vs_lora", "most bytes allocated in that step, over what is there before", 1.00, 1.00),
        Bound("decode_vs_base", "greedy decoding on SmolLM2-135M, HyCAM / backbone", 1.30, 1.20),
    ),
    GPU: (
        Bound("gpu_modulation", "modulation, Llama-2-7B's shape, bfloat16, Triton / released structure", 0.60, 0.50),
        Bound("gpu_step_vs_frozen", "training step, HyCAM / frozen backbone", 1.30, 1.22),
        Bound("gpu_step_vs_lora", "training step, HyCAM / PEFT's LoRA", 1.05, 1.00),
    ),
}


def rows() -> list[str]:
    """A row for each bound; a result that is not there is not measured."""
    found = []
    for file, bounds in BOUNDS.items():
        results = RESULTS.with_name(file)
        entries = {entry["name"]: entry for entry in json.loads(results.read_text())} if results.exists() else {}
        for bound in bounds:
            entry = entries.get(bound.name)
            measured = "not measured"
            if entry is not None:
                measured = f"{entry['ratio']:.2f} ({entry['low']:.2f}-{entry['high']:.2f})"
                if entry["ratio"] > bound.most:
                    measured = f"**{measured}, over**"
            found.append(f"| `{bound.name}` | {bound.what} | {bound.most:.2f} | {bound.aim:.2f} | {measured} |")
    return found


def main() -> None:
    print("| name | ratio of | at most | aim | measured |\n|---|---|---:|---:|---:|")
    print("\n".join(rows()))


if __name__ == "__main__":
    main()
