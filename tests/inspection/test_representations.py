"""Values with the adapter on and off against single forwards, and distances of neighbours by brute force."""

from __future__ import annotations

import builtins

import numpy as np
import pytest
import torch
from peft import LoraConfig, get_peft_model

from architectures import ARCHITECTURES, WIDTH, tiny, tokens
from hycam.attention import find_attention_modules
from hycam.errors import HycamError
from hycam.inspection.representations import Representations, project, representations, value_projection
from inspection.conftest import adapted, made_rows, padder

# In their fused product the values lie between queries and keys of other heads, or are compressed.
UNKNOWN = {"gpt_neox", "gpt_bigcode", "falcon", "deepseek_v3"}


def values_of(model, ids: list[int], layer: int) -> np.ndarray:
    """``h W_v`` of one unpadded row from the input that the attention receives, ``[tokens, width]``."""
    attention = model.get_submodule(find_attention_modules(model)[layer])
    seen = {}
    hook = attention.register_forward_pre_hook(
        lambda module, args, kwargs: seen.update(h=kwargs["hidden_states"][0]), with_kwargs=True
    )
    with torch.no_grad():
        model(input_ids=torch.tensor([ids]))
    hook.remove()
    return (seen["h"] @ attention.v_proj.weight.T).detach().numpy()


@pytest.mark.parametrize("per", ["row", "token"])
def test_they_are_the_values_of_the_responses_with_and_without_the_adapter(per: str) -> None:
    model, parts = adapted(), {"a": made_rows(1), "b": made_rows(2)}
    found = representations(model, padder(), parts, rows=6, layer=2, per=per)
    expected = {True: [], False: []}
    for rows in parts.values():
        longest_first = sorted(range(6), key=lambda at: -len(rows["input_ids"][at]))  # the order of the batches
        for at in longest_first:
            ids, prompt = rows["input_ids"][at], rows["prompt_length"][at]
            on = values_of(model, ids, 2)[prompt:]
            with model.disable_adapter():
                off = values_of(model, ids, 2)[prompt:]
            for is_on, values in ((True, on), (False, off)):
                expected[is_on].append(values if per == "token" else values.mean(axis=0, keepdims=True))
    np.testing.assert_allclose(found.on, np.concatenate(expected[True]), rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(found.off, np.concatenate(expected[False]), rtol=1e-9, atol=1e-12)
    assert np.abs(found.on - found.off).max() > 1e-3
    counts = [len(found.tasks) - found.tasks.count("b"), found.tasks.count("b")]
    assert found.tasks == ["a"] * counts[0] + ["b"] * counts[1]
    assert per == "token" or counts == [6, 6]


def test_any_adapter_will_do_and_the_adapter_is_on_again_afterwards() -> None:
    config = LoraConfig(task_type="CAUSAL_LM", r=2, target_modules=["v_proj"], init_lora_weights=False)
    model = get_peft_model(tiny(), config).eval()
    before = model(input_ids=tokens()).logits
    found = representations(model, padder(), {"a": made_rows(1)}, rows=3)
    assert (found.on != found.off).any()
    assert torch.equal(model(input_ids=tokens()).logits, before)
    values = model.base_model.model.model.layers[1].self_attn.v_proj
    assert not values._forward_hooks


def test_what_goes_into_the_first_layer_cannot_have_changed_so_it_is_refused() -> None:
    model = adapted()
    ids = made_rows(1)["input_ids"][0]
    on = values_of(model, ids, 0)
    with model.disable_adapter():
        np.testing.assert_array_equal(on, values_of(model, ids, 0))
    with pytest.raises(HycamError, match="layer from 1 on"):
        representations(model, padder(), {"a": made_rows(1)}, rows=2, layer=0)
    with pytest.raises(HycamError, match="no adapter"):
        representations(model.unload(), padder(), {"a": made_rows(1)}, rows=2)


@pytest.mark.parametrize("architecture", sorted(ARCHITECTURES))
def test_the_values_are_found_or_refused_by_name(architecture: str) -> None:
    model = tiny(architecture)
    attention = model.get_submodule(find_attention_modules(model)[1])
    config = model.config.get_text_config()
    if architecture in UNKNOWN:
        with pytest.raises(HycamError, match=f"It is not known where {architecture} computes its values"):
            value_projection(attention, config)
        return
    module, values = value_projection(attention, config)
    seen = []
    module.register_forward_hook(lambda _, args, output: seen.append(values(output)))
    cache = model(input_ids=tokens(), use_cache=True).past_key_values
    kept = cache.layers[1].values.transpose(1, 2).flatten(2)  # what the attention itself keeps, heads side by side
    torch.testing.assert_close(seen[0], kept)


def test_distances_are_those_of_a_brute_force_search_over_both_standardised_together() -> None:
    draw = np.random.default_rng(1)
    on, off = draw.normal(2.0, 3.0, (25, 6)), draw.normal(0.0, 1.0, (25, 6))
    found = project(Representations(1, ["a"] * 25, on, off), seed=3)
    both = np.concatenate([on, off])
    both = (both - both.mean(axis=0)) / both.std(axis=0)
    for part, distance in ((both[:25], found.distance_on), (both[25:], found.distance_off)):
        pairs = np.linalg.norm(part[:, None] - part[None], axis=2)
        nearest = [sorted(np.delete(pairs[at], at))[:10] for at in range(25)]
        assert distance == pytest.approx(np.mean(nearest))
    assert found.on.shape == found.off.shape == (25, 2)
    again = project(Representations(1, ["a"] * 25, on, off), seed=3)
    np.testing.assert_array_equal(found.on, again.on)


def test_both_conditions_share_one_plane() -> None:
    same = np.random.default_rng(0).normal(size=(20, 5))
    found = project(Representations(1, ["a"] * 20, same, same.copy()))
    assert found.distance_on == found.distance_off
    spread = np.linalg.norm(found.on - found.on.mean(axis=0), axis=1).mean()
    assert np.linalg.norm(found.on - found.off, axis=1).mean() < 0.2 * spread


def test_too_few_places_and_a_missing_library_are_said(monkeypatch: pytest.MonkeyPatch) -> None:
    few = Representations(1, ["a"] * 10, np.zeros((10, WIDTH)), np.zeros((10, WIDTH)))
    with pytest.raises(HycamError, match="more rows"):
        project(few)
    real = builtins.__import__

    def without_sklearn(name: str, *rest, **named):
        if name.startswith("sklearn"):
            raise ImportError(name)
        return real(name, *rest, **named)

    monkeypatch.setattr(builtins, "__import__", without_sklearn)
    with pytest.raises(HycamError, match=r"pip install 'hycam\[study\]'"):
        project(few)
