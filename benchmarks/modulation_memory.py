"""Memory of one modulation layer over that of the released structure: what is kept for the backward pass, and the peak.

    python -m benchmarks.modulation_memory

Counted and not timed, so the ratios are the same on every machine. K = 5, r = 64, 2 x 1,200 tokens, which is the most
that the paper's batches hold; there the hidden states outweigh the weights, as they do in training.

    saved   the storages that autograd keeps between forward and backward; parameters are left out, h and a are not,
            since it is the graph that keeps them. Every part of it grows with the tokens, so the ratio hardly depends
            on them.
    peak    the most bytes that are allocated at once in forward and backward; h, a, the weights and what comes back
            from above are there before and left out, the output and all gradients, those of the weights too, are in.

A result is the worst over both widths and all types.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from rich.console import Console
from rich.table import Table

from .counting import peak_bytes, saved_bytes
from .interleaved import Ratio, arguments, effort, machine, worst
from .layer_forms import LLAMA_2_7B, SMOLLM2, Layer, Shape

SHAPES = {"smollm2-135m": SMOLLM2, "llama-2-7b": LLAMA_2_7B}
TYPES = {  # of the backbone, of the adapter
    "float32": (torch.float32, torch.float32),
    "bfloat16, adapter float32": (torch.bfloat16, torch.float32),
    "bfloat16": (torch.bfloat16, torch.bfloat16),
}
FORMS = ("released", "eager", "recompute")


def saved(layer: Layer) -> dict[str, int]:
    """Bytes that each form keeps for its backward pass."""
    return {form: saved_bytes(layer.forward(form), layer.parameters(form)) for form in FORMS}


def peak(layer: Layer) -> dict[str, int]:
    """The most bytes that each form has at once."""
    return {form: peak_bytes(layer.step(form)) for form in FORMS}


def main() -> None:
    settings = effort(arguments(__doc__).parse_args())
    columns = ("layer", "types", "what", *(f"{form}, MiB" for form in FORMS), "eager", "recompute")
    table = Table(title=f"Memory of a layer, and over the released structure\n{machine()}")
    for column in columns:
        table.add_column(column, justify="right")
    results: dict[str, Ratio] = {}
    for place, shape in SHAPES.items():
        for types, (dtype, adapter) in TYPES.items():
            _check_same(shape, dtype, adapter)
            layer = Layer(shape, dtype, adapter)
            for what, counted in (("saved_bytes", saved(layer)), ("peak_memory", peak(layer))):
                ratios = {form: count / counted["released"] for form, count in counted.items()}
                results[f"{what}/{place}/{types}"] = _exact(ratios["recompute"])
                cells = (f"{count / 2**20:.1f}" for count in counted.values())
                table.add_row(place, types, what, *cells, f"{ratios['eager']:.3f}", f"{ratios['recompute']:.3f}")
    for what in ("saved_bytes", "peak_memory"):
        results[what] = worst([ratio for name, ratio in results.items() if name.startswith(f"{what}/")])
        table.add_section()
        table.add_row("worst", "", what, *[""] * len(FORMS), "", f"{results[what].ratio:.3f}")
    settings.save(results)
    Console(width=120).print(table)


def _check_same(shape: Shape, dtype: torch.dtype, adapter: torch.dtype) -> None:
    few_tokens = Layer(replace(shape, seq=8), dtype, adapter)
    for form in FORMS[1:]:
        few_tokens.check_same(form)


def _exact(ratio: float) -> Ratio:
    return Ratio(ratio, ratio, ratio)


if __name__ == "__main__":
    main()
