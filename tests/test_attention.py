"""The attention modules are found by structure."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from transformers import AutoModelForCausalLM, FalconH1Config

from architectures import ARCHITECTURES, OF_EXPERTS, REFUSED, tiny, tokens
from hycam.adapt import adapt
from hycam.attention import find_attention_modules, find_block_norms, find_feed_forward
from hycam.errors import HycamError
from hycam.tuners.hycam.balance import RoutingRecorder
from hycam.tuners.hycam.layer import HyCAMLayer
from hycam.tuners.targets import last_parts, linear_layers


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_one_attention_module_a_layer_is_found_in_every_architecture(architecture: str) -> None:
    model = tiny(architecture)
    found = find_attention_modules(model)
    assert len(found) == 2
    assert all("Attention" in type(model.get_submodule(name)).__name__ for name in found)


def test_the_modules_are_found_again_when_they_are_already_adapted() -> None:
    model = tiny("gpt_neo")
    found = find_attention_modules(model)
    assert find_attention_modules(adapt(model, "hycam", {"r": 2}).base_model.model) == found


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_the_norms_that_the_blocks_hold_are_found_and_no_others(architecture: str) -> None:
    model = tiny(architecture)
    attention = find_attention_modules(model)
    found = find_block_norms(model, attention)
    assert found == find_block_norms(model, attention[:1]) + find_block_norms(model, attention[1:])
    depth = {"opt": 4}.get(architecture, 3)  # such as model.layers.0, before the norm's own name
    norms = [name for name, module in model.named_modules() if "norm" in type(module).__name__.lower()]
    assert found == [name for name in norms if len(name.split(".")) == depth + 1]
    assert len(found) >= 2


GATED = ("gate_proj", "up_proj", "down_proj")
FEED_FORWARD = {  # of the blocks; the others are gated
    **dict.fromkeys(("phi", "opt", "biogpt"), ("fc1", "fc2")),
    **dict.fromkeys(("gpt2", "gpt_neo", "gpt_bigcode", "starcoder2"), ("c_fc", "c_proj")),
    **dict.fromkeys(("gpt_neox", "falcon"), ("dense_h_to_4h", "dense_4h_to_h")),
    "phi3": ("gate_up_proj", "down_proj"), "gptj": ("fc_in", "fc_out"), "mpt": ("up_proj", "down_proj"),
}  # fmt: skip


def feed_forward(model: nn.Module) -> list[str]:
    return find_feed_forward(model, find_attention_modules(model), linear_layers(model))


@pytest.mark.parametrize("architecture", [name for name in ARCHITECTURES if name not in OF_EXPERTS])
def test_the_feed_forward_layers_of_every_block_are_found_and_no_others(architecture: str, record_property) -> None:
    record_property("feed_forward", (architecture, True))
    model = tiny(architecture)
    found = feed_forward(model)
    expected = set(FEED_FORWARD.get(architecture, GATED))
    assert set(last_parts(found)) == expected
    assert len(found) == 2 * len(expected)
    attention = find_attention_modules(model)
    assert sorted([*found, *(name for name in linear_layers(model) if name.startswith(tuple(attention)))]) == sorted(
        name for name in linear_layers(model) if "project" not in name
    )
    adapted = adapt(model, "hycam-ffn", {"ffn_r": 2}).base_model.model
    assert feed_forward(adapted) == found


def test_the_state_space_mixer_of_a_block_is_no_feed_forward_network() -> None:
    model = AutoModelForCausalLM.from_config(
        FalconH1Config(vocab_size=96, hidden_size=32, intermediate_size=48, num_hidden_layers=1, num_attention_heads=4,
                       num_key_value_heads=2, mamba_d_ssm=32, mamba_n_heads=4, mamba_d_head=8, mamba_d_state=8,
                       mamba_n_groups=1, mamba_chunk_size=8)
    )  # fmt: skip
    assert any("mamba.in_proj" in name for name in linear_layers(model))
    assert last_parts(feed_forward(model)) == ["gate_proj", "up_proj", "down_proj"]


@pytest.mark.parametrize("architecture", REFUSED)
def test_a_backbone_whose_attention_output_cannot_be_scaled_is_refused_with_the_reason(architecture: str) -> None:
    reason = "key-value cache" if architecture == "mamba" else "adds the residual stream"
    with pytest.raises(HycamError, match=reason):
        find_attention_modules(tiny(architecture))


def test_an_architecture_nobody_has_seen_is_found_by_its_shape() -> None:
    class Attending(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Linear(4, 4)

        def forward(self, hidden_states, some_mask, past_key_values=None):
            return self.weight(hidden_states), None

    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = Attending()  # a module of that name, which PEFT takes for a tensor
            self.mixer = nn.Linear(4, 4)

        def forward(self, hidden_states, mask, past_key_values=None):
            return self.weight(hidden_states, mask)

    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.trunk = nn.ModuleList([Block(), Block()])

    assert find_attention_modules(Model()) == ["trunk.0.weight", "trunk.1.weight"]


class LlamaLikeAttention(nn.Module):
    """Uniform attention, with the projections of Llama; the arguments of ``forward`` are left to subclasses."""

    def __init__(self, width: int = 8) -> None:
        super().__init__()
        self.q_proj, self.k_proj, self.v_proj, self.o_proj = (nn.Linear(width, width) for _ in range(4))

    def attend(self, h: torch.Tensor) -> tuple[torch.Tensor, None]:
        return self.o_proj(self.v_proj(h).mean(dim=-2, keepdim=True).expand_as(h)), None


class CallsItCache(LlamaLikeAttention):
    def forward(self, hidden_states, attention_mask=None, cache=None):
        return self.attend(hidden_states)


class CallsItKv(LlamaLikeAttention):
    def forward(self, x, attention_mask=None, kv=None):
        return self.attend(x)


class CallsItStateCache(LlamaLikeAttention):
    def forward(self, inputs, position_embeddings=None, state_cache=None, **kwargs):
        return self.attend(inputs)


class NamesNothing(LlamaLikeAttention):
    def forward(self, *args, **kwargs):
        return self.attend(args[0] if args else kwargs["hidden_states"])


class Mixer(LlamaLikeAttention):
    """Not called attention: its projections and its mask tell."""

    def forward(self, h, mask):
        return self.attend(h)


class FeedForward(nn.Module):
    def __init__(self, width: int = 8) -> None:
        super().__init__()
        self.up_proj, self.down_proj = nn.Linear(width, 2 * width), nn.Linear(2 * width, width)

    def forward(self, hidden_states, cache=None):
        return self.down_proj(self.up_proj(hidden_states))


class StateSpaceMixer(nn.Module):
    """As in transformers 5.24: its state is an argument called cache too."""

    def __init__(self, width: int = 8) -> None:
        super().__init__()
        self.in_proj, self.out_proj = nn.Linear(width, width), nn.Linear(width, width)
        self.conv1d = nn.Conv1d(width, width, 3, groups=width)

    def forward(self, hidden_states, cache=None, attention_mask=None):
        return self.out_proj(self.in_proj(hidden_states))


class Encoder(LlamaLikeAttention):
    is_causal = False

    def forward(self, hidden_states, attention_mask=None):
        return self.attend(hidden_states)


class CrossAttention(LlamaLikeAttention):
    def forward(self, hidden_states, cross_attention_states, attention_mask=None, cache=None):
        return self.attend(hidden_states)


def _blocks_of(**parts: type[nn.Module]) -> nn.Module:
    """Two blocks of these parts."""
    model = nn.Module()
    model.layers = nn.ModuleList(nn.ModuleDict({name: kind() for name, kind in parts.items()}) for _ in range(2))
    return model


@pytest.mark.parametrize(
    ("kind", "argument"),
    [
        (CallsItCache, "hidden_states"),
        (CallsItKv, "x"),
        (CallsItStateCache, "inputs"),
        (NamesNothing, "hidden_states"),
        (Mixer, "h"),
    ],
)
def test_attention_is_found_and_h_is_read_whatever_the_arguments_are_called(
    kind: type[nn.Module], argument: str
) -> None:
    place = "mixer" if kind is Mixer else "self_attn"
    model = _blocks_of(**{place: kind, "mlp": FeedForward})
    found = find_attention_modules(model)
    assert found == [f"layers.0.{place}", f"layers.1.{place}"]
    layer = HyCAMLayer(model.get_submodule(found[0]), 8, 0.02, found[0], RoutingRecorder())
    h, mask = torch.randn(2, 3, 8), torch.ones(2, 3)
    assert layer.hidden_states((h, mask), {}) is h
    assert layer.hidden_states((), {argument: h, "mask": mask}) is h


def test_what_only_resembles_attention_is_passed_over_and_the_error_says_why() -> None:
    model = _blocks_of(mixer=StateSpaceMixer, mlp=FeedForward, encoder=Encoder, cross_attn=CrossAttention)
    with pytest.raises(HycamError) as error:
        find_attention_modules(model)
    for looked_at in (
        "layers.0.mixer (StateSpaceMixer) mixes the tokens by a convolution or a recurrent state",
        "layers.0.mlp (FeedForward) is not called attention and makes no queries, keys and values",
        "layers.0.encoder (Encoder) attends in both directions and keeps no cache",
        "layers.0.cross_attn (CrossAttention) reads another sequence",
    ):
        assert looked_at in str(error.value)


# The block normalises after the attention and not before it, so h is the residual stream itself.
NOT_NORMALISED = {"olmo2"}


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_h_is_the_output_of_a_norm_where_the_block_has_one_before_the_attention(
    architecture: str, record_property
) -> None:
    model = tiny(architecture)
    normalised, received = [], []
    for name, module in model.named_modules():
        if "norm" in type(module).__name__.lower():
            module.register_forward_hook(lambda module, args, output: normalised.append(output))
        if name in find_attention_modules(model):
            module.register_forward_pre_hook(
                lambda module, args, kwargs: received.append(kwargs.get("hidden_states", args[0] if args else None)),
                with_kwargs=True,
            )
    with torch.no_grad():
        model(input_ids=tokens())
    assert len(received) == 2
    found = {any(h is output for output in normalised) for h in received}
    record_property("normalised", (architecture, found == {True}))
    assert found == {architecture not in NOT_NORMALISED}
