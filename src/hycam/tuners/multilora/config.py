"""The configuration of a MultiLoRA adapter."""

from __future__ import annotations

from dataclasses import dataclass

from peft.utils import PeftType

from hycam.tuners.linear import StackedConfig


@dataclass
class MultiLoraConfig(StackedConfig):
    """MultiLoRA (arXiv 2311.11501): n parallel LoRA branches on a linear layer, each with a learned scaling vector,
    ``y = W x + alpha/r * sum_i s_i * (B_i A_i x)``.

    A and B start at random and the scaling vectors at zero, so that no branch is dominated by the few directions that
    a B at zero would learn first. All branches are always active; there is no branch for each task.

    The scaling vectors are what moves first, and by about one learning rate a step: give them a larger one (the method
    table has a multiplier of its own for them) and no weight decay, which would pull the whole update to zero.

    Args:
        num_branches: n. The HyCAM paper's comparison has 5.
        r: rank of a branch. Its cost is ``num_branches * (r * (in + out) + out)`` parameters a layer.
        dropout: dropout of the branches' input, in training; one mask for all branches.
        **kwargs: see :class:`hycam.tuners.linear.StackedConfig`.

    Raises:
        ValueError: a value outside its range, with the value.
    """

    num_branches: int = 5

    def __post_init__(self) -> None:
        super().__post_init__()
        self.peft_type = PeftType("MULTILORA")
        self.check_positive("num_branches")
