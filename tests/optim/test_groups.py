"""The groups of an optimizer: which weight has which learning rate and decay."""

from __future__ import annotations

import pytest
from peft import LoraConfig, get_peft_model
from torch import nn

from architectures import tiny
from hycam import HyCAMConfig, MoeLoraConfig, MultiLoraConfig
from hycam.errors import HycamError
from hycam.optim import OptimizerSettings, parameter_groups

RATE, DECAY = 1e-3, 0.1


def by_name(model: nn.Module, settings: OptimizerSettings, decaying: set[str]) -> dict[str, tuple[float, float]]:
    """Learning rate and decay of every parameter in the groups, each of which is there once."""
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    groups = parameter_groups(model, settings, RATE, DECAY, decaying)
    members = [(names[id(p)], (group["lr"], group["weight_decay"])) for group in groups for p in group["params"]]
    assert len(dict(members)) == len(members)
    return dict(members)


def trainable(model: nn.Module) -> set[str]:
    return {name for name, parameter in model.named_parameters() if parameter.requires_grad}


@pytest.mark.parametrize(
    ("config", "weight"),
    [(MultiLoraConfig(r=2), "multilora_scaling"), (MoeLoraConfig(r=2, modules_to_save=["lm_head"]), "moelora_gate"),
     (LoraConfig(r=2), "lora_B"), (HyCAMConfig(r=2, ffn_r=2), "hycam_ffn_B")],
    ids=["multilora", "moelora, head", "lora", "hycam"],
)  # fmt: skip
def test_every_trainable_parameter_is_in_one_group_and_no_frozen_one(config, weight: str) -> None:
    model = get_peft_model(tiny(), config)
    settings = OptimizerSettings(multipliers={weight: 10.0})
    assert set(by_name(model, settings, trainable(model))) == trainable(model)
    some = set(sorted(trainable(model))[::2])
    assert set(by_name(model, settings, some)) == trainable(model)


def test_a_multiplier_for_a_weight_that_is_not_trained_is_refused() -> None:
    model = get_peft_model(tiny(), MultiLoraConfig(r=2))
    with pytest.raises(HycamError, match='No trained weight is called "moelora_gate"'):
        by_name(model, OptimizerSettings(multipliers={"moelora_gate": 2.0}), set())


def test_a_multiplier_acts_on_the_weights_of_its_name_alone() -> None:
    model = get_peft_model(tiny(), MultiLoraConfig(r=2))
    settings = OptimizerSettings(multipliers={"multilora_scaling": 10.0, "multilora_B": 0.5})
    for name, (rate, decay) in by_name(model, settings, trainable(model)).items():
        factor = 10 if "multilora_scaling" in name else 0.5 if "multilora_B" in name else 1
        assert rate == pytest.approx(RATE * factor), name
        assert decay == DECAY


def test_the_modulation_can_have_another_rate_than_the_feed_forward_updates_beside_it() -> None:
    model = get_peft_model(tiny(), HyCAMConfig(specialized="none", ffn_r=2))
    found = by_name(model, OptimizerSettings(multipliers={"hycam_shared": 3.0}), trainable(model))
    rates = {name.rpartition("hycam_")[2]: rate for name, (rate, _) in found.items()}
    assert rates == pytest.approx(
        {"shared.default.weight": 3 * RATE, "ffn_A.default.weight": RATE, "ffn_B.default.weight": RATE}
    )


def test_weights_without_decay_are_those_of_the_trainer_and_those_of_the_method() -> None:
    model = get_peft_model(tiny(), MultiLoraConfig(r=2, modules_to_save=["model.norm"]))
    decaying = {name for name in trainable(model) if "norm" not in name}
    assert trainable(model) - decaying  # there is a norm in it
    settings = OptimizerSettings(no_decay=("multilora_scaling",))
    for name, (rate, decay) in by_name(model, settings, decaying).items():
        assert decay == (0 if "norm" in name or "multilora_scaling" in name else DECAY), name
        assert rate == RATE


class _Named(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.gate = nn.Linear(2, 2)
        self.gates = nn.Linear(2, 2)
        self.inner = nn.ModuleDict({"gate": nn.ModuleDict({"default": nn.Linear(2, 2, bias=False)})})
        self.frozen = nn.Linear(2, 2).requires_grad_(False)


def test_a_name_is_matched_as_a_whole_part() -> None:
    model = _Named()
    settings = OptimizerSettings(multipliers={"gate": 3.0}, no_decay=("gates", "inn"))
    found = by_name(model, settings, {"gate.weight", "gates.weight", "inner.gate.default.weight", "frozen.weight"})
    three = pytest.approx(3 * RATE)
    assert found == {
        "gate.weight": (three, DECAY),
        "gate.bias": (three, 0.0),
        "gates.weight": (RATE, 0.0),
        "gates.bias": (RATE, 0.0),
        "inner.gate.default.weight": (three, DECAY),
    }
