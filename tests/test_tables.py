"""No index beyond a table of the model, in any architecture."""

from __future__ import annotations

import pytest
import torch

from architectures import ARCHITECTURES, tiny
from byte_tokenizer import byte_tokenizer
from hycam.adapt import adapt, empty_backbone
from hycam.errors import HycamError
from hycam.evaluation.generation import generate
from hycam.tables import Tables


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_the_tables_end_where_the_model_fails(architecture: str) -> None:
    model = tiny(architecture).eval()
    tables = Tables.of(model)
    assert tables == Tables.of(empty_backbone(model.config))
    assert tables.tokens == 96
    for length in (128, 129):
        ids = torch.ones(1, length, dtype=torch.long)
        if tables.positions is None or length <= tables.positions:
            tables.check(ids.tolist())
            assert model(input_ids=ids).logits.isfinite().all()
        else:
            with pytest.raises(HycamError, match="129 tokens, and the backbone has 128 positions"):
                tables.check(ids.tolist())
            with pytest.raises((IndexError, RuntimeError)):
                model(input_ids=ids)


@pytest.mark.parametrize(
    ("method", "settings"),
    [
        ("hycam", {}),
        ("lora", {"modules_to_save": ["lm_head", "wte"]}),
        ("lora", {"target_modules": ["wte"]}),
        ("lora", {"target_modules": ["c_attn"], "trainable_token_indices": [3]}),
    ],
)
def test_an_adapter_changes_no_table(method: str, settings: dict) -> None:
    model = tiny("gpt2", vocab_size=128)
    assert Tables.of(adapt(model, method, settings)) == Tables(128, 128)
    model = tiny("llama", vocab_size=128, tie_word_embeddings=False)
    settings = {name: ["embed_tokens" if one == "wte" else one for one in value] for name, value in settings.items()}
    if "c_attn" not in settings.get("target_modules", ()):
        assert Tables.of(adapt(model, method, settings)) == Tables(128, None)


def test_an_answer_goes_as_far_as_the_positions_and_no_farther() -> None:
    model, tokenizer = tiny("gpt2", vocab_size=258).eval(), byte_tokenizer()
    prompt = [[5] * 120]
    generate(model, tokenizer, prompt, 9, 1)  # the last token of them is never looked up
    with pytest.raises(HycamError, match=r"120 tokens and up to 10 more are generated.*lower max_new_tokens"):
        generate(model, tokenizer, prompt, 10, 1)
    with pytest.raises(HycamError, match="token id 258, and the backbone has embeddings for 0 to 257"):
        generate(model, tokenizer, [[5, 258]], 2, 1)
