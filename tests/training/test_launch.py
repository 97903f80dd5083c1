"""The commands that start several processes, as they are typed, and what happens when one of them is killed."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path

import psutil
import pytest
import torch
import yaml
from safetensors.torch import load_file

from hycam.cli import train as cli
from hycam.cli.arguments import without_launch
from hycam.errors import UsageError
from hycam.training.recipe import DistributedRecipe, Recipe
from hycam.training.run import Run

soak = pytest.mark.soak
BIN = Path(sys.executable).parent
HYCAM = [sys.executable, "-m", "hycam.cli.main"]


@pytest.mark.parametrize(
    ("given", "words", "number"),
    [
        (["r.yaml"], ["r.yaml"], None),
        (["r.yaml", "--launch", "2", "--output", "there"], ["r.yaml", "--output", "there"], 2),
        (["--launch=4", "r.yaml"], ["r.yaml"], 4),
    ],
)
def test_the_number_of_processes_may_stand_anywhere(given: list[str], words: list[str], number: int | None) -> None:
    assert without_launch(given) == (words, number)


@pytest.mark.parametrize("given", [["--launch"], ["--launch", "two"], ["--launch", "0"], ["--launch=-1"]])
def test_a_number_of_processes_that_is_none_is_wrong_usage(given: list[str]) -> None:
    with pytest.raises(UsageError, match="such as --launch 2"):
        without_launch(["r.yaml", *given])


def test_processes_that_a_launcher_has_started_do_not_start_more(
    recipe: Callable[..., Recipe], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    written = tmp_path / "recipe.yaml"
    written.write_text(yaml.safe_dump(asdict(recipe())))
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(UsageError, match="already has 2 processes"):
        cli.main([str(written), "--launch", "2"])


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    source = str(Path(cli.__file__).parents[2])
    own = {"HYCAM_CACHE": str(tmp_path_factory.mktemp("cache")), "OMP_NUM_THREADS": "1", "PYTHONPATH": source}
    return {**os.environ, **own, "PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}"}


@pytest.fixture
def written(recipe: Callable[..., Recipe], tmp_path: Path) -> Path:
    """A recipe of which some seconds are left when its first checkpoint is there."""
    chosen = recipe(max_steps=40, save_every=4, batch_size=1)
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump(asdict(chosen)))
    return path


@pytest.fixture
def start(environment: dict[str, str]) -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Starts a command; none outlives the test."""
    began: list[subprocess.Popen[str]] = []

    def run(*command: str | Path) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            list(map(str, command)), env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
            start_new_session=True,
        )  # fmt: skip
        began.append(process)
        return process

    yield run
    for process in began:
        kill(process, missing=True)
        process.communicate()


def kill(process: subprocess.Popen[str], missing: bool = False) -> None:
    """Kills a launcher and all that it has started, at once, as a machine that fails does."""
    try:
        family = [*psutil.Process(process.pid).children(recursive=True), psutil.Process(process.pid)]
    except psutil.NoSuchProcess:
        assert missing
        return
    for member in family:
        with suppress(psutil.NoSuchProcess):
            member.kill()


def trained_by(process: subprocess.Popen[str], folder: Path) -> dict[str, torch.Tensor]:
    """What a command that goes well leaves."""
    printed, _ = process.communicate(timeout=180)
    assert process.returncode == 0, printed
    assert printed.count("Adapter: ") == 1
    assert printed.count("training 40/40") == 1
    return load_file(Run(folder).adapter / "adapter_model.safetensors")


def wait_for_checkpoint(process: subprocess.Popen[str], folder: Path) -> None:
    """Waits for one that was not there when the process was started, so that it surely trains by now."""
    end, before = time.monotonic() + 120, Run(folder).last_checkpoint()
    while Run(folder).last_checkpoint() == before:
        assert process.poll() is None and time.monotonic() < end
        time.sleep(0.02)


def check_same(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> None:
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], weight) for name, weight in expected.items())


@soak
def test_every_launcher_gives_the_same_adapter_and_a_killed_run_continues_to_it(
    written: Path, start: Callable[..., subprocess.Popen[str]], tmp_path: Path
) -> None:
    def command(name: str) -> list[str | Path]:
        return ["train", written, "--output", tmp_path / name]

    expected = trained_by(start(*HYCAM, *command("whole"), "--launch", "2"), tmp_path / "whole")

    module = ["-m", "hycam.cli.main"]
    torchrun = [BIN / "torchrun", "--nproc-per-node", "2", *module]
    check_same(trained_by(start(*torchrun, *command("torchrun")), tmp_path / "torchrun"), expected)
    accelerate = [BIN / "accelerate", "launch", "--multi_gpu", "--num_processes", "2", "--num_machines", "1",
                  "--mixed_precision", "no", "--dynamo_backend", "no", *module]  # fmt: skip
    check_same(trained_by(start(*accelerate, *command("accelerate")), tmp_path / "accelerate"), expected)

    # One process is killed, then the launcher, each time the same command goes on.
    again = [*HYCAM, *command("killed"), "--launch", "2"]
    first = start(*again)
    wait_for_checkpoint(first, tmp_path / "killed")
    psutil.Process(first.pid).children()[1].kill()
    printed, _ = first.communicate(timeout=60)
    assert first.returncode == 1
    assert "Process 1 of 2 was ended by SIGKILL" in printed and "continues from the last checkpoint" in printed
    assert "Traceback" not in printed and "does not answer" not in printed
    second = start(*again)
    wait_for_checkpoint(second, tmp_path / "killed")
    workers = psutil.Process(second.pid).children()
    second.kill()
    _, alive = psutil.wait_procs(workers, timeout=15)
    assert not alive

    # And it is asked to end.
    third = start(*again)
    wait_for_checkpoint(third, tmp_path / "killed")
    workers = psutil.Process(third.pid).children()
    third.send_signal(signal.SIGTERM)
    printed, _ = third.communicate(timeout=120)
    assert third.returncode == 128 + signal.SIGTERM
    assert printed.count("hycam train: stopped.") == 1
    assert not psutil.wait_procs(workers, timeout=0)[1]
    check_same(trained_by(start(*again), tmp_path / "killed"), expected)


@soak
def test_deepspeeds_launcher_trains_with_zero(
    written: Path, start: Callable[..., subprocess.Popen[str]], tmp_path: Path
) -> None:
    pytest.importorskip("deepspeed")
    options = ["train", written, "--training.distributed.strategy", "zero3"]
    launcher = [BIN / "deepspeed", "--num_gpus", "2", "--no_local_rank", "--module", "hycam.cli.main"]
    found = trained_by(start(*launcher, *options, "--output", tmp_path / "by-deepspeed"), tmp_path / "by-deepspeed")
    own = start(*HYCAM, *options, "--launch", "2", "--output", tmp_path / "by-hycam")
    check_same(found, trained_by(own, tmp_path / "by-hycam"))


@soak
def test_two_nodes_of_which_one_dies_continue_to_the_same_adapter(
    written: Path, start: Callable[..., subprocess.Popen[str]], tmp_path: Path
) -> None:
    def nodes(name: str) -> list[subprocess.Popen[str]]:
        with socket.socket() as there:
            there.bind(("127.0.0.1", 0))
            port = there.getsockname()[1]
        # The first node is where they meet. It would also do without, but then a node that dies may take that with it,
        # and torchrun speaks before the process does.
        return [
            start(BIN / "torchrun", "--nnodes", "2", "--node-rank", str(node), "--nproc-per-node", "1",
                  "--rdzv-backend", "c10d", "--rdzv-endpoint", f"127.0.0.1:{port}", "--rdzv-id", "7",
                  "--rdzv-conf", f"is_host={node == 0}", "--local-addr", "127.0.0.1",
                  "-m", "hycam.cli.main", "train", written, "--output", tmp_path / name)
            for node in range(2)
        ]  # fmt: skip

    def finish(pair: list[subprocess.Popen[str]]) -> None:
        printed = [process.communicate(timeout=180)[0] for process in pair]
        assert [process.returncode for process in pair] == [0, 0], printed
        assert "".join(printed).count("Adapter: ") == 1

    finish(nodes("whole"))
    first, second = nodes("killed")
    wait_for_checkpoint(first, tmp_path / "killed")
    kill(second)
    printed, _ = first.communicate(timeout=120)
    assert first.returncode != 0
    assert printed.count("Another of the 2 processes does not answer") == 1
    assert Run(tmp_path / "killed").summary() is None
    finish(nodes("killed"))
    check_same(*(load_file(tmp_path / name / "adapter" / "adapter_model.safetensors") for name in ("killed", "whole")))


@soak
def test_what_is_wrong_is_said_once_wherever_it_is_found(
    recipe: Callable[..., Recipe], start: Callable[..., subprocess.Popen[str]], tmp_path: Path
) -> None:
    chosen = recipe("riemoe-lora", distributed=DistributedRecipe("fsdp"))
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump(asdict(chosen)))
    runs = {
        "the riemannian optimizer does not go with": start(*HYCAM, "train", path, "--launch", "2"),
        'the data of the task "nowhere" are not available': start(
            *HYCAM, "train", path, "--launch", "2", "--method.name", "lora", "--data.tasks", "[nowhere.jsonl]"
        ),
    }
    for words, process in runs.items():
        printed, _ = process.communicate(timeout=120)
        assert process.returncode == 1
        assert printed.lower().count(words) == 1, printed
        assert "Traceback" not in printed
