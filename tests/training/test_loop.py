"""The loop: the optimizer that a recipe gets, losses that are not finite, and whoever follows its phases."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from hycam import backbones
from hycam.console import Reporter
from hycam.data.prepare import Prepared
from hycam.errors import Diverged, HycamError
from hycam.optim import RiemannianAdamW
from hycam.training.loop import Loop
from hycam.training.recipe import MethodRecipe, OptimizerRecipe, Recipe
from hycam.training.run import Run
from hycam.training.setup import add_noise
from hycam.training.train import train


@pytest.fixture
def optimizer_of(monkeypatch: pytest.MonkeyPatch):
    """Trains a recipe and gives back the optimizer that stepped it."""
    seen: list[torch.optim.Optimizer] = []

    def step(self):
        seen.append(self.optimizer.optimizer)

    def run(recipe: Recipe) -> torch.optim.Optimizer:
        monkeypatch.setattr(Loop, "step_ended", step)
        train(recipe, Reporter())
        return seen[-1]

    return run


def rates(optimizer: torch.optim.Optimizer) -> dict[tuple[float, float], int]:
    """The number of values that have an initial learning rate and a weight decay."""
    return {
        (group["initial_lr"], group["weight_decay"]): sum(parameter.numel() for parameter in group["params"])
        for group in optimizer.param_groups
    }


def test_a_method_without_wishes_is_stepped_by_adamw_with_one_rate(recipe, optimizer_of) -> None:
    chosen = recipe("lora", max_steps=1, learning_rate=1e-3, weight_decay=0.1)
    optimizer = optimizer_of(chosen)
    assert type(optimizer) is torch.optim.AdamW
    assert list(rates(optimizer)) == [(1e-3, 0.1)]


def test_the_scaling_vectors_of_multilora_have_ten_times_the_rate_and_no_decay(recipe, optimizer_of) -> None:
    optimizer = optimizer_of(recipe("multilora", max_steps=1, learning_rate=1e-3, weight_decay=0.1))
    model = AutoModelForCausalLM.from_pretrained(recipe().backbone)
    outputs = sum(m.out_features for n, m in model.named_modules() if isinstance(m, torch.nn.Linear) and n != "lm_head")
    assert rates(optimizer)[1e-2, 0.0] == 5 * outputs
    assert set(rates(optimizer)) == {(1e-3, 0.1), (1e-2, 0.0)}


def test_riemoe_lora_is_stepped_by_the_preconditioned_adamw_on_every_expert(recipe, optimizer_of) -> None:
    chosen = recipe("riemoe-lora", max_steps=1)
    chosen.method.optimizer = OptimizerRecipe(damping=1e-3, multipliers={"moelora_gate": 0.5})
    optimizer = optimizer_of(chosen)
    assert isinstance(optimizer, RiemannianAdamW)
    assert optimizer.damping == 1e-3
    assert len(optimizer.pairs) == 14  # seven linear layers in each of two blocks
    assert all(A.shape[:2] == (5, 4) and B.shape[::2] == (5, 4) for A, B in optimizer.pairs)
    assert {rate for rate, _ in rates(optimizer)} == {1e-2, 5e-3}


def test_a_recipe_can_ask_for_preconditioning_of_lora_and_of_dora(recipe, optimizer_of, tmp_path: Path) -> None:
    for name, config in (("lora", {"r": 4}), ("peft", {"peft_type": "LORA", "use_dora": True, "r": 4})):
        method = MethodRecipe(name, config, OptimizerRecipe(name="riemannian"))
        optimizer = optimizer_of(replace(recipe(max_steps=1), method=method, output=str(tmp_path / name)))
        assert isinstance(optimizer, RiemannianAdamW)


def test_an_optimizer_for_a_method_without_factors_is_refused_before_the_backbone_is_loaded(
    recipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    chosen = recipe("hycam")
    chosen.method.optimizer = OptimizerRecipe(name="riemannian")
    monkeypatch.setattr(backbones, "load", lambda *_: pytest.fail("the backbone was loaded"))
    with pytest.raises(HycamError, match="hycam has no factors"):
        train(chosen, Reporter())
    assert not Path(chosen.output).exists()


def test_full_fine_tuning_leaves_a_model_that_any_script_can_load(recipe) -> None:
    chosen = recipe("full", max_steps=2, learning_rate=1e-3)
    train(chosen, Reporter())
    run = Run(Path(chosen.output))
    assert not run.adapter.exists()
    model, tokenizer = run.load()
    alone = AutoModelForCausalLM.from_pretrained(run.model).eval()
    ids = torch.tensor([AutoTokenizer.from_pretrained(run.model)("Turn round: ab3").input_ids])
    assert ids.tolist() == [tokenizer("Turn round: ab3").input_ids]
    with torch.no_grad():
        assert torch.equal(alone(input_ids=ids).logits, model(input_ids=ids).logits)
        before = AutoModelForCausalLM.from_pretrained(chosen.backbone)(input_ids=ids).logits
        assert not torch.equal(alone(input_ids=ids).logits, before)


def test_full_fine_tuning_in_bfloat16_steps_weights_in_float32(recipe, optimizer_of) -> None:
    chosen = recipe("full", max_steps=2, learning_rate=1e-4, precision="bfloat16")
    computed = []
    original = torch.nn.functional.linear

    def linear(*arguments):
        out = original(*arguments)
        if torch.is_grad_enabled():
            computed.append(out.dtype)
        return out

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.nn.functional, "linear", linear)
        optimizer = optimizer_of(chosen)
    assert set(computed) == {torch.bfloat16}
    assert {parameter.dtype for group in optimizer.param_groups for parameter in group["params"]} == {torch.float32}
    # A step of 1e-4 on weights of order one would be lost in bfloat16 altogether.
    trained, before = (
        backbones.load(folder).state_dict() for folder in (Run(Path(chosen.output)).model, chosen.backbone)
    )
    moved = torch.cat([(trained[key] - value).abs().flatten() for key, value in before.items()])
    assert (moved > 0).float().mean() > 0.5


@pytest.mark.parametrize(
    "config",
    [{"peft_type": "LORA", "use_dora": True, "r": 4}, {"peft_type": "IA3"}, {"peft_type": "VERA", "r": 8},
     {"peft_type": "HIRA", "r": 4}, {"peft_type": "ADALORA", "total_step": 6, "tinit": 1, "tfinal": 1}],
    ids=["DoRA", "IA3", "VeRA", "HiRA", "AdaLoRA"],
)  # fmt: skip
def test_any_method_of_peft_trains_is_saved_and_is_loaded(recipe, config: dict) -> None:
    chosen = replace(recipe(save_every=3), method=MethodRecipe("peft", config))
    summary = train(chosen, Reporter())
    run = Run(Path(chosen.output))
    assert json.loads((run.adapter / "adapter_config.json").read_text())["peft_type"] == config["peft_type"]
    model, _ = run.load()
    assert type(model).__name__.startswith("Peft")
    assert summary["trainable_parameters"] > 0


def test_a_method_of_peft_needs_a_learning_rate_of_the_recipes_own(recipe) -> None:
    chosen = replace(recipe(learning_rate=None), method=MethodRecipe("peft", {"peft_type": "IA3"}))
    with pytest.raises(HycamError, match=r"peft has no learning rate of its own: set training\.learning_rate"):
        train(chosen, Reporter())


def test_adalora_moves_its_ranks_as_it_trains(recipe) -> None:
    config = {"peft_type": "ADALORA", "total_step": 6, "tinit": 1, "tfinal": 1, "init_r": 4, "target_r": 1}
    chosen = replace(recipe(), method=MethodRecipe("peft", config))
    train(chosen, Reporter())
    saved = json.loads((Run(Path(chosen.output)).adapter / "adapter_config.json").read_text())
    kept = [sum(ranks) for ranks in saved["rank_pattern"].values()]
    assert kept
    assert min(kept) < 4


@pytest.mark.parametrize(("method", "log_every"), [("full", 1), ("lora", 3), ("hycam", 100)])
def test_a_loss_that_is_no_number_ends_training_with_that_step(
    recipe, method: str, log_every: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    losses: dict[int, list[float]] = {}
    loss_of = Loop.loss_of

    def watched(self, *args, **kwargs):
        loss = loss_of(self, *args, **kwargs)
        losses.setdefault(self.progress.step + 1, []).append(float(loss.detach()))
        return loss

    monkeypatch.setattr(Loop, "loss_of", watched)
    chosen = recipe(method, max_steps=7, learning_rate=1e9, gradient_accumulation=2, log_every=log_every)
    with pytest.raises(Diverged, match=r"(loss|gradient) of step \d is not finite.*learning_rate") as raised:
        train(chosen, Reporter())
    bad = [step for step, of_step in losses.items() if not all(map(math.isfinite, of_step))]
    # The gradient may go first, and then that step is not taken.
    assert raised.value.step == (bad[0] if "the loss of" in str(raised.value) else max(losses)) > 1
    assert max(losses) == raised.value.step
    assert not Run(Path(chosen.output)).adapter.exists()


def test_a_large_loss_is_a_loss(recipe, monkeypatch: pytest.MonkeyPatch) -> None:
    loss_of = Loop.loss_of
    monkeypatch.setattr(Loop, "loss_of", lambda *args, **kw: loss_of(*args, **kw) * 1e10)
    assert train(recipe("lora", max_steps=2), Reporter())["steps"] == 2


class Watching:
    """A trial of the longest rows, which notes the phases."""

    def __init__(self) -> None:
        self.phases: list[str] = []

    def select(self, data: Prepared) -> Prepared:
        return replace(data, train={name: rows.select(range(4)) for name, rows in data.train.items()})

    def at(self, phase: str) -> None:
        self.phases.append(phase)


def test_a_trial_chooses_the_rows_and_is_told_every_phase_and_saves_nothing(recipe) -> None:
    trial = Watching()
    chosen = recipe(max_steps=None, epochs=1.0, batch_size=2, gradient_accumulation=2)
    assert train(chosen, Reporter(), trial=trial)["steps"] == 2  # of eight rows
    assert not Run(Path(chosen.output)).adapter.exists()
    assert list(dict.fromkeys(trial.phases)) == ["loaded", "adapted", "forward", "backward", "step", "validation"]


def test_noise_on_the_embeddings_is_of_training_alone() -> None:
    embeddings = torch.nn.Embedding(5, 16)
    add_noise(embeddings, alpha=4.0)
    ids = torch.tensor([[1, 2, 3, 4]])
    noise = (embeddings(ids) - embeddings.weight[ids]).abs()
    assert 0 < noise.max() <= 4.0 / 64**0.5
    assert torch.equal(embeddings.eval()(ids), embeddings.weight[ids])


@pytest.mark.parametrize(
    "extra",
    [{"neftune_noise_alpha": 5.0}, {"dataloader_num_workers": 1, "dataloader_prefetch_factor": 3},
     {"lr_scheduler_kwargs": {"num_cycles": 2}}, {"logging_first_step": True, "eval_delay": 2}],
    ids=lambda extra: next(iter(extra)),
)  # fmt: skip
def test_what_a_recipe_has_no_field_for_has_its_effect(recipe, extra: dict, tmp_path: Path) -> None:
    settings = {"max_steps": 3, "evaluate_every": 1, "log_every": 3}
    found = []
    for name, chosen in (("with", extra), ("without", {})):
        run = replace(recipe("lora", extra=chosen, **settings), output=str(tmp_path / name))
        train(run, Reporter())
        lines = [json.loads(line) for line in Run(Path(run.output)).metrics.read_text().splitlines()]
        found.append([{key: line[key] for key in ("step", "loss", "eval_loss") if key in line} for line in lines])
    if "dataloader_num_workers" in extra:
        assert found[0] == found[1]
    else:
        assert found[0] != found[1]
