"""The methods that adapt linear layers train encoder-decoders; HyCAM refuses them (tests/tuners/hycam)."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from peft import get_peft_model
from transformers import T5Config, T5ForConditionalGeneration

from architectures import VOCABULARY, tokens
from hycam import MoeLoraConfig, MultiLoraConfig


@pytest.mark.parametrize("kind", [MultiLoraConfig, MoeLoraConfig])
def test_an_encoder_decoder_trains(kind: Any) -> None:
    config = T5Config(vocab_size=VOCABULARY, d_model=32, d_kv=8, d_ff=48, num_layers=2, num_heads=4,
                      dropout_rate=0.0, decoder_start_token_id=0)  # fmt: skip
    model = get_peft_model(T5ForConditionalGeneration(config), kind(task_type="SEQ_2_SEQ_LM", r=4)).train()
    optimizer = torch.optim.AdamW([weight for weight in model.parameters() if weight.requires_grad], lr=1e-2)
    losses = []
    for _ in range(3):
        loss = model(input_ids=tokens(), labels=tokens()).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    assert losses[-1] < losses[0]
