"""Packed rows against the same rows unpacked: what a model sees, what it loses, what an adapter learns from them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PrefixTuningConfig, PromptTuningConfig, get_peft_model
from torch import Tensor
from torch.nn import functional as F
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel, Trainer, TrainingArguments

import hycam
from architectures import ARCHITECTURES, VOCABULARY, WIDTH, tiny, tokens
from contract.cases import Case, train_by_chance
from hycam.adapt import adapt
from hycam.errors import HycamError
from hycam.evaluation.batching import pad, padding_mask
from hycam.labelled import labelled_positions
from hycam.training.packing import check_packing
from hycam.training.rows import PackedCollator

# They take no positions, or make their mask without them.
LEAKING = ("opt", "falcon", "biogpt", "mpt", "xglm", "gpt_oss")
# Not among the architectures of the contract: one more that leaks, and one that scales its embeddings in place.
MORE = {
    "xglm": {"vocab_size": VOCABULARY, "d_model": WIDTH, "num_layers": 2, "attention_heads": 4, "ffn_dim": 48,
             "dropout": 0.0, "activation_dropout": 0.0, "attention_dropout": 0.0},
    "ctrl": {"vocab_size": VOCABULARY, "n_embd": WIDTH, "n_layer": 2, "n_head": 4, "dff": 48, "n_positions": 128},
}  # fmt: skip

ROWS = [
    {"input_ids": [5, 6, 7, 8, 9], "labels": [-100, -100, 7, 8, 9], "task": 1, "row": 3},
    {"input_ids": [10, 11, 12], "labels": [10, 11, 12], "task": 0, "row": 4},
    {"input_ids": [13], "labels": [13], "task": 0, "row": 5},
    {"input_ids": [14, 15, 16, 17], "labels": [14, -100, 16, 17], "task": 1, "row": 6},
]


def model_of(architecture: str, dtype: torch.dtype = torch.float32) -> PreTrainedModel:
    if architecture in ARCHITECTURES:
        return tiny(architecture, dtype=dtype)
    torch.manual_seed(0)
    config = AutoConfig.for_model(architecture, **MORE[architecture])
    return AutoModelForCausalLM.from_config(config).to(dtype).eval()


def is_accepted(model: PreTrainedModel) -> bool:
    try:
        check_packing(model)
    except HycamError:
        return False
    return True


def test_rows_become_one_row_and_every_token_keeps_its_task() -> None:
    batch = PackedCollator()(ROWS)
    assert batch["input_ids"].tolist() == [[*range(5, 18)]]
    assert batch["position_ids"].tolist() == [[0, 1, 2, 3, 4, 0, 1, 2, 0, 0, 1, 2, 3]]
    assert batch["task"].tolist() == [[1] * 5 + [0] * 4 + [1] * 4]
    assert batch["row"].tolist() == [3, 4, 5, 6]
    assert batch["use_cache"] is False
    assert set(batch) == {"input_ids", "labels", "position_ids", "task", "row", "use_cache"}


def test_the_first_token_of_an_example_is_no_target_of_the_example_before() -> None:
    batch = PackedCollator()(ROWS)
    assert batch["labels"].tolist() == [[-100, -100, 7, 8, 9, -100, 11, 12, -100, -100, -100, 16, 17]]
    row, position, targets = labelled_positions(batch["labels"])
    alone = [labelled_positions(torch.tensor([one["labels"]]))[2] for one in ROWS]
    assert torch.equal(targets, torch.cat(alone))
    assert torch.equal(batch["task"][row, position], batch["task"][row, position + 1])


@torch.no_grad()
def own_measures(model: PreTrainedModel, use_cache: bool) -> tuple[float, float]:
    """How far the second of two packed examples depends on the first, and on being packed.

    Both are the largest change of a logit of the second example, in units of the logits' standard deviation: when the
    tokens of the first one are changed, and when the first one is left out.
    """
    ids, other = tokens(1, 11, seed=3), tokens(1, 11, seed=4)
    positions = torch.cat((torch.arange(6), torch.arange(5))).unsqueeze(0)
    packed = model(input_ids=ids, position_ids=positions, use_cache=use_cache).logits[:, 6:]
    changed = torch.cat((other[:, :6], ids[:, 6:]), dim=1)
    beside_other = model(input_ids=changed, position_ids=positions, use_cache=use_cache).logits[:, 6:]
    alone = model(input_ids=ids[:, 6:], position_ids=positions[:, 6:], use_cache=use_cache).logits
    return ((packed - beside_other).abs().max() / alone.std()).item(), (
        (packed - alone).abs().max() / alone.std()
    ).item()


@pytest.mark.parametrize("architecture", [*ARCHITECTURES, *MORE])
def test_exactly_the_models_in_which_no_example_sees_another_are_accepted(architecture: str, record_property) -> None:
    accepted = is_accepted(model_of(architecture))
    record_property("packing", (architecture, accepted))
    seen, differs = own_measures(model_of(architecture), use_cache=False)
    assert accepted == (seen < 1e-5) == (differs < 1e-5)
    assert accepted == (architecture not in LEAKING)
    assert is_accepted(model_of(architecture, torch.bfloat16)) == accepted


@pytest.mark.parametrize("architecture", [*ARCHITECTURES, *MORE])
def test_with_the_cache_on_every_model_lets_examples_see_one_another(architecture: str) -> None:
    seen, differs = own_measures(model_of(architecture), use_cache=True)
    assert seen > 1e-3
    assert differs > 1e-3


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
def test_a_faint_trace_of_the_last_token_before_is_seen(dtype: torch.dtype) -> None:
    model = model_of("llama", dtype)
    norm = model.model.layers[0].input_layernorm
    norm.register_forward_hook(lambda _, args, output: output + 1e-3 * args[0].roll(1, dims=1))
    with pytest.raises(HycamError, match="see one another"):
        check_packing(model)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
def test_positions_that_run_on_are_refused_though_no_example_sees_another(dtype: torch.dtype) -> None:
    model = model_of("gpt2", dtype)
    model.transformer.wpe.register_forward_pre_hook(lambda _, args: torch.arange(args[0].shape[1]).unsqueeze(0))
    with pytest.raises(HycamError, match="not those that it has alone"):
        check_packing(model)


@pytest.mark.parametrize("broken", [0.0, float("nan")])
def test_a_model_whose_logits_say_nothing_is_not_accepted(broken: float) -> None:
    model = model_of("llama")
    torch.nn.init.constant_(model.lm_head.weight, broken)
    assert not is_accepted(model)


def test_a_refusal_names_the_model_and_says_what_to_do() -> None:
    with pytest.raises(HycamError, match=r"with opt: .* see one another .* Set data\.packing to false; data\.group_by"):
        check_packing(model_of("opt"))


@pytest.mark.parametrize(
    "variant", ["hycam", "hycam-released", "hycam-ffn", "multilora", "riemoe-lora", "lora", "full"]
)
def test_a_model_is_accepted_with_any_adapter_and_left_as_it_was(variant: str) -> None:
    model = Case(variant, "llama").attach(tiny("llama"), trained_seed=3).train()
    model.get_submodule("model.layers.0" if variant == "full" else "base_model.model.model.layers.0").eval()
    modes = [module.training for module in model.modules()]
    weights = {name: (weight.clone(), weight.requires_grad) for name, weight in model.named_parameters()}
    noise = getattr(getattr(model, "peft_config", {}).get("default"), "noise", None)
    state = torch.get_rng_state()
    check_packing(model)
    assert torch.equal(torch.get_rng_state(), state)
    assert [module.training for module in model.modules()] == modes
    for name, weight in model.named_parameters():
        assert torch.equal(weight, weights[name][0]), name
        assert weight.requires_grad == weights[name][1] and weight.grad is None, name
    assert getattr(getattr(model, "peft_config", {}).get("default"), "noise", None) == noise


@pytest.mark.parametrize("config", [PromptTuningConfig, PrefixTuningConfig])
def test_virtual_tokens_are_refused(config: type) -> None:
    model = get_peft_model(tiny("llama"), config(task_type="CAUSAL_LM", num_virtual_tokens=3))
    with pytest.raises(HycamError, match=r"with (PROMPT|PREFIX)_TUNING: it puts virtual tokens .* data\.packing to fa"):
        check_packing(model)


def padded() -> tuple[dict[str, Tensor], Tensor]:
    """The rows as an ordinary batch, and each token's task."""
    ids, labels = ([row[column] for row in ROWS] for column in ("input_ids", "labels"))
    batch = {
        "input_ids": pad(ids, 0, "right"),
        "attention_mask": padding_mask(ids, "right"),
        "labels": pad(labels, -100, "right"),
    }
    return batch, torch.tensor([row["task"] for row in ROWS])[:, None].expand_as(batch["input_ids"])


def packed() -> tuple[dict[str, Any], Tensor]:
    batch = PackedCollator()(ROWS)
    task = batch.pop("task")
    assert batch.pop("row").tolist() == [3, 4, 5, 6]
    return batch, task


def loss_of_each_task(logits: Tensor, labels: Tensor, task: Tensor) -> Tensor:
    """Sum of the NLL, and number, of the labelled tokens of both tasks: ``[2, 2]``."""
    row, position, targets = labelled_positions(labels)
    sums = torch.zeros(2, 2)
    each = F.cross_entropy(logits[row, position], targets, reduction="none")
    return sums.index_add(1, task[row, position], torch.stack((each, torch.ones_like(each))))


@pytest.mark.parametrize("architecture", ["llama", "gemma3_text", "gpt2", "gpt_neo", "qwen3_moe"])
@pytest.mark.parametrize("items", [None, 20])
def test_packed_rows_give_the_losses_and_gradients_of_the_same_rows_padded(
    architecture: str, items: int | None
) -> None:
    found = []
    for batch, task in (padded(), packed()):
        torch.manual_seed(7)
        model = adapt(tiny(architecture), "hycam", {"r": 4, "noise": "never"}).train()
        train_by_chance(model, 3)
        out = model(**batch, **({} if items is None else {"num_items_in_batch": items}))
        out.loss.backward()
        stats = hycam.last_stats(model)
        found.append(
            {
                "loss": out.loss.detach(),
                "task loss": stats.task_loss,
                "balance loss": stats.balance_loss,
                "of each task": loss_of_each_task(out.logits.detach(), batch["labels"], task),
                **stats.routing,
                **{name: weight.grad for name, weight in model.named_parameters() if weight.requires_grad},
            }
        )
    unpacked, in_one = found
    assert unpacked["of each task"][1].tolist() == [2, 5]
    sums, counts = unpacked["of each task"]
    torch.testing.assert_close(unpacked["task loss"], sums.sum() / counts.sum(), rtol=1e-5, atol=1e-6)
    assert in_one.keys() == unpacked.keys()
    for name, value in unpacked.items():
        torch.testing.assert_close(in_one[name], value, rtol=1e-4, atol=1e-6, msg=lambda text, n=name: f"{n}: {text}")


def test_the_trainer_hands_a_packed_batch_to_the_model_as_it_is_and_counts_its_tokens(tmp_path: Path) -> None:
    handed: list[dict[str, Any]] = []

    class Recording(Trainer):
        def compute_loss(self, model: Any, inputs: Any, *args: Any, **kwargs: Any) -> Any:
            handed.append(dict(inputs))
            del inputs["task"], inputs["row"]
            return super().compute_loss(model, inputs, *args, **kwargs)

    arguments = TrainingArguments(
        str(tmp_path), per_device_train_batch_size=2, gradient_accumulation_steps=2, max_steps=1, use_cpu=True,
        remove_unused_columns=False, include_num_input_tokens_seen="all", report_to="none", disable_tqdm=True,
        save_strategy="no",
    )  # fmt: skip
    trainer = Recording(tiny("llama"), arguments, train_dataset=ROWS, data_collator=PackedCollator())
    trainer.train()
    assert [batch["use_cache"] for batch in handed] == [False, False]
    assert not any("attention_mask" in batch for batch in handed)
    assert trainer.state.num_input_tokens_seen == sum(len(row["input_ids"]) for row in ROWS)
