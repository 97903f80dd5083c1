"""The objective, task loss plus weighted Eq. 10: in a plain forward, under stock trainers and over several ranks."""

from __future__ import annotations

import copy
import logging

import pytest
import torch
import torch.multiprocessing as mp
from datasets import Dataset
from peft import get_peft_model
from torch.nn import functional as F
from transformers import Trainer, TrainingArguments

import hycam
from architectures import VOCABULARY, tiny, tokens
from hycam import HyCAMConfig
from hycam.ops import reference
from hycam.tuners.hycam import HyCAMLayer

WEIGHT = 0.3


def attach(**settings):
    torch.manual_seed(0)
    settings = {
        "r": 4,
        "num_specialized": 3,
        "init_weights": False,
        "noise": "never",
        "balance_weight": WEIGHT,
        **settings,
    }
    return get_peft_model(tiny(), HyCAMConfig(task_type="CAUSAL_LM", **settings)).train()


def routers(model) -> dict[str, torch.Tensor]:
    return {name: p.grad.clone() for name, p in model.named_parameters() if "hycam_router" in name}


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
        model = attach()
        # "aot_eager" traces forward and backward as the default does, without needing a C++ compiler.
        loss = (torch.compile(model, backend="aot_eager") if compiled else model)(**inputs, use_cache=False).loss
        loss.backward()
        results.append((loss.detach(), gradients(model)))
    torch.testing.assert_close(results[1][0], results[0][0])
    for name in results[0][1]:
        torch.testing.assert_close(results[1][1][name], results[0][1][name], rtol=1e-4, atol=1e-7, msg=name)


class _Padding:
    """What a data collator needs of a tokenizer, without one."""

    def __call__(self, made: list[dict]) -> dict[str, torch.Tensor]:
        return batch([{key: list(row[key]) for key in ("input_ids", "labels")} for row in made])


def gradients_under_trainer(kind: str, made: list[dict], accumulation: int, tmp_path, **settings) -> dict:
    """The gradients of one optimizer step of a stock trainer, before clipping and before the optimizer."""
    model, seen = attach(**settings), {}
    arguments = {"output_dir": str(tmp_path / kind), "max_steps": 1, "learning_rate": 0.0, "max_grad_norm": 0.0,
                 "per_device_train_batch_size": len(made) // accumulation, "report_to": "none", "use_cpu": True,
                 "gradient_accumulation_steps": accumulation, "save_strategy": "no", "disable_tqdm": True,
                 "optim": "sgd", "bf16": False}  # fmt: skip

    def note(self, *args, **kwargs):
        seen.update(gradients(model))

    if kind == "Trainer":
        base = Trainer
        arguments["remove_unused_columns"] = False
        built = TrainingArguments(**arguments)
    else:
        from trl import SFTConfig, SFTTrainer

        base = SFTTrainer
        built = SFTConfig(**arguments, dataset_kwargs={"skip_prepare_dataset": True}, gradient_checkpointing=False,
                          remove_unused_columns=False)  # fmt: skip

    class InOrder(base):  # stock but for the order of the rows
        def _get_train_sampler(self, *args, **kwargs):
            return torch.utils.data.SequentialSampler(self.train_dataset)

    kwargs = {"processing_class": tiny_tokenizer()} if kind != "Trainer" else {}
    trainer = InOrder(
        model=model, args=built, train_dataset=Dataset.from_list(made), data_collator=_Padding(), **kwargs
    )
    trainer.create_optimizer()
    trainer.optimizer.register_step_pre_hook(note)
    logging.getLogger("transformers").setLevel(logging.ERROR)
    trainer.train()
    return seen


def tiny_tokenizer():
    from tokenizers import Tokenizer, models
    from transformers import PreTrainedTokenizerFast

    vocabulary = {f"t{index}": index for index in range(VOCABULARY)}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="t0"))
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="t0", eos_token="t2", bos_token="t1")


def expected_gradients(made: list[dict], accumulation: int, **settings) -> dict[str, torch.Tensor]:
    """By hand: the task loss of the one large batch, and each micro-batch's Eq. 10 by its share of the tokens."""
    model = attach(**settings)
    size = len(made) // accumulation
    parts = [batch(made[index : index + size]) for index in range(0, len(made), size)]
    total = sum((part["labels"][:, 1:] != -100).sum() for part in parts)
    for part in parts:
        out = model(**part)
        share = (part["labels"][:, 1:] != -100).sum() / total
        (out.loss * share).backward()  # loss = mean cross-entropy + weight * Eq. 10, both weighted by the share
    return gradients(model)


@pytest.mark.parametrize("kind", ["Trainer", "SFTTrainer"])
@pytest.mark.parametrize("accumulation", [1, 2])
def test_a_stock_trainer_gives_the_gradient_of_the_contract(kind: str, accumulation: int, tmp_path) -> None:
    if kind == "SFTTrainer":
        pytest.importorskip("trl")
    made = rows([9, 6, 5, 8])
    seen = gradients_under_trainer(kind, made, accumulation, tmp_path)
    expected = expected_gradients(made, accumulation)
    assert seen.keys() == expected.keys()
    for name, gradient in expected.items():
        torch.testing.assert_close(seen[name], gradient, rtol=1e-4, atol=1e-7, msg=name)
    without = gradients_under_trainer(kind, made, accumulation, tmp_path, balance_weight=0.0)
    for name in (name for name in expected if "hycam_router" in name):
        assert (seen[name] - without[name]).abs().max() > 1e-5, name


def test_a_loss_function_of_the_users_own_warns_that_the_balance_loss_cannot_act(tmp_path) -> None:
    arguments = TrainingArguments(str(tmp_path), max_steps=1, per_device_train_batch_size=2, report_to="none",
                                  use_cpu=True, save_strategy="no", disable_tqdm=True,
                                  remove_unused_columns=False)  # fmt: skip

    def own(outputs, labels, num_items_in_batch):
        return F.cross_entropy(outputs.logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten())

    trainer = Trainer(attach(), arguments, train_dataset=Dataset.from_list(rows([8, 8])), data_collator=_Padding(),
                      compute_loss_func=own)  # fmt: skip
    with pytest.warns(UserWarning, match="compute_loss_func"):
        trainer.train()


def test_label_smoothing_warns_that_the_balance_loss_cannot_act(tmp_path) -> None:
    arguments = TrainingArguments(str(tmp_path), max_steps=1, per_device_train_batch_size=2, report_to="none",
                                  label_smoothing_factor=0.1, use_cpu=True, save_strategy="no", disable_tqdm=True,
                                  remove_unused_columns=False)  # fmt: skip
    trainer = Trainer(attach(), arguments, train_dataset=Dataset.from_list(rows([8, 8])), data_collator=_Padding())
    with pytest.warns(UserWarning, match="Label smoothing"):
        trainer.train()


def _one_rank(rank: int, world: int, meeting: str, queue) -> None:
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", init_method=f"file://{meeting}", rank=rank, world_size=world)
    model = torch.nn.parallel.DistributedDataParallel(attach())
    made = rows([9, 6, 5, 8])
    per_rank = len(made) // world
    model(**batch(made[rank * per_rank : (rank + 1) * per_rank])).loss.backward()
    if rank == 0:
        stats = hycam.last_stats(model)
        found = {name.removeprefix("module."): g.numpy() for name, g in gradients(model).items() if "router" in name}
        queue.put((stats.balance_loss.item(), found))


@pytest.mark.soak  # tests/training/test_distributed.py has two processes follow one in every run
def test_two_ranks_give_the_balance_loss_and_gradient_of_their_common_micro_batch(tmp_path) -> None:
    # The task loss is a mean over each rank's own tokens there, so only the balance part can be compared: the router of
    # an untrained task path. With init_weights=False the task gradient reaches the router as well, so it is subtracted.
    context = mp.get_context("spawn")
    queue = context.Queue()
    # They meet in a file, since a port that is free now may be taken by then, and neither outlives the test.
    workers = [
        context.Process(target=_one_rank, args=(rank, 2, str(tmp_path / "meeting"), queue), daemon=True)
        for rank in range(2)
    ]
    try:
        for worker in workers:
            worker.start()
        balance, found = queue.get(timeout=240)
    finally:
        for worker in workers:
            worker.kill()
    made = rows([9, 6, 5, 8])
    together = attach()
    together(**batch(made))
    assert abs(hycam.last_stats(together).balance_loss.item() - balance) < 1e-6
    task = attach(balance_weight=0.0)
    for half in (made[:2], made[2:]):
        (task(**batch(half)).loss / 2).backward()
    only = attach()
    out = only(**batch(made))
    (out.loss - F.cross_entropy(out.logits[:, :-1].flatten(0, 1), batch(made)["labels"][:, 1:].flatten())).backward()
    for name, gradient in found.items():
        expected = routers(task)[name] + routers(only)[name]
        torch.testing.assert_close(torch.from_numpy(gradient), expected, rtol=1e-4, atol=1e-7, msg=name)
