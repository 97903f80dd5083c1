"""Preparing rows for training: what it takes here, and what TRL's own preparation of the same rows takes.

    python -m benchmarks.data_preparation [--rows 500000] [--repeat 1]

Both begin with a file of JSON lines and end with token ids and labels on the disk: Alpaca prompt, response and end
token, tokenised by SmolLM2-135M's tokenizer, with the loss on the response and the end token. That both came to the
same ids and labels in every row is checked. Each run is a process of its own; "again" is one with the cache that the
run before it left, the others have an empty one.

    ours           hycam.data.prepare.prepare: reading, the five-fold split, tokens, the fingerprint over all of them
    TRL            datasets.load_dataset, a map that renders the prompt, the preparation inside SFTTrainer
    TRL, workers   the same with a process for each core (num_proc, dataset_num_proc)

Time runs from where the libraries, the tokenizer and TRL's (tiny) model are there until all rows are prepared. Memory
is the most that was resident in the process, mapped files included; the largest of TRL's workers is given beside it.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import os
import random
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pyarrow
from rich.console import Console
from rich.table import Table
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerBase

from hycam.backbones import load_tokenizer
from hycam.data.prepare import prepare
from hycam.data.prompts import render
from hycam.data.recipe import DataRecipe
from hycam.downloads import cache_folder
from hycam.machine import describe, peak_memory_bytes

RESULTS = Path(__file__).parent / "results" / "data_preparation.json"
TOKENIZER = "smollm2-135m"
MAX_LENGTH = 1200
ROWS_AT_ONCE = 10_000
ORDERS = [("ours", "ours, again"), ("TRL", "TRL, again"), ("TRL, workers",)]  # each with a cache of its own
KINDS = [kind for order in ORDERS for kind in order]
RATIOS = [("TRL", "ours"), ("TRL, workers", "ours"), ("TRL, again", "ours, again")]
COMMON = (
    "the of and to in is that it for as with was on are by this be from at or have an not which one all were can has "
    "their more if when we will there about up time would no some into them only other new two may what these also "
    "any people first then my most over such make how after between work where year while many through because same "
    "day before long part use well way even much good both under last does place great back still world own state"
)

Prepare = Callable[[], Iterable[datasets.Dataset]]


@dataclass(frozen=True)
class Run:
    """``peak`` and ``worker`` are bytes, of the process and of the largest that it started; ``content`` says whether
    two runs came to the same ids and labels."""

    seconds: float
    peak: int
    worker: int
    tokens: int
    content: str


def main() -> None:
    parser = argparse.ArgumentParser(description="Preparing rows for training, here and with TRL.")
    parser.add_argument("--rows", type=int, default=500_000)
    parser.add_argument(
        "--repeat", type=int, default=1, help="how often everything is measured, in an order drawn anew"
    )
    parser.add_argument("--measure", nargs=2, metavar=("KIND", "FILE"), help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    if chosen.measure:
        kind, file = chosen.measure
        print(json.dumps(asdict(_measure(kind, Path(file)))))
        return
    load_tokenizer(TOKENIZER)  # fetched now if it has to be, and not while something is timed
    loads = [os.getloadavg()[0]]
    draw = random.Random(2333)
    runs: dict[str, list[Run]] = {kind: [] for kind in KINDS}
    with tempfile.TemporaryDirectory(prefix="data-preparation-") as scratch:
        file = Path(scratch) / "rows.jsonl"
        with file.open("w", encoding="utf-8") as lines:
            lines.writelines(f"{json.dumps(row)}\n" for row in rows(chosen.rows))
        for _ in range(chosen.repeat):
            for order in draw.sample(ORDERS, len(ORDERS)):
                with tempfile.TemporaryDirectory(dir=scratch) as cache:
                    for kind in order:
                        runs[kind].append(_run(kind, file, Path(cache)))
    if len({run.content for each in runs.values() for run in each}) > 1:
        raise SystemExit("The ids or the labels differ: these were not the same preparation.")
    entry = _entry(chosen.rows, runs, [*loads, os.getloadavg()[0]])
    _save(entry)
    _show(entry)


def rows(count: int) -> Iterator[dict[str, str]]:
    """The same rows on every machine: words as frequent as those of English, the commonest and 5,000 made up."""
    draw = np.random.default_rng(2333)
    words = np.array([*COMMON.split(), *_made_up(5000, draw)])
    # Mandelbrot's form of Zipf's law: the word of rank r (from 1) has a share like 1 / (r + 2.7).
    shares = np.cumsum(1 / (np.arange(len(words)) + 3.7))
    for first in range(0, count, ROWS_AT_ONCE):
        number = min(ROWS_AT_ONCE, count - first)
        lengths = np.stack([draw.integers(5, 20, number), draw.integers(5, 105, number)], axis=1).ravel()
        text = words[np.searchsorted(shares, draw.random(lengths.sum()) * shares[-1])]
        texts = [" ".join(piece).capitalize() + "." for piece in np.split(text, np.cumsum(lengths)[:-1])]
        for instruction, output in zip(texts[::2], texts[1::2], strict=True):
            yield {"instruction": instruction, "output": output}


def _made_up(count: int, draw: np.random.Generator) -> Iterator[str]:
    """Words of one to three syllables."""
    starts, vowels, ends = [*"bcdfghlmnprstvw", "st", "tr", "pl"], [*"aeiou"], ["", "", "", *"nrstl"]
    for syllables in draw.integers(1, 4, count):
        yield "".join("".join(map(draw.choice, (starts, vowels, ends))) for _ in range(syllables))


def _run(kind: str, file: Path, cache: Path) -> Run:
    """A run in a process of its own, whose caches have nothing but the tokenizer and what is in ``cache`` already."""
    for name in ("backbones", "wheels"):
        link = cache / name
        if not link.exists():
            link.symlink_to(cache_folder() / name)
    places = {"HYCAM_CACHE": str(cache), "HF_HOME": str(cache / "hub"), "HF_DATASETS_CACHE": str(cache / "datasets")}
    command = [sys.executable, "-m", "benchmarks.data_preparation", "--measure", kind, str(file)]
    environment = {**os.environ, **places, "PYTHONWARNINGS": "ignore"}
    done = subprocess.run(command, env=environment, stdout=subprocess.PIPE)
    if done.returncode != 0:
        raise SystemExit(f"{kind} failed, as is said above.")
    run = Run(**json.loads(done.stdout.splitlines()[-1]))
    print(f"{kind}: {run.seconds:.1f} s, {run.peak / 2**30:.2f} GiB", file=sys.stderr)
    return run


def _measure(kind: str, file: Path) -> Run:
    datasets.disable_progress_bars()
    tokenizer = load_tokenizer(TOKENIZER)
    if kind.startswith("ours"):
        run = _ours(file, tokenizer)
    else:
        run = _trl(file, tokenizer, describe()["cores"] if kind == "TRL, workers" else None)
    start = time.perf_counter()
    prepared = run()
    seconds = time.perf_counter() - start
    # Before the rows are looked at, for which more of the files is mapped.
    peak, worker = peak_memory_bytes(), resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024
    return Run(seconds, peak, worker, *_content(prepared))


def _ours(file: Path, tokenizer: PreTrainedTokenizerBase) -> Prepare:
    def run() -> list[datasets.Dataset]:
        prepared = prepare(DataRecipe(tasks=[str(file)], max_length=MAX_LENGTH), tokenizer)
        return [rows for part in (prepared.train, prepared.validation, prepared.test) for rows in part.values()]

    return run


def _trl(file: Path, tokenizer: PreTrainedTokenizerBase, workers: int | None) -> Prepare:
    from trl import SFTConfig, SFTTrainer  # here, so that it counts for nothing in our memory

    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(tokenizer), hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=1
        )
    )
    arguments = SFTConfig(
        str(file.with_name("trl")),
        max_length=MAX_LENGTH,
        dataset_num_proc=workers,
        report_to="none",
        use_cpu=True,
        bf16=False,
    )

    def rendered(batch: dict[str, list[str]]) -> dict[str, list[str]]:
        examples = [{"instruction": instruction, "input": ""} for instruction in batch["instruction"]]
        return {
            "prompt": [render(example, "alpaca", tokenizer) for example in examples],
            "completion": batch["output"],
        }

    def run() -> list[datasets.Dataset]:
        found = datasets.load_dataset("json", data_files=str(file), split="train")
        train = found.map(rendered, batched=True, remove_columns=found.column_names, num_proc=workers)
        return [SFTTrainer(model, args=arguments, train_dataset=train, processing_class=tokenizer).train_dataset]

    return run


def _content(prepared: Iterable[datasets.Dataset]) -> tuple[int, str]:
    """How many tokens there are, and a number in hexadecimal that tells ids and labels from others, in any order."""
    tokens = total = 0
    for part in prepared:
        columns = part.select_columns(["input_ids", "labels"]).with_format("arrow")
        for table in columns.iter(batch_size=ROWS_AT_ONCE):
            ids, labels = (_split(table[name].combine_chunks()) for name in ("input_ids", "labels"))
            for row in zip(ids, labels, strict=True):
                tokens += len(row[0])
                total += int.from_bytes(sha256(b"".join(piece.tobytes() for piece in row)).digest())
    return tokens, f"{total % 2**256:064x}"


def _split(lists: pyarrow.ListArray) -> list[np.ndarray]:
    values = lists.flatten().to_numpy().astype("<i4", copy=False)
    return np.split(values, np.cumsum(lists.value_lengths().to_numpy())[:-1])


def _entry(count: int, runs: dict[str, list[Run]], loads: list[float]) -> dict[str, Any]:
    """What stands in the results: medians; ratios of runs of the same round, with their range."""
    found: dict[str, Any] = {"rows": count, "tokens": runs["ours"][0].tokens, "runs": {}, "ratios": {}}
    for kind, each in runs.items():
        seconds = statistics.median(run.seconds for run in each)
        found["runs"][kind] = {
            "seconds": round(seconds, 2),
            "rows_per_second": round(count / seconds),
            "peak_gib": round(max(run.peak for run in each) / 2**30, 2),
            "worker_gib": round(max(run.worker for run in each) / 2**30, 2),
        }
    for above, below in RATIOS:
        ratios = [a.seconds / b.seconds for a, b in zip(runs[above], runs[below], strict=True)]
        values = {"ratio": statistics.median(ratios), "low": min(ratios), "high": max(ratios)}
        found["ratios"][f"{above} / {below}"] = {name: round(value, 2) for name, value in values.items()}
    versions = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in ("tokenizers", "datasets", "trl"))
    here = describe()
    rounds = len(runs["ours"])
    machine = f"{here['processor']}, {here['cores']} cores, {versions}"
    return {**found, "rounds": rounds, "load": [round(load, 1) for load in loads], "machine": machine}


def _save(entry: dict[str, Any]) -> None:
    """Replaces the entry of as many rows; the others stay."""
    entries = {old["rows"]: old for old in json.loads(RESULTS.read_text())} if RESULTS.exists() else {}
    entries[entry["rows"]] = entry
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(json.dumps([entries[rows] for rows in sorted(entries)], indent=2) + "\n")


def _show(entry: dict[str, Any]) -> None:
    table = Table("run", "seconds", "rows/s", "peak, GiB", "worker, GiB", box=None, padding=(0, 2, 0, 0))
    for kind, found in entry["runs"].items():
        worker = f"{found['worker_gib']:.2f}" if found["worker_gib"] else ""
        table.add_row(
            kind, f"{found['seconds']:.1f}", f"{found['rows_per_second']:,}", f"{found['peak_gib']:.2f}", worker
        )
    for column in table.columns[1:]:
        column.justify = "right"
    console = Console(width=120)
    console.print(f"{entry['rows']:,} rows of {entry['tokens'] / entry['rows']:.0f} tokens", highlight=False)
    console.print(table)
    for name, ratio in entry["ratios"].items():
        console.print(f"{name}: {ratio['ratio']:.2f} ({ratio['low']:.2f}-{ratio['high']:.2f})", highlight=False)
    before, after = entry["load"]
    console.print(f"load {before} before, {after} after\n{entry['machine']}", highlight=False)


if __name__ == "__main__":
    main()
