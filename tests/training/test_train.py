"""From a recipe to a saved adapter."""

from __future__ import annotations

import importlib.metadata
import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from peft import AutoPeftModelForCausalLM
from safetensors import SafetensorError
from safetensors.torch import load_file

from architectures import tiny
from byte_tokenizer import EOS, byte_tokenizer
from hycam import backbones
from hycam.console import Reporter
from hycam.data.batches import Batches
from hycam.data.mixture import Mixture
from hycam.data.prepare import prepare
from hycam.data.recipe import MixtureRecipe
from hycam.errors import HycamError
from hycam.evaluation.perplexity import response_nll
from hycam.methods import METHODS
from hycam.training.evaluate import evaluate_run
from hycam.training.loop import Loop
from hycam.training.recipe import MethodRecipe, Recipe, TrainingRecipe
from hycam.training.rows import MixedRows
from hycam.training.run import Run
from hycam.training.train import train as train_with


def train(recipe: Recipe) -> dict:
    return train_with(recipe, Reporter())


def lines(run: Run) -> list[dict]:
    return [json.loads(line) for line in run.metrics.read_text().splitlines()]


def weights(recipe: Recipe) -> dict[str, torch.Tensor]:
    """What a run saved: its adapter, or the model after full fine-tuning."""
    run = Run(Path(recipe.output))
    is_adapter = run.adapter.exists()
    return load_file(run.adapter / "adapter_model.safetensors" if is_adapter else run.model / "model.safetensors")


# The others differ in what is trained alone; `make soak` has them.
USUAL = ("full", "lora", "multilora", "riemoe-lora", "hycam", "hycam-released", "hycam-ffn")
OF_METHODS = [one if one in USUAL else pytest.param(one, marks=pytest.mark.soak) for one in METHODS]


@pytest.mark.parametrize("method", OF_METHODS)
def test_every_method_trains_through_the_same_recipe(recipe, method: str) -> None:
    chosen = recipe(method, max_steps=12, learning_rate=1e-3 if method == "full" else 1e-2)
    summary = train(chosen)
    assert summary["steps"] == 12
    run = Run(Path(chosen.output))
    assert run.summary() == summary
    before = backbones.load(chosen.backbone)
    assert summary["total_parameters"] == before.num_parameters()
    tokenizer = backbones.load_tokenizer(chosen.backbone)
    rows = prepare(chosen.data, tokenizer).validation
    base = np.mean([response_nll(before, tokenizer, part, 8).per_token for part in rows.values()])
    assert summary["validation"]["eval_loss"] < base - 0.02


def test_the_adapter_on_disk_is_the_one_that_was_validated(recipe) -> None:
    chosen = recipe()
    summary = train(chosen)
    model, tokenizer = Run(Path(chosen.output)).load()
    rows = prepare(chosen.data, tokenizer).validation
    for name, part in rows.items():
        again = response_nll(model, tokenizer, part, 8).per_token
        assert summary["validation"][f"eval_loss_{name}"] == pytest.approx(again, rel=1e-5)
    loaded = AutoPeftModelForCausalLM.from_pretrained(Run(Path(chosen.output)).adapter)
    ids = torch.arange(3, 20)[None]
    with torch.no_grad():
        assert torch.equal(loaded.eval()(input_ids=ids).logits, model(input_ids=ids).logits)


def test_metrics_hold_each_tasks_loss_the_balance_loss_and_the_routing(recipe) -> None:
    chosen = recipe(evaluate_every=3)
    train(chosen)
    logged = lines(Run(Path(chosen.output)))
    training = [line for line in logged if "loss" in line]
    assert [line["step"] for line in training] == [2, 4, 6]
    for line in training:
        assert 0.2 <= line["balance_loss"] < 0.3
        assert sum(line[f"routing_{k}"] for k in range(5)) == pytest.approx(1.0, abs=1e-5)
    assert {"loss_counting", "loss_mirror"} <= {key for line in training for key in line}
    validation = [line for line in logged if "eval_loss" in line]
    assert [line["step"] for line in validation] == [3, 6]
    for line in validation:
        assert line["eval_loss"] == pytest.approx((line["eval_loss_counting"] + line["eval_loss_mirror"]) / 2)


def test_the_logged_loss_is_task_loss_plus_weighted_balance_loss(recipe) -> None:
    chosen = recipe(max_steps=1, log_every=1, batch_size=4, gradient_accumulation=1)
    train(chosen)
    first = lines(Run(Path(chosen.output)))[0]
    # One micro-batch, one task or two: its loss is between the tasks' own, with the balance term on top.
    parts = [first[key] for key in ("loss_counting", "loss_mirror") if key in first]
    assert min(parts) - 1e-4 <= first["loss"] - 0.1 * first["balance_loss"] <= max(parts) + 1e-4


@pytest.mark.parametrize("method", OF_METHODS)
def test_an_interrupted_run_continues_from_its_last_whole_checkpoint_to_the_same_weights(
    recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, method: str
) -> None:
    whole = replace(recipe(method, save_every=2, max_steps=6), output=str(tmp_path / "whole"))
    train(whole)
    chosen = recipe(method, save_every=2, max_steps=6)
    trained: list[int] = []
    stop_at = 5

    def step(self):
        trained.append(self.progress.step)
        if self.progress.step == stop_at:
            raise KeyboardInterrupt

    monkeypatch.setattr(Loop, "step_ended", step)
    with pytest.raises(KeyboardInterrupt):
        train(chosen)
    run = Run(Path(chosen.output))
    assert run.summary() is None
    (run.checkpoints / "checkpoint-5").mkdir()  # as a kill in the middle of saving leaves one
    with run.metrics.open("a") as handle:
        handle.write('{"step": 5, "lo')
    assert run.last_checkpoint().endswith("checkpoint-4")
    stop_at = 0
    trained.clear()
    summary = train(chosen)
    assert trained == [5, 6]
    assert summary["steps"] == 6
    assert summary["tokens"] == Run(Path(whole.output)).summary()["tokens"]
    assert [line["step"] for line in lines(run) if "loss" in line] == [2, 4, 6]
    again, once = weights(chosen), weights(whole)
    assert again.keys() == once.keys()
    assert all(torch.equal(again[key], once[key]) for key in once)


def epochs_of(chosen: Recipe) -> list[list[int]]:
    """The token ids of the micro-batches of two epochs, put together here from the rows and the batches."""
    rows = MixedRows(prepare(chosen.data, backbones.load_tokenizer(chosen.backbone)).train)
    data, size = chosen.data, chosen.training.batch_size
    mixture = Mixture(data.mixture, rows.sizes, chosen.training.seed)
    batches = Batches(mixture, rows.lengths, size, data.max_length, data.packing, data.group_by_length)
    found = []
    for epoch in range(2):
        batches.set_epoch(epoch)
        for numbers in batches:
            ids = [rows[number]["input_ids"] for number in numbers]
            longest = 0 if data.packing else max(map(len, ids))
            found.append([token for row in ids for token in row + [EOS] * (longest - len(row))])
    return found


def test_the_time_of_an_interrupted_training_is_that_of_the_steps_that_count(recipe, monkeypatch) -> None:
    chosen = recipe("lora", save_every=2, max_steps=6, log_every=1)
    clock = [0.0]

    def step(self):
        clock[0] += 10.0
        if clock[0] == 50.0:
            raise KeyboardInterrupt

    monkeypatch.setattr(Loop, "step_ended", step)
    monkeypatch.setattr("time.monotonic", lambda: clock[0])
    with pytest.raises(KeyboardInterrupt):
        train(chosen)
    clock[0] = 1000.0
    assert train(chosen)["seconds"] == 60.0  # steps 1 to 4 before, 5 and 6 now; the fifth of before was lost
    logged = lines(Run(Path(chosen.output)))
    assert [line["elapsed"] for line in logged if "loss" in line] == [10.0, 20.0, 30.0, 40.0, 50.0, 60.0]


def test_what_is_logged_and_kept_on_the_way_may_change_between_two_starts(recipe) -> None:
    chosen = recipe("lora", save_every=2)
    summary = train(chosen)
    settings = {"log_every": 5, "save_every": None, "report_to": []}
    assert train(replace(chosen, training=replace(chosen.training, **settings))) == summary
    with pytest.raises(HycamError, match=r"another recipe: training\.seed"):
        train(replace(chosen, training=replace(chosen.training, seed=1)))


ORDERS = {
    "concatenate": {},
    "stop": {"mixture": MixtureRecipe("weights", weights={"counting": 3, "mirror": 1}, exhaustion="stop")},
    "cycle": {"mixture": MixtureRecipe("equal", exhaustion="cycle")},
    "drop": {"mixture": MixtureRecipe("temperature", exhaustion="drop")},
    "grouped": {"group_by_length": True},
    "packed": {"packing": True, "mixture": MixtureRecipe("proportional", exhaustion="cycle")},
}


@pytest.fixture
def batches_seen(monkeypatch: pytest.MonkeyPatch) -> list[list[int]]:
    """The token ids of every micro-batch, as training comes to it."""
    seen: list[list[int]] = []
    loss_of = Loop.loss_of

    def watched(self, batch, *args):
        seen.append(batch["input_ids"].flatten().tolist())
        return loss_of(self, batch, *args)

    monkeypatch.setattr(Loop, "loss_of", watched)
    return seen


@pytest.mark.parametrize(
    "order",
    [one if one in ("stop", "packed") else pytest.param(one, marks=pytest.mark.soak) for one in ORDERS],
)
def test_a_resumed_run_goes_on_with_the_very_batches_and_counts(
    recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, batches_seen: list[list[int]], order: str
) -> None:
    monkeypatch.setattr("hycam.training.checkpoints._KEPT", 100)
    chosen = recipe("lora", max_steps=None, epochs=2, batch_size=3, gradient_accumulation=2, save_every=1, log_every=1)
    chosen.data = replace(chosen.data, **ORDERS[order])
    whole = train(chosen)
    steps, once = whole["steps"], list(batches_seen)
    assert steps > 4
    assert once == epochs_of(chosen)
    finished = tmp_path / "finished"
    Path(chosen.output).rename(finished)
    for step in (1, steps // 2, steps - 1):  # in the first epoch, at its end and in the last
        again = Run(tmp_path / f"from-{step}")
        shutil.copytree(finished, again.folder)
        shutil.rmtree(again.adapter)
        (again.folder / "training.json").unlink()
        for later in range(step + 1, steps + 1):
            shutil.rmtree(again.checkpoints / f"checkpoint-{later}")
        batches_seen.clear()
        summary = train(replace(chosen, output=str(again.folder)))
        assert batches_seen == once[len(once) - len(batches_seen) :]
        assert len(batches_seen) < len(once)
        assert (summary["rows"], summary["steps"]) == (whole["rows"], steps)
        assert summary["tokens"] == whole["tokens"]


def test_a_run_is_not_continued_on_data_that_changed(recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    chosen = recipe("lora", save_every=2)
    changing = tmp_path / "counting.jsonl"
    shutil.copy(chosen.data.tasks[0], changing)
    chosen.data = replace(chosen.data, tasks=[str(changing)])

    def stop(self):
        if self.progress.step == 3:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Loop, "step_ended", stop)
        train(chosen)
    before = changing.read_text()
    changing.write_text(before.replace("Go on", "Go back"))
    with pytest.raises(HycamError, match=r"data are not those that .*run was begun with"):
        train(chosen)
    changing.write_text(before)
    assert train(chosen)["steps"] == 6
    changing.write_text(before.replace("Go on", "Go back"))
    with pytest.raises(HycamError, match="is complete, and its data are not those"):
        train(chosen)


@pytest.mark.parametrize("order", ["stop", "cycle", "drop"])
def test_the_rows_trained_on_are_those_of_the_mixture(recipe, order: str) -> None:
    chosen = recipe("lora", max_steps=None, epochs=3, batch_size=2, gradient_accumulation=1, log_every=1)
    chosen.data = replace(chosen.data, **ORDERS[order])
    summary = train(chosen)
    sizes = dict.fromkeys(("counting", "mirror"), 14)
    mixture = Mixture(chosen.data.mixture, sizes, chosen.training.seed)
    expected = dict(zip(mixture.tasks, sum(mixture.counts(epoch) for epoch in range(3)).tolist(), strict=True))
    assert summary["rows"] == expected
    total = sum(expected.values())
    assert summary["shares"] == {name: rows / total for name, rows in expected.items()}
    assert summary["wanted_shares"] == mixture.wanted()
    last = [line for line in lines(Run(Path(chosen.output))) if "loss" in line][-1]
    assert {name: last[f"share_{name}"] for name in expected} == summary["shares"]


def test_packed_rows_give_each_task_the_loss_and_the_adapter_the_step_that_padded_rows_give(
    recipe, tmp_path: Path
) -> None:
    results = {}
    for packing in (False, True):
        chosen = recipe("lora", max_steps=1, batch_size=28, gradient_accumulation=1, log_every=1)
        chosen.data = replace(chosen.data, packing=packing)
        chosen.output = str(tmp_path / str(packing))
        summary = train(chosen)
        line = next(line for line in lines(Run(Path(chosen.output))) if "loss" in line)
        results[packing] = (line, weights(chosen), summary)
    padded, packed = results[False], results[True]
    for name in ("loss", "loss_counting", "loss_mirror", "share_counting", "grad_norm"):
        assert packed[0][name] == pytest.approx(padded[0][name], rel=1e-5)
    assert packed[2]["tokens"] == padded[2]["tokens"]
    for name, value in padded[1].items():
        # Adam's first step has the sign of the gradient, so a gradient near zero may differ by a whole step.
        assert torch.isclose(packed[1][name], value, atol=1e-5).float().mean() > 0.99


def test_packing_is_refused_before_the_first_step_where_one_example_would_see_another(recipe, tmp_path: Path) -> None:
    folder = tmp_path / "opt"
    tiny("opt", vocab_size=258, max_position_embeddings=512, bos_token_id=0, eos_token_id=1).save_pretrained(folder)
    byte_tokenizer().save_pretrained(folder)
    chosen = replace(recipe("lora"), backbone=str(folder))
    chosen.data = replace(chosen.data, packing=True)
    with pytest.raises(HycamError, match=r"packing.*opt.*group_by_length"):
        train(chosen)
    assert not Run(Path(chosen.output)).adapter.exists()
    train(replace(chosen, data=replace(chosen.data, packing=False)))


def test_early_stopping_goes_on_counting_after_an_interruption(recipe, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = {"max_steps": 20, "learning_rate": 5.0, "evaluate_every": 1, "scheduler": "constant"}
    chosen = recipe(**settings, early_stopping_patience=2)

    def step(self):
        if self.progress.step == stop_at:
            raise KeyboardInterrupt

    monkeypatch.setattr(Loop, "step_ended", step)
    stop_at = 0
    uninterrupted = train(replace(chosen, output=f"{chosen.output}-whole"))["steps"]
    assert 2 < uninterrupted < 20
    stop_at = uninterrupted - 1
    with pytest.raises(KeyboardInterrupt):
        train(chosen)
    stop_at = 0
    assert train(chosen)["steps"] == uninterrupted


@pytest.mark.parametrize("save_every", [None, 2], ids=["adapter", "checkpoint"])
def test_a_full_disk_is_one_message_and_leaves_no_half_adapter(recipe, save_every, monkeypatch) -> None:
    chosen = recipe(save_every=save_every)

    def full(tensors, path, *args, **kwargs):
        Path(path).write_bytes(b"half")
        raise SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")

    monkeypatch.setattr("peft.peft_model.safe_save_file", full)
    with pytest.raises(HycamError, match=r"Make room"):
        train(chosen)
    run = Run(Path(chosen.output))
    assert not run.adapter.exists()
    assert run.last_checkpoint() is None
    monkeypatch.undo()
    assert train(chosen)["steps"] == 6


def test_too_little_room_is_found_before_the_first_step(recipe, monkeypatch: pytest.MonkeyPatch) -> None:
    chosen = recipe()
    monkeypatch.setattr("shutil.disk_usage", lambda path: shutil._ntuple_diskusage(10, 10, 0))
    with pytest.raises(HycamError, match=r"no room for the adapter.* 0 MB free"):
        train(chosen)
    assert not Run(Path(chosen.output)).metrics.exists()


def test_evaluation_refuses_data_that_changed_since_training(recipe, tmp_path: Path) -> None:
    copies = [shutil.copy(path, tmp_path) for path in recipe().data.tasks]
    chosen = replace(recipe(), data=replace(recipe().data, tasks=copies))
    train(chosen)
    with Path(copies[0]).open("a") as handle:
        handle.write('{"instruction": "new", "input": "", "output": "row"}\n')
    with pytest.raises(HycamError, match="a file has changed"):
        evaluate_run(Run(Path(chosen.output)), chosen.evaluation, Reporter())


def test_a_complete_run_is_not_trained_again(recipe) -> None:
    chosen = recipe()
    first = train(chosen)
    stamp = (Run(Path(chosen.output)).adapter / "adapter_model.safetensors").stat().st_mtime_ns
    assert train(chosen) == first
    assert (Run(Path(chosen.output)).adapter / "adapter_model.safetensors").stat().st_mtime_ns == stamp


def test_early_stopping_ends_the_run_and_keeps_the_best_adapter(recipe) -> None:
    # A rate this large makes things worse from the first validation on.
    chosen = recipe(max_steps=40, learning_rate=5.0, evaluate_every=2, early_stopping_patience=2, scheduler="constant")
    summary = train(chosen)
    assert summary["steps"] < 40
    losses = [line["eval_loss"] for line in lines(Run(Path(chosen.output))) if "eval_loss" in line]
    assert summary["validation"]["eval_loss"] == pytest.approx(min(losses), rel=1e-5)


def test_a_bfloat16_backbone_trains_float32_adapters(recipe) -> None:
    chosen = recipe(precision="bfloat16")
    assert np.isfinite(train(chosen)["validation"]["eval_loss"])
    saved = weights(chosen)
    assert {tensor.dtype for tensor in saved.values()} == {torch.float32}


def test_extra_settings_reach_the_trainer(recipe) -> None:
    chosen = recipe(extra={"adam_beta2": 0.95})
    train(chosen)
    wrong = (
        ({"adam_betta1": 1}, r'unknown setting "adam_betta1".*"adam_beta1"'),
        ({"save_only_model": True}, "cannot set save_only_model: training does not use it"),
        ({"weight_decay": 1}, "cannot set weight_decay"),
        ({"label_smoothing_factor": 0.1}, "balance loss could not act"),
    )
    for extra, message in wrong:
        with pytest.raises(HycamError, match=message):
            train(replace(recipe(extra=extra), output=f"{chosen.output}-2"))


def test_tensorboard_gets_the_metrics(recipe, tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    train(recipe(report_to=["tensorboard"]))
    assert list(tmp_path.rglob("events.out.tfevents.*"))


def test_a_folder_of_another_recipe_is_left_alone_and_the_difference_named(recipe) -> None:
    train(recipe())
    with pytest.raises(HycamError, match=r"training\.learning_rate is 0\.01 there and 0\.02 now"):
        train(recipe(learning_rate=2e-2))
    other = replace(recipe(), method=MethodRecipe("lora", {"r": 4}))
    with pytest.raises(HycamError, match=r"method\.name is 'hycam' there and 'lora' now"):
        train(other)


def test_a_folder_with_other_things_in_it_is_left_alone(recipe) -> None:
    chosen = recipe()
    Path(chosen.output).mkdir()
    (Path(chosen.output) / "thesis.tex").write_text("precious")
    with pytest.raises(HycamError, match="holds something that is not a run"):
        train(chosen)
    assert [entry.name for entry in Path(chosen.output).iterdir()] == ["thesis.tex"]


def test_mistakes_are_found_before_the_run_folder_is_made(recipe) -> None:
    for wrong, message in (
        (replace(recipe(), method=MethodRecipe("hycamm")), "no method"),
        (replace(recipe(), method=MethodRecipe("hycam", {"rr": 1})), "no setting"),
        (recipe(scheduler="cosin"), "cosin"),
        (replace(recipe(), backbone="smollm"), "no backbone"),
        (replace(recipe(), data=replace(recipe().data, tasks=["gsm9k"])), "gsm8k"),
        (replace(recipe(), data=replace(recipe().data, fold=5)), "fold"),
    ):
        with pytest.raises(HycamError, match=message):
            train(wrong)
        assert not Path(wrong.output).exists()


def test_a_backbone_that_cannot_be_adapted_is_one_message(recipe) -> None:
    with pytest.raises(HycamError, match=r"matches nothing in the layers \[7\] in LlamaForCausalLM"):
        train(replace(recipe(), method=MethodRecipe("hycam", {"layers_to_transform": [7]})))


def test_the_run_folder_says_what_ran(recipe) -> None:
    chosen = recipe()
    train(chosen)
    run = Run(Path(chosen.output))
    assert run.recipe() == chosen
    environment = json.loads((run.folder / "environment.json").read_text())
    assert environment["versions"]["torch"] == importlib.metadata.version("torch")
    assert environment["cores"] >= 1


def test_evaluation_reloads_the_run_and_keeps_every_prediction(recipe) -> None:
    chosen = recipe()
    train(chosen)
    run = Run(Path(chosen.output))
    metrics = evaluate_run(run, chosen.evaluation, Reporter())
    assert set(metrics["tasks"]) == {"counting", "mirror"}
    predictions = (run.evaluation("test") / "predictions.jsonl").read_text().splitlines()
    assert len(predictions) == sum(task["rows"] for task in metrics["tasks"].values())
    validation = evaluate_run(run, replace(chosen.evaluation, part="validation", generate_rows=0), Reporter())
    assert validation["macro"]["nll"] == pytest.approx(run.summary()["validation"]["eval_loss"], rel=1e-5)


def test_an_adapter_of_another_method_or_width_is_refused(recipe, tmp_path: Path) -> None:
    chosen = recipe()
    train(chosen)
    other = replace(recipe("lora"), output=str(tmp_path / "other"))
    train(other)
    run = Run(Path(chosen.output))
    shutil.rmtree(run.adapter)
    with pytest.raises(HycamError, match="no adapter yet"):
        run.load()
    shutil.copytree(Run(Path(other.output)).adapter, run.adapter)
    with pytest.raises(HycamError, match=r"adapter of .*LORA.*trains .*HYCAM"):
        run.load()
    shutil.rmtree(run.adapter)
    wide = replace(recipe(), output=str(tmp_path / "wide"), method=MethodRecipe("hycam", {"r": 5}))
    train(wide)
    shutil.copytree(Run(Path(wide.output)).adapter, run.adapter)
    config = run.adapter / "adapter_config.json"
    config.write_text(config.read_text().replace('"r": 5', '"r": 4'))
    with pytest.raises(HycamError, match="does not fit"):
        run.load()


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here")
def test_without_a_gpu_auto_is_float32_on_the_cpu_and_cuda_an_error() -> None:
    assert TrainingRecipe().torch_device() == torch.device("cpu")
    assert TrainingRecipe().torch_dtype() == torch.float32
    assert TrainingRecipe(precision="bfloat16").torch_dtype() == torch.bfloat16
    with pytest.raises(HycamError, match="sees no GPU"):
        TrainingRecipe(device="cuda").torch_device()
