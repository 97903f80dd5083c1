"""Routing by task: against a row by row computation from the formulas, and information that is known beforehand."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from hycam.inspection.routing import mutual_information, routing_by_task, routing_of_text
from hycam.tuners.hycam import HyCAMLayer
from inspection.conftest import EXPERTS, TEMPERATURE, adapted, made_rows, padder


def probabilities(model, ids: list[int]) -> np.ndarray:
    """``softmax(h W_r / tau)`` of every layer for one unpadded row, ``[layers, tokens, K]``; h is the backbone's."""
    layers = [module for module in model.modules() if isinstance(module, HyCAMLayer)]
    seen = {}
    hooks = [
        layer.base_layer.register_forward_hook(
            lambda module, args, kwargs, output, at=at: seen.update({at: kwargs["hidden_states"][0]}), with_kwargs=True
        )
        for at, layer in enumerate(layers)
    ]
    with torch.no_grad():
        model(input_ids=torch.tensor([ids]))
    for hook in hooks:
        hook.remove()
    logits = [seen[at] @ layer.hycam_router["default"].weight.T for at, layer in enumerate(layers)]
    return torch.stack([torch.exp(one / TEMPERATURE) for one in logits]).detach().numpy() / np.sum(
        [np.exp(one.detach().numpy() / TEMPERATURE) for one in logits], axis=-1, keepdims=True
    )


def test_the_weights_are_means_over_response_tokens_of_the_first_rows() -> None:
    model, parts = adapted(), {"a": made_rows(1), "b": made_rows(2)}
    found = routing_by_task(model, padder(), parts, rows=5)
    assert (found["layers"], found["experts"]) == (3, EXPERTS)
    for task, rows in parts.items():
        each = []
        for ids, prompt in zip(rows["input_ids"][:5], rows["prompt_length"][:5], strict=True):
            each.append(probabilities(model, ids)[:, prompt:])
        expected = np.concatenate(each, axis=1)
        assert found["tasks"][task]["tokens"] == expected.shape[1]
        np.testing.assert_allclose(found["tasks"][task]["weights"], expected.mean(axis=1), rtol=1e-9)


def test_the_noise_of_training_does_not_reach_it_and_the_mode_is_put_back() -> None:
    model, parts = adapted().train(), {"a": made_rows(1)}
    first, second = (routing_by_task(model, padder(), parts, rows=7) for _ in range(2))
    assert model.training
    assert first == second == routing_by_task(model.eval(), padder(), parts, rows=7)


def test_hard_routing_counts_the_choices() -> None:
    model, rows = adapted(routing="hard"), made_rows(3)
    found = routing_by_task(model, padder(), {"a": rows}, rows=7)["tasks"]["a"]
    counts = np.asarray(found["weights"]) * found["tokens"]
    np.testing.assert_allclose(counts, np.round(counts), atol=1e-9)
    np.testing.assert_allclose(counts.sum(axis=1), found["tokens"])


def test_a_text_has_probabilities_for_every_token() -> None:
    model, ids = adapted(), made_rows(4)["input_ids"][0]
    np.testing.assert_allclose(routing_of_text(model, ids), probabilities(model, ids), rtol=1e-9)


@pytest.mark.parametrize("settings", [{"specialized": "none"}, None])
def test_a_model_without_a_router_has_none(settings: dict | None) -> None:
    model = adapted(**(settings or {}))
    if settings is None:
        model = model.unload()
    assert routing_by_task(model, padder(), {"a": made_rows(1)}, rows=2) is None
    assert routing_of_text(model, [5, 6]) is None


def test_layers_that_are_not_adapted_are_left_out() -> None:
    model = adapted(layers_to_transform=[1])
    assert routing_by_task(model, padder(), {"a": made_rows(1)}, rows=2)["layers"] == 1


def test_information_is_what_the_definition_gives() -> None:
    assert mutual_information(np.eye(2)) == pytest.approx(1.0)  # two tasks, each with an expert of its own: one bit
    assert mutual_information(np.eye(5)) == pytest.approx(math.log2(5))
    assert mutual_information(np.tile([0.7, 0.2, 0.1], (4, 1))) == pytest.approx(0.0, abs=1e-12)
    weights = np.random.default_rng(0).dirichlet(np.ones(4), size=3)
    joint = weights / 3
    independent = joint.sum(axis=1, keepdims=True) * joint.sum(axis=0, keepdims=True)
    assert mutual_information(weights) == pytest.approx(float((joint * np.log2(joint / independent)).sum()))


def test_the_information_of_a_layer_is_that_of_its_own_weights() -> None:
    found = routing_by_task(adapted(), padder(), {"a": made_rows(1), "b": made_rows(2)}, rows=7)
    for layer, information in enumerate(found["mutual_information"]):
        own = np.asarray([found["tasks"][task]["weights"][layer] for task in ("a", "b")])
        joint = own / 2
        expected = (joint * np.log2(joint / (joint.sum(1, keepdims=True) * joint.sum(0, keepdims=True)))).sum()
        assert information == pytest.approx(expected)
        assert 0 < information < 1
