"""A layer computes with packed weights in inference, and never with those of another adapter, type or moment."""

from __future__ import annotations

import copy
import io
import logging

import pytest
import torch
from peft import PeftModel, get_peft_model, get_peft_model_state_dict, set_peft_model_state_dict
from torch import Tensor, nn

from architectures import tiny, tokens
from hycam import HyCAMConfig, set_backend
from hycam.ops import dispatch
from hycam.ops.packed import pack
from hycam.tuners.hycam import HyCAMLayer, packed_weights
from hycam.tuners.hycam.recorder import RoutingRecorder

VARIANTS = [
    {},
    {"routing": "hard"},
    {"use_bias": True, "router_bias": True, "alpha": 8},
    {"shared": "low_rank", "use_bias": True},
    {"shared": "none"},
    {"shared": "low_rank", "specialized": "none"},
    {"modulation_target": "residual_stream"},
]


def config(**settings) -> HyCAMConfig:
    settings = {"r": 4, "num_specialized": 3, "init_weights": False, **settings}
    return HyCAMConfig(task_type="CAUSAL_LM", **settings)


def trained(**settings) -> PeftModel:
    return get_peft_model(tiny(), config(**settings)).eval()


def layers(model) -> list[HyCAMLayer]:
    return [module for module in model.modules() if isinstance(module, HyCAMLayer)]


def kept(model) -> int:
    return sum(layer.hycam_packed._kept is not None for layer in layers(model))


@torch.no_grad()
def logits(model, ids: Tensor | None = None) -> Tensor:
    return model(input_ids=tokens() if ids is None else ids).logits


def by_formula(model, ids: Tensor | None = None) -> Tensor:
    with set_backend("reference"):
        return logits(model, ids)


def assert_current(model, ids: Tensor | None = None) -> None:
    torch.testing.assert_close(logits(model, ids), by_formula(model, ids), rtol=0, atol=1e-5)


@pytest.mark.parametrize("settings", VARIANTS, ids=str)
def test_inference_is_packed_and_equals_the_formula_for_prompts_and_single_tokens(settings: dict) -> None:
    model = trained(**settings)
    for ids in (tokens(), tokens(1, 1), tokens(2, 1)):
        assert_current(model, ids)
        assert kept(model) == 2


@pytest.mark.parametrize("settings", [{"specialized": "full"}, {"specialized": "none"}, {"noise": "always"}], ids=str)
def test_what_cannot_be_packed_or_draws_noise_is_computed_without(settings: dict) -> None:
    model = trained(**settings)
    logits(model)
    assert kept(model) == 0


def test_packed_weights_are_kept_from_one_forward_to_the_next(monkeypatch) -> None:
    model, made = trained(), []
    monkeypatch.setattr(packed_weights, "pack", lambda weights: made.append(1) or pack(weights))
    for _ in range(3):
        logits(model)
        logits(model, tokens(1, 1))
    assert len(made) == 2  # one a layer


class _Attention(nn.Module):
    """Returns what it is given."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1))

    def forward(self, hidden_states: Tensor) -> tuple[Tensor, None]:
        return hidden_states, None


def one_layer() -> HyCAMLayer:
    layer = HyCAMLayer(_Attention(), 12, 0.02, "attention", RoutingRecorder())
    layer.update_layer("default", config(use_bias=True, router_bias=True, alpha=6))
    layer.set_adapter("default")
    return layer.double().eval()


WEIGHTS = list(one_layer().adapter_parameters("default"))


def _replace(layer: HyCAMLayer, name: str) -> None:
    holder, _, key = name.rpartition(".")
    setattr(layer.get_submodule(holder), key, nn.Parameter(layer.get_parameter(name) + 1))


def _replace_the_module(layer: HyCAMLayer, name: str) -> None:
    attribute = name.partition(".")[0]
    holder = copy.deepcopy(getattr(layer, attribute))
    setattr(layer, attribute, holder)
    layer.get_parameter(name).add_(1)


def _load(layer: HyCAMLayer, name: str, assign: bool = False) -> None:
    layer.load_state_dict({**layer.state_dict(), name: layer.state_dict()[name] + 1}, assign=assign)


def _step(layer: HyCAMLayer, name: str, fused: bool = False) -> None:
    parameter = layer.get_parameter(name)
    parameter.grad = torch.ones_like(parameter)
    torch.optim.AdamW([parameter], lr=1.0, foreach=False, fused=fused).step()


# What a forward of one token sees, and what only the sample of values shows, which is taken where there are more.
SEEN_AT_ONCE = {
    "an optimizer's step": _step,
    "a fused step": lambda layer, name: _step(layer, name, fused=True),
    "a step of all at once": lambda layer, name: torch._foreach_add_([layer.get_parameter(name)], 1.0),
    "a write in place": lambda layer, name: layer.get_parameter(name).add_(1),
    "a write of one value": lambda layer, name: layer.get_parameter(name).view(-1)[-1].add_(1),
    "another parameter": _replace,
    "another module": _replace_the_module,
    "load_state_dict": _load,
    "load_state_dict(assign=True)": lambda layer, name: _load(layer, name, assign=True),
    "other data": lambda layer, name: setattr(layer.get_parameter(name), "data", layer.get_parameter(name).data + 1),
    "another type": lambda layer, name: nn.Module._apply(layer, Tensor.float),
}
SEEN_BY_THE_SAMPLE = {
    "data.copy_": lambda layer, name: layer.get_parameter(name).data.copy_(layer.get_parameter(name).data + 1),
    "data.add_": lambda layer, name: layer.get_parameter(name).data.add_(1),
}


@pytest.mark.parametrize("name", WEIGHTS)
@pytest.mark.parametrize("change", [*SEEN_AT_ONCE, *SEEN_BY_THE_SAMPLE])
@pytest.mark.parametrize("guard", [torch.no_grad, torch.inference_mode])
def test_after_any_change_of_any_weight_the_next_forward_is_of_the_new_weights(change: str, name: str, guard) -> None:
    layer = one_layer()
    h = torch.randn(1, 3, 12, dtype=torch.float64)
    h = h if change in SEEN_BY_THE_SAMPLE else h[:, :1]
    with guard():
        before, _ = layer(h)
    old = layer.hycam_packed._kept
    with torch.no_grad():
        {**SEEN_AT_ONCE, **SEEN_BY_THE_SAMPLE}[change](layer, name)
    with guard():
        after, _ = layer(h)
        new = layer.hycam_packed._kept
        assert new is not old
        with set_backend("reference"):
            expected, _ = layer(h)
        torch.testing.assert_close(after, expected, rtol=1e-5, atol=1e-5)
        assert change == "another type" or not torch.equal(after, before)
        layer(h)
        assert layer.hycam_packed._kept is new


def test_another_parameter_over_the_same_memory_with_as_many_writes_is_not_taken_for_the_first() -> None:
    layer, h = one_layer(), torch.randn(1, 1, 12, dtype=torch.float64)
    with torch.no_grad():
        layer.hycam_A["default"].weight.add_(1)
        before, _ = layer(h)
        layer.hycam_A["default"].weight = nn.Parameter(layer.hycam_A["default"].weight.data)
        layer.hycam_A["default"].weight.add_(1)
        assert not torch.equal(layer(h)[0], before)


def test_only_whole_parameters_are_packed() -> None:
    # FSDP gathers views that are no parameters, ZeRO marks what it gathers.
    for change in (
        lambda layer: setattr(layer.hycam_B["default"].weight, "ds_id", 3),
        lambda layer: _as_plain_tensor(layer.hycam_B["default"], "weight"),
    ):
        layer, h = one_layer(), torch.randn(1, 3, 12, dtype=torch.float64)
        change(layer)
        with torch.no_grad():
            found, _ = layer(h)
            assert layer.hycam_packed._kept is None
            with set_backend("reference"):
                torch.testing.assert_close(found, layer(h)[0])


def _as_plain_tensor(holder: nn.Module, key: str) -> None:
    tensor = holder._parameters.pop(key).detach().clone()
    object.__setattr__(holder, key, tensor)


def test_a_training_forward_and_one_with_gradients_drop_them() -> None:
    model = trained()
    for training, gradients in ((True, True), (True, False), (False, True)):
        logits(model.eval())
        assert kept(model) == 2
        with torch.set_grad_enabled(gradients):
            model.train(training)(input_ids=tokens(), labels=tokens() if training and gradients else None)
        assert kept(model) == 0


def test_after_training_steps_the_evaluation_is_of_the_new_weights() -> None:
    model = trained(noise="never")
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=0.05)
    for _ in range(3):
        before = logits(model.eval())
        model.train()(input_ids=tokens(), labels=tokens()).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        assert (logits(model.eval()) - before).abs().max() > 1e-3
        assert_current(model)


@torch.no_grad()
def test_weights_written_between_two_decoding_steps_are_noticed() -> None:
    model, token = trained(), tokens(1, 1)
    for name, parameter in model.named_parameters():
        if "hycam_" in name:
            before = logits(model, token)
            parameter.mul_(1.5)
            assert not torch.equal(logits(model, token), before), name
            assert_current(model, token)


@torch.no_grad()
def test_weights_swapped_through_data_are_noticed_by_the_next_prompt() -> None:
    # As an exponential moving average is swapped in and out.
    model = trained()
    own, average = logits(model), {}
    for name, parameter in model.named_parameters():
        if "hycam_" in name:
            average[name] = parameter.clone()
            parameter.data.mul_(0.5)
    assert not torch.equal(logits(model), own)
    assert_current(model)
    for name, value in average.items():
        model.get_parameter(name).data.copy_(value)
    assert torch.equal(logits(model), own)


def test_loading_another_state_is_noticed_copied_or_assigned() -> None:
    torch.manual_seed(1)
    other = trained()
    expected = logits(other)
    for assign in (False, True):
        model = trained()
        logits(model)
        model.load_state_dict(other.state_dict(), assign=assign)
        assert torch.equal(logits(model), expected)
    model = trained()
    logits(model)
    set_peft_model_state_dict(model, get_peft_model_state_dict(other))
    assert torch.equal(logits(model), expected)


def test_switching_deleting_and_disabling_adapters_is_noticed_and_leaves_nothing_behind() -> None:
    model = trained()
    model.add_adapter("other", config(routing="hard"))
    model.eval()
    by_name = {}
    for name in ("default", "other"):
        model.set_adapter(name)
        assert kept(model) == 0
        by_name[name] = logits(model)
        assert_current(model)
    assert not torch.equal(*by_name.values())
    model.set_adapter("default")
    assert torch.equal(logits(model), by_name["default"])
    with model.disable_adapter():
        assert torch.equal(logits(model), logits(tiny()))
    assert torch.equal(logits(model), by_name["default"])
    with pytest.warns(UserWarning, match="default was active"):
        model.delete_adapter("default")
    assert kept(model) == 0
    assert torch.equal(logits(model), by_name["other"])
    model.delete_adapter("other")
    assert kept(model) == 0
    assert torch.equal(logits(model), logits(tiny()))


def test_an_adapter_made_active_past_set_adapter_is_noticed() -> None:
    model = trained()
    model.add_adapter("other", config())
    model.eval()
    before = logits(model)
    for layer in layers(model):
        layer._active_adapter = "other"
    assert not torch.equal(logits(model), before)
    assert_current(model)


def test_a_change_of_type_and_a_move_drop_them() -> None:
    model = trained()
    logits(model)
    for move in (lambda: model.double(), lambda: model.bfloat16(), lambda: model.float(), lambda: model.to("cpu")):
        move()
        assert kept(model) == 0
        found = logits(model)
        torch.testing.assert_close(
            found, by_formula(model), rtol=0, atol=0.05 if found.dtype == torch.bfloat16 else 1e-5
        )
        assert kept(model) == 2
    assert_current(model)


def test_a_change_of_the_configuration_is_noticed() -> None:
    model = trained(use_bias=True)
    for name, value in (("temperature", 0.1), ("alpha", 16.0), ("routing", "hard")):
        before = logits(model)
        for layer in layers(model):
            setattr(layer.hycam_config["default"], name, value)
        assert not torch.equal(logits(model), before)
        assert_current(model)


def test_copied_and_pickled_models_pack_their_own_weights() -> None:
    model = trained()
    expected = logits(model)
    stream = io.BytesIO()
    torch.save(model, stream)
    stream.seek(0)
    for twin in (copy.deepcopy(model), torch.load(stream, weights_only=False)):
        assert kept(twin) == 0
        with torch.no_grad():
            for layer in layers(twin):
                layer.hycam_B["default"].weight.mul_(2)
        assert not torch.equal(logits(twin), expected)
        assert_current(twin)
    assert kept(model) == 2
    assert torch.equal(logits(model), expected)


def test_what_is_saved_is_the_same_whether_anything_is_packed_or_not() -> None:
    model = trained()
    states, sizes = [], []
    for _ in range(2):
        states.append(model.state_dict())
        stream = io.BytesIO()
        torch.save(model, stream)
        sizes.append(stream.tell())
        logits(model)
    assert kept(model) == 2
    assert states[0].keys() == states[1].keys()
    assert sizes[0] == sizes[1]


def test_in_inference_mode_and_after_it_both_give_the_same() -> None:
    model = trained()
    expected = logits(model)
    for layer in layers(model):
        layer.hycam_packed.drop()
    with torch.inference_mode():
        inside = model(input_ids=tokens()).logits
    assert kept(model) == 2
    assert torch.equal(inside, expected)
    assert torch.equal(logits(model), expected)


def test_a_model_made_in_inference_mode_has_no_versions_and_is_not_packed() -> None:
    with torch.inference_mode():
        model = trained()
        logits(model)
        assert kept(model) == 0
        for layer in layers(model):
            layer.hycam_B["default"].weight.mul_(2)
        assert_current(model)


def test_evaluation_under_autocast_and_without_each_take_their_own() -> None:
    model = trained()
    plain = logits(model)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        narrow = logits(model)
        assert {layer.hycam_packed._kept.packed.weight.dtype for layer in layers(model)} == {torch.bfloat16}
        torch.testing.assert_close(narrow, by_formula(model), rtol=0, atol=0.05)
    assert torch.equal(logits(model), plain)


@pytest.mark.parametrize("backend", ["auto", "reference", "eager", "lean", "packed"])
@pytest.mark.parametrize("settings", [{}, {"modulation_target": "residual_stream"}], ids=str)
def test_untrained_it_is_the_backbone_to_the_last_bit_with_every_backend(backend: str, settings: dict) -> None:
    for dtype in (torch.float32, torch.bfloat16):
        base = tiny(dtype=dtype)
        expected = logits(base), base(input_ids=tokens()).logits
        model = get_peft_model(base, config(init_weights=True, **settings))
        with set_backend(backend):
            for training in (False, True):
                assert torch.equal(logits(model.train(training)), expected[0])
                assert torch.equal(model(input_ids=tokens()).logits, expected[1])


@pytest.mark.parametrize("backend", ["auto", "reference", "eager", "lean"])
def test_under_gradient_checkpointing_the_backward_pass_takes_the_backend_of_the_forward(backend, monkeypatch) -> None:
    gradients, taken = [], []
    real = dispatch._module
    monkeypatch.setattr(dispatch, "_module", lambda name: taken.append(name) or real(name))
    for checkpointing in (False, True):
        torch.manual_seed(0)
        model = trained().train()
        if checkpointing:
            model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
        torch.manual_seed(11)  # the same noise in both
        del taken[:]
        with set_backend(backend):
            model(input_ids=tokens(), labels=tokens(), use_cache=False).loss.backward()
        assert taken == ["eager" if backend == "auto" else backend] * (4 if checkpointing else 2)
        gradients.append({name: p.grad for name, p in model.named_parameters() if p.requires_grad})
    torch.testing.assert_close(gradients[1], gradients[0], rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("backend", ["auto", "reference", "eager", "packed"])
def test_the_compiled_model_is_one_graph_in_inference(backend: str) -> None:
    model = trained()
    torch.compiler.reset()
    with set_backend(backend), torch.no_grad():
        run = torch.compile(model.base_model.model, backend="eager", fullgraph=True)
        got = run(input_ids=tokens(), use_cache=False).logits
        torch.testing.assert_close(got, logits(model), rtol=0, atol=1e-5)


def test_a_layer_follows_the_choice_of_the_process_and_says_so_once(caplog) -> None:
    model = trained()
    dispatch._say.cache_clear()
    with caplog.at_level(logging.INFO, "hycam"):
        logits(model)
        with set_backend("reference"):
            logits(model)
        logits(model)
    said = [record.getMessage() for record in caplog.records if record.name == "hycam.ops.dispatch"]
    assert [message.partition(":")[0] for message in said] == [
        "HyCAM computes with the backend packed",
        "HyCAM computes with the backend reference",
    ]
