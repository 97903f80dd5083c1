"""MoE-LoRA on a whole backbone: how it starts, and that it cannot be merged."""

from __future__ import annotations

import pytest
import torch

from architectures import tiny, tokens

from ..stacked import attach, kinds, logits


def test_only_b_is_moved_by_the_first_step() -> None:
    model = attach("moelora").train()
    model(input_ids=tokens(), labels=tokens()).loss.backward()
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            assert bool(parameter.grad.any()) == ("moelora_B" in name), name


@pytest.mark.parametrize("merge", ["merge_and_unload", "merge_adapter"])
def test_merging_says_why_it_cannot_be_done_and_changes_nothing(merge: str) -> None:
    # The embedding comes before every adapted layer: PEFT would have put its trained copy in before it met the first.
    model = attach("moelora", init_weights=False, modules_to_save=["embed_tokens"])
    before, expected = kinds(model), logits(model)
    with pytest.raises(ValueError, match="cannot be merged: which experts act depends on the input"):
        getattr(model, merge)()
    assert kinds(model) == before
    assert torch.equal(logits(model), expected)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_rescaled_gate_changes_the_experts_gradients_and_nothing_else(dtype: torch.dtype) -> None:
    results = []
    for rescale in (False, True):
        torch.manual_seed(0)
        # One layer only: further back another layer's gradient would reach the gate too.
        settings = {"init_weights": False, "target_modules": ["down_proj"], "layers_to_transform": [1]}
        model = attach("moelora", tiny(dtype=dtype), rescale_gate=rescale, **settings).train()
        out = model(input_ids=tokens(), labels=tokens())
        out.loss.backward()
        results.append((out.logits, {name: p.grad for name, p in model.named_parameters() if p.requires_grad}))
    (logits_without, without), (logits_with, with_it) = results
    assert torch.equal(logits_without, logits_with)
    for name in without:
        assert torch.equal(without[name], with_it[name]) == ("moelora_gate" in name), name
