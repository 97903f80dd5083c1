"""A step that would do harm: found before it is taken, told with its rows, or left out as if it had not been."""

from __future__ import annotations

import copy
import json
import math
import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor
from transformers import AutoModelForCausalLM

from byte_tokenizer import byte_tokenizer
from hycam.cli.main import main
from hycam.console import Reporter
from hycam.data.recipe import SplitRecipe
from hycam.errors import Diverged, HycamError
from hycam.training import train as training
from hycam.training.divergence import IN_A_ROW, StepWatch
from hycam.training.loop import Loop
from hycam.training.recipe import MethodRecipe, Recipe, TrainingRecipe
from hycam.training.run import Run

ADALORA = {"peft_type": "ADALORA", "total_step": 6, "tinit": 1, "tfinal": 1, "init_r": 4, "target_r": 1}


def train(recipe: Recipe) -> dict[str, Any]:
    return training.train(recipe, Reporter())


def weights(recipe: Recipe) -> dict[str, Tensor]:
    return load_file(Run(Path(recipe.output)).adapter / "adapter_model.safetensors")


def same(one: Recipe, other: Recipe) -> bool:
    one_weights, others = weights(one), weights(other)
    return one_weights.keys() == others.keys() and all(torch.equal(one_weights[key], others[key]) for key in others)


def lines(recipe: Recipe) -> list[dict[str, Any]]:
    return [json.loads(line) for line in Run(Path(recipe.output)).metrics.read_text().splitlines()]


class _BreakGradient(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, loss: Tensor) -> Tensor:
        return loss.clone()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return gradient * math.nan


@pytest.fixture
def harm(monkeypatch: pytest.MonkeyPatch):
    """Breaks the last micro-batch of some steps: its loss, its loss's gradient, or by a factor."""
    broken: dict[int, Any] = {}
    loss_of, micro = Loop.loss_of, [0]

    def compute(self: Loop, *arguments: Any, **keywords: Any) -> Any:
        loss = loss_of(self, *arguments, **keywords)
        micro[0] = (micro[0] + 1) % self.accumulation
        kind = broken.get(self.progress.step + 1)
        if kind is None or micro[0]:
            return loss
        return _BreakGradient.apply(loss) if kind == "gradient" else loss * kind

    monkeypatch.setattr(Loop, "loss_of", compute)
    return broken


@pytest.fixture
def poisoned(recipe, tmp_path: Path):
    """A recipe whose backbone cannot compute a tilde, which one training row has and no other row."""
    chosen = recipe("lora", max_steps=None, epochs=1.0, log_every=1)
    folder = tmp_path / "no-tilde"
    model = AutoModelForCausalLM.from_pretrained(chosen.backbone)
    tilde = byte_tokenizer()("~", add_special_tokens=False).input_ids
    with torch.no_grad():
        model.get_input_embeddings().weight[tilde] = math.nan
    model.save_pretrained(folder)
    byte_tokenizer().save_pretrained(folder)
    rows = [{"instruction": f"Say {n}", "input": "", "output": str(n), "split": "train"} for n in range(16)]
    rows[11]["instruction"] = "Say ~"
    rows += [{"instruction": f"Say {n}", "input": "", "output": str(n), "split": part} for n, part in
             enumerate(["validation", "test"], 20)]  # fmt: skip
    (tmp_path / "say.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    chosen.data.split = SplitRecipe(by="column", column="split")
    chosen.data.tasks = [str(tmp_path / "say.jsonl")]
    return replace(chosen, backbone=str(folder))


def test_the_row_that_a_backbone_cannot_compute_is_named_with_its_step(poisoned) -> None:
    with pytest.raises(Diverged, match=r"the loss of step \d is not finite. Rows of that step: say") as raised:
        train(poisoned)
    # Of the step's two micro-batches the one, of two rows.
    assert len(raised.value.rows) == 2
    assert "say say.jsonl:12" in raised.value.rows
    assert "There is no checkpoint from before that step (training.save_every" in str(raised.value)


def test_skipping_leaves_that_step_out_and_says_so(poisoned, capsys, caplog) -> None:
    poisoned.training.on_divergence = "skip"
    with caplog.at_level("WARNING"):
        summary = train(poisoned)
    (entry,) = summary["skipped"]
    assert entry["reason"] == f"the loss of step {entry['step']} is not finite"
    assert (entry["loss"], entry["gradient_norm"]) == (None, None)
    assert "say say.jsonl:12" in entry["rows"]
    assert summary["steps"] == 4 and summary["rows"] == {"say": 12}
    assert Run(Path(poisoned.output)).summary() == summary
    assert f"Step {entry['step']} is left out" in caplog.text and "say.jsonl:12" in caplog.text
    assert all(torch.isfinite(weight).all() for weight in weights(poisoned).values())
    logged = [line for line in lines(poisoned) if "learning_rate" in line]
    assert [("loss" in line, line.get("skipped_steps", 0)) for line in logged] == [
        (step != entry["step"], int(step >= entry["step"])) for step in range(1, 5)
    ]
    assert "NaN" not in Run(Path(poisoned.output)).metrics.read_text()
    recipe = Run(Path(poisoned.output)).folder / "recipe.yaml"
    assert main(["train", str(recipe)]) == 0
    assert f"Left out: step {entry['step']} (" in capsys.readouterr().out


def test_packed_rows_are_told_apart_too(poisoned) -> None:
    pytest.importorskip("trl")
    poisoned.data.packing, poisoned.data.max_length = True, 48
    with pytest.raises(Diverged) as raised:
        train(poisoned)
    assert "say say.jsonl:12" in raised.value.rows
    assert len(raised.value.rows) < 16


METHODS = {
    "lora": ("lora", {"r": 4}),
    "hycam": ("hycam", {"r": 4}),
    "riemoe-lora": ("riemoe-lora", {"r": 4}),
    "multilora": ("multilora", {"r": 4}),
}


KINDS = {"loss": math.nan, "gradient": "gradient", "explosion": 1e9}
QUICK = [("lora", "loss"), ("hycam", "gradient")]
ALL = [
    pytest.param(method, kind, marks=() if (method, kind) in QUICK else pytest.mark.soak)
    for method in METHODS
    for kind in KINDS
]


@pytest.mark.parametrize(("method", "kind"), ALL)
def test_a_step_that_is_left_out_is_as_if_it_had_not_been(
    recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, harm: dict[int, Any], method: str, kind: str
) -> None:
    """The weights are those of a run in which the state from before the step is put back after it."""
    name, config = METHODS[method]
    chosen = replace(recipe(max_steps=5, on_divergence="skip"), method=MethodRecipe(name, config))
    harm[3] = KINDS[kind]
    summary = train(chosen)
    assert [entry["step"] for entry in summary["skipped"]] == [3]

    harm.clear()
    kept: list[Any] = []

    def put_back(self):
        parts = (self.model, self.optimizer, self.schedule)
        if self.progress.step == 2:
            kept[:] = [copy.deepcopy(part.state_dict()) for part in parts]
        if self.progress.step == 3:
            for part, of_before in zip(parts, kept, strict=True):
                part.load_state_dict(of_before)

    monkeypatch.setattr(Loop, "step_ended", put_back)
    other = replace(chosen, output=str(tmp_path / "put-back"))
    assert train(other)["skipped"] == []
    assert same(chosen, other)


def test_the_log_is_that_of_the_steps_that_were_taken(recipe, tmp_path: Path, harm: dict[int, Any]) -> None:
    """With a learning rate of nearly nothing the losses of a run are those of its rows."""
    settings = {"learning_rate": 1e-12, "max_steps": 6, "on_divergence": "skip"}
    each = replace(recipe("lora", log_every=1, **settings), output=str(tmp_path / "each"))
    train(each)
    harm.update({3: math.nan, 5: math.nan, 6: "gradient"})
    chosen = recipe("lora", log_every=2, **settings)
    summary = train(chosen)
    wanted = [line for line in lines(each) if "loss" in line]
    logged = [line for line in lines(chosen) if "learning_rate" in line]
    assert logged[0]["loss"] == pytest.approx((wanted[0]["loss"] + wanted[1]["loss"]) / 2, rel=1e-5)
    assert logged[1]["loss"] == pytest.approx(wanted[3]["loss"], rel=1e-5)
    for task in ("loss_counting", "loss_mirror"):
        assert logged[1].get(task, 0.0) == pytest.approx(wanted[3].get(task, 0.0), rel=1e-5)
    assert "loss" not in logged[2] and "grad_norm" not in logged[2]
    assert [line.get("skipped_steps") for line in logged] == [None, 1, 3]
    assert sum(summary["rows"].values()) == 3 * 4


def test_adalora_passes_over_what_is_left_out(recipe, harm: dict[int, Any]) -> None:
    harm[2] = math.nan
    chosen = replace(recipe(max_steps=6, on_divergence="skip"), method=MethodRecipe("peft", ADALORA))
    assert len(train(chosen)["skipped"]) == 1
    assert all(torch.isfinite(weight).all() for weight in weights(chosen).values())


def test_8_bit_states_pass_over_what_is_left_out(recipe, harm: dict[int, Any]) -> None:
    pytest.importorskip("bitsandbytes")
    harm[1] = math.nan
    chosen = recipe("lora", max_steps=3, on_divergence="skip", optimizer_states="8bit")
    assert len(train(chosen)["skipped"]) == 1
    assert all(torch.isfinite(weight).all() for weight in weights(chosen).values())


def test_the_count_survives_an_interruption_and_the_weights_are_the_same(
    recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, harm: dict[int, Any]
) -> None:
    harm.update({2: math.nan, 6: "gradient"})
    settings = {"max_steps": 8, "save_every": 2, "on_divergence": "skip"}
    whole = replace(recipe(**settings), output=str(tmp_path / "whole"))
    summary = train(whole)
    assert [entry["step"] for entry in summary["skipped"]] == [2, 6]
    stop_at = 5

    def step(self):
        if self.progress.step == stop_at:
            raise KeyboardInterrupt

    monkeypatch.setattr(Loop, "step_ended", step)
    chosen = recipe(**settings)
    with pytest.raises(KeyboardInterrupt):
        train(chosen)
    stop_at = 0
    again = train(chosen)
    assert (again["skipped"], again["rows"]) == (summary["skipped"], summary["rows"])
    assert same(chosen, whole)


def test_a_run_that_stopped_goes_on_from_its_checkpoint_when_told_to_skip(
    recipe, tmp_path: Path, harm: dict[int, Any]
) -> None:
    harm[6] = math.nan
    chosen = recipe("lora", max_steps=8, save_every=2)
    with pytest.raises(Diverged, match=r"checkpoint-4: the same command with training.on_divergence set to") as raised:
        train(chosen)
    assert raised.value.step == 6
    assert raised.value.checkpoint == str(Run(Path(chosen.output)).checkpoints / "checkpoint-4")
    skipping = recipe("lora", max_steps=8, save_every=2, on_divergence="skip")
    assert [entry["step"] for entry in train(skipping)["skipped"]] == [6]
    whole = replace(skipping, output=str(tmp_path / "whole"))
    train(whole)
    assert same(skipping, whole)


def test_too_many_in_a_row_end_training_after_all(recipe, harm: dict[int, Any]) -> None:
    harm.update(dict.fromkeys(range(3, 20), "gradient"))
    with pytest.raises(Diverged, match="of the 5 steps from there on none could be taken") as raised:
        train(recipe("lora", max_steps=20, on_divergence="skip"))
    assert raised.value.step == 3


def test_too_many_in_all_end_training_after_all(recipe, harm: dict[int, Any]) -> None:
    harm.update(dict.fromkeys(range(2, 20, 2), math.nan))
    with pytest.raises(Diverged, match=r"3 steps were left out already \(training.max_skipped_steps") as raised:
        train(recipe("lora", max_steps=20, on_divergence="skip", max_skipped_steps=3))
    assert raised.value.step == 8


def test_a_loss_that_explodes_for_good_ends_training_at_its_first_step(recipe, harm: dict[int, Any]) -> None:
    harm.update({2: 100.0, **dict.fromkeys(range(6, 20), 100.0)})
    chosen = recipe("lora", max_steps=20, save_every=1)
    with pytest.raises(Diverged, match=r"the loss of step 6 is \d+.*where [45].\d+ was usual.*for 5 steps") as raised:
        train(chosen)
    assert raised.value.step == 6 and len(raised.value.rows) == 4
    # Nothing was kept of the steps in which it was exploding, nor of the lone one.
    assert raised.value.checkpoint.endswith("checkpoint-5")


def test_without_a_margin_no_finite_loss_is_too_large(recipe, harm: dict[int, Any]) -> None:
    harm.update(dict.fromkeys(range(2, 20), 100.0))
    assert train(recipe("lora", max_steps=9, divergence_margin=None))["steps"] == 9


def test_a_learning_rate_that_is_far_too_high_is_found_out(recipe) -> None:
    """No loss is meddled with here: one explodes, the gradient of the other is no number before its loss is none."""
    for name, what in (("full", "the loss of step 3 is"), ("multilora", "the gradient of step 7 is not finite")):
        with pytest.raises(Diverged, match=what):
            train(recipe(name, max_steps=25, learning_rate=1.0))


def test_weights_that_are_no_numbers_are_never_saved(recipe, monkeypatch: pytest.MonkeyPatch) -> None:
    def spoil(self):
        if self.progress.step == 4:
            next(weight for weight in self.model.parameters() if weight.requires_grad).data[0, 0] = math.inf

    monkeypatch.setattr(Loop, "step_ended", spoil)
    chosen = recipe("lora", save_every=2)
    with pytest.raises(Diverged, match="weights that are not finite after step 4") as raised:
        train(chosen)
    assert raised.value.checkpoint.endswith("checkpoint-2")
    last = replace(recipe("lora", max_steps=4), output=f"{chosen.output}-last")
    with pytest.raises(Diverged, match=r"after step 4.*no checkpoint"):
        train(last)
    assert not Run(Path(last.output)).adapter.exists()


def test_a_validation_loss_that_is_no_number_ends_training(poisoned, tmp_path: Path) -> None:
    path = tmp_path / "say.jsonl"
    path.write_text(path.read_text().replace("Say ~", "Say 11").replace("Say 20", "Say ~"))
    poisoned.training.evaluate_every = 2
    with pytest.raises(Diverged, match="the validation loss of say after step 2 is not finite"):
        train(poisoned)


@pytest.mark.parametrize("field", ["divergence_margin", "max_skipped_steps"])
def test_a_limit_below_its_range_is_refused(field: str) -> None:
    with pytest.raises(HycamError, match=f"training.{field} is 0: a number above 0"):
        TrainingRecipe(**{field: 0})


def watched(losses: list[float]) -> StepWatch:
    watch = StepWatch()
    for loss in losses:
        watch.accept(loss)
    return watch


def test_nothing_is_usual_before_the_first_step() -> None:
    assert StepWatch().fault(1, 1e30, 1.0, 6.0) is None
    assert "not finite" in StepWatch().fault(1, math.inf, 1.0, 6.0)
    assert "gradient of step 1" in StepWatch().fault(1, 2.0, math.inf, None)


def test_one_hard_batch_does_not_raise_the_bar() -> None:
    watch = watched([2.0] * 30 + [7.9] + [2.0] * 5)
    assert watch.fault(37, 7.9, 1.0, 6.0) is None
    assert watch.fault(37, 8.1, 1.0, 6.0) == "the loss of step 37 is 8.1, where 2 was usual"


def test_a_loss_that_creeps_upward_does_not_take_the_bar_along() -> None:
    watch, loss, step = watched([2.0] * 50), 2.0, 50
    while watch.fault(step, loss, 1.0, 6.0) is None:
        watch.accept(loss)
        loss, step = loss * 1.01, step + 1
    assert 8.0 < loss < 8.2
    assert len(watch.losses) == 50


def test_losses_of_ordinary_training_set_off_nothing() -> None:
    """Falling from 4 to 1 with a heavy tail, as batches of one row of mixed tasks have them."""
    for seed in range(20):
        chance, watch, row = random.Random(seed), StepWatch(), 0
        for step in range(2000):
            loss = 1 + 3 * math.exp(-step / 200) * chance.lognormvariate(0, 0.5) + chance.expovariate(1.5)
            row = row + 1 if watch.fault(step, loss, 1.0, 6.0) else 0
            assert row < IN_A_ROW
            if not row:
                watch.accept(loss)


def test_what_is_known_survives_as_json() -> None:
    watch = watched([3.0, 2.0] * 20)
    watch.leave_out(41, "no reason", math.nan, 1.0, ["a b:1"])
    assert StepWatch(**json.loads(json.dumps(vars(watch), allow_nan=False))) == watch
