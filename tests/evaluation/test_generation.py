from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator

import pytest
import torch
import transformers
from datasets import Dataset
from peft import LoraConfig, get_peft_model
from transformers import LlamaForCausalLM, PreTrainedModel, PreTrainedTokenizerFast

from architectures import tiny
from hycam.errors import HycamError
from hycam.evaluation.generation import generate

NEW = 12


@pytest.fixture
def prompts(rows: Dataset) -> list[list[int]]:
    return [ids[:length] for ids, length in zip(rows["input_ids"], rows["prompt_length"], strict=True)]


@pytest.fixture
def heard() -> Iterator[list[str]]:
    """What transformers logs and what is warned of."""
    messages: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: messages.append(record.getMessage())  # type: ignore[method-assign]
    level = transformers.logging.get_verbosity()
    transformers.logging.set_verbosity_warning()
    transformers.logging.add_handler(handler)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        yield messages
    transformers.logging.remove_handler(handler)
    transformers.logging.set_verbosity(level)
    assert [str(one.message) for one in caught] == []


def argmax_loop(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, prompt: list[int], ends: set[int], limit: int = NEW
) -> str:
    """Greedy decoding by its definition: a whole forward for each token, no cache, no padding."""
    ids, new = list(prompt), []
    model.eval()
    while len(new) < limit:
        with torch.no_grad():
            token = int(model(input_ids=torch.tensor([ids])).logits[0, -1].argmax())
        if token in ends:
            break
        ids.append(token)
        new.append(token)
    return tokenizer.decode(new, skip_special_tokens=True)


@pytest.mark.parametrize("batch_size", [1, 3, 100])
def test_answers_are_the_most_likely_tokens_whatever_the_batch(
    batch_size: int, model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, prompts: list[list[int]]
) -> None:
    expected = [argmax_loop(model, tokenizer, prompt, {1}) for prompt in prompts]
    assert len(set(map(len, prompts))) > 3 and len(set(expected)) > 3  # neither padding nor answers are all alike
    done: list[int] = []
    assert generate(model, tokenizer, prompts, NEW, batch_size, done.append) == expected
    assert sum(done) == len(prompts)


# In float32, because the attention of gemma2 and mpt and the experts of mixtral take no float64.
@pytest.mark.parametrize("architecture", ["gpt2", "opt", "falcon", "mpt", "gemma2", "qwen2", "mixtral"])
def test_padding_moves_no_position_on_other_architectures(
    architecture: str, tokenizer: PreTrainedTokenizerFast, prompts: list[list[int]]
) -> None:
    model = tiny(architecture)
    model.generation_config.eos_token_id = None
    expected = [argmax_loop(model, tokenizer, prompt, {1}, limit=5) for prompt in prompts[:5]]
    assert generate(model, tokenizer, prompts[:5], 5, batch_size=5) == expected


def test_an_answer_stops_at_the_tokenizers_end_token_and_at_the_backbones(
    model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, prompts: list[list[int]]
) -> None:
    whole = [text.split() for text in generate(model, tokenizer, prompts, NEW, batch_size=4)]
    word = next(words[3] for words in whole if len(words) > 5 and words[3] not in words[:3])
    stop = tokenizer.convert_tokens_to_ids(word)
    cut = [" ".join(words[: words.index(word)] if word in words else words) for words in whole]
    assert cut != [" ".join(words) for words in whole]

    model.generation_config.eos_token_id = [1, stop]
    assert generate(model, tokenizer, prompts, NEW, batch_size=4) == cut
    model.generation_config.eos_token_id = 1
    tokenizer.eos_token = word
    assert generate(model, tokenizer, prompts, NEW, batch_size=4) == cut


def test_an_end_token_inside_a_prompt_is_attended_to(
    model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast
) -> None:
    prompts = [[5, 1, 6], [1, 1, 9, 9, 9, 12], [1]]  # the padding id, too
    expected = [argmax_loop(model, tokenizer, prompt, {1}) for prompt in prompts]
    assert generate(model, tokenizer, prompts, NEW, batch_size=3) == expected


def test_the_backbones_own_sampling_is_overridden_in_silence_and_put_back(
    model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, prompts: list[list[int]], heard: list[str]
) -> None:
    expected = generate(model, tokenizer, prompts, NEW, batch_size=4)
    own = transformers.GenerationConfig(
        do_sample=True,
        temperature=7.0,
        top_p=0.3,
        top_k=3,
        min_p=0.1,
        repetition_penalty=5.0,
        no_repeat_ngram_size=1,
        min_new_tokens=9,
        suppress_tokens=list(range(3, 30)),
        num_beams=2,
        max_length=4,
        eos_token_id=1,
        pad_token_id=1,
    )
    model.generation_config = own
    before = own.to_dict()
    assert generate(model, tokenizer, prompts, NEW, batch_size=4) == expected
    assert model.generation_config is own and own.to_dict() == before
    assert heard == []


def test_an_adapted_model_answers_with_its_adapter_and_keeps_its_settings(
    model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, prompts: list[list[int]]
) -> None:
    base = generate(model, tokenizer, prompts, NEW, batch_size=4)
    own = model.generation_config
    config = LoraConfig(task_type="CAUSAL_LM", target_modules=["q_proj", "v_proj"], init_lora_weights=False)
    adapted = get_peft_model(model, config, autocast_adapter_dtype=False).double()
    expected = [argmax_loop(adapted, tokenizer, prompt, {1}) for prompt in prompts]
    assert expected != base
    assert generate(adapted, tokenizer, prompts, NEW, batch_size=4) == expected
    assert adapted.get_base_model().generation_config is own


def test_tokenizer_and_mode_are_left_as_found(
    model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, prompts: list[list[int]]
) -> None:
    tokenizer.pad_token = None
    tokenizer.padding_side = "right"
    before = (tokenizer.padding_side, tokenizer.pad_token, tokenizer.backend_tokenizer.to_str())
    modes = [module.training for module in model.modules()]
    generate(model, tokenizer, prompts, NEW, batch_size=4)
    assert (tokenizer.padding_side, tokenizer.pad_token, tokenizer.backend_tokenizer.to_str()) == before
    assert [module.training for module in model.modules()] == modes and all(modes)


def test_an_empty_prompt_is_named_and_no_prompts_give_no_answers(
    model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast
) -> None:
    with pytest.raises(HycamError, match="Prompt 2 of 3 is empty"):
        generate(model, tokenizer, [[5], [], [6]], NEW, batch_size=4)
    assert generate(model, tokenizer, [], NEW, batch_size=4) == []


def test_an_answer_stops_at_the_end_token_of_a_chat_too(model, tokenizer, prompts) -> None:
    (free,) = generate(model, tokenizer, prompts[:1], NEW, 1)
    third = tokenizer.convert_tokens_to_ids(free.split()[2])
    (stopped,) = generate(model, tokenizer, prompts[:1], NEW, 1, end=third)
    assert stopped == argmax_loop(model, tokenizer, prompts[0], {1, third}) != free
