"""Forward and backward of one modulation layer on a GPU, over those of the released structure.

At the shape of Llama-2-7B, 2 x 1,200 tokens, K = 5, r = 64, bfloat16. The time is the GPU's own: each form is recorded
once as a CUDA graph and replayed, since in a training step the processor runs ahead of the GPU while here it would have
one small layer to fill the time with. What it takes when called one operation after the other is printed too.
"""

from __future__ import annotations

from collections.abc import Callable

import torch

from .interleaved import DEVICE, Effort, interleave
from .layer_forms import LLAMA_2_7B, SMOLLM2, Layer, Shape

TYPES = {  # of the backbone, of the adapter
    "bfloat16": (torch.bfloat16, torch.bfloat16),
    "bfloat16, adapter float32": (torch.bfloat16, torch.float32),
}
TINY = Shape(32, 2, 7)


def measure(fast: str, effort: Effort, tiny: bool) -> None:
    """Prints the times of all forms, and saves ``gpu_modulation``, that of the backend ``fast``."""
    for shape in (TINY,) if tiny else (LLAMA_2_7B, SMOLLM2):
        for types, (dtype, adapter) in TYPES.items():
            layer = Layer(shape, dtype, adapter)
            forms = tuple(dict.fromkeys(("released", "stacked_first", "eager", "recompute", fast)))
            for form in forms[1:]:
                layer.check_same(form)
            called = interleave({form: layer.step(form) for form in forms}, effort)
            replayed = interleave({form: recorded(layer.step(form)) for form in forms}, effort)
            print(f"modulation, {shape}, {types}: over the released structure, replayed (called)")
            for form in forms:
                times = f"{1000 * replayed[form].seconds:.3f} ms ({1000 * called[form].seconds:.3f} ms)"
                print(f"  {form:14} {replayed[form]!s:20} ({called[form]})  {times}")
            name = f"gpu_modulation/{shape.d}/{types}"
            effort.save({name: replayed[fast], f"{name}, called": called[fast]})
            if shape == LLAMA_2_7B and types == "bfloat16":
                effort.save({"gpu_modulation": replayed[fast]})


def recorded(step: Callable[[], object]) -> Callable[[], object]:
    """The replay of a step recorded as a CUDA graph; on a CPU the step itself."""
    if DEVICE == "cpu":
        return step
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):  # what is allocated or compiled at the first call cannot be recorded
        for _ in range(3):
            step()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        step()
    return graph.replay
