"""Training continues from what it wrote itself, and runs nothing that somebody put there.

Whoever plants something can write the manifest again too, so here that is always done.
"""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from hycam.console import Reporter
from hycam.errors import HycamError
from hycam.training.checkpoints import PROGRESS, seal
from hycam.training.recipe import Recipe
from hycam.training.run import Run
from hycam.training.state import check_state
from hycam.training.train import train
from pickles import plant, plant_plain

STATES = ("optimizer.pt", "scheduler.pt", "rng_state_0.pth")
SHARDED = ("rng_state_1.pth", "optimizer.bin", "pytorch_model_fsdp.bin", "global_step2/zero_optim_states.pt")


@pytest.fixture(scope="module")
def interrupted(build: Callable[..., Recipe], tmp_path_factory: pytest.TempPathFactory) -> Recipe:
    """The recipe of a run that stopped after its first checkpoint."""
    folder = tmp_path_factory.mktemp("interrupted") / "run"
    made = build(folder, max_steps=4, save_every=2)
    train(made, Reporter())
    shutil.rmtree(folder / "adapter")
    (folder / "training.json").unlink()
    shutil.rmtree(folder / "checkpoints" / "checkpoint-4")
    return made


@pytest.fixture
def recipe(interrupted: Recipe, tmp_path: Path) -> Recipe:
    """A copy of that run."""
    shutil.copytree(interrupted.output, tmp_path / "run")
    return replace(interrupted, output=str(tmp_path / "run"))


@pytest.fixture
def checkpoint(recipe: Recipe) -> Path:
    found = Run(Path(recipe.output)).last_checkpoint()
    assert found is not None
    return Path(found)


def test_a_checkpoint_holds_no_pickle_that_only_unsafe_loading_reads(checkpoint: Path) -> None:
    kinds = {path.name for path in checkpoint.iterdir() if path.suffix in (".bin", ".pt", ".pth", ".pkl")}
    assert kinds == {"optimizer.pt", "scheduler.pt", "rng_state_0.pth"}
    check_state(checkpoint)


def test_an_interrupted_run_goes_on_from_its_own_checkpoint(recipe: Recipe) -> None:
    assert train(recipe, Reporter())["steps"] == 4


@pytest.mark.parametrize("plant_it", [plant, plant_plain])
@pytest.mark.parametrize("name", [*STATES, *SHARDED])
def test_code_hidden_in_a_state_is_refused_by_the_files_name_and_not_run(
    recipe: Recipe, checkpoint: Path, tmp_path: Path, name: str, plant_it
) -> None:
    (checkpoint / name).parent.mkdir(exist_ok=True)
    plant_it(checkpoint / name, tmp_path / "mark")
    seal(checkpoint)
    with pytest.raises(HycamError, match=rf"{name}.*Delete"):
        train(recipe, Reporter()) if name == STATES[0] else check_state(checkpoint)
    assert not (tmp_path / "mark").exists()


def test_what_deepspeed_itself_puts_into_its_states_is_let_through(checkpoint: Path) -> None:
    config = pytest.importorskip("deepspeed.runtime.zero.config")
    (checkpoint / "global_step2").mkdir()
    content = {"zero_stage": config.ZeroStageEnum.weights, "base": torch.zeros(2)}
    torch.save(content, checkpoint / "global_step2" / "zero_pp_rank_0_mp_rank_00_optim_states.pt")
    (checkpoint / "latest").write_text("global_step2")
    check_state(checkpoint)
    torch.save(content, checkpoint / "optimizer.pt")  # no other library has anything to do with these
    with pytest.raises(HycamError, match="ZeroStageEnum"):
        check_state(checkpoint)


@pytest.mark.parametrize("name", ["../elsewhere", "/elsewhere", "."])
def test_deepspeed_is_not_led_out_of_the_checkpoint(checkpoint: Path, name: str) -> None:
    (checkpoint / "latest").write_text(name)
    with pytest.raises(HycamError, match="latest"):
        check_state(checkpoint)


@pytest.mark.parametrize("name", STATES)
def test_loading_would_run_none_of_it_either(
    recipe: Recipe, checkpoint: Path, tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The check is for the message: training reads each of the three with weights_only."""
    monkeypatch.setattr("hycam.training.train.check_state", lambda _: None)
    plant(checkpoint / name, tmp_path / "mark")
    seal(checkpoint)
    with pytest.raises(Exception, match="weights_only"):
        train(recipe, Reporter())
    assert not (tmp_path / "mark").exists()


def test_pickled_training_arguments_are_not_read(recipe: Recipe, checkpoint: Path, tmp_path: Path) -> None:
    plant(checkpoint / "training_args.bin", tmp_path / "mark")
    seal(checkpoint)
    assert train(recipe, Reporter())["steps"] == 4
    assert not (tmp_path / "mark").exists()


@pytest.mark.parametrize("name", ["adapter_model.bin", "pytorch_model.bin", "pytorch_model.bin.index.json"])
@pytest.mark.parametrize("alone", [True, False])
def test_pickled_weights_in_a_checkpoint_are_refused_and_not_run(
    checkpoint: Path, tmp_path: Path, name: str, alone: bool
) -> None:
    if alone:
        (checkpoint / "adapter_model.safetensors").unlink()
    plant(checkpoint / name, tmp_path / "mark")
    with pytest.raises(HycamError, match=rf"{name} is a pickle"):
        check_state(checkpoint)
    assert not (tmp_path / "mark").exists()


@pytest.mark.parametrize("written", ["", "{", "[]", "null", '{"what": 1}', '{"step": "two"}', "[" * 100_000, "\xff"])
def test_an_account_of_the_progress_that_is_none_is_refused_by_its_name(checkpoint: Path, written: str) -> None:
    (checkpoint / PROGRESS).write_bytes(written.encode("latin-1"))
    with pytest.raises(HycamError, match=rf"{PROGRESS} is damaged"):
        check_state(checkpoint)


def test_a_checkpoint_of_transformers_trainer_is_refused_as_one_of_an_earlier_version(checkpoint: Path) -> None:
    (checkpoint / "trainer_state.json").write_text("{}")
    with pytest.raises(HycamError, match=r"written by an earlier version.*Finish the run with that version, or delete"):
        check_state(checkpoint)


def test_a_state_that_is_cut_off_is_refused_by_its_name(checkpoint: Path) -> None:
    for name in STATES:
        whole = (checkpoint / name).read_bytes()
        (checkpoint / name).write_bytes(whole[: len(whole) // 2])
        with pytest.raises(HycamError, match=rf"{name} is damaged"):
            check_state(checkpoint)
        (checkpoint / name).write_bytes(whole)


@pytest.mark.parametrize(
    "forge",
    [
        lambda kept: [],
        lambda kept: {},
        lambda kept: kept | {"seconds": "long"},
        lambda kept: kept | {"logged": math.inf},
        lambda kept: kept | {"validation": [1.0]},
        lambda kept: kept | {"sums": kept["sums"] | {"loss": None}},
        lambda kept: kept | {"sums": kept["sums"] | {"tasks": [[1.0], [2.0]]}},
        lambda kept: kept | {"sums": {}},
    ],
)
def test_a_forged_account_of_the_progress_is_refused_by_its_name(recipe: Recipe, checkpoint: Path, forge) -> None:
    path = checkpoint / PROGRESS
    path.write_text(json.dumps(forge(json.loads(path.read_text()))))
    seal(checkpoint)
    with pytest.raises(HycamError, match=f"{PROGRESS} is damaged or was not written by training"):
        train(recipe, Reporter())
