"""Several processes give what one process gives with the same rows in a step, under every strategy."""

from __future__ import annotations

import json
import os
import shutil
import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset
from safetensors.torch import load_file

from architectures import tiny
from byte_tokenizer import byte_tokenizer
from forked import processes, statuses
from hycam import backbones
from hycam.console import Silence
from hycam.data.prepare import prepare
from hycam.data.recipe import MixtureRecipe
from hycam.errors import Diverged, HycamError
from hycam.evaluation.perplexity import response_nll
from hycam.training import distributed
from hycam.training.loop import Loop
from hycam.training.recipe import DistributedRecipe, MethodRecipe, OptimizerRecipe, Recipe
from hycam.training.rows import MixedRows
from hycam.training.run import Run
from hycam.training.train import train
from hycam.tuners.hycam import layer

STRATEGIES = ["ddp", "fsdp", "zero2", "zero3"]
soak = pytest.mark.soak


@pytest.fixture(autouse=True)
def _everything_partitioned(monkeypatch: pytest.MonkeyPatch) -> None:
    """ZeRO-3 keeps weights of a few thousand numbers whole, which would be all that the tiny models have."""
    settings = distributed.settings

    def patched(*arguments: Any) -> dict[str, Any]:
        found = settings(*arguments)
        if found["deepspeed"]:
            found["deepspeed"]["zero_optimization"]["stage3_param_persistence_threshold"] = 0
        return found

    monkeypatch.setattr(distributed, "settings", patched)


@pytest.fixture
def shared(recipe: Callable[..., Recipe], tmp_path: Path) -> Callable[..., Recipe]:
    """A recipe of so many rows in a step, for one process or for several; its folder is named after them."""

    def build(number: int, strategy: str = "ddp", method: str = "hycam", rows: int = 4, **changes: Any) -> Recipe:
        data = changes.pop("data", {})
        config = changes.pop("config", {})
        # Adam divides a gradient by its own size, so that one which is zero but for rounding would make a whole step.
        settings = {"log_every": 1, "batch_size": rows // number, "extra": {"adam_epsilon": 1e-3}, **changes}
        chosen = recipe(method, distributed=DistributedRecipe(strategy), **settings)
        config = {**chosen.method.config, **({"noise": "never"} if method.startswith("hycam") else {}), **config}
        return replace(
            chosen,
            output=str(tmp_path / f"{method}-{strategy}-{number}"),
            method=replace(chosen.method, config=config),
            data=replace(chosen.data, **data),
        )

    return build


def run_of(recipe: Recipe) -> Run:
    return Run(Path(recipe.output))


def lines(recipe: Recipe) -> list[dict[str, float]]:
    return [json.loads(line) for line in run_of(recipe).metrics.read_text().splitlines()]


def weights(recipe: Recipe) -> dict[str, torch.Tensor]:
    run = run_of(recipe)
    return load_file(
        run.adapter / "adapter_model.safetensors" if run.adapter.exists() else run.model / "model.safetensors"
    )


def alone(recipe: Recipe) -> Recipe:
    train(recipe, Silence())
    return recipe


def together(number: int, recipe: Recipe) -> Recipe:
    summaries = processes(number, lambda rank: train(recipe, Silence()))
    assert all(summary == summaries[0] for summary in summaries)
    return recipe


def check_equal(one: Recipe, several: Recipe, tolerance: float = 2e-5) -> None:
    """The log of every step, the weights, the counts and the validation are the same, within rounding."""
    expected, found = lines(one), lines(several)
    assert len(found) == len(expected)
    for before, after in zip(expected, found, strict=True):
        assert after.keys() == before.keys()
        for key in before.keys() - {"elapsed", "total_flos"}:  # the latter counts padding
            if "second" not in key and "runtime" not in key:
                assert after[key] == pytest.approx(before[key], rel=tolerance, abs=tolerance), key
    trained = weights(one)
    assert weights(several).keys() == trained.keys()
    for name, weight in weights(several).items():
        torch.testing.assert_close(weight, trained[name], rtol=tolerance, atol=tolerance, msg=name)
    first, second = run_of(one).summary(), run_of(several).summary()
    assert first is not None and second is not None
    for key in ("steps", "tokens", "rows", "data", "trainable_parameters", "total_parameters", "wanted_shares"):
        assert second[key] == first[key], key
    assert second["validation"] == pytest.approx(first["validation"], rel=tolerance)


def test_two_processes_under_ddp_follow_one_process_through_epochs_whose_last_batch_is_short(shared) -> None:
    # 9 rows in batches of 4: the last has one row, so the second process has none there and keeps the first company.
    options = {"max_steps": None, "epochs": 2.0, "gradient_accumulation": 2, "evaluate_every": 2}
    data = {"train_rows": 9, "tasks": shared(1).data.tasks[:1]}
    one = alone(shared(1, data=data, **options))
    assert [line["step"] for line in lines(one) if "loss" in line] == [1, 2, 3, 4]
    check_equal(one, together(2, shared(2, data=data, **options)))


def test_two_processes_under_fsdp_follow_one_process_and_save_a_whole_adapter(shared) -> None:
    one, two = alone(shared(1, method="lora")), together(2, shared(2, "fsdp", "lora"))
    check_equal(one, two)
    # What one process loads is what two have validated.
    model, tokenizer = run_of(two).load()
    summary = run_of(two).summary()
    assert summary is not None
    for name, rows in prepare(two.data, tokenizer).validation.items():
        again = response_nll(model, tokenizer, rows, two.evaluation.batch_size).per_token
        assert again == pytest.approx(summary["validation"][f"eval_loss_{name}"], rel=1e-6)


@pytest.mark.parametrize("strategy", ["ddp", "fsdp"])
def test_two_processes_with_the_recompute_backend_follow_one_with_the_eager_one(strategy: str, shared) -> None:
    one = alone(shared(1, backend="eager"))
    check_equal(one, together(2, shared(2, strategy, backend="recompute")))


def test_no_process_waits_for_another_where_only_one_has_rows_of_a_task(shared) -> None:
    one = shared(1, rows=2, data={"mixture": MixtureRecipe("weights", weights={"counting": 0.7, "mirror": 0.3})})
    two = replace(one, output=f"{one.output}-two", training=replace(one.training, batch_size=1))
    check_equal(alone(one), together(2, two))
    shares = [line["share_mirror"] for line in lines(two) if "loss" in line]
    assert 0 < shares[-1] < 0.5
    assert any("loss_mirror" not in line for line in lines(two) if "loss" in line)


def test_a_non_finite_loss_on_one_process_ends_all_of_them_at_that_step(
    shared, monkeypatch: pytest.MonkeyPatch
) -> None:
    loss_of = Loop.loss_of

    def broken(self: Loop, *arguments: Any, **named: Any) -> Any:
        loss = loss_of(self, *arguments, **named)
        return loss * float("nan") if os.environ["RANK"] == "1" and self.progress.step == 1 else loss

    monkeypatch.setattr(Loop, "loss_of", broken)

    def work(rank: int) -> int:
        try:
            train(shared(2, method="lora"), Silence())
        except Diverged as error:
            return error.step
        return 0

    assert processes(2, work) == [2, 2]


@pytest.mark.parametrize("kind", ["loss", pytest.param("gradient", marks=soak)])
def test_a_step_that_one_process_skips_is_skipped_by_all_and_its_rows_are_not_counted(
    shared, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    # The second is finite, and its derivative is not.
    broken_by = {"loss": lambda loss: loss * float("nan"), "gradient": lambda loss: loss + (loss * 0).sqrt()}
    loss_of = Loop.loss_of

    def broken(self: Loop, *arguments: Any, **named: Any) -> Any:
        loss = loss_of(self, *arguments, **named)
        is_last = os.environ.get("RANK", "1") == "1"
        return broken_by[kind](loss) if is_last and self.progress.step == 1 else loss

    monkeypatch.setattr(Loop, "loss_of", broken)
    options = {"method": "lora", "max_steps": 4, "on_divergence": "skip", "gradient_accumulation": 1}
    one, two = alone(shared(1, **options)), together(2, shared(2, **options))
    check_equal(one, two)
    summary = run_of(two).summary()
    assert summary is not None
    assert [skipped["step"] for skipped in summary["skipped"]] == [2]
    assert sum(summary["rows"].values()) == 3 * 4


def test_a_step_without_a_labelled_token_has_no_loss_and_does_no_harm(shared, monkeypatch: pytest.MonkeyPatch) -> None:
    get_item = MixedRows.__getitem__

    def unlabelled(self: MixedRows, index: int) -> dict[str, Any]:
        row = get_item(self, index)
        return {**row, "labels": [-100] * len(row["labels"])}

    monkeypatch.setattr(MixedRows, "__getitem__", unlabelled)
    two = together(2, shared(2, max_steps=2, config={"balance_weight": 0.0}))
    assert [line["loss"] for line in lines(two) if "loss" in line] == [0.0, 0.0]
    assert all(weight.isfinite().all() for weight in weights(two).values())


def test_validation_shared_out_is_bit_for_bit_that_of_one_process() -> None:
    model, tokenizer = tiny("llama", vocab_size=258, max_position_embeddings=512), byte_tokenizer()
    generator = torch.Generator().manual_seed(0)
    ids = [torch.randint(3, 258, (int(n),), generator=generator).tolist() for n in (9, 5, 30, 7, 11, 6, 4)]
    labels = [[-100] * 3 + row[3:] for row in ids]
    rows = Dataset.from_dict({"input_ids": ids, "labels": labels, "row": [str(n) for n in range(7)]})
    for size in (1, 2, 7):  # seven batches, four, and one for three processes
        expected = response_nll(model, tokenizer, rows, size)
        seen: list[int] = []

        def work(rank: int, size: int = size, seen: list[int] = seen) -> Any:
            torch.distributed.init_process_group("gloo")
            found = response_nll(model, tokenizer, rows, size, progress=seen.append, shared=True)
            return found.nll.tolist(), found.tokens.tolist(), sum(seen)

        wanted = (expected.nll.tolist(), expected.tokens.tolist(), 7)
        assert processes(3, work) == [wanted] * 3


def refusals(recipe: Callable[..., Recipe]) -> dict[str, tuple[Recipe, str]]:
    """Recipes that do not work on several processes, and what is said instead."""

    def of(strategy: str, method: str = "lora", **training: Any) -> Recipe:
        return recipe(method, distributed=DistributedRecipe(strategy), **training)

    riemannian = of("zero2")
    riemannian.method.optimizer = OptimizerRecipe(name="riemannian")
    adalora = of("fsdp")
    adalora.method = MethodRecipe("peft", {"peft_type": "ADALORA", "total_step": 6})
    return {
        "riemoe-lora": (of("fsdp", "riemoe-lora"), r"whole factors of a product.*strategy ddp"),
        "riemannian": (riemannian, r"strategy=zero2.*method\.optimizer\.name to adamw"),
        "8bit": (of("zero3", optimizer_states="8bit"), "optimizer_states=8bit does not go with.*32bit"),
        "compile": (of("fsdp", torch_compile=True), "torch_compile does not go with"),
        "quantized": (replace(of("fsdp"), quantization="4bit"), "quantization=4bit does not go with.*ddp"),
        "skip": (of("zero2", on_divergence="skip"), "on_divergence=skip does not go with.*fsdp"),
        "adalora": (adalora, "AdaLoRA does not go with.*ddp"),
    }


@pytest.mark.parametrize("name", ["riemoe-lora", "riemannian", "8bit", "compile", "quantized", "skip", "adalora"])
def test_what_does_not_go_together_is_refused_with_what_to_use_instead(recipe, name: str) -> None:
    chosen, words = refusals(recipe)[name]
    with pytest.raises(HycamError, match=words):
        distributed.check(chosen, 2)
    distributed.check(chosen, 1)
    distributed.check(replace(chosen, training=replace(chosen.training, distributed=DistributedRecipe("ddp"))), 2)


def test_a_refusal_comes_before_the_backbone_is_loaded_or_another_process_waited_for(
    recipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    chosen, words = refusals(recipe)["riemoe-lora"]
    monkeypatch.setattr(backbones, "load", lambda *_: pytest.fail("the backbone was loaded"))
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(HycamError, match=words):
        train(chosen, Silence())
    assert not Path(chosen.output).exists()


def test_accelerates_own_settings_do_not_quietly_change_the_recipes_strategy(
    recipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    with pytest.raises(HycamError, match=r"accelerate's own settings ask for FSDP.*--multi_gpu"):
        distributed.check(recipe(), 2)


def test_without_deepspeed_its_strategies_are_refused_with_the_command_that_installs_it(
    recipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(distributed, "is_deepspeed_available", lambda: False)
    with pytest.raises(HycamError, match=r"hycam\[deepspeed\].*fsdp"):
        distributed.check(recipe(distributed=DistributedRecipe("zero3")), 2)


def test_a_run_is_not_continued_by_another_number_of_processes(shared) -> None:
    one = alone(shared(1, method="lora", max_steps=2, save_every=1))
    (run_of(one).folder / "training.json").unlink()

    def work(rank: int) -> str:
        with pytest.raises(HycamError) as raised:
            train(one, Silence())
        return str(raised.value)

    messages = processes(2, work)
    assert messages[0] == messages[1]
    assert "begun with one process and would go on with 2 processes" in messages[0]


@soak
@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("method", ["hycam", "hycam-ffn", "lora", "full"])
def test_two_processes_follow_one_process_under_every_strategy(shared, method: str, strategy: str) -> None:
    options = {"learning_rate": 1e-3 if method == "full" else 1e-2, "evaluate_every": 3, "method": method}
    check_equal(alone(shared(1, **options)), together(2, shared(2, strategy, **options)))


@soak
@pytest.mark.parametrize(
    ("method", "strategy"),
    [("hycam", "ddp"), ("hycam", "fsdp"), ("hycam", "zero2"), ("hycam", "zero3"), ("lora", "fsdp"), ("full", "zero3")],
)
def test_four_processes_follow_one_process(shared, method: str, strategy: str) -> None:
    options = {"learning_rate": 1e-3 if method == "full" else 1e-2, "max_steps": 4, "method": method}
    check_equal(alone(shared(1, **options)), together(4, shared(4, strategy, **options)))


@soak
@pytest.mark.parametrize(
    ("method", "strategy"),
    [("multilora", "ddp"), ("moe-lora", "ddp"), ("riemoe-lora", "ddp"), ("multilora", "fsdp"), ("moe-lora", "zero3"),
     ("hycam-released", "zero3"), ("hycam-released", "fsdp"), ("hycam-inverse-peft", "zero2")],
)  # fmt: skip
def test_the_other_methods_follow_one_process(shared, method: str, strategy: str) -> None:
    options = {"method": method, "max_steps": 4, "learning_rate": 1e-3}
    check_equal(alone(shared(1, **options)), together(2, shared(2, strategy, **options)), 1e-4)


@soak
@pytest.mark.parametrize(("method", "strategy"), [("full", "fsdp"), ("full", "zero3"), ("hycam", "fsdp")])
def test_a_head_that_is_tied_to_the_embeddings_stays_tied(shared, method: str, strategy: str, tmp_path: Path) -> None:
    sizes = {"vocab_size": 258, "max_position_embeddings": 512, "bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 1}
    tiny("llama", tie_word_embeddings=True, **sizes).save_pretrained(tmp_path / "tied")
    byte_tokenizer().save_pretrained(tmp_path / "tied")
    options = {"method": method, "learning_rate": 1e-3, "max_steps": 4}
    one, two = (replace(shared(number, strategy, **options), backbone=str(tmp_path / "tied")) for number in (1, 2))
    check_equal(alone(one), together(2, two))
    model, _ = run_of(two).load()
    assert model.get_input_embeddings().weight is model.get_output_embeddings().weight


FORMS: dict[str, dict[str, Any]] = {
    "packed": {"data": {"packing": True, "mixture": MixtureRecipe("temperature")}, "rows": 2},
    "grouped": {"data": {"group_by_length": True, "mixture": MixtureRecipe("equal")}},
    "checkpointed": {"gradient_checkpointing": True},
    "stopped early": {"evaluate_every": 2, "early_stopping_patience": 1, "learning_rate": 1e-1, "max_steps": 8},
}


@soak
@pytest.mark.parametrize(
    ("form", "strategy"),
    [("packed", "ddp"), ("packed", "fsdp"), ("packed", "zero3"), ("grouped", "ddp"), ("checkpointed", "ddp"),
     ("checkpointed", "fsdp"), ("checkpointed", "zero2"), ("checkpointed", "zero3"), ("stopped early", "ddp"),
     ("stopped early", "fsdp"), ("stopped early", "zero3")],
)  # fmt: skip
def test_every_form_of_training_is_the_same_on_two_processes(shared, form: str, strategy: str) -> None:
    check_equal(alone(shared(1, **FORMS[form])), together(2, shared(2, strategy, **FORMS[form])), 1e-4)


@soak
@pytest.mark.skipif(shutil.which("g++") is None, reason="compiling for a CPU needs a C++ compiler")
def test_compiled_blocks_are_the_same_on_two_processes(shared, monkeypatch: pytest.MonkeyPatch) -> None:
    # The compiler's threads do not survive a fork, and a forked process would wait for them.
    monkeypatch.setattr("torch._inductor.config.compile_threads", 1)
    options = {"torch_compile": True, "max_steps": 3}
    check_equal(alone(shared(1, **options)), together(2, shared(2, **options)))


@soak
@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("method", ["hycam", "full"])
def test_in_bfloat16_the_backbone_keeps_its_type_and_what_is_trained_is_saved_in_float32(
    shared, method: str, strategy: str
) -> None:
    options = {"method": method, "precision": "bfloat16", "max_steps": 3, "learning_rate": 1e-3}
    one, two = alone(shared(1, **options)), together(2, shared(2, strategy, **options))
    assert {weight.dtype for weight in weights(two).values()} == {torch.float32}
    check_equal(one, two, 2e-2)  # bfloat16 tells numbers apart that differ by 0.4 %


@soak
@pytest.mark.parametrize("strategy", STRATEGIES)
def test_a_run_that_lost_a_process_continues_to_the_same_bits(
    shared, strategy: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # 14 rows an epoch and 4 in a step, so that a checkpoint falls in the middle of the second epoch; noise is on.
    options = {"save_every": 2, "max_steps": 9, "gradient_accumulation": 1, "config": {"noise": "train"}}
    data = {"tasks": shared(1).data.tasks[:1]}
    whole = together(2, shared(2, strategy, data=data, **options))
    chosen = replace(whole, output=f"{whole.output}-killed")

    def kill(self: Loop) -> None:
        if self.progress.step == 7 and os.environ["RANK"] == "1":
            os.kill(os.getpid(), signal.SIGKILL)

    with monkeypatch.context() as patch:
        patch.setattr(Loop, "step_ended", kill)
        ended = statuses(2, lambda rank: train(chosen, Silence()))
    assert ended[1] == signal.SIGKILL
    assert run_of(chosen).summary() is None
    assert str(run_of(chosen).last_checkpoint()).endswith("checkpoint-6")
    together(2, chosen)
    again, once = weights(chosen), weights(whole)
    assert again.keys() == once.keys()
    assert all(torch.equal(again[key], once[key]) for key in once)
    summaries = [run_of(one).summary() or {} for one in (chosen, whole)]
    for key in ("rows", "tokens", "steps", "validation"):
        assert summaries[0][key] == summaries[1][key]


@soak
def test_each_process_draws_noise_of_its_own(shared, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[float] = []
    noise = layer.gumbel_noise

    def watched(*arguments: Any) -> torch.Tensor:
        made = noise(*arguments)
        drawn.append(float(made.flatten()[0]))
        return made

    monkeypatch.setattr(layer, "gumbel_noise", watched)

    def work(rank: int) -> list[float]:
        train(shared(2, max_steps=2, config={"noise": "train"}), Silence())
        return drawn

    first, second = processes(2, work)
    assert len(first) == len(second) > 0
    assert not set(first) & set(second)
