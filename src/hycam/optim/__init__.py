"""What the methods need of an optimizer beyond AdamW: preconditioned gradients, and groups with their own settings."""

from hycam.optim.groups import OptimizerSettings, parameter_groups
from hycam.optim.riemannian import RiemannianAdamW, factor_pairs, precondition

__all__ = ["OptimizerSettings", "RiemannianAdamW", "factor_pairs", "parameter_groups", "precondition"]
