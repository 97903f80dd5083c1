"""Recipes, data, adapters and results that were changed somewhere: each gives a result or a message, and soon.

``make test`` tries a few of each kind, always the same ones; ``make soak`` thousands, other ones each time, or as many
of each kind as ``HYCAM_FUZZED`` says. What fails is shown made as small as it gets, with a line that repeats it.
"""

from __future__ import annotations

import gzip
import os
import shutil
import subprocess
import sys
import warnings
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, Phase, given, settings
from safetensors.torch import save

from fuzz.targets import Adapters, Datasets, Recipes, Results
from fuzz.watched import explained, resident_bytes

FAMILIES = ("recipes", "datasets", "adapters", "results")
FEW, MANY = 50, int(os.environ.get("HYCAM_FUZZED", "5000"))
BATCH = 500
MOST_GROWTH = 48 << 20  # bytes over the second half of many inputs; what hypothesis notes of them is some of it

_HEALTH = list(HealthCheck)


@pytest.fixture
def target(request: pytest.FixtureRequest, tmp_path: Path, data_cache: Path) -> Iterator[object]:
    name = request.param
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if name == "adapters":
            yield Adapters(tmp_path, request.getfixturevalue("backbone"))
        else:
            yield {"recipes": Recipes, "datasets": Datasets, "results": Results}[name](tmp_path)


def try_out(target, examples: int, *, always_the_same: bool, data_cache: Path) -> None:
    @settings(
        max_examples=examples,
        deadline=None,
        database=None,
        derandomize=always_the_same,
        print_blob=True,
        suppress_health_check=_HEALTH,
        phases=(Phase.generate, Phase.shrink),
        report_multiple_bugs=False,
    )
    @given(target.inputs)
    def one(value) -> None:
        with explained():
            target.run(value)

    one()
    for entry in data_cache.iterdir():  # prepared rows, some for each input
        shutil.rmtree(entry, ignore_errors=True)


@pytest.mark.parametrize("target", FAMILIES, indirect=True)
def test_a_few_changed_inputs_are_read_or_explained(target, data_cache: Path) -> None:
    try_out(target, FEW, always_the_same=True, data_cache=data_cache)


@pytest.mark.soak
@pytest.mark.parametrize("target", FAMILIES, indirect=True)
def test_thousands_of_changed_inputs_are_read_or_explained_and_leave_no_memory_behind(target, data_cache: Path) -> None:
    held = []
    for _ in range(MANY // BATCH):
        try_out(target, BATCH, always_the_same=False, data_cache=data_cache)
        held.append(resident_bytes())
    growth = held[-1] - held[len(held) // 2 - 1]
    print(f"{MANY} inputs; resident memory after every {BATCH}, MiB: {[round(one / 2**20) for one in held]}")
    assert growth < MOST_GROWTH, f"{growth / 2**20:.0f} MiB more after the second half"


READERS = {
    "jsonl": b'{"instruction": "q", "output": "a"}\n',
    "json": b'[{"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]}]',
    "csv": b'instruction,output\nq,"a\nb"\n',
    "parquet": b"PAR1",
    "gzip": gzip.compress(b'{"instruction": "q", "output": "a"}\n'),
    "dataset_info": b'{"a": {"file_name": "a.jsonl", "columns": {"prompt": "q", "response": "a"}}}',
    "adapter": save({"base_model.model.x.hycam_A": torch.zeros(2, 2)}),
    "result": b'{"format": 1, "state": "done"}',
    "recipe": b"backbone: smollm2-135m\ndata: {tasks: [gsm8k], mixture: {strategy: equal}}\n",
}
RUNS = 1_000  # of each reader


@pytest.mark.soak
@pytest.mark.skipif(find_spec("atheris") is None, reason="atheris has no wheel for this machine")
def test_bytes_that_lead_into_new_parts_of_a_reader_are_read_or_explained(tmp_path: Path) -> None:
    for reader, valid in READERS.items():
        (tmp_path / "begin" / reader).mkdir(parents=True)
        (tmp_path / "begin" / reader / "valid").write_bytes(valid)
    tests = Path(__file__).parents[1]
    command = [
        sys.executable,
        "-m",
        "fuzz.coverage_guided",
        str(tmp_path / "begin"),
        f"-runs={RUNS}",
        "-timeout=10",
        "-rss_limit_mb=4096",
        "-max_len=4096",
    ]
    done = subprocess.run(
        command,
        cwd=tmp_path,
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": f"{tests}:{tests.parent / 'src'}"},
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stderr.count(f"Done {RUNS} runs") == len(READERS)
