"""The wrapper: what it passes through, what it saves, how it starts."""

from __future__ import annotations

import math
from itertools import product

import pytest
import torch
from peft import get_peft_model, get_peft_model_state_dict

from architectures import WIDTH, tiny, tokens
from hycam import HyCAMConfig
from hycam.ops import gumbel_noise, reference
from hycam.tuners.hycam import HyCAMLayer


def attach(architecture: str = "llama", **settings):
    settings = {"r": 4, "num_specialized": 3, **settings}
    return get_peft_model(tiny(architecture), HyCAMConfig(task_type="CAUSAL_LM", **settings))


def first_layer(model) -> HyCAMLayer:
    return next(module for module in model.modules() if isinstance(module, HyCAMLayer))


D, R, K = WIDTH, 4, 3
LOW_RANK = {"hycam_A": [K, R, D], "hycam_N": [K, R, R], "hycam_B": [K, D, R]}
SHARED_LOW_RANK = {"hycam_shared_A": [R, D], "hycam_shared_N": [R, R], "hycam_shared_B": [D, R]}
ROUTER = {"hycam_router.weight": [K, D]}


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({}, {"hycam_shared.weight": [D, D], **LOW_RANK, **ROUTER}),
        ({"specialized": "none"}, {"hycam_shared.weight": [D, D]}),
        ({"shared": "none"}, {**LOW_RANK, **ROUTER}),
        ({"specialized": "full"}, {"hycam_shared.weight": [D, D], "hycam_specialized": [K, D, D], **ROUTER}),
        ({"shared": "low_rank", "specialized": "full"},
         {**SHARED_LOW_RANK, "hycam_specialized": [K, D, D], **ROUTER}),
        ({"use_bias": True, "router_bias": True},
         {"hycam_shared.weight": [D, D], **LOW_RANK, **ROUTER, "hycam_shared.bias": [D], "hycam_router.bias": [K],
          "hycam_A_bias": [K, R], "hycam_N_bias": [K, R], "hycam_B_bias": [K, D]}),
        ({"shared": "low_rank", "use_bias": True},
         {**SHARED_LOW_RANK, **LOW_RANK, **ROUTER, "hycam_shared_A_bias": [R], "hycam_shared_N_bias": [R],
          "hycam_shared_B_bias": [D], "hycam_A_bias": [K, R], "hycam_N_bias": [K, R], "hycam_B_bias": [K, D]}),
    ],
)  # fmt: skip
@pytest.mark.parametrize("adapter", ["default", "hycam", "weight"])
def test_the_saved_keys_and_shapes_are_those_of_the_contract(settings: dict, expected: dict, adapter: str) -> None:
    config = HyCAMConfig(task_type="CAUSAL_LM", r=R, num_specialized=K, **settings)
    model = get_peft_model(tiny(), config, adapter_name=adapter)
    saved = {key: list(value.shape) for key, value in get_peft_model_state_dict(model, adapter_name=adapter).items()}
    prefix = "base_model.model.model.layers.{}.self_attn."
    assert saved == {prefix.format(layer) + key: shape for layer in (0, 1) for key, shape in expected.items()}


def test_it_starts_with_random_a_and_n_and_zero_b_and_shared() -> None:
    layer = first_layer(attach(r=16))
    assert not layer.hycam_shared["default"].weight.any()
    assert not layer.hycam_B["default"].weight.any()
    for holder, fan_in in ((layer.hycam_A, WIDTH), (layer.hycam_N, 16)):
        values = holder["default"].weight
        assert values.abs().max() <= 1 / math.sqrt(fan_in)
        assert abs(values.std().item() - 1 / math.sqrt(3 * fan_in)) < 0.1 / math.sqrt(fan_in)
        assert not torch.equal(values[0], values[1])  # drawn for each module apart


def test_at_the_first_step_shared_and_b_get_a_gradient_and_a_and_n_get_none() -> None:
    torch.manual_seed(0)
    model = attach(balance_weight=0.0).train()
    model(input_ids=tokens(), labels=tokens()).loss.backward()
    layer = first_layer(model)
    assert layer.hycam_shared["default"].weight.grad.abs().sum() > 0
    assert layer.hycam_B["default"].weight.grad.abs().sum() > 0
    assert not layer.hycam_A["default"].weight.grad.any()
    assert not layer.hycam_N["default"].weight.grad.any()
    assert not layer.hycam_router["default"].weight.grad.any()


def test_at_the_first_step_the_router_gets_its_gradient_from_the_balance_loss_alone() -> None:
    gradients = []
    for weight in (0.1, 0.2):
        torch.manual_seed(0)
        model = attach(balance_weight=weight).train()
        model(input_ids=tokens(), labels=tokens()).loss.backward()
        gradients.append(first_layer(model).hycam_router["default"].weight.grad)
    assert gradients[0].abs().sum() > 0
    torch.testing.assert_close(gradients[1], 2 * gradients[0])


def test_h_is_what_the_attention_module_receives_and_only_its_first_output_is_modulated() -> None:
    torch.manual_seed(0)
    model = attach(init_weights=False, noise="never").double().eval()
    layer = first_layer(model)
    seen = {}
    layer.base_layer.register_forward_hook(
        lambda module, args, kwargs, output: seen.update(h=kwargs["hidden_states"], output=output), with_kwargs=True
    )
    layer.register_forward_hook(lambda module, args, output: seen.update(modulated=output))
    with torch.no_grad():
        model(input_ids=tokens(), output_attentions=True)
    weights = layer.modulation("default", layer.hycam_config["default"])
    expected, _ = reference.modulate(seen["h"], seen["output"][0], weights)
    torch.testing.assert_close(seen["modulated"][0], expected)
    assert len(seen["modulated"]) == len(seen["output"])
    assert seen["modulated"][1] is seen["output"][1]


def test_positional_and_keyword_hidden_states_are_both_understood() -> None:
    layer = first_layer(attach("gpt2", init_weights=False, noise="never")).eval()
    h = torch.randn(1, 4, WIDTH)
    assert torch.equal(layer(h)[0], layer(hidden_states=h)[0])


def test_attributes_of_the_attention_module_stay_reachable() -> None:
    layer = first_layer(attach())
    assert layer.layer_idx == 0
    assert layer.q_proj is layer.base_layer.q_proj
    assert layer.config is layer.base_layer.config
    with pytest.raises(AttributeError, match="no_such"):
        layer.no_such  # noqa: B018


def test_noise_is_drawn_by_default_where_the_model_learns_and_always_or_never_when_asked() -> None:
    for noise in ("train", "always", "never"):
        model = attach(init_weights=False, noise=noise)
        for training, gradients in product((True, False), repeat=2):
            model.train(training)
            with torch.set_grad_enabled(gradients):
                first, second = (model(input_ids=tokens()).logits for _ in range(2))
            learns = training and gradients
            assert torch.equal(first, second) != {"train": learns, "always": True, "never": False}[noise]


def test_an_answer_generated_in_training_mode_is_that_of_evaluation_mode() -> None:
    # Trainers that learn from a model's own answers (GRPO, RLOO) generate them in training mode.
    model = attach(init_weights=False)
    in_evaluation, in_training = (
        model.train(training).generate(input_ids=tokens(), max_new_tokens=24, do_sample=False, pad_token_id=0)
        for training in (False, True)
    )
    assert torch.equal(in_training, in_evaluation)


def test_the_noise_of_a_step_is_what_the_global_generator_gives() -> None:
    model = attach(init_weights=False, layers_to_transform=[0]).train()
    layer = first_layer(model)
    seen = {}
    layer.base_layer.register_forward_hook(
        lambda module, args, kwargs, output: seen.update(h=kwargs["hidden_states"], a=output[0]), with_kwargs=True
    )
    layer.register_forward_hook(lambda module, args, output: seen.update(out=output[0]))
    torch.manual_seed(3)
    model(input_ids=tokens())
    torch.manual_seed(3)
    noise = gumbel_noise(torch.Size((2, 9, K)), torch.device("cpu"))
    weights = layer.modulation("default", layer.hycam_config["default"])
    torch.testing.assert_close(reference.modulate(seen["h"], seen["a"], weights, noise)[0], seen["out"])


def test_the_adapter_lies_where_the_attention_module_lies() -> None:
    model = get_peft_model(tiny(dtype=torch.float64), HyCAMConfig(task_type="CAUSAL_LM", r=2))
    assert {p.dtype for p in model.parameters() if p.requires_grad} == {torch.float64}
    with torch.device("meta"):
        empty = tiny("llama").to("meta")
    model = get_peft_model(empty, HyCAMConfig(task_type="CAUSAL_LM", r=2), low_cpu_mem_usage=True)
    assert {p.device.type for p in model.parameters()} == {"meta"}


def test_autocast_keeps_the_identity_and_gives_finite_gradients() -> None:
    base = tiny()
    with torch.autocast("cpu", dtype=torch.bfloat16), torch.no_grad():
        expected = base(input_ids=tokens()).logits
    model = get_peft_model(base, HyCAMConfig(task_type="CAUSAL_LM", r=4)).train()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        out = model(input_ids=tokens(), labels=tokens())
    assert torch.equal(out.logits, expected)
    out.loss.backward()
    layer = first_layer(model)
    assert layer.hycam_router["default"].weight.grad.dtype == torch.float32
    assert layer.hycam_router["default"].weight.grad.abs().sum() > 0
    assert all(torch.isfinite(p.grad).all() for p in model.parameters() if p.requires_grad)
