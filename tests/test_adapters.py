"""A saved adapter that is not what it should be is refused before a model is read, and nothing of it is run."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import pytest
import torch
import yaml
from peft import PeftModel
from safetensors.torch import load_file, save_file
from torch import Tensor

from hycam import backbones
from hycam.adapt import adapt
from hycam.backbones import load as load_backbone
from hycam.cli.main import main
from hycam.errors import HycamError
from hycam.training.recipe import MethodRecipe, Recipe, TrainingRecipe
from hycam.training.run import Run
from pickles import plant

METHODS = {
    "hycam": {"r": 2},
    "hycam-released": {"r": 2},  # which trains norms of the backbone
    "multilora": {"r": 2},
    "moe-lora": {"r": 2},
    "lora": {"r": 2},
}


@pytest.fixture(params=METHODS)
def run(request: pytest.FixtureRequest, backbone: str, tmp_path: Path) -> Run:
    return saved_run(tmp_path / "run", backbone, request.param)


@pytest.fixture
def hycam_run(backbone: str, tmp_path: Path) -> Run:
    return saved_run(tmp_path / "run", backbone, "hycam")


def saved_run(folder: Path, backbone: str, method: str, settings: dict | None = None) -> Run:
    """A run folder as training leaves it, with random weights."""
    settings = METHODS[method] if settings is None else settings
    recipe = Recipe(
        backbone=backbone,
        output=str(folder),
        method=MethodRecipe(method, dict(settings)),
        training=TrainingRecipe(device="cpu", precision="float32"),
    )
    folder.mkdir()
    (folder / "recipe.yaml").write_text(yaml.safe_dump(asdict(recipe)))
    adapted = adapt(load_backbone(backbone), method, settings)
    with torch.no_grad():
        for parameter in adapted.parameters():
            if parameter.requires_grad:
                parameter.normal_(std=0.1)
    adapted.save_pretrained(str(folder / "adapter"))
    return Run(folder)


def change(run: Run, how: Callable[[dict[str, Tensor]], object]) -> None:
    """Lets ``how`` change the saved weights."""
    path = run.adapter / "adapter_model.safetensors"
    weights = load_file(path)
    how(weights)
    save_file(weights, path, metadata={"format": "pt"})


def change_config(run: Run, **fields: object) -> None:
    path = run.adapter / "adapter_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **fields}))


def first(weights: dict[str, Tensor]) -> str:
    return min(name for name, value in weights.items() if value.dim() >= 2)


@pytest.fixture
def no_weights_are_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backbones, "load", lambda *_: pytest.fail("the backbone was read"))


def test_what_was_saved_is_loaded(run: Run) -> None:
    model, _ = run.load()
    saved = load_file(run.adapter / "adapter_model.safetensors")
    assert isinstance(model, PeftModel)
    loaded = model.state_dict()
    assert saved
    for name, value in saved.items():
        places = [key.replace(".modules_to_save", "").replace(".default", "") for key in loaded]
        (own,) = [key for key, place in zip(loaded, places, strict=True) if place in (name, f"{name}.weight")]
        assert torch.equal(loaded[own], value)


def test_embeddings_that_were_saved_beside_an_adapter_on_them_are_to_be_those_of_the_backbone(
    backbone: str, tmp_path: Path
) -> None:
    on_embeddings = {"peft_type": "LORA", "r": 2, "target_modules": ["embed_tokens"]}
    run = saved_run(tmp_path / "run", backbone, "peft", on_embeddings)
    run.load()
    name = next(name for name in load_file(run.adapter / "adapter_model.safetensors") if "base_layer" in name)
    change(run, lambda weights: weights[name][3].add_(1))
    with pytest.raises(HycamError, match=rf"{name} would change the backbone's own model.embed_tokens.weight"):
        run.load()


@pytest.mark.parametrize("modules", [["embed_tokens"], ["lm_head"], ["embed_tokens", "lm_head"]], ids="+".join)
@pytest.mark.parametrize("method", METHODS)
def test_embeddings_that_the_adapter_trains_itself_are_loaded_and_the_backbones_own_stay(
    backbone: str, tmp_path: Path, method: str, modules: list[str]
) -> None:
    run = saved_run(tmp_path / "run", backbone, method, {"r": 2, "modules_to_save": modules})
    saved = load_file(run.adapter / "adapter_model.safetensors")
    model, _ = run.load()
    base = load_backbone(backbone)
    for name in modules:
        (place,) = (key for key, _ in base.named_modules() if key.rpartition(".")[2] == name)
        wrapper = model.get_submodule(f"base_model.model.{place}")
        assert torch.equal(wrapper.modules_to_save["default"].weight, saved[f"base_model.model.{place}.weight"])
        assert torch.equal(wrapper.original_module.weight, base.get_parameter(f"{place}.weight"))


def test_the_backbones_own_embeddings_beside_trained_ones_are_to_be_those_of_the_backbone(
    backbone: str, tmp_path: Path
) -> None:
    run = saved_run(tmp_path / "run", backbone, "hycam", {"r": 2, "modules_to_save": ["embed_tokens"]})
    name = "base_model.model.model.embed_tokens.original_module.weight"
    own = load_backbone(backbone).get_input_embeddings().weight.detach().clone()
    change(run, lambda weights: weights.update({name: own}))
    run.load()
    change(run, lambda weights: weights[name][3].add_(1))
    with pytest.raises(HycamError, match=rf"{name} would change the backbone's own model.embed_tokens.weight"):
        run.load()


@pytest.mark.usefixtures("no_weights_are_read")
class TestBeforeTheBackboneIsRead:
    def test_another_shape_is_refused_with_both(self, run: Run) -> None:
        def cut(weights: dict[str, Tensor]) -> None:
            weights[first(weights)] = weights[first(weights)][..., :-1].contiguous()

        whole = load_file(run.adapter / "adapter_model.safetensors")
        name = first(whole)
        shape = list(whole[name].shape)
        change(run, cut)
        with pytest.raises(HycamError) as raised:
            run.load()
        assert f"{name} has the shape {[*shape[:-1], shape[-1] - 1]} in the file and {shape} here" in str(raised.value)

    def test_the_first_few_of_many_differences_are_told(self, run: Run) -> None:
        change(run, lambda weights: weights.update({name: value[:1] for name, value in weights.items()}))
        with pytest.raises(HycamError, match=r"has the shape .*; .* has the shape .*; .* has the shape .*; \.\.\. \("):
            run.load()

    def test_a_missing_weight_is_refused_by_name(self, run: Run) -> None:
        name = first(load_file(run.adapter / "adapter_model.safetensors"))
        change(run, lambda weights: weights.pop(name))
        with pytest.raises(HycamError, match=rf"no weights for {name} \(1 of "):
            run.load()

    def test_a_weight_of_a_layer_that_is_not_there_is_refused(self, run: Run) -> None:
        def add(weights: dict[str, Tensor]) -> None:
            name = first(weights)
            weights[name.replace(".layers.0.", ".layers.7.")] = weights[name].clone()

        change(run, add)
        with pytest.raises(HycamError, match=r"no place for: .*\.layers\.7\."):
            run.load()

    def test_a_weight_of_the_backbone_itself_is_refused(self, run: Run) -> None:
        name = "base_model.model.model.layers.0.mlp.up_proj.weight"
        change(run, lambda weights: weights.update({name: torch.zeros(48, 32)}))
        with pytest.raises(HycamError, match=rf"no place for: {name}.*would change the backbone"):
            run.load()

    @pytest.mark.parametrize("dtype", [torch.int64, torch.int8, torch.bool, torch.float8_e4m3fn])
    def test_a_type_that_is_not_floating_point_is_refused(self, run: Run, dtype: torch.dtype) -> None:
        name = first(load_file(run.adapter / "adapter_model.safetensors"))
        change(run, lambda weights: weights.update({name: weights[name].to(dtype)}))
        with pytest.raises(HycamError, match=rf"{name} of type {str(dtype)[6:]}.*float32, bfloat16, float16"):
            run.load()

    @pytest.mark.parametrize("value", [float("nan"), float("inf")])
    def test_a_non_finite_value_is_refused_by_name(self, run: Run, value: float) -> None:
        name = first(load_file(run.adapter / "adapter_model.safetensors"))
        change(run, lambda weights: weights[name][0].fill_(value))
        with pytest.raises(HycamError, match=f"{name} holds values that are not finite"):
            run.load()

    def test_an_adapter_of_another_method_is_refused(self, hycam_run: Run) -> None:
        change_config(hycam_run, peft_type="LORA")
        with pytest.raises(HycamError, match="is an adapter of LORA, but the recipe beside it trains HYCAM"):
            hycam_run.load()

    @pytest.mark.parametrize(
        "fields", [{"r": 10**9}, {"r": "two"}, {"r": None}, {"r": -1}, {"num_specialized": 10**12}, {"r": True},
                   {"target_modules": ["nothing"]}, {"target_modules": "("}, {"shared": 7}, {"peft_type": None},
                   {"task_type": "SEQ_CLS"}, {"r": 4}],
    )  # fmt: skip
    def test_a_configuration_that_was_changed_is_refused(self, hycam_run: Run, fields: dict[str, object]) -> None:
        change_config(hycam_run, **fields)
        with pytest.raises(HycamError, match="adapter"):
            hycam_run.load()

    @pytest.mark.parametrize("written", ["", "{", "[]", "null", '"text"', "{}", "[" * 100_000])
    def test_something_else_than_a_configuration_is_refused(self, hycam_run: Run, written: str) -> None:
        (hycam_run.adapter / "adapter_config.json").write_text(written)
        with pytest.raises(HycamError, match="adapter"):
            hycam_run.load()

    def test_a_configuration_cannot_name_code_to_import(self, backbone: str, tmp_path: Path, monkeypatch) -> None:
        lora = saved_run(tmp_path / "run", backbone, "lora")
        (tmp_path / "evil_core.py").write_text(f"open({str(tmp_path / 'mark')!r}, 'w')\n")
        monkeypatch.syspath_prepend(str(tmp_path))
        change_config(lora, megatron_core="evil_core", megatron_config={"tensor_model_parallel_size": 1})
        with pytest.raises(HycamError, match=r"megatron_config=.*but the recipe beside it gives None"):
            lora.load()
        assert not (tmp_path / "mark").exists()

    @pytest.mark.parametrize("verb", ["evaluate", "generate", "inspect"])
    def test_pickled_weights_are_refused_in_every_verb_and_not_run(
        self, hycam_run: Run, verb: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        (hycam_run.adapter / "adapter_model.safetensors").unlink()
        plant(hycam_run.adapter / "adapter_model.bin", tmp_path / "mark")
        assert main([verb, str(hycam_run.folder), *(["Hello"] if verb == "generate" else [])]) == 1
        said = capsys.readouterr().err
        assert "adapter_model.bin, which is a pickle" in said
        assert "Traceback" not in said
        assert not (tmp_path / "mark").exists()


def with_header(whole: bytes, change: Callable[[dict], object]) -> bytes:
    """The file with its header changed and its data left."""
    (length,) = struct.unpack("<Q", whole[:8])
    header = json.loads(whole[8 : 8 + length])
    text = json.dumps(change(header) or header).encode()
    return struct.pack("<Q", len(text)) + text + whole[8 + length :]


def with_first(whole: bytes, **fields: object) -> bytes:
    """The file with what its header says of one tensor changed."""
    return with_header(whole, lambda header: header[tensors(header)[0]].update(fields))


def tensors(header: dict) -> list[str]:
    return [name for name in header if name != "__metadata__"]


def overlap(header: dict) -> None:
    one, other, *_ = tensors(header)
    header[other]["data_offsets"] = header[one]["data_offsets"]


DAMAGES: dict[str, Callable[[bytes], bytes]] = {
    "empty": lambda whole: b"",
    "cut in the length": lambda whole: whole[:5],
    "cut in the header": lambda whole: whole[:40],
    "cut in the data": lambda whole: whole[:-3],
    "more than it says": lambda whole: whole + b"\0" * 8,
    "a length of an exabyte": lambda whole: struct.pack("<Q", 1 << 60) + whole[8:],
    "a header that is not JSON": lambda whole: whole[:8] + b"x" * (len(whole) - 8),
    "a header that is a list": lambda whole: with_header(whole, lambda header: [1]),
    "a header without tensors": lambda whole: struct.pack("<Q", 2) + b"{}",
    "offsets that overlap": lambda whole: with_header(whole, overlap),
    "offsets beyond the end": lambda whole: with_first(whole, data_offsets=[0, 1 << 50]),
    "offsets backwards": lambda whole: with_first(whole, data_offsets=[8, 0]),
    "a shape larger than its data": lambda whole: with_first(whole, shape=[1 << 40, 1 << 40]),
    "a type that there is not": lambda whole: with_first(whole, dtype="F7"),
    "a pickle": lambda whole: b"\x80\x04cos\nsystem\n",
}


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.usefixtures("no_weights_are_read")
def test_a_damaged_file_is_refused_by_its_name(hycam_run: Run, damage: str) -> None:
    path = hycam_run.adapter / "adapter_model.safetensors"
    path.write_bytes(DAMAGES[damage](path.read_bytes()))
    with pytest.raises(HycamError, match=r"adapter_model\.safetensors|The adapter has no weights|is damaged"):
        hycam_run.load()


@pytest.mark.parametrize("method", ["hycam", "multilora", "moe-lora"])
@pytest.mark.parametrize("wrong", ["shape", "missing", "type", "backbone"])
def test_plain_peft_changes_nothing_when_it_refuses(backbone: str, tmp_path: Path, method: str, wrong: str) -> None:
    good, bad = (saved_run(tmp_path / name, backbone, method) for name in ("good", "bad"))

    def spoil(weights: dict[str, Tensor]) -> None:
        name = max(weights)  # the last, so that the ones before it would have been copied
        if wrong == "shape":
            weights[name] = weights[name][:1].contiguous()
        elif wrong == "missing":
            del weights[name]
        elif wrong == "type":
            weights[name] = weights[name].to(torch.int64)
        else:
            weights["base_model.model.model.norm.weight"] = torch.zeros(32)

    change(bad, spoil)
    model = PeftModel.from_pretrained(load_backbone(backbone), str(good.adapter))
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with pytest.raises(HycamError, match="The adapter"):
        model.load_adapter(str(bad.adapter), "default")
    with pytest.raises(HycamError, match="The adapter"):
        model.load_adapter(str(bad.adapter), "other")
    after = model.state_dict()
    for name, value in before.items():
        assert torch.equal(after[name], value), name
    assert model.active_adapters == ["default"]
    base = load_backbone(backbone)
    own = {name: value.clone() for name, value in base.state_dict().items()}
    with pytest.raises(HycamError, match="The adapter"):
        PeftModel.from_pretrained(base, str(bad.adapter))
    left = {name.replace(".base_layer", ""): value for name, value in base.state_dict().items()}
    for name, value in own.items():
        assert torch.equal(left[name], value), name
