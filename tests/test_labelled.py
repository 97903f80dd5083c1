"""Logits at the labelled positions only: the same loss and gradients as the whole forward's."""

from __future__ import annotations

import pytest
import torch

from architectures import ARCHITECTURES, tiny, tokens
from hycam.adapt import adapt
from hycam.labelled import head_at, labelled_positions


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_loss_and_gradients_are_those_of_all_logits(architecture: str) -> None:
    labels = tokens().clone()
    labels[:, :5] = -100
    labels[1, 5:7] = -100
    row, position, targets = labelled_positions(labels)
    assert len(targets) == 6
    results = []
    for chosen in (False, True):
        torch.manual_seed(0)
        model = adapt(tiny(architecture), "hycam", {"r": 4, "noise": "never", "init_weights": False}).train()
        items = torch.tensor(11)
        if chosen:
            with head_at(model, row, position):
                out = model(input_ids=tokens(), labels=labels, shift_labels=targets, num_items_in_batch=items)
            assert out.logits.shape[:2] == (1, 6)
        else:
            out = model(input_ids=tokens(), labels=labels, num_items_in_batch=items)
        out.loss.backward()
        results.append((out.loss.detach(), {n: p.grad for n, p in model.named_parameters() if p.requires_grad}))
    torch.testing.assert_close(results[1][0], results[0][0], rtol=1e-5, atol=1e-6)
    for name, gradient in results[0][1].items():
        torch.testing.assert_close(results[1][1][name], gradient, rtol=1e-4, atol=1e-6, msg=name)


def test_a_label_on_the_first_token_is_left_out() -> None:
    row, position, targets = labelled_positions(torch.tensor([[7, -100, 8], [9, 5, -100]]))
    assert (row.tolist(), position.tolist(), targets.tolist()) == ([0, 1], [1, 0], [8, 5])
