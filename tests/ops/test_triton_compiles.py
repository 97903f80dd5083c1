"""The kernels compile for real devices, which takes a compiler and no GPU; the interpreter lets more pass than that."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from hycam.ops import triton_kernels

pytest.importorskip("triton", reason="the package triton is not installed")


@pytest.mark.parametrize(
    ("capability", "element", "kind", "rank", "shared"),
    [
        pytest.param(90, "bf16", "16 bits", 64, 227, id="the paper's rank on an H200"),
        pytest.param(80, "fp16", "16 bits", 4, 163, id="the least rank on an A100", marks=pytest.mark.soak),
        pytest.param(86, "bf16", "16 bits", 128, 99, id="the largest rank on a small device", marks=pytest.mark.soak),
        pytest.param(86, "fp32", "tf32", 128, 99, id="the same in TF32", marks=pytest.mark.soak),
        pytest.param(86, "fp32", "ieee", 128, 99, id="the same in float32", marks=pytest.mark.soak),
    ],
)
def test_the_first_tile_fits_the_device_and_its_registers(
    tmp_path: Path, capability: int, element: str, kind: str, rank: int, shared: int
) -> None:
    script = Path(__file__).with_name("compile_kernels.py")
    source = Path(triton_kernels.__file__).with_name("triton") / "kernels.py"
    printed = subprocess.check_output(
        [sys.executable, script, source, str(capability), element, kind, str(rank)],
        env={**os.environ, "TRITON_INTERPRET": "0", "TRITON_CACHE_DIR": str(tmp_path)},
        text=True,
    )
    found = json.loads(printed)
    assert set(found) == {"forward", "pointwise", "tokens", "weights"}
    for name, needs in found.items():
        assert needs["shared"] <= shared * 1024, name
        assert needs["local"] <= 64, name  # a few spilled registers cost nothing; a spilled sum is kilobytes
        assert (needs["tensor core"] > 0) == (name != "pointwise" and kind != "ieee"), name
