"""Bytes that lead into parts of the readers that no input has reached before: ``python -m fuzz.coverage_guided READER``.

Atheris watches which lines an input reaches, and keeps those that reach new ones to change them further. An input that
fails is written to the current folder, and the process ends with a status other than 0. What stands behind READER goes
to libFuzzer, such as ``-runs=5000`` and a folder of inputs to begin with.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["hycam.data", "hycam.study.results", "hycam.study.layout", "hycam.training.parse"]):
    from hycam.data.formats import read_rows
    from hycam.data.llama_factory import dataset_info
    from hycam.data.tasks.columns import by_column_names
    from hycam.study.results import read
    from hycam.training.parse import parse_recipe
from hycam.adapters import weights_of
from hycam.errors import HycamError
from hycam.training.recipe import Recipe

FOLDER = Path(tempfile.mkdtemp(prefix="hycam-fuzz-"))


def rows(path: Path) -> None:
    for row in read_rows(path, lambda error: None):
        try:
            by_column_names(row)
        except HycamError:
            continue


def adapter(path: Path) -> None:
    weights_of(path.parent)


READERS: dict[str, tuple[str, Callable[[Path], object]]] = {
    "jsonl": ("a.jsonl", rows),
    "json": ("a.json", rows),
    "csv": ("a.csv", rows),
    "parquet": ("a.parquet", rows),
    "gzip": ("a.jsonl.gz", rows),
    "dataset_info": ("dataset_info.json", lambda path: dataset_info(path).tasks()),
    "adapter": ("adapter_model.safetensors", adapter),
    "result": ("a.json", read),
    "recipe": ("recipe.yaml", lambda path: parse_recipe(Recipe, [str(path)])),
}


def main() -> None:
    reader, *words = sys.argv[1:]
    name, target = READERS[reader]
    path = FOLDER / name

    def one(data: bytes) -> None:
        path.write_bytes(data)
        try:
            target(path)
        except HycamError as error:
            assert str(error).strip(), "a message that says nothing"

    atheris.Setup([sys.argv[0], *words], one)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
