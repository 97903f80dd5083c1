"""Forward and backward of one modulation layer over those of the released structure, on a CPU.

    python -m benchmarks.modulation_layer

K = 5, r = 64. The backward pass includes the gradients of h, a and all weights, and what the balance loss sends back to
the routing. Types are those of the backbone and of the adapter's weights: PEFT keeps an adapter in float32 on a
bfloat16 backbone, unless ``autocast_adapter_dtype=False`` leaves it in bfloat16.

"stacked_first" is the released structure with the stack's new dimension in front, which the released code has last: a
layout that is kinder to a CPU. "products" are the bare matrix products of one forward and backward, below which no
exact form gets.

Results are of SmolLM2-135M's width, the worse of two lengths. At larger widths the full d x d map, which every form
has, takes most of the time, so there is less that could be saved; those are shown without a bound. ``_bf16`` is
bfloat16 throughout, as in the released code.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from rich.console import Console
from rich.table import Table

from .interleaved import Effort, Ratio, Timing, arguments, effort, interleave, machine, worst
from .layer_forms import Layer, Shape

SMOLLM2_135M = (Shape(576, 2, 256), Shape(576, 2, 1200))
WIDER = (Shape(2048, 2, 256), Shape(4096, 1, 256))
TYPES = {  # of the backbone, of the adapter
    "fp32": (torch.float32, torch.float32),
    "bf16": (torch.bfloat16, torch.bfloat16),
    "bf16_adapter_fp32": (torch.bfloat16, torch.float32),
}
FORMS = ("eager", "recompute")
BESIDE = ("stacked_first", "products")


def measure(shape: Shape, dtype: torch.dtype, adapter: torch.dtype, effort: Effort) -> dict[str, Timing]:
    layer = Layer(shape, dtype, adapter)
    for form in FORMS:
        layer.check_same(form)
    steps: dict[str, Callable[[], object]] = {form: layer.step(form) for form in ("released", *FORMS, "stacked_first")}
    return interleave({**steps, "products": layer.products()}, effort)


def main() -> None:
    settings = effort(arguments(__doc__).parse_args())
    table = Table(title=f"Time of a layer over the released structure\n{machine()}")
    for column in ("types", "layer", "released, ms", *FORMS, *BESIDE):
        table.add_column(column, justify="right")
    results: dict[str, Ratio] = {}
    for types, (dtype, adapter) in TYPES.items():
        found = {shape: measure(shape, dtype, adapter, settings) for shape in (*SMOLLM2_135M, *WIDER)}
        for shape, timings in found.items():
            shown = (str(timings[form]) for form in (*FORMS, *BESIDE))
            table.add_row(types, str(shape), f"{1000 * timings['released'].seconds:.0f}", *shown)
            place = f"{shape.d}/{shape.batch * shape.seq}"
            results |= {f"layer_{form}_{types}/{place}": timings[form] for form in (*FORMS, *BESIDE)}
        bound = {form: worst([found[shape][form] for shape in SMOLLM2_135M]) for form in FORMS}
        results |= {f"layer_{form}_{types}": timing for form, timing in bound.items()}
        table.add_row(types, "worst of d = 576", "", *map(str, bound.values()))
        table.add_section()
    settings.save(results)
    Console(width=140).print(table)


if __name__ == "__main__":
    main()
