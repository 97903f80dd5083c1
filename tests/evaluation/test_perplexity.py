from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from datasets import Dataset
from peft import LoraConfig, get_peft_model
from transformers import LlamaForCausalLM, PreTrainedModel, PreTrainedTokenizerFast

import hycam
from architectures import ARCHITECTURES, tiny
from hycam.errors import HycamError
from hycam.evaluation.perplexity import NLL, across_tasks, response_nll


def counted_nll(model: PreTrainedModel, rows: Dataset) -> list[float]:
    """Row by row and token by token in float64, from the logits of the whole row, without padding."""
    sums = []
    model.eval()
    for ids, labels in zip(rows["input_ids"], rows["labels"], strict=True):
        with torch.no_grad():
            logits = model(input_ids=torch.tensor([ids])).logits[0].double().numpy()
        each = [
            math.log(np.exp(logits[place - 1] - logits[place - 1].max()).sum()) + logits[place - 1].max()
            - logits[place - 1][label]
            for place, label in enumerate(labels)
            if place > 0 and label != -100
        ]  # fmt: skip
        sums.append(math.fsum(each))
    return sums


def some_nll(nll: list[float], tokens: list[int]) -> NLL:
    return NLL(rows=[str(number) for number in range(len(nll))], nll=np.array(nll), tokens=np.array(tokens))


def test_nll_is_the_one_counted_token_by_token(
    model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, rows: Dataset
) -> None:
    found = response_nll(model, tokenizer, rows, batch_size=4)
    np.testing.assert_allclose(found.nll, counted_nll(model, rows), rtol=1e-12)
    assert found.tokens.tolist() == [len(answer.split()) + 1 for answer in rows["response"]]  # the end token counts
    assert found.rows == rows["row"][:]
    assert found.per_token == pytest.approx(math.fsum(counted_nll(model, rows)) / found.tokens.sum())
    assert found.perplexity == pytest.approx(math.exp(found.per_token))


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_nll_is_right_on_every_architecture(
    architecture: str, tokenizer: PreTrainedTokenizerFast, rows: Dataset
) -> None:
    model = tiny(architecture)
    found = response_nll(model, tokenizer, rows, batch_size=4)
    # float32 through two layers; the two sides differ by padding, which changes the order of sums.
    np.testing.assert_allclose(found.nll, counted_nll(model, rows), rtol=2e-4)


@pytest.mark.parametrize(
    ("architecture", "setting"),
    [
        ("gemma2", {"final_logit_softcapping": 0.5}),
        ("cohere", {"logit_scale": 3.0}),
        ("granite", {"logits_scaling": 8.0}),
    ],
)
def test_what_a_model_does_to_its_logits_is_in_the_nll(
    architecture: str, setting: dict[str, float], tokenizer: PreTrainedTokenizerFast, rows: Dataset
) -> None:
    changed, plain = tiny(architecture, **setting), tiny(architecture)
    found = response_nll(changed, tokenizer, rows, batch_size=4)
    np.testing.assert_allclose(found.nll, counted_nll(changed, rows), rtol=2e-4)
    assert found.per_token != pytest.approx(response_nll(plain, tokenizer, rows, batch_size=4).per_token, rel=0.01)


@pytest.mark.parametrize(("batch_size", "batch_tokens"), [(1, 2048), (100, 2048), (100, 30), (100, 1)])
def test_nll_depends_neither_on_batches_nor_on_the_order_of_rows(
    batch_size: int, batch_tokens: int, model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, rows: Dataset
) -> None:
    once = response_nll(model, tokenizer, rows, batch_size=4)
    order = np.random.default_rng(0).permutation(len(rows))
    again = response_nll(model, tokenizer, rows.select(order), batch_size, batch_tokens)
    assert again.rows == [once.rows[place] for place in order]
    np.testing.assert_allclose(again.nll, once.nll[order], rtol=1e-12)
    np.testing.assert_array_equal(again.tokens, once.tokens[order])


def test_only_labelled_positions_reach_the_output_embedding(
    model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, rows: Dataset
) -> None:
    seen = []
    model.lm_head.register_forward_hook(lambda _, inputs, output: seen.append(output.shape[:-1].numel()))
    found = response_nll(model, tokenizer, rows, batch_size=4)
    assert sum(seen) == found.tokens.sum() < sum(map(len, rows["input_ids"]))
    assert len(model.lm_head._forward_pre_hooks) == 0


def test_a_row_without_a_label_counts_nothing(model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast) -> None:
    rows = Dataset.from_list(
        [
            {"row": "a:1", "input_ids": [5, 6, 7], "labels": [-100, -100, -100]},
            {"row": "a:2", "input_ids": [5, 6, 7], "labels": [5, -100, 7]},  # nothing stands before the first token
        ]
    )
    found = response_nll(model, tokenizer, rows, batch_size=1)
    assert found.tokens.tolist() == [0, 1]
    assert found.nll.tolist() == [0.0, pytest.approx(counted_nll(model, rows)[1])]
    with pytest.raises(HycamError, match="None of the 1 rows"):
        response_nll(model, tokenizer, rows.select([0]), batch_size=1)


def test_a_model_that_does_not_use_its_output_embedding_is_refused(
    model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, rows: Dataset
) -> None:
    weight = model.lm_head.weight
    model.lm_head.forward = None
    model.__class__ = type("Odd", (LlamaForCausalLM,), {"get_output_embeddings": lambda self: torch.nn.Identity()})
    model.lm_head.forward = lambda hidden: hidden @ weight.T
    with pytest.raises(HycamError, match="Odd makes its logits without its output embedding"):
        response_nll(model, tokenizer, rows, batch_size=4)


def test_the_mode_of_every_submodule_is_put_back(
    model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, rows: Dataset
) -> None:
    model.model.layers[0].eval()
    modes = [module.training for module in model.modules()]
    inside = []
    model.model.layers[1].register_forward_hook(
        lambda layer, inputs, output: inside.append((layer.training, torch.is_grad_enabled()))
    )
    response_nll(model, tokenizer, rows, batch_size=100)
    assert inside == [(False, False)]
    assert [module.training for module in model.modules()] == modes
    assert any(modes) and not all(modes)


@pytest.mark.parametrize("method", ["lora", "hycam"])
def test_an_adapter_is_scored_with_its_backbone(
    method: str, model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, rows: Dataset
) -> None:
    base = response_nll(model, tokenizer, rows, batch_size=4)
    config = (
        LoraConfig(task_type="CAUSAL_LM", target_modules=["q_proj", "lm_head"], init_lora_weights=False)
        if method == "lora"
        else hycam.HyCAMConfig(task_type="CAUSAL_LM", r=4, num_specialized=2)
    )
    adapted = get_peft_model(model, config)
    with torch.no_grad():
        for name, parameter in adapted.named_parameters():
            if name.endswith(("hycam_shared.weight", "hycam_shared.default.weight")) or "hycam_B" in name:
                parameter.normal_()
    found = response_nll(adapted, tokenizer, rows, batch_size=4)
    np.testing.assert_allclose(found.nll, counted_nll(adapted, rows), rtol=1e-5)
    assert found.per_token != pytest.approx(base.per_token, rel=1e-3)


def test_a_bfloat16_model_is_scored_with_a_float32_softmax(tokenizer: PreTrainedTokenizerFast, rows: Dataset) -> None:
    model = tiny("llama", dtype=torch.bfloat16)
    found = response_nll(model, tokenizer, rows, batch_size=1)
    # counted_nll takes the same bfloat16 logits and goes on in float64; a bfloat16 softmax would be off by 1e-3.
    np.testing.assert_allclose(found.nll, counted_nll(model, rows), rtol=1e-5)


def test_across_tasks_takes_each_task_as_one_and_pooled_each_token() -> None:
    tasks = {"short": some_nll([4.0, 2.0], [1, 2]), "long": some_nll([10.0], [10])}
    macro, pooled = across_tasks(tasks)
    mean = (math.exp(2) + math.exp(1)) / 2
    assert macro == pytest.approx({"nll": 1.5, "perplexity": math.exp(1.5), "perplexity_mean": mean})
    assert pooled == pytest.approx({"nll": 16 / 13, "perplexity": math.exp(16 / 13)})


def test_a_task_weighs_every_token_the_same_and_its_perplexity_may_be_infinite() -> None:
    assert some_nll([4.0, 2.0], [1, 2]).per_token == pytest.approx(2)  # and not the mean of 4 and 1
    assert some_nll([1000.0], [1]).perplexity == math.inf
