"""The largest batches, compared with those that the collator and validation make."""

from __future__ import annotations

import numpy as np
import pytest
from transformers import AutoConfig, DataCollatorForSeq2Seq

from byte_tokenizer import byte_tokenizer
from hycam import backbones
from hycam.data.prepare import prepare
from hycam.evaluation import perplexity
from hycam.training.packing import PackedCollator
from hycam.training.preflight.data import largest_batch, largest_validation_batch
from hycam.training.rows import MixedRows, batches_of, steps_of


@pytest.mark.parametrize("how", ["plain", "grouped", "packed"])
@pytest.mark.parametrize("world", [1, 2])
def test_no_batch_of_the_whole_run_is_larger(recipe, how: str, world: int) -> None:
    chosen = recipe(batch_size=3, gradient_accumulation=2, max_steps=7)
    chosen.data.packing, chosen.data.group_by_length = how == "packed", how == "grouped"
    data = prepare(chosen.data, byte_tokenizer())
    rows = MixedRows(data.train)
    config = AutoConfig.from_pretrained(chosen.backbone)
    config.vocab_size = 1  # a label then counts for next to nothing, and tokens decide
    largest = largest_batch(chosen, data.train, config, world)
    tokenizer = byte_tokenizer()
    tokenizer.padding_side = "right"
    collate = PackedCollator() if how == "packed" else DataCollatorForSeq2Seq(tokenizer)
    shares = [batches_of(chosen, rows, world, process) for process in range(world)]
    sizes, all_rows = [], []
    for epoch in range(14):
        for share in shares:
            share.set_epoch(epoch)
        for parts in zip(*shares, strict=True):
            sizes.append(max(collate([rows[row] for row in part])["input_ids"].numel() for part in parts if part))
            all_rows.append(sorted(row for part in parts for row in part))
    assert sizes[all_rows[:14].index(sorted(largest))] == max(sizes[:14])


def test_labels_count_for_more_where_the_vocabulary_is_large(recipe) -> None:
    chosen = recipe(batch_size=1, max_steps=20)
    data = prepare(chosen.data, byte_tokenizer())
    config = AutoConfig.from_pretrained(chosen.backbone)
    labelled = np.concatenate([part["trained"][:] for part in data.train.values()])
    lengths = MixedRows(data.train).lengths
    config.vocab_size = 10**9
    assert labelled[largest_batch(chosen, data.train, config, 1)] == labelled.max()
    config.vocab_size = 1
    assert lengths[largest_batch(chosen, data.train, config, 1)] == lengths.max()


def test_steps_are_counted_as_the_trainer_counts_them(recipe) -> None:
    chosen = recipe(max_steps=None, epochs=1.5, batch_size=3, gradient_accumulation=2)
    rows = MixedRows(prepare(chosen.data, byte_tokenizer()).train)
    in_epoch = -(-len(rows) // 3)
    assert steps_of(chosen, batches_of(chosen, rows)) == int(np.ceil(1.5 * -(-in_epoch // 2)))
    assert steps_of(recipe(max_steps=9), batches_of(recipe(max_steps=9), rows)) == 9


def test_the_largest_validation_batch_is_one_that_is_computed(recipe, monkeypatch: pytest.MonkeyPatch) -> None:
    chosen = recipe()
    data = prepare(chosen.data, byte_tokenizer())
    model = backbones.load(chosen.backbone)
    seen = []
    whole = perplexity.logits_at

    def noting(model, tokenizer, ids, row, position):
        seen.append((len(ids), len(ids) * max(map(len, ids)), len(row)))
        return whole(model, tokenizer, ids, row, position)

    monkeypatch.setattr(perplexity, "logits_at", noting)
    for part in (*data.validation.values(), *largest_validation_batch(data.validation, model.config, 2).values()):
        perplexity.response_nll(model, byte_tokenizer(), part, 2)
    *batches, largest = seen
    assert largest in batches
    assert largest[2] == max(labelled for rows, _, labelled in batches if rows == 2)
