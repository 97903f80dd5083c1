from __future__ import annotations

import json
import logging
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from architectures import tiny, tokens
from hycam.adapt import adapt
from hycam.evaluation.retention import measure
from hycam.evaluation.retention.measure import Retention, base_of, replies
from hycam.evaluation.retention.recipe import CHAT_PROMPTS, RetentionRecipe
from hycam.evaluation.retention.score import Base, Continued
from hycam.evaluation.retention.tasks import RETENTION_TASKS
from hycam.methods import METHODS

from .conftest import CHOICES, ROWS
from .naive import bits_of, is_greedy, log_probabilities


class Loader:
    """Loads the backbone, and counts how often."""

    def __init__(self) -> None:
        self.calls = 0

    def __call__(self) -> PreTrainedModel:
        self.calls += 1
        return tiny()


def logits(model: PreTrainedModel) -> torch.Tensor:
    torch.manual_seed(0)  # hycam-released draws noise in evaluation too
    with torch.no_grad():
        return model(input_ids=tokens()).logits


def changed(model: PreTrainedModel) -> PreTrainedModel:
    """Every weight that is trained at random, as training might leave it."""
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.normal_()
    return model.eval()


@pytest.mark.parametrize("method", [name for name in METHODS if not METHODS[name].same_size_as])
def test_every_methods_base_is_the_backbone_to_the_bit(method: str) -> None:
    load = Loader()
    model = changed(adapt(tiny(), method, {} if method == "full" else {"r": 4}))
    adapted = logits(model)
    base = base_of(model, load)
    for _ in range(2):
        with base() as backbone:
            assert torch.equal(logits(backbone), logits(tiny()))
    assert load.calls == (1 if method == "full" else 0)
    assert torch.equal(logits(model), adapted)  # the adapter is in use again
    assert not torch.equal(adapted, logits(tiny()))


@pytest.mark.filterwarnings("ignore:Careful, disabling adapter layers")  # the very thing that is tested
@pytest.mark.parametrize("settings", [{"bias": "lora_only"}, {"bias": "all"}, {"init_lora_weights": "pissa"}])
def test_where_disabling_would_leave_changes_the_backbone_is_loaded(settings: dict) -> None:
    load = Loader()
    model = changed(get_peft_model(tiny("qwen2"), LoraConfig(target_modules=["q_proj"], r=4, **settings)))
    with model.disable_adapter():
        assert not torch.allclose(logits(model), logits(tiny("qwen2")), rtol=1e-6, atol=1e-6)
    with base_of(model, load)() as backbone:
        assert torch.equal(logits(backbone), logits(tiny()))
    assert load.calls == 1


TEMPLATE = (
    "{% for message in messages %}<s>{{ message.role }}, {{ strftime_now('%d') }}: {{ message.content }}</s>"
    "{% endfor %}{% if add_generation_prompt %}<s>assistant: {% endif %}"
)


MOST = 12


@pytest.fixture
def short_replies(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measure, "_REPLY_TOKENS", MOST)


def greedy(model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, prompt: list[int], most: int = MOST) -> str:
    """Token by token, without a cache."""
    ids = list(prompt)
    while len(ids) < len(prompt) + most:
        with torch.no_grad():
            token = int(model(input_ids=torch.tensor([ids])).logits[0, -1].argmax())
        if token == tokenizer.eos_token_id:
            break
        ids.append(token)
    return tokenizer.decode(ids[len(prompt) :], skip_special_tokens=True)


def check(found: Continued, prompt: str, model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, special: bool):
    before = tokenizer(prompt, add_special_tokens=special)["input_ids"]
    reply = greedy(model, tokenizer, before)
    assert reply
    assert found.ids == before + tokenizer(reply, add_special_tokens=False)["input_ids"]
    assert found.start == len(before)


def test_prompts_are_forty_different_ones() -> None:
    assert len(CHAT_PROMPTS) == len(set(CHAT_PROMPTS)) == 40


def test_a_backbone_for_chat_is_asked_in_its_template_on_a_fixed_day(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, short_replies: None
) -> None:
    tokenizer.chat_template = TEMPLATE
    found = replies(model, tokenizer, 3, 2)
    for one, asked in zip(found, CHAT_PROMPTS[:3], strict=True):
        check(one, f"<s>user, 26 Jul 2024: {asked}</s><s>assistant: ", model, tokenizer, special=False)


def test_another_backbone_is_asked_in_plain_words(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, short_replies: None
) -> None:
    for one, asked in zip(replies(model, tokenizer, 2, 8), CHAT_PROMPTS[:2], strict=True):
        check(one, f"{asked}\n\n", model, tokenizer, special=True)


class Heard:
    """A reporter that remembers."""

    def __init__(self) -> None:
        self.updates: list[tuple[str, int, int]] = []

    def update(self, what: str, done: int, total: int, note: str = "") -> None:
        self.updates.append((what, done, total))


@pytest.fixture
def adapted(model: PreTrainedModel) -> PeftModel:
    torch.manual_seed(3)
    return get_peft_model(model, LoraConfig(target_modules=["q_proj", "down_proj"], init_lora_weights=False)).eval()


@pytest.fixture
def base(adapted: PeftModel) -> Base:
    return base_of(adapted, lambda: pytest.fail("the backbone was loaded"))


def naively(
    name: str, model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast
) -> tuple[dict[str, float], dict[str, bool | None]]:
    """Of each row the bits of the gold continuation, and whether it is right."""
    bits, right = {}, {}
    for item in RETENTION_TASKS[name].items(100):
        before = tokenizer(item.context)["input_ids"]
        whole = [before + tokenizer(choice, add_special_tokens=False)["input_ids"] for choice in item.choices]
        each = [bits_of(model, ids, len(before)) for ids in whole]
        per_byte = [value / len(choice.encode()) for value, choice in zip(each, item.choices, strict=True)]
        bits[item.row] = each[item.gold]
        right[item.row] = None
        if name in CHOICES:
            right[item.row] = per_byte.index(min(per_byte)) == item.gold
        if name == "lambada":
            right[item.row] = is_greedy(model, whole[0], len(before))
    return bits, right


def of_row(items: dict[str, Any], key: str) -> dict[str, Any]:
    return dict(zip(items["row"], items[key], strict=True))


@pytest.mark.parametrize("name", ["hellaswag", "lambada", "coqa", "squad"])
def test_figures_are_those_counted_token_by_token(
    name: str, adapted: PeftModel, base: Base, tokenizer: PreTrainedTokenizerFast, wheel: Path
) -> None:
    bits, right = naively(name, adapted, tokenizer)
    with adapted.disable_adapter():
        base_bits, base_right = naively(name, adapted, tokenizer)
    recipe = RetentionRecipe(tasks=[name], batch_size=3)
    found = Retention(adapted, tokenizer, base, recipe, Heard()).measure()["tasks"][name]
    items = found["items"]
    sizes = of_row(items, "bytes")
    assert found["rows"] == ROWS == len(items["row"])
    assert sizes == {item.row: len(item.choices[item.gold].encode()) for item in RETENTION_TASKS[name].items(100)}
    assert of_row(items, "bits") == pytest.approx(bits, abs=1e-6)
    assert of_row(items, "base_bits") == pytest.approx(base_bits, abs=1e-6)
    assert found["bits_per_byte"] == pytest.approx(math.fsum(bits.values()) / sum(sizes.values()), rel=1e-9)
    assert found["base_bits_per_byte"] == pytest.approx(math.fsum(base_bits.values()) / sum(sizes.values()), rel=1e-9)
    differences = [(bits[row] - base_bits[row]) / sizes[row] for row in bits]
    assert found["difference"] == pytest.approx(np.mean(differences), rel=1e-9)
    assert abs(found["difference"]) > 1e-3
    if name in (*CHOICES, "lambada"):
        assert of_row(items, "correct") == right
        assert of_row(items, "base_correct") == base_right
        assert found["accuracy"] == pytest.approx(np.mean(list(right.values())))
        assert found["base_accuracy"] == pytest.approx(np.mean(list(base_right.values())))
    else:
        assert found["accuracy"] is found["base_accuracy"] is items["correct"] is items["base_correct"] is None


def test_replies_are_the_bases_and_not_the_adapted_models(
    adapted: PeftModel, base: Base, tokenizer: PreTrainedTokenizerFast, short_replies: None
) -> None:
    found = Retention(adapted, tokenizer, base, RetentionRecipe(kl_replies=2), Heard()).measure()["kl"]["replies"]
    with adapted.disable_adapter():
        alone = Retention(adapted, tokenizer, None, RetentionRecipe(kl_replies=2), Heard()).measure()["kl"]["replies"]
    assert found["tokens"] == alone["tokens"]
    assert found["mean"] > 1e-3
    assert alone["mean"] == 0.0


def test_the_backbone_itself_is_scored_once_and_has_lost_nothing(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, wheel: Path
) -> None:
    passes = []
    model.register_forward_hook(lambda *_: passes.append(1))
    recipe = RetentionRecipe(tasks=["piqa"], kl_texts=2, batch_size=100)
    found = Retention(model, tokenizer, None, recipe, Heard()).measure()
    piqa = found["tasks"]["piqa"]
    assert len(passes) == 2
    assert piqa["difference"] == 0.0
    assert piqa["bits_per_byte"] == piqa["base_bits_per_byte"]
    assert piqa["accuracy"] == piqa["base_accuracy"]
    assert found["kl"]["lambada"]["mean"] == 0.0


def test_accuracy_is_left_out_where_it_is_not_wanted_and_bits_stay_the_same(
    adapted: PeftModel, base: Base, tokenizer: PreTrainedTokenizerFast, wheel: Path
) -> None:
    with_it = Retention(adapted, tokenizer, base, RetentionRecipe(tasks=["piqa"]), Heard()).measure()["tasks"]["piqa"]
    without = Retention(adapted, tokenizer, base, RetentionRecipe(tasks=["piqa"], accuracy=False), Heard()).measure()
    plain = without["tasks"]["piqa"]
    assert plain["accuracy"] is plain["base_accuracy"] is plain["items"]["correct"] is None
    assert plain["items"]["bits"] == pytest.approx(with_it["items"]["bits"], rel=1e-9)
    assert plain["bits_per_byte"] == pytest.approx(with_it["bits_per_byte"], rel=1e-9)


def test_tuned_tasks_are_left_out_and_the_reason_is_given(
    adapted: PeftModel, base: Base, tokenizer: PreTrainedTokenizerFast, wheel: Path, caplog: pytest.LogCaptureFixture
) -> None:
    recipe = RetentionRecipe(tasks=["squad", "piqa", "coqa"], rows=2)
    with caplog.at_level(logging.WARNING):
        found = Retention(adapted, tokenizer, base, recipe, Heard(), tuned=["dolly", "coqa"]).measure()
    assert list(found["tasks"]) == ["piqa"]
    assert sorted(found["excluded"]) == ["coqa", "squad"]
    assert "dolly" in found["excluded"]["squad"]
    assert "squad is skipped" in caplog.text
    found = Retention(adapted, tokenizer, base, recipe, Heard(), tuned=["gsm8k"]).measure()
    assert list(found["tasks"]) == recipe.tasks


def test_the_content_is_plain_json_and_the_adapter_is_in_use_afterwards(
    adapted: PeftModel, base: Base, tokenizer: PreTrainedTokenizerFast, wheel: Path
) -> None:
    before = log_probabilities(adapted, [0, 5, 6])
    recipe = RetentionRecipe(tasks=["sciq", "lambada"], rows=2, kl_texts=1, kl_replies=1)
    found = Retention(adapted, tokenizer, base, recipe, Heard()).measure()
    assert json.loads(json.dumps(found, allow_nan=False)) == found
    np.testing.assert_array_equal(log_probabilities(adapted, [0, 5, 6]), before)


@pytest.mark.parametrize("both", [True, False])
def test_progress_of_each_piece_of_work_ends_at_its_total(
    both: bool, adapted: PeftModel, base: Base, tokenizer: PreTrainedTokenizerFast, wheel: Path
) -> None:
    heard = Heard()
    recipe = RetentionRecipe(tasks=["sciq", "coqa"], rows=5, kl_texts=2, kl_replies=2, batch_size=3)
    Retention(adapted, tokenizer, base if both else None, recipe, heard).measure()
    last = {what: (done, total) for what, done, total in heard.updates}
    passes = 2 if both else 1
    assert [total for _, total in last.values()] == [15 * passes, 5 * passes, 2, 2, 2]
    assert all(done == total for done, total in last.values())
