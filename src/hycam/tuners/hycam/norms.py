"""Trained copies of a frozen backbone's norms."""

from __future__ import annotations

from torch import Tensor, nn
from torch.func import functional_call


class TrainedNorm(nn.Module):
    """One adapter's weights for one norm of the backbone, under the names that they have there.

    PEFT may keep them in float32 on a bfloat16 backbone. They are applied in the type of the backbone's own norm, by a
    norm of its class: untrained, they give the backbone's result to the last bit, and no kernel meets a weight of an
    unexpected type (a fused layer norm on a GPU refuses one).

    Args:
        norm: the copy of the backbone's norm that PEFT made.
        backbone_norm: the norm itself.
    """

    def __init__(self, norm: nn.Module, backbone_norm: nn.Module) -> None:
        super().__init__()
        # In tuples, because neither is a part of this module, to be saved or counted with it.
        self.norm, self.backbone_norm = (norm,), (backbone_norm,)
        self.names = [name for name, _ in norm.named_parameters()]
        for name in self.names:
            self.register_parameter(name, norm.get_parameter(name))

    def forward(self, hidden_states: Tensor) -> Tensor:
        """``(batch, seq, d)`` to the same shape, in the type that the backbone's norm would give."""
        (norm,), (backbone_norm,) = self.norm, self.backbone_norm
        weights = {name: getattr(self, name).to(getattr(backbone_norm, name).dtype) for name in self.names}
        return functional_call(norm, weights, (hidden_states,))
