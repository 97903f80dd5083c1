"""The arithmetic of the modulation, on plain tensors. Nothing here knows PEFT, a backbone or a task.

Every file in this folder is imported here, so that one with a backend needs no other mention than itself.
"""

from importlib import import_module
from pkgutil import iter_modules

from hycam.ops.dispatch import BACKENDS, current_backend, modulate, set_backend
from hycam.ops.routing import balance_loss, gumbel_noise, routing_sums
from hycam.ops.weights import Dense, LowRank, Modulation, Router

for _file in iter_modules(__path__):
    if not _file.ispkg:  # Triton is imported only where it may be used
        import_module(f"{__name__}.{_file.name}")

__all__ = [
    "BACKENDS",
    "Dense",
    "LowRank",
    "Modulation",
    "Router",
    "balance_loss",
    "current_backend",
    "gumbel_noise",
    "modulate",
    "routing_sums",
    "set_backend",
]
