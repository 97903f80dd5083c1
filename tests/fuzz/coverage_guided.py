"""Bytes that lead into parts of the readers that no input has reached before.

``python -m fuzz.coverage_guided FOLDER OPTION...`` with a folder of inputs to begin with for each reader, called after
it, and options of libFuzzer such as ``-runs=5000``. Atheris watches which lines an input reaches, and keeps those that
reach new ones to change them further. An input that fails is written to the current folder, and the process ends with a
status other than 0.
"""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import atheris

with atheris.instrument_imports(
    include=["hycam.data", "hycam.study.results", "hycam.study.cell_file", "hycam.training.parse"]
):
    from hycam.data.columns import by_column_names
    from hycam.data.llama_factory import dataset_info
    from hycam.data.read import read_rows
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


def main() -> int:
    """Each reader in a process of its own, which libFuzzer ends; they share the imports."""
    folder, *options = sys.argv[1:]
    failed = 0
    for reader in sorted(path.name for path in Path(folder).iterdir()):
        sys.stderr.flush()
        child = os.fork()
        if not child:
            _try_out(reader, [*options, str(Path(folder) / reader)])
        _, status = os.waitpid(child, 0)
        print(f"{reader}: {'failed' if status else 'all read or explained'}", file=sys.stderr)
        failed += bool(status)
    return min(failed, 1)


def _try_out(reader: str, words: list[str]) -> None:
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
    sys.exit(main())
