"""The command line: exit statuses, messages, and every verb once on a tiny backbone."""

from __future__ import annotations

import errno
import io
import json
import os
import shutil
from pathlib import Path

import pytest
from transformers import AutoTokenizer

import hycam.cli.train
from chat_templates import QWEN_3
from hycam.cli.main import VERBS, main
from hycam.methods import METHODS


@pytest.fixture
def recipe(backbone: str, tasks: list[str], tmp_path: Path) -> str:
    path = tmp_path / "recipe.yaml"
    path.write_text(
        f"backbone: {backbone}\noutput: {tmp_path / 'run'}\n"
        f"method: {{name: hycam, config: {{r: 4}}}}\ndata: {{tasks: {json.dumps(tasks)}, max_length: 300}}\n"
        "training: {max_steps: 3, learning_rate: 1e-2, device: cpu}\n"
        "evaluation: {max_new_tokens: 4, generate_rows: 1}\n"
    )
    return str(path)


def test_train_evaluate_and_generate_follow_one_another(recipe: str, tmp_path: Path, capsys, monkeypatch) -> None:
    run = str(tmp_path / "run")
    assert main(["train", recipe]) == 0
    assert f"Adapter: {run}/adapter" in capsys.readouterr().out
    assert main(["evaluate", run]) == 0
    shown = capsys.readouterr().out
    assert "perplexity" in shown
    assert "macro" in shown
    assert main(["evaluate", run, "--json", "--part", "validation", "--generate_rows", "0"]) == 0
    metrics = json.loads(capsys.readouterr().out)
    assert metrics["tasks"]["mirror"]["generated_rows"] == 0
    assert metrics["max_new_tokens"] == 4  # as the run's recipe has it
    assert main(["generate", run, "Turn round: ab1", "Go on from 3", "--max_new_tokens", "3", "--json"]) == 0
    answers = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [answer["instruction"] for answer in answers] == ["Turn round: ab1", "Go on from 3"]
    monkeypatch.setattr("sys.stdin", io.StringIO("Go on from 3\n\n"))
    assert main(["generate", run, "--max_new_tokens", "3", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["response"] == answers[1]["response"]
    (tmp_path / "asked.jsonl").write_text('{"instruction": "Go on from 3", "input": ""}\n')
    assert main(["generate", run, "--file", str(tmp_path / "asked.jsonl"), "--max_new_tokens", "3", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["response"] == answers[1]["response"]
    assert main(["generate", run, "Go on from 3", "--file", str(tmp_path / "asked.jsonl")]) == 2
    assert 'Both "Go on from 3" and --file' in capsys.readouterr().err
    assert main(["train", recipe]) == 0
    assert "complete already" in capsys.readouterr().err


def test_methods_lists_every_method_as_a_table_and_as_json(backbone: str, capsys) -> None:
    assert main(["methods", "--backbone", backbone]) == 0
    assert "hycam-inverse-peft" in capsys.readouterr().out
    assert main(["methods", "--backbone", backbone, "--json"]) == 0
    entries = json.loads(capsys.readouterr().out)
    always = {"name", "trainable_parameters", "total_parameters", "share"}
    assert [entry["name"] for entry in entries] == list(METHODS)
    for entry in entries:
        assert set(entry) == always | ({"rank", "deviation"} if entry["name"].endswith("-matched") else set())


@pytest.mark.parametrize(
    ("arguments", "status", "words"),
    [
        ([], 2, ""),
        (["trian"], 2, '"train"'),
        (["train", "no-such.yaml"], 1, "no recipe no-such.yaml"),
        (["train", "--no_such_option", "1"], 2, "no option --no_such_option"),
        (["evaluate"], 2, "run"),
        (["evaluate", "nowhere"], 1, "not a run folder"),
        (["evaluate", "nowhere", "--partt", "test"], 2, "partt"),
        (["generate", "nowhere", "x"], 1, "not a run folder"),
        (["methods", "--backbone", "smollm"], 1, '"smollm2-135m"'),
        (["methods", "--jsn"], 2, "jsn"),
        (["study", "no-such.yaml"], 1, "no recipe"),
        (["data", "preview", "gsm9k"], 1, '"gsm8k"'),
    ],
)
def test_failures_are_one_message_and_a_status(arguments: list[str], status: int, words: str, capsys) -> None:
    assert main(arguments) == status
    captured = capsys.readouterr()
    assert words in captured.err
    assert "Traceback" not in captured.err


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_has_help(verb: str, capsys) -> None:
    with pytest.raises(SystemExit) as stopped:
        main([verb, "--help"])
    assert stopped.value.code == 0
    assert f"hycam {verb}" in capsys.readouterr().out


def test_help_lists_the_verbs(capsys) -> None:
    assert main(["--help"]) == 0
    shown = capsys.readouterr().out
    assert all(verb in shown for verb in VERBS)


def test_a_full_disk_and_ctrl_c_end_in_one_line(monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    for error, status, words in (
        (OSError(errno.ENOSPC, "No space left on device", "runs/x"), 1, "No space left on device (runs/x)"),
        (KeyboardInterrupt(), 130, "What was complete is still there"),
    ):
        monkeypatch.setattr(hycam.cli.train, "main", lambda _, error=error: (_ for _ in ()).throw(error))
        assert main(["train"]) == status
        assert words in capsys.readouterr().err


def test_a_reader_that_has_gone_is_no_traceback(monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    with os.fdopen(writing, "w") as gone:
        monkeypatch.setattr("sys.stdout", gone)
        assert main(["data", "list", "--json"]) == 1
    assert capsys.readouterr().err == ""


def test_a_prompt_is_asked_exactly_as_it_was_trained(recipe: str, tmp_path: Path, monkeypatch) -> None:
    run = str(tmp_path / "run")
    assert main(["train", recipe]) == 0
    asked = []
    monkeypatch.setattr(
        "hycam.evaluation.generation.generate", lambda model, tokenizer, ids, *rest: asked.extend(ids) or [""]
    )
    assert main(["generate", run, "Go on from 3"]) == 0
    from hycam.data.prepare import prepare
    from hycam.training.run import Run

    _, tokenizer = Run(Path(run)).load()
    data = prepare(Run(Path(run)).recipe().data, tokenizer)
    trained = {row["prompt"]: row["input_ids"][: row["prompt_length"]]
               for part in (data.train, data.validation, data.test) for row in part["counting"]}  # fmt: skip
    assert asked[0] == next(ids for prompt, ids in trained.items() if "Go on from 3\n" in prompt)


@pytest.mark.parametrize("thought", ["", "<think>\nhm\n</think>\n\n"])
def test_a_chat_begins_with_or_without_a_thought_as_it_was_trained(
    thought: str, backbone: str, tmp_path: Path, monkeypatch
) -> None:
    shutil.copytree(backbone, tmp_path / "backbone")
    tokenizer = AutoTokenizer.from_pretrained(backbone)
    tokenizer.chat_template = QWEN_3.template.replace("<|im_end|>", tokenizer.eos_token)
    tokenizer.save_pretrained(tmp_path / "backbone")
    rows = [json.dumps({"instruction": f"Go on from {n}", "response": f"{thought}{n + 1}"}) for n in range(30)]
    (tmp_path / "counts.jsonl").write_text("\n".join(rows))
    (tmp_path / "recipe.yaml").write_text(
        f"backbone: {tmp_path / 'backbone'}\noutput: {tmp_path / 'run'}\nmethod: {{name: hycam, config: {{r: 4}}}}\n"
        f"data: {{tasks: [{tmp_path / 'counts.jsonl'}], prompt: chat, max_length: 300}}\n"
        "training: {max_steps: 1, learning_rate: 1e-2, device: cpu}\n"
    )
    asked: list[list[int]] = []
    monkeypatch.setattr(
        "hycam.evaluation.generation.generate", lambda model, tokenizer, ids, *rest: asked.extend(ids) or [""]
    )
    assert main(["train", str(tmp_path / "recipe.yaml")]) == 0
    assert main(["generate", str(tmp_path / "run"), "Go on from 3"]) == 0
    messages = [{"role": "user", "content": "Go on from 3"}]
    template = {"add_generation_prompt": True, "enable_thinking": bool(thought), "return_dict": True}
    assert asked == [tokenizer.apply_chat_template(messages, **template)["input_ids"]]
