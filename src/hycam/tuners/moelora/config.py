"""The configuration of a MoE-LoRA adapter."""

from __future__ import annotations

from dataclasses import dataclass

from peft.utils import PeftType

from hycam.tuners.linear import StackedConfig


@dataclass
class MoeLoraConfig(StackedConfig):
    """MoE-LoRA as in RieMoE-LoRA (arXiv 2502.15828): every linear layer has a gate of its own and N LoRA experts,
    ``y = W x + alpha/r * sum_i g_i B_i A_i x`` with ``g`` the softmax of the gate, cut to its top k and renormalised.

    RieMoE-LoRA is this layer with ``rescale_gate=True`` under the preconditioned optimizer
    (:class:`hycam.optim.RiemannianAdamW`); the method table has both as ``moe-lora`` and ``riemoe-lora``.

    Args:
        num_experts: N. The HyCAM paper's comparison has 5; the authors of RieMoE-LoRA use 20 of rank 4.
        top_k: how many experts a token keeps. With 1 the renormalised gate is always 1 and so is never trained.
        r: rank of an expert. The cost is ``num_experts * (r * (in + out) + in)`` parameters a layer.
        dropout: dropout of the experts' input, in training, with a mask for each expert; the gate has none.
        rescale_gate: let an expert's gradient carry ``sqrt(g)`` of each token in place of ``g``, which makes up for the
            second factor g that preconditioning gives an expert's step. The output and the gate's gradient stay the
            same.
        **kwargs: see :class:`hycam.tuners.linear.StackedConfig`.

    Raises:
        ValueError: a value outside its range, with the value.
    """

    num_experts: int = 5
    top_k: int = 2
    rescale_gate: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        self.peft_type = PeftType("MOELORA")
        self.check_positive("num_experts")
        self.check_positive("top_k")
        if self.top_k > self.num_experts:
            raise ValueError(f"top_k is {self.top_k}, but there are only {self.num_experts} experts (num_experts).")
