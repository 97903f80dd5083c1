"""One process in a folder; a dead process does not block it."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import pytest

from hycam.errors import HycamError
from hycam.lock import OWN_FILES, alone


def holding(folder: Path) -> int:
    """A child that holds the folder until it is killed."""
    number = os.fork()
    if number == 0:
        with alone(folder, "waits in"):
            (folder / "held").touch()
            time.sleep(300)
    while not (folder / "held").exists():
        time.sleep(0.01)
    return number


def test_the_second_is_refused_with_the_first_ones_number_until_that_is_gone_however_it_goes(tmp_path: Path) -> None:
    number = holding(tmp_path)
    try:
        with pytest.raises(HycamError, match=rf"process {number} on .*trains in {tmp_path}\. .*stop it\. Go\."):
            alone(tmp_path, "trains in", "Go.").__enter__()
    finally:
        os.kill(number, signal.SIGKILL)
        os.waitpid(number, 0)
    with alone(tmp_path, "trains in"):
        pass


def test_only_its_own_files_are_left_in_the_folder(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError), alone(tmp_path / "new", "works in"):
        assert {path.name for path in (tmp_path / "new").iterdir()} == OWN_FILES
        raise RuntimeError
    assert {path.name for path in (tmp_path / "new").iterdir()} <= OWN_FILES
    with alone(tmp_path / "new", "works in"):
        pass


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(HycamError, match=r"file/run cannot be used"):
        alone(tmp_path / "file" / "run", "works in").__enter__()
