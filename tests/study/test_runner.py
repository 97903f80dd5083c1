"""A whole study, its cells run in this process."""

from __future__ import annotations

import builtins
import errno
import os
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from hycam.errors import HycamError
from hycam.files import write_whole
from hycam.study.cells import Cell
from hycam.study.executors import Finished, Progressed, Started, lost
from hycam.study.plan import plan, read_study
from hycam.study.recipe import ExecutorRecipe, StudyMethod, SweepRecipe
from hycam.study.results import cells_folder, read
from hycam.study.runner import run_study
from hycam.study.status import listing
from hycam.study.sweep import RATE
from study.factory import sweep_evaluation
from study.tiny import BASE, LORA, Inline, Watch, pretend


def names(inline: Inline) -> list[tuple[str, int]]:
    """The cells that ran since the last time, by method and fold."""
    ran = [(cell.method, cell.fold) for cell in inline.ran]
    inline.ran.clear()
    return ran


def test_every_cell_runs_once_and_is_kept(tiny_study, inline: Inline) -> None:
    study = tiny_study(methods={**BASE, **LORA})
    watch = Watch()
    done = run_study(study, watch)
    assert names(inline) == [("Base", 0), ("LoRA", 0)]
    assert [one.method for one in done.results.done] == ["Base", "LoRA"]
    assert {path.name for path in cells_folder(study.output).iterdir()} == {cell.file_name for cell in done.cells}
    for cell, one in zip(done.cells, done.results.done, strict=True):
        assert read(one.path).content["settings"] == cell.resolved
    assert [(type(event), event.cell.method) for event in watch.events] == [
        (kind, method) for method in ("Base", "LoRA") for kind in (Started, Progressed, Finished)
    ]
    assert read_study(study.output) == study
    assert not (Path(study.output) / ".running.json").exists()

    again = run_study(study, Watch())
    assert names(inline) == []
    assert [one.content for one in again.results.done] == [one.content for one in done.results.done]


def test_a_failed_cell_is_kept_with_its_reason_tried_again_and_does_not_stop_the_others(tiny_study, inline) -> None:
    study = tiny_study(folds=[0, 1])
    inline.work = pretend(lambda cell: "failed" if cell.method == "LoRA" and cell.fold == 0 else 2.0)
    current = run_study(study, Watch())
    assert len(names(inline)) == 4
    (failed,) = current.results.failed
    assert (failed.method, failed.fold, failed.content["failure"]["reason"]) == ("LoRA", 0, "no disk")
    inline.work = pretend(lambda cell: 2.0)
    assert not run_study(study, Watch()).results.failed
    assert names(inline) == [("LoRA", 0)]


def test_a_cell_whose_process_was_lost_is_kept_with_its_reason_and_tried_again(tiny_study, inline: Inline) -> None:
    def lose(cell: Cell, _: Any) -> tuple[str, Any]:
        event = lost(cell, "Its process was killed (SIGKILL).")
        return event.state, event.content

    inline.work = lose
    study = tiny_study(methods=LORA)
    (failed,) = run_study(study, Watch()).results.failed
    assert failed.content["failure"]["reason"] == "Its process was killed (SIGKILL)."
    (listed,) = listing(plan(study))["cells"]
    assert (listed["state"], listed["seconds"]) == ("failed", None)
    inline.work = pretend(lambda cell: 2.0)
    assert run_study(study, Watch()).to_go == []


def test_a_diverged_cell_is_not_tried_again(tiny_study, inline: Inline) -> None:
    inline.work = pretend(lambda cell: "diverged")
    study = tiny_study()
    (one, _) = run_study(study, Watch()).results.failed
    assert (one.state, one.content["failure"]["step"]) == ("diverged", 7)
    names(inline)
    run_study(study, Watch())
    assert names(inline) == []


def test_one_changed_field_runs_only_the_cells_that_it_touches(tiny_study, inline: Inline) -> None:
    inline.work = pretend(lambda cell: 2.0)
    study = tiny_study(folds=[0, 1])
    run_study(study, Watch())
    names(inline)
    run_study(replace(study, methods={**study.methods, "HyCAM": StudyMethod("hycam", {"r": 8})}), Watch())
    assert names(inline) == [("HyCAM", 0), ("HyCAM", 1)]
    run_study(replace(study, folds=[0, 1, 2]), Watch())
    assert names(inline) == [("LoRA", 2), ("HyCAM", 2)]
    run_study(replace(study, title="Other", evaluation=replace(study.evaluation, max_new_tokens=5)), Watch())
    assert len(names(inline)) == 4  # all of them, for another length of the answers


def test_at_most_so_many_cells_run(tiny_study, inline: Inline) -> None:
    inline.work = pretend(lambda cell: 2.0)
    study = tiny_study(folds=[0, 1])
    assert len(run_study(study, Watch(), most_cells=1).to_go) == 3
    assert names(inline) == [("LoRA", 0)]
    run_study(study, Watch(), most_cells=2)
    assert names(inline) == [("HyCAM", 0), ("LoRA", 1)]


def test_a_study_that_does_not_work_leaves_the_file_of_the_one_before(tiny_study, inline: Inline) -> None:
    inline.work = pretend(lambda cell: 2.0)
    study = tiny_study()
    run_study(study, Watch())
    with pytest.raises(HycamError, match="There is no fold 9"):
        run_study(replace(study, folds=[0, 9]), Watch())
    assert read_study(study.output) == study
    assert names(inline) == [("LoRA", 0), ("HyCAM", 0)]


def test_a_disk_that_fills_ends_the_study_and_costs_only_the_result_of_that_moment(
    tiny_study, inline: Inline, monkeypatch: pytest.MonkeyPatch
) -> None:
    study = tiny_study(methods={**BASE, **LORA})

    def full(path: Path, text: str) -> None:
        with monkeypatch.context() as patch:
            if path.name.startswith("lora"):
                patch.setattr(os, "fsync", lambda _: (_ for _ in ()).throw(OSError(errno.ENOSPC, "No space left")))
            write_whole(path, text)

    with monkeypatch.context() as patch, pytest.raises(HycamError, match=r"Could not write .*lora.*No space left"):
        patch.setattr("hycam.study.results.write_whole", full)
        run_study(study, Watch())
    assert names(inline) == [("Base", 0), ("LoRA", 0)]
    assert [one.method for one in plan(study).results.done] == ["Base"]
    (adapter,) = Path(study.output).rglob("adapter_model.safetensors")
    saved = adapter.stat().st_mtime_ns
    assert not run_study(study, Watch()).to_go
    assert names(inline) == [("LoRA", 0)]
    assert adapter.stat().st_mtime_ns == saved  # evaluated again, and not trained again


def test_a_sweep_goes_on_until_no_best_rate_is_at_an_edge(tiny_study, inline: Inline) -> None:
    study = tiny_study(sweep=SweepRecipe([1e-3, 3e-3], most_trials=5), evaluation=sweep_evaluation())
    best = {"LoRA": 1e-3, "HyCAM": 1e-2}
    inline.work = pretend(lambda cell: 1.0 + abs(cell.settings[RATE] - best[cell.method]))
    watch = Watch()
    current = run_study(study, watch)
    tried = {name: sorted(one.settings[RATE] for one in current.results.select(method=name)) for name in best}
    assert tried == {"LoRA": [3e-4, 1e-3, 3e-3], "HyCAM": [1e-3, 3e-3, 1e-2, 3e-2]}
    assert {key[1]: one.rate for key, one in current.best.items()} == best
    assert not any(one.at_edge for one in current.best.values())
    assert [len(made.cells) for made in watch.plans] == [4, 6, 7]
    names(inline)
    run_study(study, Watch())
    assert names(inline) == []


def test_a_cell_that_fails_in_a_sweep_is_tried_once_in_one_go(tiny_study, inline: Inline) -> None:
    study = tiny_study(sweep=SweepRecipe([1e-3, 3e-3]), evaluation=sweep_evaluation())
    inline.work = pretend(lambda cell: "failed")
    run_study(study, Watch())
    assert len(names(inline)) == 4


def test_without_ray_the_extra_is_named_before_anything_is_done(tiny_study, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "hycam.study.executors.ray", raising=False)
    real = builtins.__import__

    def no_ray(name: str, *rest: Any) -> Any:
        if name.split(".")[0] == "ray":
            raise ModuleNotFoundError("No module named 'ray'")
        return real(name, *rest)

    monkeypatch.setattr(builtins, "__import__", no_ray)
    study = tiny_study(executor=ExecutorRecipe("ray"))
    with pytest.raises(HycamError, match=r"pip install 'hycam\[ray\]'"):
        run_study(study, Watch())
    assert not Path(study.output).exists()
