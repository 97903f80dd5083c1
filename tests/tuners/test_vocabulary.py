"""Adapters on backbones with a resized vocabulary, and those that train embeddings: what LoRA loads, ours load too."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from peft import LoraConfig, PeftConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import AutoModelForCausalLM, PreTrainedModel, Trainer, TrainingArguments

from architectures import VOCABULARY, tiny, tokens
from hycam import HyCAMConfig, MoeLoraConfig, MultiLoraConfig
from hycam.errors import HycamError

CONFIGS: dict[str, Callable[..., PeftConfig]] = {
    "lora": lambda **given: LoraConfig(target_modules="all-linear", **given),  # whose answer is the others' measure
    "hycam": lambda **given: HyCAMConfig(noise="never", **given),
    "hycam-ffn": lambda **given: HyCAMConfig(noise="never", ffn_r=2, **given),
    "multilora": MultiLoraConfig,
    "moe-lora": MoeLoraConfig,
}
ROWS = [{"input_ids": row, "labels": row} for row in tokens(8, 6)]
OURS = ("hycam", "multilora", "moe-lora")


@pytest.fixture(autouse=True)
def _offline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")  # PEFT looks for the backbone's configuration


@pytest.fixture
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    tiny(tie_word_embeddings=request.param == "tied", num_hidden_layers=1).save_pretrained(tmp_path / "backbone")
    return tmp_path / "backbone"


def backbone(folder: Path, grown: bool) -> PreTrainedModel:
    model = AutoModelForCausalLM.from_pretrained(folder)
    if grown:
        torch.manual_seed(1)
        model.resize_token_embeddings(VOCABULARY + 5)
    return model


def adapted(base: PreTrainedModel, method: str, modules: tuple[str, ...], seed: int = 0) -> PeftModel:
    torch.manual_seed(seed)
    return get_peft_model(base, CONFIGS[method](task_type="CAUSAL_LM", r=2, modules_to_save=list(modules) or None))


def trained(model: PeftModel, output: Path, resumed: Path | None = None) -> PeftModel:
    arguments = TrainingArguments(
        str(output), max_steps=2, save_steps=1, learning_rate=3e-2, per_device_train_batch_size=2, use_cpu=True,
        report_to=[], disable_tqdm=True,
    )  # fmt: skip
    Trainer(model, arguments, train_dataset=ROWS).train(
        resume_from_checkpoint=None if resumed is None else str(resumed)
    )
    return model


@torch.no_grad()
def logits(model: torch.nn.Module) -> Tensor:
    return model.eval()(input_ids=tokens()).logits


@pytest.mark.parametrize("modules", [(), ("embed_tokens",), ("lm_head",), ("embed_tokens", "lm_head")], ids="+".join)
@pytest.mark.parametrize(
    ("folder", "grown"),
    [
        ("tied", True),
        ("untied", False),
        pytest.param("tied", False, marks=pytest.mark.soak),
        pytest.param("untied", True, marks=pytest.mark.soak),
    ],
    indirect=["folder"],
)
@pytest.mark.parametrize(
    "method", ["hycam", *(pytest.param(other, marks=pytest.mark.soak) for other in CONFIGS if other != "hycam")]
)
def test_it_is_loaded_and_resumed_with_the_logits_that_it_was_saved_with(
    folder: Path, method: str, grown: bool, modules: tuple[str, ...], tmp_path: Path
) -> None:
    untrained = logits(adapted(backbone(folder, grown), method, modules))
    model = trained(adapted(backbone(folder, grown), method, modules), tmp_path / "run")
    expected = logits(model)
    assert not torch.equal(expected, untrained)
    # True has the embeddings in the file whether they were resized or not.
    for name, embeddings in (("default", "auto"), ("other", True)):
        model.save_pretrained(tmp_path / "saved", save_embedding_layers=embeddings)
        loaded = PeftModel.from_pretrained(backbone(folder, grown), tmp_path / "saved", adapter_name=name)
        assert torch.equal(logits(loaded), expected)
    again = adapted(backbone(folder, grown), method, modules, seed=1)
    assert torch.equal(logits(trained(again, tmp_path / "again", tmp_path / "run" / "checkpoint-1")), expected)


@pytest.mark.parametrize("folder", ["tied", "untied"], indirect=True)
@pytest.mark.parametrize("method", OURS)
def test_another_shape_or_another_weight_of_the_backbone_is_refused_before_anything_is_copied(
    folder: Path, method: str, tmp_path: Path
) -> None:
    adapted(backbone(folder, True), method, ("embed_tokens",)).save_pretrained(tmp_path / "saved")
    path = tmp_path / "saved" / "adapter_model.safetensors"
    written = load_file(path)
    embedding = "base_model.model.model.embed_tokens"
    names = (f"{embedding}.weight", f"{embedding}.original_module.weight", f"{embedding}.modules_to_save.weight")
    assert set(names) <= written.keys()
    shapes = [{name: written[name][:-1].contiguous()} for name in names]
    foreign = [
        {"base_model.model.model.norm.weight": torch.ones(32)},
        {"base_model.model.model.layers.0.mlp.up_proj.base_layer.weight": torch.ones(48, 32)},
        {f"{embedding}.modules_to_save.other.weight": written[names[0]].clone()},  # which another adapter has
    ]
    model = adapted(backbone(folder, True), method, ("embed_tokens",), seed=1)
    model.add_adapter("other", model.peft_config["default"])
    before = {name: value.clone() for name, value in model.state_dict().items()}
    for changed, message in [(one, "has the shape") for one in shapes] + [(one, "no place for") for one in foreign]:
        save_file({**written, **changed}, path, metadata={"format": "pt"})
        with pytest.raises(HycamError, match=message):
            model.load_adapter(str(tmp_path / "saved"), "default")
        for name, value in model.state_dict().items():
            assert torch.equal(value, before[name]), name
