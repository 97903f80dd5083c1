"""Pickles that leave a mark when they are loaded without care."""

from __future__ import annotations

import os
import pickle
from pathlib import Path

import torch


class Marks:
    """Makes a folder when it is unpickled."""

    def __init__(self, mark: Path) -> None:
        self.mark = str(mark)

    def __reduce__(self):
        return os.mkdir, (self.mark,)


def plant(path: Path, mark: Path, content: object = None) -> None:
    """Writes what ``torch.save`` would, with something in it that makes ``mark`` when it is unpickled."""
    torch.save({"state": content, "hidden": Marks(mark)}, path)


def plant_plain(path: Path, mark: Path) -> None:
    """The same as a bare pickle, as the oldest format of PyTorch begins."""
    path.write_bytes(pickle.dumps(Marks(mark)))
