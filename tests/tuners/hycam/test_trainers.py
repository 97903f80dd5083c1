"""The balance term under the stock trainers of transformers and TRL, each for one optimizer step on a tiny model."""

from __future__ import annotations

import copy
import os
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from datasets import Dataset
from peft import LoraConfig
from torch import Tensor
from torch import multiprocessing as mp
from torch.nn import functional as F
from transformers import AutoModelForSequenceClassification, PreTrainedTokenizerBase, Trainer, TrainingArguments

from architectures import VOCABULARY, tiny
from hycam import HyCAMConfig
from hycam.ops import reference
from hycam.tuners.hycam import HyCAMLayer, HyCAMModel

trl = pytest.importorskip("trl")

WEIGHT = 0.3
# Rejected answers longer than chosen ones and rows of several lengths: a term that were spread over tokens would not
# cancel, and shares of the labelled tokens differ.
PAIRS = [
    ("t5 t6 t7", "t8 t9", "t10 t11 t12 t13 t14"),
    ("t9 t3", "t4 t5 t6", "t20 t21 t22 t23 t24 t25"),
    ("t30 t31 t32 t33", "t7", "t8 t9 t10 t11"),
    ("t12", "t40 t41 t42", "t43 t44 t45 t46"),
]
TRAINERS = ["Trainer", "SFT", "DPO", "KTO", "GRPO", "RLOO", "Reward"]


def tokenizer() -> PreTrainedTokenizerBase:
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    made = Tokenizer(models.WordLevel({f"t{index}": index for index in range(VOCABULARY)}, unk_token="t0"))
    made.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=made, pad_token="t0", bos_token="t1", eos_token="t2")


def prefers_low_numbers(completions: list[str], **_: Any) -> list[float]:
    return [-float(sum(int(word[1:]) for word in text.split())) / 100 for text in completions]


def backbone(kind: str) -> torch.nn.Module:
    model = tiny()
    if kind != "Reward":
        return model
    settings = {**model.config.to_dict(), "num_labels": 1}
    with torch.random.fork_rng():
        torch.manual_seed(0)
        scoring = AutoModelForSequenceClassification.from_config(type(model.config)(**settings))
    scoring.model.load_state_dict(model.model.state_dict())
    return scoring.eval()


def built(kind: str, method: Any, folder: Path, **arguments: Any) -> Trainer:
    """A stock trainer that makes one step on the four rows of ``PAIRS``."""
    torch.manual_seed(0)
    model, accumulation = backbone(kind), arguments.pop("gradient_accumulation_steps", 1)
    common = {
        "output_dir": str(folder), "max_steps": 1, "learning_rate": 0.0, "max_grad_norm": 0.0, "use_cpu": True,
        "per_device_train_batch_size": 4 // accumulation, "gradient_accumulation_steps": accumulation,
        "report_to": "none", "save_strategy": "no", "disable_tqdm": True, "optim": "sgd", "bf16": False,
        "logging_steps": 1, **arguments,
    }  # fmt: skip
    if kind == "Trainer":
        from peft import get_peft_model

        rows = [tokenizer()(f"{asked} {chosen}") for asked, chosen, _ in PAIRS]
        rows = [{"input_ids": row["input_ids"], "labels": [-100, *row["input_ids"][1:]]} for row in rows]
        return Trainer(
            get_peft_model(model, method),
            TrainingArguments(**common, remove_unused_columns=False),
            train_dataset=Dataset.from_list(rows),
            data_collator=padded,
        )
    columns = {
        "SFT": ("prompt", "completion"), "DPO": ("prompt", "chosen", "rejected"), "Reward": ("chosen", "rejected"),
    }  # fmt: skip
    if kind == "KTO":
        rows = [{"prompt": asked, "completion": good, "label": True} for asked, good, _ in PAIRS[:2]]
        rows += [{"prompt": asked, "completion": bad, "label": False} for asked, _, bad in PAIRS[2:]]
    elif kind in ("GRPO", "RLOO"):
        rows = [{"prompt": asked} for asked, _, _ in PAIRS]
    elif kind == "Reward":
        rows = [{"chosen": f"{asked} {good}", "rejected": f"{asked} {bad}"} for asked, good, bad in PAIRS]
    else:
        rows = [dict(zip(columns[kind], row, strict=False)) for row in PAIRS]
    further: dict[str, Any] = {"gradient_checkpointing": False}  # which TRL turns on
    if kind in ("GRPO", "RLOO"):
        further |= {"num_generations": 2, "max_completion_length": 4, "beta": 0.1}
    return getattr(trl, f"{kind}Trainer")(
        model,
        args=getattr(trl, f"{kind}Config")(**{**common, **further, **arguments}),
        train_dataset=Dataset.from_list(rows),
        processing_class=tokenizer(),
        peft_config=method,
        **({"reward_funcs": prefers_low_numbers} if kind in ("GRPO", "RLOO") else {}),
    )


def padded(rows: list[dict[str, list[int]]]) -> dict[str, Tensor]:
    width = max(len(row["input_ids"]) for row in rows)

    def together(values: Callable[[dict], list[int]], filler: int) -> Tensor:
        return torch.tensor([values(row) + [filler] * (width - len(values(row))) for row in rows])

    return {
        "input_ids": together(lambda row: row["input_ids"], 0),
        "labels": together(lambda row: row["labels"], -100),
        "attention_mask": together(lambda row: [1] * len(row["input_ids"]), 0),
    }


class Step(NamedTuple):
    """What one optimizer step of a trainer did: its gradients, its log, and the inputs of its training forwards."""

    model: torch.nn.Module
    gradients: dict[str, Tensor]
    log: dict[str, float]
    inputs: list[dict[str, Tensor]]


def step(kind: str, method: Any, folder: Path, scale: float | None = None, **arguments: Any) -> Step:
    trainer = built(kind, method, folder, **arguments)
    if scale is not None:
        trainer.accelerator.scaler = torch.amp.GradScaler("cpu", init_scale=scale)
    model, gradients, inputs = trainer.model, {}, []

    def note_inputs(module: torch.nn.Module, args: Any, kwargs: dict[str, Any]) -> None:
        if module.training and torch.is_grad_enabled():
            inputs.append({name: value for name, value in kwargs.items() if isinstance(value, Tensor)})

    def note_gradients(*_: Any) -> None:
        for name, parameter in model.named_parameters():
            if parameter.requires_grad:
                gradients[name] = parameter.grad.clone()

    # The tuner and not the PEFT model, whose forward is not called through hooks by every version of accelerate.
    model.base_model.register_forward_pre_hook(note_inputs, with_kwargs=True)
    trainer.create_optimizer()
    trainer.optimizer.register_step_pre_hook(note_gradients)
    trainer.train()
    logged = next(entry for entry in trainer.state.log_history if "loss" in entry)
    return Step(model, gradients, logged, inputs)


def hycam(**settings: Any) -> HyCAMConfig:
    return HyCAMConfig(**{"r": 4, "num_specialized": 3, "noise": "never", "balance_weight": WEIGHT, **settings})


def gradient_of_eq_10(model: torch.nn.Module, inputs: dict[str, Tensor]) -> dict[str, Tensor]:
    """In float64, from the routing that the reference computes layer by layer on what each layer receives."""
    wide = copy.deepcopy(model).double().eval()
    wide.zero_grad()
    vars(wide.base_model.model).pop("forward", None)  # TRL's own forward, which would be the original model's
    per_layer = []

    def watch(layer: HyCAMLayer, args: Any, kwargs: dict[str, Any], output: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        weights = layer.modulation("default", layer.hycam_config["default"])
        raw = layer.base_layer(*args, **kwargs)
        modulated, (p, logits) = reference.modulate(kwargs["hidden_states"], raw[0], weights)
        keep = inputs["attention_mask"].bool()
        per_layer.append((p[keep].mean(0) * torch.softmax(logits[keep], -1).mean(0)).sum())
        return (modulated, *raw[1:])

    for layer in wide.modules():
        if isinstance(layer, HyCAMLayer):
            layer.register_forward_hook(watch, with_kwargs=True)
    wide(input_ids=inputs["input_ids"], attention_mask=inputs["attention_mask"], use_cache=False)
    (sum(per_layer) / len(per_layer)).backward()
    return {name: p.grad for name, p in wide.named_parameters() if p.requires_grad and p.grad is not None}


def shares(kind: str, inputs: list[dict[str, Tensor]]) -> list[float]:
    """What part of the step's loss each micro-batch is: of its labelled tokens, or one of so many means."""
    if kind not in ("Trainer", "SFT"):
        return [1 / len(inputs)] * len(inputs)
    labelled = [int((one["labels"][:, 1:] != -100).sum()) for one in inputs]
    return [number / sum(labelled) for number in labelled]


def steps(kind: str, folder: Path, **common: Any) -> tuple[Step, Step]:
    """The same step with the term and without it."""
    settings = {"init_weights": False, "task_type": "SEQ_CLS" if kind == "Reward" else "CAUSAL_LM"}
    with_term = step(kind, hycam(**settings), folder / "with", **common)
    return with_term, step(kind, hycam(**settings, balance_weight=0.0), folder / "without", **common)


def check_what_the_weight_adds(kind: str, with_term: Step, without: Step, inputs: list[dict[str, Tensor]]) -> None:
    expected: dict[str, Tensor] = {}
    for share, one in zip(shares(kind, inputs), inputs, strict=True):
        for name, gradient in gradient_of_eq_10(with_term.model, one).items():
            expected[name] = expected.get(name, 0.0) + WEIGHT * share * gradient
    assert with_term.gradients.keys() == without.gradients.keys()
    for name, gradient in with_term.gradients.items():
        added = gradient.double() - without.gradients[name].double()
        # A difference of float32 gradients: what is left of their rounding scales with them.
        rounding = 1e-5 * float(gradient.abs().max())
        torch.testing.assert_close(
            added, expected.get(name, torch.zeros_like(added)), rtol=1e-3, atol=rounding + 1e-9, msg=f"{kind}: {name}"
        )
    routers = [name for name in expected if "hycam_router" in name]
    assert routers and all(float(expected[name].abs().max()) > 1e-4 for name in routers)


@pytest.mark.parametrize(
    ("accumulation", "scale", "checkpointing"),
    [
        pytest.param(1, None, False, marks=pytest.mark.soak),
        pytest.param(2, None, False, marks=pytest.mark.soak),
        (2, 1024.0, True),  # which has all that the others have
    ],
)
@pytest.mark.parametrize("kind", TRAINERS)
def test_the_weighted_gradient_of_eq_10_is_what_the_weight_adds(
    kind: str, accumulation: int, scale: float | None, checkpointing: bool, tmp_path: Path
) -> None:
    common = {"scale": scale, "gradient_accumulation_steps": accumulation, "gradient_checkpointing": checkpointing}
    with_term, without = steps(kind, tmp_path, **common)
    assert len(with_term.inputs) == accumulation
    check_what_the_weight_adds(kind, with_term, without, with_term.inputs)


def test_a_loss_that_weighs_the_tokens_does_not_weigh_the_term(tmp_path: Path) -> None:
    both = steps("SFT", tmp_path, loss_type="dft", gradient_accumulation_steps=2)
    check_what_the_weight_adds("SFT", *both, both[0].inputs)


def _one_rank(rank: int, port: int, folder: Path) -> None:
    torch.set_num_threads(1)
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1",
                   "MASTER_PORT": str(port)}  # fmt: skip
    for kind in ("SFT", "DPO"):
        both = steps(kind, folder / f"{kind}{rank}", ddp_backend="gloo", per_device_train_batch_size=2)
        found = [{name.removeprefix("module."): value for name, value in one.gradients.items()} for one in both]
        torch.save((found, both[0].inputs), folder / f"{kind}{rank}.pt")


@pytest.mark.soak
def test_two_processes_add_the_gradient_of_eq_10_of_their_common_micro_batch(tmp_path: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    context = mp.get_context("spawn")
    workers = [context.Process(target=_one_rank, args=(rank, port, tmp_path), daemon=True) for rank in range(2)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(timeout=300)
    assert [worker.exitcode for worker in workers] == [0, 0]
    for kind in ("SFT", "DPO"):
        (with_term, without), first = torch.load(tmp_path / f"{kind}0.pt")
        _, second = torch.load(tmp_path / f"{kind}1.pt")
        model = step(kind, hycam(init_weights=False, task_type="CAUSAL_LM"), tmp_path / f"alone{kind}").model
        together = [
            {name: joined(one[name], two[name], name) for name in one} for one, two in zip(first, second, strict=True)
        ]
        made = [Step(model, gradients, {}, []) for gradients in (with_term, without)]
        check_what_the_weight_adds(kind, *made, together)


def joined(one: Tensor, two: Tensor, name: str) -> Tensor:
    """The rows of two processes as one batch, padded on the right."""
    width, filler = max(one.shape[1], two.shape[1]), -100 if name == "labels" else 0
    return torch.cat([F.pad(rows, (0, width - rows.shape[1]), value=filler) for rows in (one, two)])


FIGURES = {
    "DPO": ("loss", "rewards/margins", "rewards/chosen", "rewards/rejected"),
    "KTO": ("loss", "rewards/margins", "kl"),
    "GRPO": ("kl", "reward"),
    "RLOO": ("kl", "reward"),
    "Reward": ("margin", "mean_reward"),
    "SFT": ("entropy", "mean_token_accuracy"),
}


@pytest.mark.parametrize(
    "kind", [pytest.param(kind, marks=() if kind in ("DPO", "GRPO", "SFT") else pytest.mark.soak) for kind in FIGURES]
)
def test_the_first_step_of_a_fresh_adapter_has_the_figures_of_lora(kind: str, tmp_path: Path) -> None:
    task = "SEQ_CLS" if kind == "Reward" else "CAUSAL_LM"
    own = step(kind, hycam(task_type=task, noise="train"), tmp_path / "hycam").log
    lora = step(kind, LoraConfig(task_type=task, r=4, target_modules="all-linear"), tmp_path / "lora").log
    for name in FIGURES[kind]:
        assert own[name] == pytest.approx(lora[name], abs=1e-6), name
    if kind == "DPO":
        assert own["loss"] == pytest.approx(0.693147, abs=1e-6)
        assert own["rewards/margins"] == 0
    if "kl" in FIGURES[kind]:
        assert own["kl"] == pytest.approx(0, abs=1e-6)


def test_of_what_a_training_forward_returns_the_loss_alone_contains_the_term() -> None:
    from peft import get_peft_model

    torch.manual_seed(0)
    inputs = padded([{"input_ids": [5, 6, 7, 8], "labels": [-100, 6, 7, 8]}, {"input_ids": [9, 3], "labels": [9, 3]}])
    outputs = {}
    for weight in (0.0, WEIGHT):
        torch.manual_seed(0)
        model = get_peft_model(tiny(), hycam(task_type="CAUSAL_LM", init_weights=False, balance_weight=weight)).train()
        outputs[weight] = model(**inputs, output_hidden_states=True)
    plain, balanced = outputs.values()
    balance = next(m for m in model.modules() if isinstance(m, HyCAMModel)).last_stats.balance_loss
    torch.testing.assert_close(balanced.loss, plain.loss + WEIGHT * balance)
    assert torch.equal(balanced.logits, plain.logits)
    assert all(map(torch.equal, balanced.hidden_states, plain.hidden_states))


def test_a_loss_of_hidden_states_is_told_that_the_term_does_not_act() -> None:
    from peft import get_peft_model

    model = get_peft_model(tiny(), hycam(task_type="CAUSAL_LM")).train()
    inputs = padded([{"input_ids": [5, 6, 7, 8], "labels": [-100, 6, 7, 8]}])
    outputs = model(**inputs, output_hidden_states=True)
    with pytest.warns(UserWarning, match="balance loss .* did not act"):
        outputs.hidden_states[-1].sum().backward()


def test_a_loss_of_the_users_own_outside_a_trainer_is_told_that_the_term_does_not_act() -> None:
    from peft import get_peft_model

    model = get_peft_model(tiny(), hycam(task_type="CAUSAL_LM")).train()
    outputs = model(**padded([{"input_ids": [5, 6, 7, 8], "labels": [-100, 6, 7, 8]}]))
    with pytest.warns(UserWarning, match="balance loss .* did not act"):
        outputs.logits.sum().backward()


def test_the_outputs_may_be_changed_in_place() -> None:
    from peft import get_peft_model

    model = get_peft_model(tiny(), hycam(task_type="CAUSAL_LM")).train()
    outputs = model(**padded([{"input_ids": [5, 6, 7, 8], "labels": [-100, 6, 7, 8]}]))
    outputs.loss.mul_(2)
    outputs.logits.add_(1)
    (outputs.loss + 0 * outputs.logits.sum()).backward()
