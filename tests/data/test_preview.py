from __future__ import annotations

import io
import json
import re
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from hycam.data.chosen import chosen_tasks
from hycam.data.preview import preview
from hycam.data.recipe import DataRecipe
from hycam.errors import HycamError

ROWS = (("Say hello\tto é.", "Hel\nlo é"), ("Ask.", "A"), ("Ask again.", "B"))
PROMPT = (
    "Below is an instruction that describes a task. Write a response that appropriately completes the request."
    "\n\n### Instruction:\n\n\n### Response:\n"
)


def shown(path: Path, tokenizer, color: bool = False, rows: int = 3, **settings: Any) -> str:
    out = io.StringIO()
    console = Console(file=out, width=60, force_terminal=color, color_system="standard" if color else None)
    recipe = DataRecipe(tasks=[str(path)], **settings)
    (chosen,) = chosen_tasks(recipe).values()
    preview(chosen, recipe, tokenizer, console, rows)
    return out.getvalue()


def write(path: Path, *rows: tuple[str, str]) -> Path:
    path.write_text("".join(json.dumps({"instruction": asked, "output": said}) + "\n" for asked, said in rows))
    return path


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return write(tmp_path / "mine.jsonl", *ROWS)


def test_what_is_trained_and_nothing_else_stands_behind_a_plus_sign(file: Path, tokenizer) -> None:
    lines = shown(file, tokenizer, rows=1).splitlines()
    assert [line for line in lines if line.startswith("+ ")] == ["+ H|e|l|↵|", "+ l|o| |Ã|©|</s>|"]
    marked = next(number for number, line in enumerate(lines) if line.startswith("+ "))
    assert lines[marked - 1] == "  #|#|#| |R|e|s|p|o|n|s|e|:|↵|"


def test_the_response_begins_a_line_also_where_the_prompt_ends_inside_one(file: Path, tokenizer) -> None:
    tokenizer.chat_template = "{% for m in messages %}Q{% endfor %}:"
    lines = shown(file, tokenizer, rows=1, prompt="chat").splitlines()
    assert lines[1:3] == ["  Q|:|", "+ H|e|l|↵|"]


def test_every_token_is_shown_once_and_lines_fit_the_width(file: Path, tokenizer) -> None:
    lines = shown(file, tokenizer, rows=1).splitlines()
    tokens = lines[1 : lines.index("")]
    prompt = "".join(line[2:] for line in tokens if line.startswith("  "))
    assert prompt.startswith("<s>|B|e|l|o|w|") and "t|o| |Ã|©|.|↵|" in prompt and "→" in prompt
    assert lines[0] == f"mine.jsonl:1: {prompt.count('|') + 10} tokens, 10 of them trained"
    assert all(len(line) <= 60 for line in tokens)


def test_characters_that_steer_a_terminal_are_written_out(tmp_path: Path, tokenizer) -> None:
    path = write(tmp_path / "mine.jsonl", ("Go.", "\x1b[2J\r"))
    assert "+ \\u001b|[|2|J|\\u000d|</s>|" in shown(path, tokenizer)


def test_trained_tokens_are_green_on_a_terminal(file: Path, tokenizer) -> None:
    assert "\x1b[32mH\x1b[0m" in shown(file, tokenizer, color=True, rows=1)


def test_as_many_rows_as_asked_for_are_shown_and_all_are_counted(file: Path, tokenizer) -> None:
    for asked, expected in ((1, 1), (2, 2), (50, 3)):
        out = shown(file, tokenizer, rows=asked)
        assert out.count(" of them trained\n") == expected
        assert "mine: 3 rows, 3 kept, of them 0 shortened; 0 dropped as too long." in out


def test_shortened_and_dropped_rows_are_said(file: Path, tokenizer) -> None:
    out = shown(file, tokenizer, rows=1, max_length=40)
    assert "shortened in the middle" in out and "of them 3 shortened" in out
    none_left = shown(file, tokenizer, max_length=40, overlong="drop")
    assert "0 kept" in none_left and "3 dropped" in none_left and "0 tokens" in none_left
    assert "Tokens in a row" not in none_left


def test_tokens_and_the_share_that_is_trained_are_of_all_rows(file: Path, tokenizer) -> None:
    prompt = 1 + len(PROMPT)  # the start token, and one for every byte
    lengths = [prompt + len(asked.encode()) + len(said.encode()) + 1 for asked, said in ROWS]
    trained = sum(len(said.encode()) + 1 for _, said in ROWS)
    total = sum(lengths)
    line = f"{total:,} tokens ({total / 3:.0f} a row), {trained} of them trained ({trained / total:.1%})."
    assert line in shown(file, tokenizer, rows=1).splitlines()


def test_empty_and_repeated_rows_are_counted(tmp_path: Path, tokenizer) -> None:
    path = write(tmp_path / "mine.jsonl", *[("a", "1")] * 3, ("a", "2"), ("b", "1"), ("b", "1"), ("c", " "), ("", "d"))
    out = shown(path, tokenizer)
    assert "mine: 6 rows" in out
    assert "2 more rows are skipped because the response or the question is empty or no answer is trained; " in out
    assert "of the others, 3 repeat" in out


def test_rows_that_the_chat_template_refuses_are_said(file: Path, tokenizer, caplog) -> None:
    tokenizer.chat_template = (
        "{% for m in messages %}"
        f"{{% if m['content'] == {ROWS[1][0]!r} %}}{{{{ raise_exception('No.') }}}}{{% endif %}}"
        "{{ m['content'] }}</s>{% endfor %}"
    )
    out = shown(file, tokenizer, prompt="chat", skip_bad_rows=True)
    assert "3 rows, 2 kept, of them 0 shortened; 0 dropped as too long, 1 skipped as malformed." in out
    assert "mine: 1 malformed rows skipped; the first: mine.jsonl:2: " in caplog.text


def test_the_histogram_counts_every_row_by_its_length(tmp_path: Path, tokenizer) -> None:
    path = write(tmp_path / "mine.jsonl", *((f"Ask {n}.", "x" * (n * n)) for n in range(1, 31)))
    out = shown(path, tokenizer)
    prompt = 1 + len(PROMPT)
    lengths = [prompt + len(f"Ask {n}.") + n * n + 1 for n in range(1, 31)]
    bars = re.findall(r"^ *([\d,]+) to +([\d,]+) +([\d,]+)(?: (#+))?$", out, re.MULTILINE)
    assert len(bars) == 10
    expected_begin, counts = 0, []
    for first, last, count, bar in bars:
        begin, end = int(first.replace(",", "")), int(last.replace(",", ""))
        assert begin == expected_begin
        expected_begin = end + 1
        counts.append(sum(begin <= length <= end for length in lengths))
        assert int(count) == counts[-1] and bool(bar) == (counts[-1] > 0)
    assert sum(counts) == 30 and all(len(line) <= 60 for line in out.splitlines() if " to " in line)
    longest = max(len(bar) for *_, bar in bars)
    assert [len(bar) for *_, bar in bars][counts.index(max(counts))] == longest


def test_a_conversation_is_marked_at_every_answer_that_is_trained(tmp_path: Path, tokenizer) -> None:
    path = tmp_path / "mine.jsonl"
    said = [("user", "One?"), ("assistant", "1"), ("user", "Two?"), ("assistant", "2")]
    path.write_text(json.dumps({"messages": [{"role": role, "content": text} for role, text in said]}))
    lines = shown(path, tokenizer).splitlines()
    assert [line for line in lines if line.startswith("+ ")] == ["+ 1|</s>|", "+ 2|</s>|"]
    assert lines[0].endswith("4 of them trained")


@pytest.mark.parametrize(("prompt", "said"), [("alpca", 'Did you mean "alpaca"'), ("chat", "needs a chat template")])
def test_a_prompt_that_cannot_be_made_is_refused_before_anything_is_read(
    tmp_path: Path, tokenizer, prompt: str, said: str
) -> None:
    with pytest.raises(HycamError, match=said):
        shown(tmp_path / "nowhere.jsonl", tokenizer, prompt=prompt)


def test_a_blank_that_decoding_a_single_token_loses_is_shown(tmp_path: Path) -> None:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    raw = Tokenizer(models.WordLevel({"<unk>": 0, "</s>": 1, "▁two": 2, "▁words": 3}, unk_token="<unk>"))
    raw.pre_tokenizer = pre_tokenizers.Metaspace()
    raw.decoder = decoders.Metaspace()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=raw, eos_token="</s>", unk_token="<unk>")
    path = write(tmp_path / "mine.jsonl", ("Go.", "two words"))
    assert "+  two| words|</s>|" in shown(path, tokenizer)
