"""The largest batches, compared with what the trainer's own loader and validation give."""

from __future__ import annotations

import numpy as np
import pytest
from transformers import DataCollatorForSeq2Seq

from byte_tokenizer import byte_tokenizer
from hycam import backbones
from hycam.data.prepare import Prepared, prepare
from hycam.evaluation import perplexity
from hycam.training.preflight.footprint import Shape
from hycam.training.preflight.shapes import batches_of, counts, largest, steps_of, training_shapes, validation_shapes
from hycam.training.recipe import Recipe
from hycam.training.rows import MixedRows, PackedCollator


def of(recipe: Recipe) -> tuple[Prepared, MixedRows, np.ndarray]:
    data = prepare(recipe.data, byte_tokenizer())
    return data, MixedRows(data.train), np.concatenate([counts(part)[1] for part in data.train.values()])


@pytest.mark.parametrize("how", ["plain", "grouped", "packed"])
def test_training_shapes_are_those_of_the_collated_batches(recipe, how: str) -> None:
    chosen = recipe(batch_size=3, gradient_accumulation=2, max_steps=7)
    chosen.data.packing, chosen.data.group_by_length = how == "packed", how == "grouped"
    _, rows, trained = of(chosen)
    batches = batches_of(chosen, rows)
    tokenizer = byte_tokenizer()
    tokenizer.padding_side = "right"
    collate = PackedCollator() if how == "packed" else DataCollatorForSeq2Seq(tokenizer)
    expected, epoch, seen = set(), 0, 0
    while seen < 14:
        batches.set_epoch(epoch)
        for indices in batches:
            if seen == 14:
                break
            batch = collate([rows[index] for index in indices])
            size, length = batch["input_ids"].shape
            labelled = sum(int((np.array(rows[index]["labels"]) != -100).sum()) for index in indices)
            padded = "attention_mask" in batch and not bool(batch["attention_mask"].all())
            expected.add(Shape(size, length, labelled, padded, how == "packed"))
            seen += 1
        epoch += 1
    assert set(training_shapes(chosen, rows, batches, trained)) == expected


def test_steps_are_counted_as_the_trainer_counts_them(recipe) -> None:
    chosen = recipe(max_steps=None, epochs=1.5, batch_size=3, gradient_accumulation=2)
    _, rows, _ = of(chosen)
    in_epoch = -(-len(rows) // 3)
    assert steps_of(chosen, batches_of(chosen, rows)) == int(np.ceil(1.5 * -(-in_epoch // 2)))
    assert steps_of(recipe(max_steps=9), batches_of(recipe(max_steps=9), rows)) == 9


def test_validation_shapes_are_those_that_are_computed(recipe, monkeypatch: pytest.MonkeyPatch) -> None:
    chosen = recipe()
    data, _, _ = of(chosen)
    model = backbones.load(chosen.backbone)
    seen = set()
    whole = perplexity.logits_at

    def noting(model, tokenizer, ids, row, position):
        lengths = [len(one) for one in ids]
        seen.add(Shape(len(ids), max(lengths), len(row), min(lengths) != max(lengths)))
        return whole(model, tokenizer, ids, row, position)

    monkeypatch.setattr(perplexity, "logits_at", noting)
    for part in data.validation.values():
        perplexity.response_nll(model, byte_tokenizer(), part, 2)
    assert set(validation_shapes(data.validation, 2)) == seen


def test_the_largest_shape_depends_on_what_a_token_and_a_label_cost() -> None:
    long, labelled = Shape(2, 100, 10), Shape(2, 50, 90)
    assert largest([long, labelled], 1.0, 0.0) == long
    assert largest([long, labelled], 0.1, 1.0) == labelled
