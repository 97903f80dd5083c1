"""The arithmetic of the modulation, on plain tensors. Nothing here knows PEFT, a backbone or a task."""

from hycam.ops.dispatch import BACKENDS, current_backend, modulate, set_backend
from hycam.ops.routing import balance_loss, gumbel_noise, routing_sums
from hycam.ops.weights import Dense, LowRank, Modulation, Router

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
