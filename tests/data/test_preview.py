from __future__ import annotations

import io
import json
from pathlib import Path

import pytest
from rich.console import Console

from hycam.data.preview import preview


def shown(path: Path, tokenizer, color: bool = False, **settings) -> str:
    out = io.StringIO()
    console = Console(file=out, width=60, force_terminal=color, color_system="standard" if color else None)
    preview(str(path), tokenizer, console, **settings)
    return out.getvalue()


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "mine.jsonl"
    rows = [("Say hello\tto é.", "Hel\nlo é"), ("Ask.", "A"), ("Ask again.", "B")]
    path.write_text("".join(json.dumps({"instruction": asked, "output": said}) + "\n" for asked, said in rows))
    return path


def test_what_is_trained_and_nothing_else_stands_behind_a_plus_sign(file: Path, tokenizer) -> None:
    lines = shown(file, tokenizer, rows=1).splitlines()
    assert [line for line in lines if line.startswith("+ ")] == ["+ H|e|l|↵|", "+ l|o| |Ã|©|</s>|"]
    marked = next(number for number, line in enumerate(lines) if line.startswith("+ "))
    assert lines[marked - 1] == "  #|#|#| |R|e|s|p|o|n|s|e|:|↵|"


def test_the_response_begins_a_line_also_where_the_prompt_ends_inside_one(file: Path, tokenizer) -> None:
    tokenizer.chat_template = "{% for m in messages %}Q{% endfor %}:"
    lines = shown(file, tokenizer, rows=1, style="chat").splitlines()
    assert lines[1:3] == ["  Q|:|", "+ H|e|l|↵|"]


def test_every_token_is_shown_once_and_lines_fit_the_width(file: Path, tokenizer) -> None:
    lines = shown(file, tokenizer, rows=1).splitlines()
    tokens = [line for line in lines if line.startswith(("  ", "+ "))]
    prompt = "".join(line[2:] for line in tokens if line.startswith("  "))
    assert prompt.startswith("<s>|B|e|l|o|w|") and "t|o| |Ã|©|.|↵|" in prompt and "→" in prompt
    assert f"{prompt.count('|')} tokens of prompt, 10 trained" in lines[0]
    assert all(len(line) <= 60 for line in tokens)


def test_characters_that_steer_a_terminal_are_written_out(tmp_path: Path, tokenizer) -> None:
    path = tmp_path / "mine.jsonl"
    path.write_text(json.dumps({"instruction": "Go.", "output": "\x1b[2J\r"}))
    assert "+ \\u001b|[|2|J|\\u000d|</s>|" in shown(path, tokenizer)


def test_trained_tokens_are_green_on_a_terminal(file: Path, tokenizer) -> None:
    assert "\x1b[32mH\x1b[0m" in shown(file, tokenizer, color=True, rows=1)


def test_as_many_rows_as_asked_for_are_shown_and_all_are_counted(file: Path, tokenizer) -> None:
    for asked, expected in ((1, 1), (2, 2), (50, 3)):
        out = shown(file, tokenizer, rows=asked)
        assert out.count("tokens of prompt") == expected
        assert "mine: 3 rows, 3 kept" in out


def test_shortened_and_dropped_rows_are_said(file: Path, tokenizer) -> None:
    out = shown(file, tokenizer, rows=1, max_length=40)
    assert "shortened in the middle" in out and "of them 3 shortened" in out
    assert "0 kept" in shown(file, tokenizer, max_length=40, overlong="drop")


def test_a_blank_that_decoding_a_single_token_loses_is_shown(tmp_path: Path) -> None:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    raw = Tokenizer(models.WordLevel({"<unk>": 0, "</s>": 1, "▁two": 2, "▁words": 3}, unk_token="<unk>"))
    raw.pre_tokenizer = pre_tokenizers.Metaspace()
    raw.decoder = decoders.Metaspace()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=raw, eos_token="</s>", unk_token="<unk>")
    path = tmp_path / "mine.jsonl"
    path.write_text('{"instruction": "Go.", "output": "two words"}')
    assert "+  two| words|</s>|" in shown(path, tokenizer)
