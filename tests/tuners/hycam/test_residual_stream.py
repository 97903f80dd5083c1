"""The released code's form: what the block passes on is ``(residual + attention output) * (1 + m)``."""

from __future__ import annotations

import copy
import gc
import io
import weakref

import pytest
import torch
from peft import PeftModel, get_peft_model
from torch import Tensor
from torch.nn import functional as F

from architectures import tiny, tokens
from hycam import HyCAMConfig
from hycam.errors import HycamError
from hycam.tuners.hycam import HyCAMLayer

FAMILIES = ["llama", "mistral", "qwen2"]


def config(**settings) -> HyCAMConfig:
    return HyCAMConfig(
        **{"task_type": "CAUSAL_LM", "r": 4, "num_specialized": 3, "modulation_target": "residual_stream", **settings}
    )


def trained(architecture: str = "llama", dtype: torch.dtype = torch.float32, **settings) -> PeftModel:
    settings = {"init_weights": False, "noise": "never", **settings}
    return get_peft_model(tiny(architecture, dtype=dtype), config(**settings)).eval()


def layers(model) -> list[HyCAMLayer]:
    return [module for module in model.modules() if isinstance(module, HyCAMLayer)]


def pre_hooks(model) -> int:
    return sum(len(module._forward_pre_hooks) for module in model.modules())


@torch.no_grad()
def logits(model, ids: Tensor | None = None) -> Tensor:
    return model(input_ids=tokens() if ids is None else ids).logits


def modulation_by_hand(h: Tensor, layer: HyCAMLayer, alpha: float) -> Tensor:
    """m of one layer with all biases and hard routing without noise, straight from the equations."""

    def weight(name: str) -> Tensor:
        return getattr(layer, name)["default"].weight

    shared, router = layer.hycam_shared["default"], layer.hycam_router["default"]
    m = F.silu(h @ shared.weight.T + shared.bias)
    chosen = (h @ router.weight.T + router.bias).argmax(-1)
    for k in range(3):
        u = h @ weight("hycam_A")[k].T + weight("hycam_A_bias")[k]
        v = u @ weight("hycam_N")[k].T + weight("hycam_N_bias")[k]
        w = v @ weight("hycam_B")[k].T + weight("hycam_B_bias")[k]
        m = m + (chosen == k)[..., None] * F.silu(alpha / 4 * w)
    return m


@pytest.mark.parametrize("train_norms", [False, True])
@pytest.mark.parametrize("architecture", FAMILIES)
def test_a_block_computes_what_the_released_code_computes(architecture: str, train_norms: bool) -> None:
    settings = {"routing": "hard", "alpha": 32, "use_bias": True, "router_bias": True, "train_norms": train_norms}
    model = trained(architecture, torch.float64, **settings)
    blocks = model.base_model.model.model.layers
    seen: list[dict[str, Tensor]] = [{} for _ in blocks]
    for block, kept in zip(blocks, seen, strict=True):
        block.register_forward_hook(lambda _, args, output, kept=kept: kept.update(residual=args[0], output=output))
        block.self_attn.base_layer.register_forward_hook(
            lambda _, args, kwargs, output, kept=kept: kept.update(h=kwargs["hidden_states"], attended=output[0]),
            with_kwargs=True,
        )
    logits(model)
    for block, kept in zip(blocks, seen, strict=True):
        with torch.no_grad():
            m = modulation_by_hand(kept["h"], block.self_attn, 32)
            stream = (kept["residual"] + kept["attended"]) * (1 + m)
            expected = stream + block.mlp(block.post_attention_layernorm(stream))
        torch.testing.assert_close(kept["output"], expected, rtol=1e-10, atol=1e-10)
        assert m.abs().max() > 0.1


@pytest.mark.parametrize("architecture", ["gpt2", "phi", "gemma2", "olmo2"])
def test_other_architectures_are_refused_before_anything_is_wrapped(architecture: str) -> None:
    base = tiny(architecture)
    names = [name for name, _ in base.named_modules()]
    with pytest.raises(HycamError, match=rf"residual_stream.*llama, mistral, qwen2.*not for {architecture}"):
        get_peft_model(base, config())
    assert [name for name, _ in base.named_modules()] == names


def test_an_adapter_that_is_refused_leaves_the_others_working() -> None:
    model = trained()
    expected = logits(model)
    with pytest.raises(ValueError, match="nothing in the layers"):
        model.add_adapter("wrong", config(layers_to_transform=[7]))
    assert torch.equal(logits(model), expected)


def test_the_attention_module_alone_has_no_residual_to_modulate() -> None:
    layer = layers(trained("mistral"))[0]
    with pytest.raises(HycamError, match="called outside its block"):
        layer(
            torch.randn(1, 3, 32), position_embeddings=(torch.ones(1, 3, 8), torch.zeros(1, 3, 8)), attention_mask=None
        )


def test_disabling_unloading_and_deleting_give_the_backbone_back_without_hooks() -> None:
    base = tiny()
    expected = logits(base)
    for train_norms in (False, True):
        model = get_peft_model(copy.deepcopy(base), config(init_weights=False, noise="never", train_norms=train_norms))
        assert not torch.equal(logits(model), expected)
        with model.disable_adapter():
            assert torch.equal(logits(model), expected)
        other = copy.deepcopy(model)
        other.delete_adapter("default")
        assert torch.equal(logits(other), expected)
        unloaded = model.unload()
        assert torch.equal(logits(unloaded), expected)
        assert pre_hooks(other) == pre_hooks(unloaded) == 0


@pytest.mark.parametrize("first", ["attention_output", "residual_stream"])
def test_adapters_of_both_forms_with_and_without_norms_share_a_backbone(first: str) -> None:
    second = {"attention_output": "residual_stream", "residual_stream": "attention_output"}[first]
    forms = {
        "one": {"modulation_target": first},
        "two": {"modulation_target": second, "train_norms": True},
        "three": {"modulation_target": first, "train_norms": True},
    }
    model, alone = None, {}
    for name, form in forms.items():
        settings = config(init_weights=False, noise="never", **form)
        torch.manual_seed(3)
        alone[name] = logits(get_peft_model(tiny(), copy.deepcopy(settings), adapter_name=name).eval())
        torch.manual_seed(3)
        if model is None:
            model = get_peft_model(tiny(), settings, adapter_name=name).eval()
        else:
            model.add_adapter(name, settings)
    model.eval()
    for name in ("two", "one", "three", "one", "two"):
        model.set_adapter(name)
        assert torch.equal(logits(model), alone[name])
    model.delete_adapter("three")
    assert torch.equal(logits(model), alone["two"])


def test_a_copy_and_a_pickled_model_compute_the_same_and_keep_their_own_residual() -> None:
    model = trained(train_norms=True)
    expected = logits(model)
    stream = io.BytesIO()
    torch.save(model, stream)
    stream.seek(0)
    for twin in (copy.deepcopy(model), torch.load(stream, weights_only=False)):
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(1)  # what the copy shares with the original would show
        assert torch.equal(logits(twin), expected)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.sub_(1)
        twin.delete_adapter("default")
        assert pre_hooks(twin) == 0
    assert pre_hooks(model) == 2


@pytest.mark.parametrize("disabled", [False, True])
def test_the_residual_does_not_outlive_the_forward(disabled: bool) -> None:
    model = trained()
    seen = []
    for layer in layers(model):
        layer.register_forward_pre_hook(lambda layer, _: seen.append(weakref.ref(layer.hycam_residual)))
    if disabled:
        model.base_model.disable_adapter_layers()
    logits(model)
    gc.collect()
    assert len(seen) == 2
    assert all(reference() is None for reference in seen)
    assert all(layer.hycam_residual is None for layer in layers(model))


def test_the_compiled_model_is_one_graph_with_the_same_loss_and_gradients() -> None:
    results = []
    for compiled in (False, True):
        torch.manual_seed(0)
        model = trained(train_norms=True, balance_weight=0.0).train()
        inner = model.base_model.model  # the tuner's forward, with the balance loss, is compiled in test_balance.py
        # "eager" traces as the default does, without needing a C++ compiler.
        run = torch.compile(inner, backend="eager", fullgraph=True) if compiled else inner
        loss = run(input_ids=tokens(), labels=tokens(), use_cache=False).loss
        loss.backward()
        results.append((loss.detach(), {name: p.grad for name, p in model.named_parameters() if p.grad is not None}))
        assert all(layer.hycam_residual is None for layer in layers(model))
    torch.testing.assert_close(results[1], results[0])
