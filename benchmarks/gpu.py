"""The rows that need a GPU: kernels checked against the reference, the modulation, and whole training steps.

    benchmarks/gpu.sh, or python -m benchmarks.gpu

With HYCAM_BENCH_TINY=1 everything runs once at tiny sizes, on a CPU too, and nothing is written.
"""

from __future__ import annotations

import os
import sys
from importlib import import_module
from pathlib import Path
from types import ModuleType


def has_peft() -> bool:
    """Whether HyCAM imports: PEFT is there, and it and transformers are not too old.

    Where it does not, ``hycam`` becomes a bare package, so that its ``ops`` import.
    """
    try:
        import_module("hycam")
    except ImportError as error:
        print(f"HyCAM as a whole cannot be imported ({error}): it stands on the backbone without PEFT.")
    else:
        return True
    package = ModuleType("hycam")
    package.__path__ = [str(Path(__file__).parents[1] / "src" / "hycam")]
    sys.modules["hycam"] = package
    return False


def main() -> None:
    with_peft = has_peft()
    from . import gpu_check, gpu_modulation, gpu_step
    from .interleaved import DEVICE, Effort, machine

    tiny = os.environ.get("HYCAM_BENCH_TINY") == "1"
    if DEVICE == "cpu" and not tiny:
        raise SystemExit("PyTorch finds no GPU here. HYCAM_BENCH_TINY=1 walks through the same on a CPU.")
    print(machine())
    effort = Effort(seconds=0, rounds=1, keeps=False) if tiny else Effort(rounds=20)
    fast = gpu_check.kernels()
    gpu_check.check_kernels(fast)
    gpu_modulation.measure(fast, effort, tiny)
    gpu_step.measure(effort, tiny, with_peft)


if __name__ == "__main__":
    main()
