"""The objective, task loss plus weighted Eq. 10: in a plain forward, under stock trainers and over several ranks."""

from __future__ import annotations

import copy

import pytest
import torch
from peft import get_peft_model
from torch.nn import functional as F
from transformers import Trainer, TrainingArguments

import hycam
from architectures import tiny, tokens
from hycam import HyCAMConfig
from hycam.ops import reference
from hycam.tuners.hycam import HyCAMLayer

WEIGHT = 0.3


def attach(layers: int = 2, **settings):
    torch.manual_seed(0)
    settings = {
        "r": 4,
        "num_specialized": 3,
        "init_weights": False,
        "noise": "never",
        "balance_weight": WEIGHT,
        **settings,
    }
    return get_peft_model(tiny(num_hidden_layers=layers), HyCAMConfig(task_type="CAUSAL_LM", **settings)).train()


def gradients(model) -> dict[str, torch.Tensor]:
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.requires_grad}


def rows(lengths: list[int], scored: int = 3) -> list[dict[str, list[int]]]:
    """Rows of these lengths; the last ``scored`` tokens of each are labelled, one more in every second row."""
    made = []
    for index, length in enumerate(lengths):
        ids = tokens(1, length, seed=100 + index)[0].tolist()
        kept = scored + index % 2
        made.append({"input_ids": ids, "labels": [-100] * (length - kept) + ids[-kept:]})
    return made


def batch(made: list[dict[str, list[int]]], side: str = "right") -> dict[str, torch.Tensor]:
    width = max(len(row["input_ids"]) for row in made)

    def padded(values: list[int], filler: int) -> list[int]:
        fill = [filler] * (width - len(values))
        return values + fill if side == "right" else fill + values

    return {
        "input_ids": torch.tensor([padded(row["input_ids"], 0) for row in made]),
        "labels": torch.tensor([padded(row["labels"], -100) for row in made]),
        "attention_mask": torch.tensor([padded([1] * len(row["input_ids"]), 0) for row in made]),
    }


def exact_balance(model, inputs: dict[str, torch.Tensor]) -> torch.Tensor:
    """Eq. 10 in float64, from the routing that the reference computes layer by layer on what each layer receives."""
    wide = copy.deepcopy(model).double()
    per_layer = []

    def watch(layer, args, kwargs, output):
        weights = layer.modulation("default", layer.hycam_config["default"])
        _, (p, logits) = reference.modulate(kwargs["hidden_states"], output[0], weights)
        keep = inputs["attention_mask"].bool()
        per_layer.append((p[keep].mean(0) * torch.softmax(logits[keep], -1).mean(0)).sum())

    for layer in wide.modules():
        if isinstance(layer, HyCAMLayer):
            layer.register_forward_hook(watch, with_kwargs=True)
    with torch.no_grad():
        wide.eval()(input_ids=inputs["input_ids"], attention_mask=inputs["attention_mask"])
    return sum(per_layer) / len(per_layer)


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("lengths", [[8, 8], [8, 5]], ids=["no padding", "padding"])
def test_the_loss_is_cross_entropy_plus_weight_times_eq_10(side: str, lengths: list[int]) -> None:
    model, inputs = attach(), batch(rows(lengths), side)
    out = model(**inputs)
    cross_entropy = F.cross_entropy(out.logits[:, :-1].double().flatten(0, 1), inputs["labels"][:, 1:].flatten())
    expected = cross_entropy + WEIGHT * exact_balance(model, inputs)
    torch.testing.assert_close(out.loss.double(), expected, rtol=1e-5, atol=1e-6)
    stats = hycam.last_stats(model)
    torch.testing.assert_close(stats.task_loss.double(), cross_entropy, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(stats.balance_loss.double(), exact_balance(model, inputs), rtol=1e-5, atol=1e-6)


def test_padding_and_the_side_of_it_do_not_change_the_balance_loss() -> None:
    made = rows([8, 5])
    values = []
    for side in ("left", "right"):
        model = attach()
        model(**batch(made, side))
        values.append(hycam.last_stats(model).balance_loss)
    torch.testing.assert_close(values[0], values[1])
    model = attach()
    without_mask = batch(made)
    del without_mask["attention_mask"]
    model(**without_mask)
    assert (hycam.last_stats(model).balance_loss - values[0]).abs() > 1e-6  # the mask matters


def test_the_tokens_that_count_can_be_told_apart_from_the_mask_of_the_backbone() -> None:
    model, inputs = attach(), batch(rows([8, 5]))
    out = model(**inputs)
    balance = hycam.last_stats(model).balance_loss
    alike = model(**inputs, balance_mask=inputs["attention_mask"])
    assert torch.equal(alike.loss, out.loss) and torch.equal(hycam.last_stats(model).balance_loss, balance)
    nothing = model(**inputs, balance_mask=torch.zeros_like(inputs["attention_mask"]))
    assert hycam.last_stats(model).balance_loss == 0
    torch.testing.assert_close(nothing.loss, out.loss - model.peft_config["default"].balance_weight * balance)
    nothing.loss.backward()
    assert all(torch.isfinite(gradient).all() for gradient in gradients(model).values())


def test_evaluation_has_the_task_loss_alone() -> None:
    model, inputs = attach().eval(), batch(rows([8, 5]))
    out = model(**inputs)
    expected = F.cross_entropy(out.logits[:, :-1].flatten(0, 1), inputs["labels"][:, 1:].flatten())
    torch.testing.assert_close(out.loss, expected)


def test_a_tuple_output_gets_the_term_too() -> None:
    inputs = batch(rows([8, 5]))
    as_tuple, as_output = attach()(**inputs, return_dict=False), attach()(**inputs)
    torch.testing.assert_close(as_tuple[0], as_output.loss)


def test_the_two_scopes_differ_only_in_the_balance_term() -> None:
    inputs, stats = batch(rows([8, 5])), {}
    for scope in ("layer", "pooled"):
        model = attach(balance_scope=scope)
        model(**inputs)
        stats[scope] = hycam.last_stats(model)
    torch.testing.assert_close(stats["layer"].task_loss, stats["pooled"].task_loss)
    assert stats["layer"].balance_loss != stats["pooled"].balance_loss


def test_the_compiled_model_has_the_same_loss_and_gradients() -> None:
    inputs, results = batch(rows([8, 5])), []
    for compiled in (False, True):
        model = attach(layers=1)
        # "eager" traces as the default does, without needing a C++ compiler.
        loss = (torch.compile(model, backend="eager") if compiled else model)(**inputs, use_cache=False).loss
        loss.backward()
        results.append((loss.detach(), gradients(model)))
    torch.testing.assert_close(results[1][0], results[0][0])
    for name in results[0][1]:
        torch.testing.assert_close(results[1][1][name], results[0][1][name], rtol=1e-4, atol=1e-7, msg=name)


@pytest.mark.parametrize("way", ["Label smoothing", "compute_loss_func"])
def test_a_trainer_that_takes_the_labels_away_warns_that_the_balance_loss_cannot_act(way: str, tmp_path) -> None:
    def own(outputs, labels, num_items_in_batch):
        return F.cross_entropy(outputs.logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten())

    smooths = way == "Label smoothing"
    arguments = TrainingArguments(str(tmp_path), max_steps=1, per_device_train_batch_size=2, report_to="none",
                                  label_smoothing_factor=0.1 if smooths else 0.0, use_cpu=True, save_strategy="no",
                                  disable_tqdm=True, remove_unused_columns=False)  # fmt: skip
    trainer = Trainer(attach(), arguments, train_dataset=rows([8, 8]), data_collator=batch,
                      compute_loss_func=None if smooths else own)  # fmt: skip
    with pytest.warns(UserWarning, match=way):
        trainer.train()
