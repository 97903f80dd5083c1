"""The four kinds of input that others write: recipes, data, adapters with their checkpoints, and results.

Each target makes inputs out of valid examples (``inputs``) and does with one what the command line would (``run``).
"""

from __future__ import annotations

import gzip
import io
import json
import struct
from pathlib import Path
from typing import Any

import msgspec
import pyarrow
import pyarrow.parquet
import pytest
import torch
import yaml
from hypothesis import strategies as st

from fuzz.mutations import ODD_TEXTS, changed_bytes, changed_tree
from hycam import backbones
from hycam.adapt import adapt
from hycam.adapters import check_adapter, saved_config
from hycam.data.chosen import chosen_tasks, own_task
from hycam.data.llama_factory import dataset_info
from hycam.data.load import load_task
from hycam.data.recipe import TaskRecipe
from hycam.study.comparisons import compare
from hycam.study.plan import Plan
from hycam.study.recipe import StudyRecipe
from hycam.study.report.content import Content
from hycam.study.report.page import render
from hycam.study.results import cells_folder, load
from hycam.study.status import listing
from hycam.study.tables import TABLES, csv, latex, markdown
from hycam.study.tables.table import NotRun
from hycam.study.text_tests import text_tests
from hycam.training.arguments import training_arguments
from hycam.training.checkpoints import PROGRESS
from hycam.training.parse import parse_recipe
from hycam.training.recipe import Recipe
from hycam.training.run import Run
from hycam.training.state import Progress, check_state
from study.factory import _Planner, plan_of, result_of, retention_of, routing_of, steady, study_of

RECIPES = Path(__file__).parents[2] / "recipes"


class Recipes:
    """A recipe or a study, and options after it, up to the point where a backbone would be read."""

    options = (
        "--training.learning_rate",
        "--data.mixture",
        "--data.tasks",
        "--method.config",
        "--data.split.by",
        "--training.extra",
        "--vary",
        "--evaluation.config",
        "--methods",
        "--nothing",
        "--data.tasks+",
    )

    def __init__(self, folder: Path) -> None:
        self.file = folder / "recipe.yaml"
        (folder / "rows.jsonl").write_text('{"instruction": "q", "output": "a"}\n' * 3)
        own = {
            "backbone": "smollm2-135m",
            "method": {"name": "moe-lora", "config": {"r": 8, "num_experts": 3}, "optimizer": {"name": "riemannian"}},
            "data": {
                "tasks": [
                    "gsm8k",
                    str(folder / "rows.jsonl"),
                    {
                        "path": str(folder / "rows.jsonl"),
                        "name": "mine",
                        "rows": 3,
                        "turns": "last",
                        "columns": {"instruction": "q", "response": "a"},
                        "split": {"by": "count", "validation_rows": 1, "test_rows": 1},
                    },
                ],
                "mixture": {"strategy": "weights", "weights": {"gsm8k": 1, "rows": 2, "mine": 0.5}},
            },
            "training": {"max_steps": 3, "extra": {"adam_beta2": 0.99}, "report_to": []},
            "evaluation": {"config": {"top_k": 1}},
        }
        known = [yaml.safe_load(path.read_text()) for path in sorted(RECIPES.rglob("*.yaml"))]
        trees = [own, own, *known]
        texts = [yaml.safe_dump(tree).encode() for tree in trees]
        file = st.one_of(changed_tree(trees), changed_tree(trees, most=1)).map(
            lambda tree: yaml.dump(tree, allow_unicode=True).encode("utf-8", "replace")
        )
        option = st.tuples(st.sampled_from(self.options), st.sampled_from(ODD_TEXTS))
        self.inputs = st.tuples(
            st.one_of(file, file, file, changed_bytes(texts)), st.one_of(st.none(), st.none(), option)
        )

    def run(self, given: tuple[bytes, tuple[str, str] | None]) -> None:
        text, option = given
        self.file.write_bytes(text)
        kind = StudyRecipe if b"methods:" in text or b"backbones:" in text else Recipe
        found: Any = parse_recipe(kind, [str(self.file), *(option or ())])
        chosen_tasks(found.data)
        if kind is StudyRecipe:
            _Planner(found).cells()
            return
        found.method.settings()
        training_arguments(found)


class Datasets:
    """A file of rows of any format, or a list of datasets, up to rows in Arrow."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        rows: list[dict[str, Any]] = [
            {"instruction": "What is 1 + 1?", "input": "", "output": "2", "history": [["a", "b"]], "system": "s"},
            {"instruction": "Name a colour.", "input": "é", "output": "blue"},
            {
                "messages": [
                    {"role": "system", "content": "s"},
                    {"role": "user", "content": "q"},
                    {"role": "assistant", "content": [{"type": "text", "text": "a"}]},
                ]
            },
            {"conversations": [{"from": "human", "value": "q"}, {"from": "gpt", "value": "a"}]},
            {"prompt": [{"role": "user", "content": "q"}], "completion": [{"role": "assistant", "content": "a"}]},
            {"question": "q", "answer": "a", "context": "c", "group": "g"},
            {
                "messages": [
                    {"role": "user", "content": "q", "name": "n"},
                    {
                        "role": "assistant",
                        "content": None,
                        "tool_calls": [{"id": "1", "type": "function", "function": {"name": "f", "arguments": "{}"}}],
                    },
                    {"role": "tool", "content": "b", "tool_call_id": "1"},
                    {"role": "assistant", "content": "a", "reasoning_content": "r", "weight": 1},
                    {"role": "user", "content": "q"},
                    {"role": "assistant", "content": "a", "weight": 0},
                ],
                "tools": [{"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}],
            },
            {
                "conversations": [
                    {"from": "human", "value": "q"},
                    {"from": "function_call", "value": '{"name": "f", "arguments": {"x": 1}}'},
                ],
                "tools": '[{"name": "f"}]',
            },
        ]
        lists: list[Any] = [rows[:2], rows[2:3] * 2, rows[3:4], rows[4:5], rows[5:6] * 3, rows[6:7], rows[7:]]
        lines = changed_tree(lists).map(
            lambda found: b"".join(_json(row) + b"\n" for row in (found if isinstance(found, list) else [found]))
        )
        whole = changed_tree(lists).map(_json)
        info = {
            "a": {"file_name": "a.jsonl", "columns": {"prompt": "instruction", "response": "output"}, "num_samples": 2},
            "b": {
                "file_name": "a.jsonl",
                "formatting": "sharegpt",
                "columns": {"messages": "conversations"},
                "tags": {"role_tag": "from", "content_tag": "value", "user_tag": "human", "assistant_tag": "gpt"},
            },
            "c": {"hf_hub_url": "owner/name", "split": "train", "subset": "x"},
        }
        table = b'instruction,input,output\nq,,a\n"q, 2","line\nend",a\n'
        written = io.BytesIO()
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows[:2]), written)
        plain = [b"".join(_json(row) + b"\n" for row in rows[:2]), _json(rows[:2]), table]
        files = [*plain, *(gzip.compress(one) for one in plain), written.getvalue(), gzip.compress(written.getvalue())]
        names = st.sampled_from(("a.jsonl", "a.json", "a.csv", "a.parquet", "a.jsonl.gz", "a.txt", "a"))
        content = st.one_of(
            lines, lines, whole, changed_bytes(files), changed_bytes([table]), changed_bytes(files).map(gzip.compress)
        )
        columns = st.sampled_from(
            ({}, {}, {"instruction": "instruction", "response": "output"}, {"messages": "messages"})
        )
        rows_of = st.tuples(names, content, columns, st.booleans())
        listed = st.tuples(
            st.just("dataset_info.json"), st.one_of(changed_tree([info]).map(_json), changed_bytes([_json(info)]))
        )
        self.inputs = st.one_of(rows_of, rows_of, rows_of, rows_of, listed)

    def run(self, given: tuple[Any, ...]) -> None:
        name, content, *settings = given
        path = self.folder / name
        path.write_bytes(content)
        try:
            if not settings:
                dataset_info(path).tasks()
                return
            columns, skip = settings
            found = load_task(own_task(TaskRecipe(path=str(path), columns=columns)), skip_bad_rows=skip)
            found[:]
        finally:
            path.unlink()


class Adapters:
    """A saved adapter, and the checkpoint of a training that is to go on."""

    def __init__(self, folder: Path, backbone: str) -> None:
        self.config = backbones.config(backbone)
        self.adapters: dict[str, tuple[Path, Any]] = {}
        weights, configs = [], []
        base = backbones.load(backbone)
        for name in ("hycam", "moe-lora", "lora"):
            adapted = adapt(base, name, {"r": 2})
            recipe = adapted.peft_config["default"]
            adapted.save_pretrained(str(folder / name))
            base = adapted.unload()
            self.adapters[recipe.peft_type.value] = folder / name, recipe
            weights.append((recipe.peft_type.value, (folder / name / "adapter_model.safetensors").read_bytes()))
            configs.append(json.loads((folder / name / "adapter_config.json").read_text()))
        self.whole = dict(weights)
        self.configs = {config["peft_type"]: config for config in configs}
        self.checkpoint = folder / "checkpoint-2"
        self.checkpoint.mkdir()
        torch.save(
            {"state": {0: {"exp_avg": torch.ones(2), "step": torch.tensor(1.0)}}, "param_groups": [{"lr": 0.1}]},
            self.checkpoint / "optimizer.pt",
        )
        torch.save({"last_epoch": 2, "_last_lr": [0.1]}, self.checkpoint / "scheduler.pt")
        (self.checkpoint / PROGRESS).write_bytes(msgspec.json.encode(Progress(step=2)))
        self.states = {name: (self.checkpoint / name).read_bytes() for name in ("optimizer.pt", "scheduler.pt")}
        state = json.loads((self.checkpoint / PROGRESS).read_text())
        kinds = st.sampled_from(sorted(self.adapters))
        self.inputs = st.one_of(
            kinds.flatmap(
                lambda kind: st.tuples(st.just("header"), st.just(kind), changed_tree([_header(self.whole[kind])]))
            ),
            kinds.flatmap(lambda kind: st.tuples(st.just("weights"), st.just(kind), changed_bytes([self.whole[kind]]))),
            kinds.flatmap(lambda kind: st.tuples(st.just("config"), st.just(kind), changed_tree([self.configs[kind]]))),
            st.sampled_from(sorted(self.states)).flatmap(
                lambda name: st.tuples(st.just("state"), st.just(name), changed_bytes([self.states[name]]))
            ),
            st.tuples(st.just("state"), st.just(PROGRESS), changed_tree([state]).map(_json)),
        )

    def run(self, given: tuple[str, str, Any]) -> None:
        what, kind, content = given
        if what == "state":
            path = self.checkpoint / kind
            before = path.read_bytes()
            path.write_bytes(content)
            try:
                check_state(self.checkpoint)
            finally:
                path.write_bytes(before)
            return
        folder, recipe = self.adapters[kind]
        weights, config = self.whole[kind], json.dumps(self.configs[kind]).encode()
        if what == "header":
            text = _json(content)
            (length,) = struct.unpack("<Q", weights[:8])
            weights = struct.pack("<Q", len(text)) + text + weights[8 + length :]
        elif what == "weights":
            weights = content
        else:
            config = _json(content)
        (folder / "adapter_model.safetensors").write_bytes(weights)
        (folder / "adapter_config.json").write_bytes(config)
        check_adapter(folder, saved_config(folder, recipe), self.config)


class Results:
    """The results of a study and what its run folders hold, up to the page of its report."""

    def __init__(self, folder: Path) -> None:
        tasks = ("dolly", "webgpt")
        study = study_of(("LoRA", "HyCAM"), tasks, (0, 1), output=str(folder))
        levels = steady({"LoRA": 1.6, "HyCAM": 1.58})
        self.plan = plan_of(study, lambda cell: None)
        self.cells = self.plan.cells
        self.folder = cells_folder(folder)
        self.folder.mkdir()
        scores = dict.fromkeys(tasks, 0.25)
        done = [
            result_of(
                cell,
                levels(cell),
                rows=3,
                rougeL=scores,
                bleu4=scores,
                retention=retention_of({"piqa": 0.1}, rows=2),
                routing=routing_of(tasks, layers=2, experts=2) if cell.method == "HyCAM" else None,
            )
            for cell in self.cells
        ]
        failed = result_of(self.cells[0], "diverged")
        trees = [dict(done[0].content), dict(done[1].content), dict(done[0].content), dict(failed.content)]
        for cell, one in zip(self.cells, done, strict=True):
            (self.folder / cell.file_name).write_text(json.dumps(one.content))
        self.place = {trees[at]["identity"]: self.cells[min(at, 1)].file_name for at in (0, 1)}
        self.own = {name: (self.folder / name).read_bytes() for name in self.place.values()}
        self.run_folder = Run(Path(self.cells[0].recipe.output))
        entries = [
            {
                "task": task,
                "row": row,
                "prompt": "p",
                "prediction": "x",
                "reference": "r",
                "rougeL": rouge,
                "nll": nll,
                "tokens": n,
            }
            for task, kept in done[0].content["evaluation"]["rows"].items()
            for row, nll, n, rouge in zip(kept["row"], kept["nll"], kept["tokens"], kept["rougeL"], strict=True)
        ]
        summary = {**done[0].content["training"], "validation": {"eval_loss": 1.0, "eval_loss_dolly": 1.0}}
        self.predictions = self.run_folder.evaluation("test") / "predictions.jsonl"
        self.predictions.parent.mkdir(parents=True)
        self.inputs = st.one_of(
            st.tuples(st.just("cell"), changed_tree(trees)),
            st.tuples(st.just("cell"), changed_tree(trees, most=1)),
            st.tuples(st.just("bytes"), changed_bytes(list(self.own.values()))),
            st.tuples(st.just("predictions"), changed_tree([entries])),
            st.tuples(
                st.just("training.json"), st.one_of(changed_tree([summary]).map(_json), changed_bytes([_json(summary)]))
            ),
        )

    def run(self, given: tuple[str, Any]) -> None:
        what, content = given
        with pytest.MonkeyPatch.context() as quick:  # bootstraps are alike for any numbers
            quick.setattr("hycam.study.text_tests.BLEU_RESAMPLES", 10)
            quick.setattr("hycam.study.report.page.describe", lambda: {"versions": {"hycam": "0"}, "commit": None})
            self._run(what, content)

    def _run(self, what: str, content: Any) -> None:
        name = next(iter(self.own))
        if what == "training.json":
            (self.run_folder.folder / what).write_bytes(content)
            self.run_folder.summary()
            return
        if what == "cell":
            if isinstance(content, dict):
                name = self.place.get(str(content.get("identity")), name)
            (self.folder / name).write_bytes(_json(content))
        elif what == "bytes":
            (self.folder / name).write_bytes(content)
        else:
            lines = content if isinstance(content, list) else [content]
            self.predictions.write_bytes(b"".join(_json(line) + b"\n" for line in lines))
        try:
            self._report()
        finally:
            (self.folder / name).write_bytes(self.own[name])
            self.predictions.unlink(missing_ok=True)

    def _report(self) -> None:
        plan = Plan(self.plan.study, self.cells, load(self.plan.study.output, self.cells))
        listing(plan)
        if plan.results.unusable and not self.predictions.exists():
            return  # what is left has been reported on often enough
        comparisons = compare(plan.results, plan.primary)
        tests = text_tests(plan, plan.study.reference) if self.predictions.exists() else []
        tables = []
        for name, make in TABLES.items():
            if name == "data":  # which is about the data alone, and takes seconds
                continue
            try:
                tables.append(make(plan, comparisons))
            except NotRun:
                continue
        for table in tables:
            for form in (markdown, latex, csv):
                form(table)
        render(Content(plan, comparisons, tests, tables, [], [], [], None), {}, Path("study.yaml"))
        assert {one.state for one in (*plan.results.done, *plan.results.failed)} <= {"done", "failed", "diverged"}


def _json(value: Any) -> bytes:
    """As JSON; where the tree has half a character, as an escape."""
    return json.dumps(value).encode()


def _header(weights: bytes) -> dict[str, Any]:
    (length,) = struct.unpack("<Q", weights[:8])
    return json.loads(weights[8 : 8 + length])
