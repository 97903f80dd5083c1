"""Two processes: whatever one of them meets, both stop at the same step, or both leave it out."""

from __future__ import annotations

import json
import math
import os
import socket
from pathlib import Path
from typing import Any

import datasets
import pytest
import torch
from torch import multiprocessing
from transformers import TrainingArguments

from architectures import tiny
from byte_tokenizer import byte_tokenizer
from hycam.adapt import adapt
from hycam.data.batches import Batches
from hycam.data.mixture import Mixture
from hycam.data.recipe import MixtureRecipe
from hycam.errors import Diverged
from hycam.methods import method
from hycam.training.checkpoints import Checkpoints
from hycam.training.divergence import Policy
from hycam.training.rows import MixedRows
from hycam.training.stopping import Stop
from hycam.training.trainer import MultiTaskTrainer

pytestmark = pytest.mark.soak
STEPS, BAD = 6, 3


class Broken(MultiTaskTrainer):
    """The loss of one micro-batch of one process is no number, or its gradient is none."""

    kind = ""

    def compute_loss(self, *arguments: Any, **keywords: Any) -> Any:
        loss = super().compute_loss(*arguments, **keywords)
        if self.kind == "loss" and self.state.global_step + 1 == BAD and self.accelerator.process_index == 1:
            loss = loss * math.nan
        if self.kind == "gradient" and self.state.global_step + 1 == BAD and self.accelerator.process_index == 0:
            loss = loss + (loss * 0).sqrt()  # finite, and its derivative is not
        return loss


CASES = [(kind, skips) for kind in ("loss", "gradient") for skips in (False, True)]


def work(rank: int, port: int, folder: str) -> None:
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1",
                   "MASTER_PORT": str(port), "ACCELERATE_USE_CPU": "true"}  # fmt: skip
    torch.set_num_threads(1)
    found = {f"{kind} {skips}": trained(rank, folder, kind, skips) for kind, skips in CASES}
    Path(folder, f"{rank}.json").write_text(json.dumps(found))


def trained(rank: int, folder: str, kind: str, skips: bool) -> dict[str, Any]:
    torch.manual_seed(0)
    tasks = {
        name: datasets.Dataset.from_list(
            [{"row": f"{name}:{n}", "input_ids": [first + n, 3, 4, 5], "labels": [-100, 3, 4, 5]} for n in range(12)]
        )
        for name, first in (("one", 10), ("two", 40))
    }
    rows = MixedRows(tasks)
    arguments = TrainingArguments(
        folder, use_cpu=True, max_steps=STEPS, per_device_train_batch_size=2, gradient_accumulation_steps=2,
        learning_rate=1e-2, remove_unused_columns=False, save_strategy="no", report_to="none", disable_tqdm=True,
        logging_steps=1, logging_nan_inf_filter=False, ddp_backend="gloo", include_num_input_tokens_seen="no",
    )  # fmt: skip
    model = adapt(tiny("llama"), "hycam", {"r": 4, "noise": "never"})
    mixture = Mixture(MixtureRecipe(), rows.sizes, 1)
    batches = Batches(mixture, rows.lengths, 2, 16, processes=2, process=rank)
    settings = method("hycam").optimizer_settings({})
    parts = (rows, batches, {}, settings, Checkpoints(Path(folder, "none")), Stop(), Policy(skips, 6.0))
    trainer = Broken(model, arguments, byte_tokenizer(), *parts)
    trainer.kind = kind
    found: dict[str, Any] = {"stopped": None}
    try:
        trainer.train()
    except Diverged as error:
        found["stopped"] = [error.step, error.what, error.rows]
    found["skipped"] = trainer.watch.skipped
    found["counted"] = sum(trainer.counter.rows.values())
    found["weights"] = {name: w.double().sum().item() for name, w in model.named_parameters() if w.requires_grad}
    found["schedule"] = trainer.lr_scheduler.last_epoch
    return found


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


@pytest.fixture(scope="module")
def of_both(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """What each process found in every case; making processes takes far longer than training in them."""
    folder = tmp_path_factory.mktemp("two")
    multiprocessing.spawn(work, (free_port(), str(folder)), nprocs=2)
    return [json.loads((folder / f"{rank}.json").read_text()) for rank in range(2)]


@pytest.mark.parametrize(("kind", "skips"), CASES)
def test_both_processes_do_the_same_about_what_one_of_them_met(of_both, kind: str, skips: bool) -> None:
    one, other = (found[f"{kind} {skips}"] for found in of_both)
    assert one["weights"] == other["weights"]
    assert all(math.isfinite(value) for value in one["weights"].values())
    assert (one["stopped"], one["skipped"]) == (other["stopped"], other["skipped"])
    if skips:
        assert one["stopped"] is None
        (entry,) = one["skipped"]
        step, what, rows = entry["step"], entry["reason"], entry["rows"]
        assert one["schedule"] == other["schedule"] == STEPS - 1
        assert one["counted"] == other["counted"] == 8 * (STEPS - 1)  # of both processes
    else:
        step, what, rows = one["stopped"]
    assert step == BAD and kind in what
    # Of the two micro-batches of the one process; or, since a gradient does not say whose it is, of both processes.
    assert len(rows) == len(set(rows)) == (4 if kind == "loss" else 8)
