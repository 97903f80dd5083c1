"""What is logged: figures of the steps since the last line, the file of metrics, and the trackers."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor
from torch.nn import functional as F
from transformers import TrainingArguments

from hycam import processes
from hycam.files import write_whole
from hycam.tuners.hycam import TrainingStats


@dataclass
class Sums:
    """The sums of one process since the last line, as a checkpoint holds them.

    Attributes:
        loss: of the steps taken.
        taken: number of steps taken.
        skipped: number of steps skipped.
        tasks: NLL and labelled tokens of each task.
        routing: the balance loss and the share of each module.
        routed: the number of micro-batches in ``routing``.
    """

    loss: float = 0.0
    taken: int = 0
    skipped: int = 0
    tasks: list[list[float]] = field(default_factory=list)
    routing: list[float] = field(default_factory=list)
    routed: int = 0


class Figures:
    """Sums over the steps since the last line of metrics; a step counts once it is accepted.

    Args:
        tasks: their names.
        device: where the losses are.
    """

    def __init__(self, tasks: Sequence[str], device: torch.device) -> None:
        self._tasks = tasks
        self.loss = torch.zeros((), device=device)
        self._taken = self._skipped = 0
        self._sums = torch.zeros(2, len(tasks), dtype=torch.float64)  # NLL and tokens of each task
        self._routing = torch.zeros(0, dtype=torch.float64)
        self._routed = 0
        self._step_sums = torch.zeros_like(self._sums)  # of the step that is being made
        self._step_routing: list[Tensor] = []

    @torch.no_grad()
    def note_tasks(self, logits: Tensor, targets: Tensor, task: Tensor) -> None:
        """Adds the NLL of ``n`` labelled tokens by task; ``logits [n, V]``, the others ``[n]``."""
        each = F.cross_entropy(logits.float(), targets, reduction="none")
        task = task.cpu()
        self._step_sums[0].index_add_(0, task, each.double().cpu())
        self._step_sums[1].index_add_(0, task, torch.ones_like(task, dtype=torch.float64))

    def note_routing(self, stats: TrainingStats) -> None:
        """Adds a micro-batch's balance loss and its routing, averaged over tokens and layers."""
        if stats.routing and stats.balance_loss is not None:
            mean = torch.stack(list(stats.routing.values())).mean(dim=0)
            self._step_routing.append(torch.cat((stats.balance_loss.reshape(1), mean)).cpu().double())

    def accept(self, losses: Sequence[Tensor]) -> None:
        """Counts the step, whose micro-batches have these losses."""
        for loss in losses:
            self.loss += loss
        self._taken += 1
        self._sums += self._step_sums
        for found in self._step_routing:
            self._routing = found if self._routed == 0 else self._routing + found
            self._routed += 1
        self._forget_step()

    def skip(self) -> None:
        """Forgets the step, which was skipped."""
        self._skipped += 1
        self._forget_step()

    def _forget_step(self) -> None:
        self._step_sums.zero_()
        self._step_routing.clear()

    def line(self, accelerator: Accelerator) -> tuple[float, dict[str, float]]:
        """The sum of the losses and the figures of a line, over all processes; resets both."""
        total = accelerator.gather(self.loss).mean().item()
        line = {"loss": total / self._taken} if self._taken else {}
        for name, nll, tokens in zip(
            self._tasks, *processes.all_reduce(self._sums, self.loss.device).tolist(), strict=True
        ):
            if tokens:
                line[f"loss_{name}"] = nll / tokens
        if self._routed:
            balance, *routing = (self._routing / self._routed).tolist()
            line["balance_loss"] = balance
            line.update({f"routing_{k}": share for k, share in enumerate(routing)})
        self.loss.zero_()
        self._sums.zero_()
        self._taken = self._skipped = self._routed = 0
        return total, line

    def kept(self) -> Sums:
        """For a checkpoint."""
        return Sums(
            self.loss.item(), self._taken, self._skipped, self._sums.tolist(), self._routing.tolist(), self._routed
        )

    def restore(self, sums: Sums) -> None:
        """Takes what :meth:`kept` gave; raises RuntimeError or ValueError where it is of other tasks."""
        self._sums = torch.tensor(sums.tasks, dtype=torch.float64).view_as(self._sums)
        self._routing = torch.tensor(sums.routing, dtype=torch.float64)
        self.loss.fill_(sums.loss)
        self._taken, self._skipped, self._routed = sums.taken, sums.skipped, sums.routed


class Metrics:
    """The log: one JSON object a line, with step and seconds of training, and the trackers; the main process writes.

    Args:
        path: the file.
        arguments: name the trackers, and the run there.
        accelerator: holds the trackers.
    """

    def __init__(self, path: Path, arguments: TrainingArguments, accelerator: Accelerator) -> None:
        self._path = path
        self._arguments, self._accelerator = arguments, accelerator
        self.note = ""

    def begin(self, step: int, logged: int) -> None:
        """Drops lines that a resumed run will write again: keeps the first ``logged`` of those up to ``step``."""
        arguments = self._arguments
        if processes.is_main():
            before = self._path.read_text(encoding="utf-8", errors="replace") if self._path.exists() else ""
            kept = [line for line in before.splitlines() if _step(line) <= step]
            write_whole(self._path, "".join(f"{line}\n" for line in kept[:logged]))
        if arguments.report_to:
            names = ("learning_rate", "max_steps", "per_device_train_batch_size", "gradient_accumulation_steps", "seed")
            config = {name: getattr(arguments, name) for name in names}
            called = {"name": arguments.run_name} if arguments.run_name else {}
            options = {"wandb": called, "trackio": called}
            self._accelerator.init_trackers(arguments.project, config, init_kwargs=options)

    def write(self, step: int, seconds: float, values: Mapping[str, float]) -> None:
        """Appends a line, and keeps the loss for the progress bar."""
        for key, what in (("loss", "loss"), ("eval_loss", "validation loss")):
            if key in values:
                self.note = f"{what} {values[key]:.3f}"
        if processes.is_main():
            line = {"step": step, "elapsed": round(seconds, 3), **values}
            with self._path.open("a", encoding="utf-8") as handle:
                handle.write(json.dumps(line) + "\n")
        self._accelerator.log({_tracked(name): value for name, value in values.items()}, step=step)

    def close(self) -> None:
        """Flushes the trackers."""
        for tracker in self._accelerator.trackers:
            tracker.finish()


def _tracked(name: str) -> str:
    """The name under which trackers group it: ``eval/loss`` or ``train/loss``."""
    return f"eval/{name.removeprefix('eval_')}" if name.startswith("eval_") else f"train/{name}"


def _step(line: str) -> float:
    """The step of a line of metrics; infinite for half a line, which an interruption leaves."""
    try:
        found: Any = json.loads(line)["step"]
        return float(found)
    except (ValueError, KeyError, TypeError):
        return float("inf")
