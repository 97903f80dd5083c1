"""The configuration of a MoE-LoRA adapter."""

from __future__ import annotations

from dataclasses import dataclass, field

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
        alpha: None for the factor 1, or a number: the sum is multiplied by ``alpha / r``.
        dropout: dropout of what the experts read, in training, with a mask for each expert; the gate reads without.
        rescale_gate: let an expert's gradient carry ``sqrt(g)`` of each token in place of ``g``, which makes up for the
            second factor g that preconditioning gives an expert's step. The forward value and the gate's own gradient
            stay what they are.
        target_modules: linear layers to adapt; None (or ``"all-linear"``) takes all but the output layer.
        exclude_modules: modules to leave out, as in PEFT.
        layers_to_transform: indices of the layers to adapt; all by default.
        layers_pattern: name of the list of layers, where it is not one that PEFT knows.
        modules_to_save: further modules to train and save with the adapter.
        init_weights: True starts as the backbone itself (B at zero). False draws B at random too, which is of use in
            tests only.

    Raises:
        ValueError: a value outside its range, with the value.
    """

    num_experts: int = field(default=5, metadata={"help": "N, the number of experts of a layer."})
    top_k: int = field(default=2, metadata={"help": "Experts that a token keeps."})
    rescale_gate: bool = field(default=False, metadata={"help": "sqrt(g) in place of g in the experts' gradient."})

    def __post_init__(self) -> None:
        super().__post_init__()
        self.peft_type = PeftType("MOELORA")
        self.check_positive("num_experts")
        self.check_positive("top_k")
        if self.top_k > self.num_experts:
            raise ValueError(f"top_k is {self.top_k}, but there are only {self.num_experts} experts (num_experts).")
