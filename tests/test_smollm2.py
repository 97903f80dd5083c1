"""The real embedded backbone: its weights, its tokenizer, and figures on a text of our own."""

from __future__ import annotations

import gguf
import numpy as np
import pytest
import torch
from datasets import Dataset
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from hycam import backbones
from hycam.downloads import SMOLLM2, wheel_member
from hycam.evaluation.generation import generate
from hycam.evaluation.perplexity import response_nll

pytestmark = pytest.mark.real


@pytest.fixture(scope="module")
def model() -> PreTrainedModel:
    return backbones.load("smollm2-135m")


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerBase:
    return backbones.load_tokenizer("smollm2-135m")


def chat(tokenizer: PreTrainedTokenizerBase, question: str) -> list[int]:
    messages = [{"role": "user", "content": question}]
    text = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    return tokenizer(text, add_special_tokens=False)["input_ids"]


@pytest.mark.soak  # the file is pinned, and test_embedded.py reads a small one of the same kind
def test_every_weight_and_size_is_the_gguf_files_own(model: PreTrainedModel) -> None:
    reader = gguf.GGUFReader(wheel_member(SMOLLM2, SMOLLM2.members[0]))
    config = model.config
    fields = {
        "llama.block_count": config.num_hidden_layers,
        "llama.context_length": config.max_position_embeddings,
        "llama.embedding_length": config.hidden_size,
        "llama.feed_forward_length": config.intermediate_size,
        "llama.attention.head_count": config.num_attention_heads,
        "llama.attention.head_count_kv": config.num_key_value_heads,
        "llama.rope.freq_base": config.rope_parameters["rope_theta"],
        "llama.attention.layer_norm_rms_epsilon": np.float32(config.rms_norm_eps),
        "llama.vocab_size": config.vocab_size,
        "tokenizer.ggml.bos_token_id": config.bos_token_id,
        "tokenizer.ggml.eos_token_id": config.eos_token_id,
        "tokenizer.ggml.padding_token_id": config.pad_token_id,
    }
    assert {name: reader.get_field(name).contents() for name in fields} == fields
    parts = {
        "attn_q": "self_attn.q_proj",
        "attn_k": "self_attn.k_proj",
        "attn_v": "self_attn.v_proj",
        "attn_output": "self_attn.o_proj",
        "ffn_gate": "mlp.gate_proj",
        "ffn_up": "mlp.up_proj",
        "ffn_down": "mlp.down_proj",
        "attn_norm": "input_layernorm",
        "ffn_norm": "post_attention_layernorm",
    }
    heads = {"attn_q": config.num_attention_heads, "attn_k": config.num_key_value_heads}
    whole = {"token_embd": "model.embed_tokens", "output_norm": "model.norm"}
    state = model.state_dict()
    unseen = set(state) - {"lm_head.weight"}
    for tensor in reader.tensors:
        stem = tensor.name.removesuffix(".weight")
        expected = gguf.quants.dequantize(tensor.data, tensor.tensor_type)
        if stem in whole:
            key = whole[stem]
        else:
            _, layer, part = stem.split(".")
            key = f"model.layers.{layer}.{parts[part]}"
            if part in heads:  # GGUF interleaves the two halves that the rotation pairs
                expected = (
                    expected.reshape(heads[part], -1, 2, expected.shape[1]).swapaxes(1, 2).reshape(expected.shape)
                )
        assert np.array_equal(state[f"{key}.weight"].numpy(), expected), tensor.name
        unseen.remove(f"{key}.weight")
    assert unseen == set()
    assert model.get_output_embeddings().weight is model.get_input_embeddings().weight
    assert model.num_parameters() == 134_515_008


def test_the_tokenizer_splits_digits_and_keeps_spaces_and_text(tokenizer: PreTrainedTokenizerBase) -> None:
    text = "def f(x):\n    return x  * 1234  # né 犬\r\n"
    ids = tokenizer(text)["input_ids"]
    assert tokenizer.decode(ids) == text
    assert [token for token in tokenizer.convert_ids_to_tokens(ids) if token.isdigit()] == ["1", "2", "3", "4"]
    assert (tokenizer.eos_token, tokenizer.pad_token, len(tokenizer)) == ("<|im_end|>", "<|im_end|>", 49152)


def test_it_answers_in_english_whatever_the_batch(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
    questions = ["What is the capital of France?", "Name one colour.", "What is 2 + 2? Answer with one number."]
    prompts = [chat(tokenizer, question) for question in questions]
    together = generate(model, tokenizer, prompts, max_new_tokens=8, batch_size=3)
    assert "Paris" in together[0]
    assert together == generate(model, tokenizer, prompts, max_new_tokens=8, batch_size=1)


def test_a_right_answer_is_likelier_than_a_wrong_one_and_padding_changes_nothing(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase
) -> None:
    prompt = chat(tokenizer, "What is the capital of France?")
    answers = ["The capital of France is Paris.", "The capital of France is a spoon.", "Paris."]
    entries = []
    for number, answer in enumerate(answers):
        ids = [*tokenizer(answer)["input_ids"], tokenizer.eos_token_id]
        entries.append({"row": str(number), "input_ids": prompt + ids, "labels": [-100] * len(prompt) + ids})
    rows = Dataset.from_list(entries)
    found = response_nll(model, tokenizer, rows, batch_size=3)
    assert found.nll[0] < found.nll[1] - 5
    np.testing.assert_allclose(response_nll(model, tokenizer, rows, batch_size=1).nll, found.nll, rtol=1e-5)
    # The model's own loss of one row, which is a mean over its labelled tokens.
    entry = entries[0]
    with torch.no_grad():
        loss = model(torch.tensor([entry["input_ids"]]), labels=torch.tensor([entry["labels"]])).loss
    assert found.nll[0] / found.tokens[0] == pytest.approx(loss.item(), rel=1e-5)
