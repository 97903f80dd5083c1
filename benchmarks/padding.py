"""How much of what a training step computes is padding: batches as they come, of similar length, and packed.

    python -m benchmarks.padding

Counted and not timed: the tokens of the training rows of the five embedded tasks (fold 0, seed 2333, rows of at most
1,200 tokens) over the size of the batches that hold them, in one epoch. A packed batch is one row without padding, but
each pack may be up to 1,200 tokens; its share is of that.
"""

from __future__ import annotations

import json

import numpy as np
from rich.console import Console

from hycam.backbones import load_tokenizer
from hycam.data.batches import Batches
from hycam.data.mixture import Mixture
from hycam.data.prepare import prepare
from hycam.data.recipe import DataRecipe
from hycam.data.tasks import EMBEDDED
from hycam.training.rows import MixedRows

from .interleaved import RESULTS

BATCH_SIZES = (2, 8, 32)


def main() -> None:
    recipe = DataRecipe(tasks=list(EMBEDDED))
    rows = MixedRows(prepare(recipe, load_tokenizer("smollm2-135m")).train)
    mixture = Mixture(recipe.mixture, rows.sizes, recipe.seed)

    def padding(batch_size: int, group_by_length: bool = False) -> float:
        batches = Batches(mixture, rows.lengths, batch_size, recipe.max_length, group_by_length=group_by_length)
        sizes = [(rows.lengths[batch].sum(), rows.lengths[batch].max() * len(batch)) for batch in batches]
        tokens, computed = np.sum(sizes, axis=0)
        return float(1 - tokens / computed)

    def unfilled() -> float:
        packs = [int(rows.lengths[pack].sum()) for pack in Batches(mixture, rows.lengths, 1, recipe.max_length, True)]
        return float(1 - np.mean(packs) / recipe.max_length)

    found = {
        "as they come": {size: padding(size) for size in BATCH_SIZES},
        "group_by_length": {size: padding(size, group_by_length=True) for size in BATCH_SIZES},
        "packing": dict.fromkeys(BATCH_SIZES, unfilled()),
    }
    RESULTS.with_name("padding.json").write_text(json.dumps(found, indent=2) + "\n")
    console = Console(width=120)
    console.print("share of padding at batch size " + ", ".join(map(str, BATCH_SIZES)))
    for name, shares in found.items():
        console.print(f"{name:16} " + "  ".join(f"{share:6.1%}" for share in shares.values()), highlight=False)


if __name__ == "__main__":
    main()
