"""The arithmetic of the modulation, on plain tensors. Nothing here knows PEFT, a backbone or a task."""

from hycam.ops.eager import modulate
from hycam.ops.routing import balance_loss, gumbel_noise, routing_sums
from hycam.ops.weights import Dense, LowRank, Modulation, Router

__all__ = ["Dense", "LowRank", "Modulation", "Router", "balance_loss", "gumbel_noise", "modulate", "routing_sums"]
