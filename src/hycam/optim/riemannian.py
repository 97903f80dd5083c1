"""AdamW on gradients that are preconditioned by the factors of a low-rank product."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from hycam.errors import HycamError

Pair = tuple[nn.Parameter, nn.Parameter]
"""The factors of a product B A: A ``[..., r, in]`` and B ``[..., out, r]``, the same leading dimensions."""

FACTORS = {"lora_A": "lora_B", "moelora_A": "moelora_B"}
"""The names under which LoRA (PEFT's) and MoE-LoRA hold A, with the name of its B."""


def factor_pairs(model: nn.Module) -> list[Pair]:
    """The trainable factors A and B of every low-rank product in a model, matched by name.

    Raises:
        HycamError: there is none.
    """
    parameters = dict(model.named_parameters())
    pairs = []
    for name, A in parameters.items():
        for a, b in FACTORS.items():
            B = parameters.get(name.replace(f".{a}.", f".{b}."))
            if f".{a}." not in name or B is None or not (A.requires_grad and B.requires_grad):
                continue
            if (
                A.dim() >= 2 and A.shape[:-2] == B.shape[:-2] and A.shape[-2] == B.shape[-1]
            ):  # not those of a convolution
                pairs.append((A, B))
    if not pairs:
        raise HycamError(
            "There are no factors to precondition: the Riemannian optimizer works on the A and B of a product B A, "
            "which LoRA and MoE-LoRA have."
        )
    return pairs


@torch.no_grad()
def precondition(A: Tensor, B: Tensor, grad_A: Tensor, grad_B: Tensor, damping: float) -> tuple[Tensor, Tensor]:
    r"""The Riemannian gradients of the factors of ``B A``, for every leading index (expert) at once.

    .. math::
        \tilde G_A = (B^\top B + \delta I)^{-1} G_A, \qquad \tilde G_B = G_B (A A^\top + \delta I)^{-1}

    RieMoE-LoRA (arXiv 2502.15828), after Zhang and Pilanci (ICML 2024). To first order a step along them changes the
    product ``B A`` by the same amount however its scale is shared out between A and B.

    Args:
        A, B: ``[..., r, in]`` and ``[..., out, r]``.
        grad_A, grad_B: their gradients, of the same shapes.
        damping: delta, which keeps the inverse finite while a factor is (nearly) singular, as B is at the start.

    Returns:
        both preconditioned gradients in at least float32, in which all of it is computed.
    """
    A, B, grad_A, grad_B = (
        tensor.to(torch.promote_types(tensor.dtype, torch.float32)) for tensor in (A, B, grad_A, grad_B)
    )
    eye = torch.eye(A.shape[-2], dtype=A.dtype, device=A.device)
    left = _solve(B.mT @ B + damping * eye, grad_A)
    right = _solve(A @ A.mT + damping * eye, grad_B.mT).mT
    return left, right


def _solve(gram: Tensor, rhs: Tensor) -> Tensor:
    """``gram^-1 rhs`` for symmetric positive definite matrices, batched.

    By Cholesky; where rounding has made a matrix indefinite (a factor of low rank with a damping below the type's
    resolution), by the pseudo-inverse, which ignores the directions that the factor does not have. In the rest of the
    batch it would cut small directions that Cholesky still solves for.
    """
    lower, info = torch.linalg.cholesky_ex(gram)
    solution = torch.cholesky_solve(rhs, lower)
    finite = gram.isfinite().all(dim=(-2, -1))
    solution = torch.where(finite[..., None, None], solution, torch.nan)  # do not hide a broken factor
    failed = (info > 0) & finite
    if failed.any():
        solution[failed] = torch.linalg.pinv(gram[failed], hermitian=True) @ rhs[failed]
    return solution


class RiemannianAdamW(torch.optim.AdamW):
    """AdamW whose moments are fed with preconditioned gradients (the optimizer of RieMoE-LoRA).

    Each step first replaces the gradients of every pair of factors by those of :func:`precondition`; the rest is
    ``torch.optim.AdamW``, whose moments have the parameters' type. The trainer clips gradients before the step, so
    before they are preconditioned.

    Args:
        params: parameters or groups, as for AdamW; those of the pairs must be among them.
        pairs: the factors, such as :func:`factor_pairs` finds.
        damping: delta of :func:`precondition`.
        kwargs: AdamW's own: ``lr``, ``betas``, ``eps``, ``weight_decay``.

    Raises:
        ValueError: the damping is negative, there is no pair, a factor is not among ``params`` or is in float16, or a
            step is given a closure, which would compute the gradients again after the preconditioning.
        RuntimeError: a step has gradients, but none for any pair: something has replaced the parameters.
    """

    def __init__(self, params: Any, pairs: Iterable[Pair], damping: float = 1e-6, **kwargs: Any) -> None:
        self.pairs = list(pairs)
        self.damping = damping
        if not self.pairs:
            raise ValueError("There are no factors to precondition.")
        if not damping >= 0:
            raise ValueError(f"damping must not be negative, not {damping!r}.")
        super().__init__(params, **kwargs)
        stepped = {id(parameter) for group in self.param_groups for parameter in group["params"]}
        for factor in (factor for pair in self.pairs for factor in pair):
            if id(factor) not in stepped:
                raise ValueError(f"A factor of shape {list(factor.shape)} is not among the parameters to step.")
            if factor.dtype == torch.float16:
                raise ValueError(
                    "float16 cannot hold a preconditioned gradient, which may be a million times as large: keep the "
                    "adapter in float32, as PEFT's autocast_adapter_dtype does, or in bfloat16."
                )
        # A hook and not a `step` of its own: torch wraps the step of every class, and hooks would run twice.
        self.register_step_pre_hook(_precondition_gradients)

    def __getstate__(self) -> dict[str, Any]:
        raise TypeError(
            "A RiemannianAdamW cannot be copied or pickled, since the copy would lose the factors: make a new one "
            "over the copied parameters and load this one's state_dict()."
        )


def _precondition_gradients(optimizer: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    if any(argument is not None for argument in (*args[1:], *kwargs.values())):
        raise ValueError("RiemannianAdamW takes no closure: it would undo the preconditioning.")
    pairs = [(A, B) for A, B in optimizer.pairs if A.grad is not None and B.grad is not None]
    if not pairs and any(p.grad is not None for group in optimizer.param_groups for p in group["params"]):
        raise RuntimeError(
            "RiemannianAdamW finds no gradient on any factor, so nothing would be preconditioned. A wrapper that "
            "flattens or shards the parameters (DeepSpeed ZeRO, FSDP) does this."
        )
    for A, B in pairs:
        grad_A, grad_B = precondition(A, B, A.grad, B.grad, optimizer.damping)
        A.grad.copy_(grad_A)
        B.grad.copy_(grad_B)
