"""Compiles the Triton kernels for a GPU that need not be there, and prints what they need of it as JSON.

``python compile_kernels.py TRITON_MIX.PY CAPABILITY ELEMENT KIND RANK``, for instance ``90 bf16 "16 bits" 64``.
"""

from __future__ import annotations

import importlib.util
import json
import re
import subprocess
import sys
import tempfile
from types import ModuleType
from typing import Any

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource


def load(path: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location("triton_mix", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["triton_mix"] = module
    spec.loader.exec_module(module)
    return module


def needs(kernel: Any, pointers: dict[str, str], numbers: tuple[str, ...], fixed: dict[str, Any],
          capability: int, warps: int, stages: int) -> dict[str, int]:  # fmt: skip
    """Bytes of shared and of local memory, and how many tensor core instructions there are."""
    signature, constants, attributes = {}, {}, {}
    for i, name in enumerate(kernel.arg_names):
        if name in pointers:
            signature[name] = "*" + pointers[name]
        elif name in numbers:
            signature[name] = "i32"
        else:
            signature[name], constants[(i,)] = "constexpr", fixed.get(name)
        if name in pointers or name in ("d", "R", "span"):
            attributes[(i,)] = [["tt.divisibility", 16]]
    built = triton.compile(
        ASTSource(kernel, signature, constants, attributes),
        target=GPUTarget("cuda", capability, 32),
        options={"num_warps": warps, "num_stages": stages},
    )
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(built.asm["cubin"])
        file.flush()
        usage = subprocess.check_output([triton.knobs.nvidia.cuobjdump.path, "-res-usage", file.name], text=True)
    stack = re.search(r"STACK:(\d+)", usage)
    assert stack is not None
    ptx = built.asm["ptx"]
    tensor_core = ptx.count("wgmma.mma_async") + ptx.count("mma.sync")
    return {"shared": built.metadata.shared, "local": int(stack[1]), "tensor core": tensor_core}


def main(path: str, capability: int, element: str, kind: str, rank: int) -> None:
    kernels = load(path)
    tokens, features, warps, stages = kernels.TILES[kind][0]
    fixed = {
        "BLOCK_R": max(16, triton.next_power_of_2(rank)), "SCALE": 1.0, "WIDEN": False,
        "PRECISION": "tf32" if kind == "tf32" else "ieee", "BLOCK_T": tokens, "BLOCK_D": features, "BLOCK": 1024,
    }  # fmt: skip
    widths = ("tokens", "d", "K", "R")
    given = {**dict.fromkeys(("v", "B", "dm"), element), "p": "fp32"}
    whole = dict.fromkeys(("out", "m_out", "dout", "a", "s", "m", "da", "ds"), element)
    made = {
        "forward": (kernels.forward_kernel, given | whole, widths),
        "pointwise": (kernels.pointwise_backward_kernel, given | whole, ("count",)),
        "tokens": (kernels.tokens_backward_kernel, given | {"dv": "fp32", "dp": "fp32"}, (*widths, "span")),
        "weights": (kernels.weights_backward_kernel, given | {"dB": "fp32"}, (*widths, "span")),
    }
    found = {
        name: needs(kernel, pointers, numbers, fixed, capability, warps, stages)
        for name, (kernel, pointers, numbers) in made.items()
    }
    print(json.dumps(found))


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), sys.argv[3], sys.argv[4], int(sys.argv[5]))
