"""MoE-LoRA on a whole backbone: how it starts, and that it cannot be merged."""

from __future__ import annotations

import pytest
import torch

from ..stacked import attach, kinds, logits


@pytest.mark.parametrize("merge", ["merge_and_unload", "merge_adapter"])
def test_merging_says_why_it_cannot_be_done_and_changes_nothing(merge: str) -> None:
    # The embedding comes before every adapted layer: PEFT would have put its trained copy in before it met the first.
    model = attach("moelora", init_weights=False, modules_to_save=["embed_tokens"])
    before, expected = kinds(model), logits(model)
    with pytest.raises(ValueError, match="cannot be merged: which experts act depends on the input"):
        getattr(model, merge)()
    assert kinds(model) == before
    assert torch.equal(logits(model), expected)
