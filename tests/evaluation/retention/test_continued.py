from __future__ import annotations

import pytest
from tokenizers import Tokenizer, models, normalizers
from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

from byte_tokenizer import BOS, byte_tokenizer
from hycam import backbones
from hycam.evaluation.retention.continued import Continued, joined
from hycam.evaluation.retention.tasks import RETENTION_TASKS


def sentencepiece() -> PreTrainedTokenizerFast:
    """Puts a blank before every text, as the tokenizer of Llama 2 does; its words begin with theirs."""
    tokens = ["▁Answer", "▁yes", "yes"]
    merges = list(dict.fromkeys((token[:size], token[size]) for token in tokens for size in range(1, len(token))))
    pieces = dict.fromkeys(["<s>", "</s>", *"▁Answeryes:", *(first + second for first, second in merges)])
    raw = Tokenizer(models.BPE(vocab={piece: number for number, piece in enumerate(pieces)}, merges=merges))
    raw.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    return PreTrainedTokenizerFast(tokenizer_object=raw, bos_token="<s>", eos_token="</s>")


@pytest.mark.parametrize("layout", ["<s> $A", "<s> $A </s>", "$A"])
def test_a_continuation_begins_with_its_blank_behind_the_tokens_of_the_context(layout: str) -> None:
    tokenizer = byte_tokenizer(layout)
    plain = byte_tokenizer("$A")
    (found,) = joined(["Is 2 even?\nAnswer:"], [" Né"], tokenizer)
    begin = [BOS] if layout.startswith("<s>") else []
    before = begin + plain("Is 2 even?\nAnswer:")["input_ids"]
    assert found == Continued(before + plain(" Né")["input_ids"], len(before))  # and no end token behind it


def test_no_second_blank_stands_before_a_continuation() -> None:
    tokenizer = sentencepiece()
    assert tokenizer.tokenize(" yes") == ["▁", "▁yes"]  # which it would be, tokenised apart
    (found,) = joined(["Answer:"], [" yes"], tokenizer)
    assert tokenizer.convert_ids_to_tokens(found.ids) == ["▁Answer", ":", "▁yes"]
    assert found.start == 2


def test_a_token_that_spans_the_boundary_belongs_to_the_continuation() -> None:
    tokenizer = sentencepiece()
    (found,) = joined(["Answer: y"], ["es"], tokenizer)
    assert tokenizer.convert_ids_to_tokens(found.ids[found.start :]) == ["▁yes"]


def test_an_empty_continuation_has_no_token() -> None:
    (found,) = joined(["Hello"], [""], byte_tokenizer())
    assert found.start == len(found.ids) == 6


def test_a_chat_prompt_gets_no_further_special_tokens() -> None:
    (found,) = joined(["<s>Hi"], [" you"], byte_tokenizer(), "chat")
    assert found.ids[0] == BOS
    assert BOS not in found.ids[1:]
    assert found.start == 3


@pytest.fixture(scope="module")
def smollm2() -> PreTrainedTokenizerBase:
    return backbones.load_tokenizer("smollm2-135m")


@pytest.mark.real
@pytest.mark.parametrize("name", RETENTION_TASKS)
def test_of_the_real_backbone_no_token_spans_the_boundary(name: str, smollm2: PreTrainedTokenizerBase) -> None:
    items = RETENTION_TASKS[name].items(40)
    contexts = [item.context for item in items]
    gold = [item.choices[item.gold] for item in items]
    for context, answer, (ids, start) in zip(contexts, gold, joined(contexts, gold, smollm2), strict=True):
        assert ids[:start] == smollm2(context)["input_ids"]
        assert ids[start:] == smollm2(answer, add_special_tokens=False)["input_ids"]
        assert smollm2.decode(ids[start:]) == answer
