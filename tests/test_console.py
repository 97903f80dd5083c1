"""Progress without a terminal: few plain lines, on standard error."""

from __future__ import annotations

import io
import logging

import pytest

from hycam.console import Reporter, each_message_once


def test_plain_lines_come_at_the_end_and_now_and_then(capsys, monkeypatch: pytest.MonkeyPatch) -> None:
    now = 100.0
    monkeypatch.setattr("time.monotonic", lambda: now)
    with Reporter("lora") as reporter:
        for step in range(1, 101):
            now += 1.0
            reporter.update("training", step, 100, "loss 2.0")
    captured = capsys.readouterr()
    lines = captured.err.splitlines()
    assert captured.out == ""
    assert len(lines) == 6  # the first, one every 20 s, and the last
    assert lines[0] == "lora: training 1/100, loss 2.0"
    assert lines[2] == "lora: training 41/100, loss 2.0, 0:59 to go"
    assert lines[-1] == "lora: training 100/100, loss 2.0"


def test_a_message_that_was_said_is_not_said_again_until_the_block_ends() -> None:
    out = io.StringIO()
    handler = logging.StreamHandler(out)
    log = logging.getLogger("hycam.somewhere")
    logging.getLogger().addHandler(handler)
    try:
        with each_message_once():
            for number in (1, 1, 2, 1):
                log.warning("%d rows", number)
        log.warning("%d rows", 1)
    finally:
        logging.getLogger().removeHandler(handler)
    assert out.getvalue().splitlines() == ["1 rows", "2 rows", "1 rows"]
