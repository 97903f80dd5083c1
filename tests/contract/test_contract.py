"""What every method promises on every backbone, stated once.

Comparisons are exact where the arithmetic is the same one, and otherwise allow the rounding of float32 on logits of
order one (1e-4; several architectures cannot run in float64). A padding token that leaked would show at 1e-2 and more.
"""

from __future__ import annotations

import copy
import re
from pathlib import Path

import pytest
import torch
from peft import PeftModel, get_peft_model, get_peft_model_state_dict
from safetensors.torch import load_file

import hycam
from architectures import tokens

from .cases import UNTRAINED, Case, logits, train_by_chance


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
def test_an_untrained_adapter_leaves_the_logits_alone_to_the_last_bit(case: Case, dtype: torch.dtype) -> None:
    base = case.base(dtype=dtype)
    expected = logits(base)
    model = case.attach(base)
    assert torch.equal(logits(model), expected)
    assert torch.equal(logits(model.train()), expected)


def test_a_trained_adapter_changes_the_logits(case: Case) -> None:
    base = case.base()
    expected = logits(base)
    assert (logits(case.attach(base, trained_seed=3)) - expected).abs().max() > 1e-3


def test_what_the_method_trains_is_trainable_and_all_of_it_gets_a_gradient(case: Case) -> None:
    model = case.attach(case.base(), trained_seed=3).train()
    model(input_ids=tokens(), labels=tokens()).loss.backward()
    for name, parameter in model.named_parameters():
        assert parameter.requires_grad == case.trains(name), name
        if parameter.requires_grad:
            assert parameter.grad is not None, name
            if UNTRAINED.get(case.variant, "nothing") in name:
                assert parameter.grad.abs().max() == 0, name
            else:
                assert parameter.grad.abs().sum() > 0, name


def test_disabling_and_unloading_give_the_backbone_back(adapter_case: Case) -> None:
    base = adapter_case.base()
    expected = logits(base)
    kind = {name: type(module) for name, module in base.named_modules()}
    model = adapter_case.attach(base, trained_seed=3)
    with model.disable_adapter():
        assert torch.equal(logits(model), expected)
    assert not torch.equal(logits(model), expected)
    unloaded = model.unload()
    assert torch.equal(logits(unloaded), expected)
    assert {name: type(module) for name, module in unloaded.named_modules()} == kind


def test_a_saved_adapter_loads_into_a_fresh_backbone_with_the_same_logits(adapter_case: Case, tmp_path: Path) -> None:
    model = adapter_case.attach(adapter_case.base(), trained_seed=3)
    model.save_pretrained(tmp_path)
    # Nothing but the adapter's own weights, such as `...hycam_A` or `...lora_A.weight`, and norms that it trains.
    norms = (
        r"|norm(_\d)?\.(weight|bias)$|\.ln_(attn|mlp)\.(weight|bias)$"
        if adapter_case.settings.get("train_norms")
        else ""
    )
    for key in load_file(tmp_path / "adapter_model.safetensors"):
        assert re.search(rf"\.{adapter_case.prefix}\w+(\.(weight|bias))?$|\.ln_\d\.\w+${norms}", key), key
    for low_cpu_mem_usage in (False, True):
        loaded = PeftModel.from_pretrained(adapter_case.base(), tmp_path, low_cpu_mem_usage=low_cpu_mem_usage)
        # Loaded into empty weights they lie where the file has them, and a product may round by the alignment.
        torch.testing.assert_close(logits(loaded), logits(model), rtol=0, atol=1e-6 if low_cpu_mem_usage else 0)


def test_a_copy_by_parameter_names_as_trl_makes_it_is_whole(adapter_case: Case) -> None:
    """TRL's trainers make their frozen reference of a trained adapter so, by names that contain `.default.`."""
    model = adapter_case.attach(adapter_case.base(), trained_seed=3)
    expected = logits(model)
    trained = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    saved = len(get_peft_model_state_dict(model))
    model.add_adapter("ref", model.peft_config["default"])
    weights = dict(model.named_parameters())
    copied = {name for name in weights if ".default." in name}
    assert copied.issuperset(trained)
    assert len(copied) == saved  # what is not trained, such as a frozen router, included
    for name in copied:
        weights[name.replace(".default.", ".ref.")].data.copy_(weights[name].data)
    model.set_adapter("ref")
    assert torch.equal(logits(model), expected)


def test_two_adapters_can_be_switched_and_deleted_the_last_one_included(adapter_case: Case) -> None:
    base = adapter_case.base()
    plain = logits(base)
    first = logits(adapter_case.attach(copy.deepcopy(base), trained_seed=3))
    second = logits(adapter_case.attach(copy.deepcopy(base), trained_seed=4))
    model = adapter_case.attach(base, trained_seed=3)
    adapter_case.attach(model, "other", trained_seed=4)
    assert torch.equal(logits(model), first)
    model.set_adapter("other")
    assert torch.equal(logits(model), second)
    model.set_adapter("default")
    assert torch.equal(logits(model), first)
    model.delete_adapter("other")
    assert torch.equal(logits(model), first)
    if not adapter_case.variant.startswith("lora"):  # PEFT's own methods leave a model behind that cannot be called
        model.delete_adapter("default")
        assert torch.equal(logits(model), plain)


def test_evaluation_does_not_depend_on_padding_or_on_the_other_rows(case: Case) -> None:
    model = case.attach(case.base(), trained_seed=3, quiet=True)
    row = tokens(1, 6, seed=5)
    alone = logits(model, row)
    assert torch.equal(alone, logits(model, row))
    longer = tokens(1, 9, seed=6)
    padding = torch.zeros(1, 3, dtype=torch.long)
    for side, place in (("left", slice(3, 9)), ("right", slice(0, 6))):
        padded = torch.cat((padding, row) if side == "left" else (row, padding), dim=1)
        mask = torch.cat((torch.zeros(1, 9), torch.ones(1, 9))).long()
        mask[0, place] = 1
        positions = (mask.cumsum(-1) - 1).clamp(min=0)
        kwargs = {"attention_mask": mask} | ({"position_ids": positions} if case.architecture not in MASK_ONLY else {})
        together = logits(model, torch.cat((padded, longer)), **kwargs)
        torch.testing.assert_close(together[:1, place], alone, rtol=0, atol=1e-4)


# OPT reads its positions from the mask, MPT has none (ALiBi).
MASK_ONLY = {"opt", "mpt"}


def test_generation_with_a_cache_gives_what_a_full_forward_gives(case: Case) -> None:
    model = case.attach(case.base(), trained_seed=3, quiet=True)
    ids = tokens(2, 8)
    full = logits(model, ids)
    first = model(input_ids=ids[:, :5], use_cache=True)
    cache, steps = first.past_key_values, [first.logits]
    with torch.no_grad():
        for position in range(5, 8):
            out = model(input_ids=ids[:, position : position + 1], past_key_values=cache, use_cache=True)
            cache = out.past_key_values
            steps.append(out.logits)
    torch.testing.assert_close(torch.cat(steps, dim=1), full, rtol=0, atol=1e-4)
    settings = {"max_new_tokens": 6, "do_sample": False, "pad_token_id": 0, "eos_token_id": None}
    with hycam.packed(model):
        with_cache = model.generate(input_ids=ids, use_cache=True, **settings)
        assert torch.equal(with_cache, model.generate(input_ids=ids, use_cache=False, **settings))


def test_gradient_checkpointing_changes_no_gradient(case: Case) -> None:
    gradients = []
    for checkpointing in (False, True):
        model = case.attach(case.base(), trained_seed=3).train()
        if checkpointing:
            model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
        torch.manual_seed(11)  # the same noise in both
        model(input_ids=tokens(), labels=tokens(), use_cache=False).loss.backward()
        gradients.append({name: p.grad for name, p in model.named_parameters() if p.requires_grad})
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], gradient, rtol=1e-5, atol=1e-7, msg=name)


def test_a_bfloat16_backbone_takes_adapters_in_float32_and_in_bfloat16(adapter_case: Case) -> None:
    for autocast, adapter_dtype in ((True, torch.float32), (False, torch.bfloat16)):
        base = adapter_case.base(dtype=torch.bfloat16)
        config = adapter_case.attach(adapter_case.base(dtype=torch.bfloat16)).peft_config["default"]
        model = get_peft_model(base, config, autocast_adapter_dtype=autocast)
        train_by_chance(model, 3)
        trainable = {p.dtype for p in model.parameters() if p.requires_grad}
        assert trainable == {adapter_dtype}
        out = model.train()(input_ids=tokens(), labels=tokens())
        assert out.logits.dtype == torch.bfloat16
        out.loss.backward()
        assert all(torch.isfinite(p.grad).all() for p in model.parameters() if p.requires_grad)


def test_a_model_survives_being_copied_after_a_training_step(case: Case) -> None:
    model = case.attach(case.base(), trained_seed=3).train()
    model(input_ids=tokens(), labels=tokens()).loss.backward()
    twin = copy.deepcopy(model).eval()
    assert torch.equal(logits(twin), logits(model.eval()))


def test_hycam_reports_the_routing_of_every_layer_it_adapts(case: Case) -> None:
    if not case.is_hycam:
        pytest.skip("only HyCAM routes")
    model = case.attach(case.base(), trained_seed=3).train()
    model(input_ids=tokens(), labels=tokens())
    stats = hycam.last_stats(model)
    routed = case.settings.get("specialized") != "none"
    assert (stats.balance_loss is not None) == routed
    assert len(stats.routing) == (0 if not routed else 1 if case.variant == "hycam, one layer" else 2)
    for mean in stats.routing.values():
        torch.testing.assert_close(mean.sum(), torch.tensor(1.0))
