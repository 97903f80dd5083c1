"""Counts, exactly, the memory that a computation keeps for its backward pass and the most that it has at once."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path

import torch
from torch import Tensor
from torch.profiler import ProfilerActivity, profile


def saved_bytes(forward: Callable[[], object], parameters: Iterable[Tensor]) -> int:
    """Bytes of the storages that autograd keeps between forward and backward.

    A storage counts once, whole, however many views of it are kept. Those of ``parameters`` do not count, since they
    are there anyway; inputs do, since the graph is what keeps them.
    """
    there = {parameter.untyped_storage().data_ptr() for parameter in parameters}
    kept: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in there:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        result = forward()  # held until all is counted, so that no address is used twice
    del result
    return sum(kept.values())


def peak_bytes(run: Callable[[], object]) -> int:
    """The most bytes allocated on the CPU at once during ``run``, over what was there before it.

    Summed from the allocator's own events, which the profiler writes into its trace, so what an operation allocates
    inside itself counts too. What ``run`` returns is among it.
    """
    os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # it would report its own start and end on standard error
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        result = run()
    del result
    with tempfile.TemporaryDirectory() as folder:
        trace = Path(folder) / "trace.json"
        profiler.export_chrome_trace(str(trace))
        events = json.loads(trace.read_text())["traceEvents"]
    changes = [(event["ts"], event["args"]["Bytes"]) for event in events if event.get("name") == "[memory]"]
    now = peak = 0
    for _, change in sorted(changes, key=lambda at: at[0]):
        now += change
        peak = max(peak, now)
    return peak
