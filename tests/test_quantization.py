"""Backbones in 8 and 4 bits: what an adapter does to them, and that nothing is done to their weights.

On a CPU a layer in 8 bits computes with its weights as they are in training, and with inputs in 8 bits too in
evaluation. So each mode is compared with itself.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from peft import PeftModel, get_peft_model, prepare_model_for_kbit_training
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, BitsAndBytesConfig, PreTrainedModel
from transformers.pytorch_utils import Conv1D

from architectures import ARCHITECTURES, tiny, tokens
from contract.cases import train_by_chance
from hycam import HyCAMConfig, backbones
from hycam.adapt import adapt
from hycam.errors import HycamError

bitsandbytes = pytest.importorskip("bitsandbytes")

QUICK = ("llama", "gpt2", "phi")  # without biases, with Conv1D, with biases
OTHERS = [pytest.param(name, marks=pytest.mark.soak) for name in ARCHITECTURES if name not in QUICK]
both = pytest.mark.parametrize("quantization", ["8bit", "4bit"])


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], str]:
    made: dict[str, str] = {}

    def of(architecture: str) -> str:
        if architecture not in made:
            made[architecture] = str(tmp_path_factory.mktemp(architecture))
            tiny(architecture).save_pretrained(made[architecture])
        return made[architecture]

    return of


def layers(model: nn.Module) -> dict[str, nn.Module]:
    """The quantised layers by their names in the backbone."""
    kinds = (bitsandbytes.nn.Linear4bit, bitsandbytes.nn.Linear8bitLt)
    return {
        name.replace("base_model.model.", "").replace(".base_layer", ""): module
        for name, module in model.named_modules()
        if isinstance(module, kinds)
    }


def parts(layer: nn.Module) -> list[Tensor]:
    """All that a quantised weight is made of."""
    weight = layer.weight
    if weight.dtype == torch.int8:
        return [weight.data, weight.SCB if weight.SCB is not None else layer.state.SCB]
    state = weight.quant_state
    return [weight.data, state.absmax, state.code, state.offset, state.state2.absmax, state.state2.code]


def held(model: nn.Module) -> dict[str, list[Tensor]]:
    return {name: [part.clone() for part in parts(layer)] for name, layer in layers(model).items()}


def same(one: dict[str, list[Tensor]], other: dict[str, list[Tensor]]) -> bool:
    return one.keys() == other.keys() and all(
        torch.equal(a, b) for name in one for a, b in zip(one[name], other[name], strict=True)
    )


def dequantized(model: PreTrainedModel, plain: PreTrainedModel) -> PreTrainedModel:
    """``plain``, in float32, with the very weights that the quantised model has, taken layer by layer."""
    for name, layer in layers(model).items():
        weight = layer.weight
        if weight.dtype == torch.int8:
            scale = weight.SCB if weight.SCB is not None else layer.state.SCB
            value = weight.data.float() * scale[:, None] / 127
        else:
            value = bitsandbytes.functional.dequantize_4bit(weight.data, weight.quant_state).float()
        target = plain.get_submodule(name)
        target.weight.data = value.T if isinstance(target, Conv1D) else value
    return plain


def gradients(model: nn.Module) -> dict[str, Tensor]:
    """Of one training step's loss to the adapter's weights, and the loss itself."""
    model.train()
    model.zero_grad()
    ids = tokens(2, 9)
    loss = model(input_ids=ids, labels=ids).loss
    loss.backward()
    found = {name.replace(".base_layer", ""): w.grad.clone() for name, w in model.named_parameters() if w.requires_grad}
    return {"loss": loss.detach(), **found}


@both
def test_the_weights_take_a_quarter_or_an_eighth(folder, quantization: str) -> None:
    model = backbones.load(folder("llama"), quantization=quantization)
    plain = tiny("llama")
    found = layers(model)
    assert found.keys() == {name for name, m in plain.named_modules() if isinstance(m, nn.Linear)} - {"lm_head"}
    numbers = sum(plain.get_submodule(name).weight.numel() for name in found)
    weights = sum(parts(layer)[0].numel() * parts(layer)[0].element_size() for layer in found.values())
    assert weights == numbers // {"8bit": 1, "4bit": 2}[quantization]
    assert model.num_parameters() == plain.num_parameters()
    assert {weight.dtype for weight in model.parameters()} == {
        torch.float32,
        torch.int8 if quantization == "8bit" else torch.uint8,
    }


@both
@pytest.mark.parametrize("architecture", [*QUICK, *OTHERS])
def test_an_untrained_adapter_changes_no_bit_and_leaves_as_it_came(
    folder, architecture: str, quantization: str
) -> None:
    if (architecture, quantization) == ("deepseek_v3", "8bit"):  # bitsandbytes takes no input of four dimensions
        with pytest.raises(HycamError, match=r"cannot run as it is quantised \(deepseek_v3 on cpu\): "):
            backbones.load(folder(architecture), quantization=quantization)
        return
    model = backbones.load(folder(architecture), quantization=quantization)
    ids, before = tokens(), held(model)

    def logits(of: nn.Module, training: bool) -> Tensor:
        with torch.no_grad():
            return of.train(training)(input_ids=ids).logits

    base = [logits(model, training) for training in (False, True)]
    adapted = get_peft_model(model, HyCAMConfig(r=4, task_type="CAUSAL_LM"))
    assert all(weight.dtype == torch.float32 for weight in adapted.parameters() if weight.requires_grad)
    for training in (False, True):
        assert torch.equal(logits(adapted, training), base[training])
    train_by_chance(adapted, 3)
    for training in (False, True):
        assert not torch.equal(logits(adapted, training), base[training])
        with adapted.disable_adapter():
            assert torch.equal(logits(adapted, training), base[training])
    assert same(held(adapted), before)
    assert torch.equal(logits(adapted.unload(), False), base[False])


@both
@pytest.mark.parametrize("method", ["hycam", "hycam-ffn", "multilora", "moe-lora", "lora"])
def test_the_gradients_are_those_on_a_float_copy_of_the_same_weights(folder, method: str, quantization: str) -> None:
    """Before a validation and after one, which on some CPUs would lay the weights out anew."""
    settings = {"r": 4, "noise": "never"} if method == "hycam" else {"r": 4}
    for architecture in QUICK if method == "hycam" else QUICK[:1]:
        model = backbones.load(folder(architecture), quantization=quantization)
        found = []
        before = held(model)
        for backbone in (dequantized(model, tiny(architecture)), model):
            adapted = adapt(backbone, method, settings)
            train_by_chance(adapted, 3)
            found.append(gradients(adapted))
        plain, first = found
        with torch.no_grad():
            adapted.eval()(input_ids=tokens(3, 9))
        again = gradients(adapted)
        assert same(held(model), before)
        assert plain.keys() == first.keys() == again.keys() and len(plain) > 5
        for name, value in plain.items():
            scale = value.abs().max().item()
            torch.testing.assert_close(first[name], value, rtol=1e-3, atol=2e-5 * scale, msg=lambda m, n=name: n + m)
            assert torch.equal(again[name], first[name])


@both
def test_an_adapter_alone_is_saved_and_loads_on_both_kinds_of_backbone(folder, tmp_path, quantization: str) -> None:
    path = folder("llama")
    adapted = adapt(backbones.load(path, quantization=quantization), "hycam", {"r": 4})
    train_by_chance(adapted, 3)
    adapted.save_pretrained(tmp_path / "adapter")
    assert {file.name for file in (tmp_path / "adapter").iterdir()} >= {"adapter_model.safetensors"}
    ids = tokens()
    with torch.no_grad():
        wanted = adapted.eval()(input_ids=ids).logits
        again = PeftModel.from_pretrained(backbones.load(path, quantization=quantization), tmp_path / "adapter").eval()
        assert torch.equal(again(input_ids=ids).logits, wanted)
        plain = PeftModel.from_pretrained(backbones.load(path), tmp_path / "adapter").eval()
        base = tiny("llama")
        close = (plain(input_ids=ids).logits - wanted).abs().mean()
        assert close < (base(input_ids=ids).logits - wanted).abs().mean()
    ours = {name: weight for name, weight in adapted.named_parameters() if ".hycam_" in name}
    theirs = dict(plain.named_parameters())
    assert ours and all(torch.equal(theirs[name], weight) for name, weight in ours.items())


@both
def test_a_backbone_that_peft_prepared_is_adapted_like_any_other(folder, quantization: str) -> None:
    """The usual first line of a script: norms and embeddings become float32 beside layers that compute in bfloat16."""
    model = backbones.load(folder("llama"), torch.bfloat16, quantization=quantization)
    kept = {"use_reentrant": False}
    model = prepare_model_for_kbit_training(model, gradient_checkpointing_kwargs=kept)
    ids = tokens()
    with torch.no_grad():
        base = model.eval()(input_ids=ids).logits
    adapted = get_peft_model(model, HyCAMConfig(r=4, noise="never", task_type="CAUSAL_LM"))
    with torch.no_grad():
        assert torch.equal(adapted.eval()(input_ids=ids).logits, base)
    train_by_chance(adapted, 3)
    found = gradients(adapted)
    assert all(torch.isfinite(value).all() and value.abs().sum() > 0 for value in found.values())


@both
def test_what_was_saved_in_few_bits_is_loaded_as_it_is(folder, tmp_path: Path, quantization: str) -> None:
    model = backbones.load(folder("llama"), quantization=quantization)
    model.save_pretrained(tmp_path)
    again = backbones.load(tmp_path)
    assert same(held(again), held(model))
    assert all(not getattr(layer, "support_avx512bf16_for_cpu", False) for layer in layers(again).values())
    with pytest.raises(
        HycamError, match=r"quantised already \(bitsandbytes\), and its weights cannot be quantised again"
    ):
        backbones.load(tmp_path, quantization=quantization)


def test_a_script_that_validates_in_between_keeps_its_gradients(folder) -> None:
    """Loaded by transformers itself, whose layers on some CPUs would have no backward pass after an evaluation."""
    settings = BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=torch.float32)
    model = AutoModelForCausalLM.from_pretrained(folder("llama"), quantization_config=settings, device_map="cpu")
    adapted = get_peft_model(model, HyCAMConfig(r=4, noise="never", task_type="CAUSAL_LM"))
    train_by_chance(adapted, 3)
    before = gradients(adapted)
    with torch.no_grad():
        adapted.eval()(input_ids=tokens(3, 9))
    assert all(torch.equal(value, before[name]) for name, value in gradients(adapted).items())


@both
@pytest.mark.parametrize(("method", "merge"), [("multilora", "merge_and_unload"), ("hycam-ffn", "merge_ffn")])
def test_a_quantised_layer_is_not_merged(folder, method: str, merge: str, quantization: str) -> None:
    adapted = adapt(backbones.load(folder("llama"), quantization=quantization), method, {"r": 4})
    before = held(adapted)
    with pytest.raises(ValueError, match="cannot be merged into quantised weights"):
        getattr(adapted, merge)()
    assert same(held(adapted), before)


def test_what_cannot_be_quantised_is_refused_before_anything_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backbones, "config", lambda _: pytest.fail("the backbone was looked at"))
    with pytest.raises(HycamError, match=r'quantization is "2bit": 8bit or 4bit was expected'):
        backbones.load("any", quantization="2bit")
    with monkeypatch.context() as patch:
        patch.setattr(bitsandbytes, "supported_torch_devices", {"cuda"})
        with pytest.raises(HycamError, match=r"4bit does not work on cpu: bitsandbytes 0.* works on cuda"):
            backbones.load("any", quantization="4bit")
    monkeypatch.setattr("hycam.quantization.is_bitsandbytes_available", lambda *_: False)
    with pytest.raises(HycamError, match=r"needs the package bitsandbytes.*hycam\[quantization\]"):
        backbones.load("any", quantization="8bit")


def size(model: PreTrainedModel) -> int:
    """Bytes of all weights, scales included."""
    scales = [part for layer in layers(model).values() for part in parts(layer)[1:] if part.numel() > 256]
    return sum(part.numel() * part.element_size() for part in [*model.parameters(), *scales])


@pytest.mark.soak
@pytest.mark.real
@pytest.mark.parametrize(("quantization", "share"), [("8bit", 0.41), ("4bit", 0.32)])
def test_of_the_real_backbone_the_embeddings_alone_stay_and_gradients_are_right(
    quantization: str, share: float
) -> None:
    model = backbones.load("smollm2-135m", quantization=quantization)
    plain = backbones.load("smollm2-135m")
    assert size(model) < share * size(plain)
    found = []
    for backbone in (dequantized(model, plain), model):
        adapted = adapt(backbone, "hycam", {"noise": "never"})
        train_by_chance(adapted, 3)
        for name, weight in adapted.named_parameters():
            if "hycam_" in name:
                weight.data.mul_(0.03)
        found.append(gradients(adapted))
    for name, value in found[0].items():
        scale = value.abs().max().item()
        torch.testing.assert_close(found[1][name], value, rtol=1e-2, atol=1e-3 * scale, msg=lambda m, n=name: n + m)
