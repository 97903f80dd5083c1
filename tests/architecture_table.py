"""The table of what was verified on which architecture, written from the outcomes of a test run.

The hooks are imported by ``tests/conftest.py``: when tests run in several processes, only that file is loaded by the
one that sees all outcomes.
"""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path

import peft
import pytest
import torch
import transformers

_outcomes: dict[str, dict[tuple[str, str], bool]] = defaultdict(dict)
_normalised: dict[str, bool] = {}
_packing: dict[str, bool] = {}
_feed_forward: dict[str, bool] = {}


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    for key, value in report.user_properties:
        if key == "normalised" and report.when == "call":
            _normalised[value[0]] = value[1]
        if key == "packing" and report.when == "call" and report.passed:
            _packing[value[0]] = value[1]
        if key == "feed_forward" and report.when == "call" and report.passed:
            _feed_forward[value[0]] = value[1]
        if key == "contract" and report.when == "call" and not report.skipped and value[1].startswith("hycam"):
            architecture, variant, promise = value
            so_far = _outcomes[architecture].get((variant, promise), True)  # a promise may be tested in several types
            _outcomes[architecture][(variant, promise)] = so_far and report.passed


def pytest_sessionfinish(session: pytest.Session) -> None:
    path = session.config.getoption("--architecture-table")
    if path and _outcomes and not hasattr(session.config, "workerinput"):
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        Path(path).write_text(_table())


def _table() -> str:
    promises = sorted({promise for outcome in _outcomes.values() for _, promise in outcome})
    lines = [
        "# Architectures",
        "",
        "HyCAM finds the attention modules of a backbone by what they are: modules in the blocks of the language model",
        "that read its hidden states, with two of three things speaking for them: their name, projections to queries,",
        "keys and values, and a mask. It does not matter what `forward` calls its cache: that changes between versions",
        "of transformers. The error of a backbone without attention says what was looked at. State-space mixers of",
        "hybrids, feed-forward networks, cross-attention, vision and audio towers are skipped.",
        "Any head of a decoder works (`SEQ_CLS`, `TOKEN_CLS`, ...). The table below is written by the test run",
        "(`make test`) from its outcomes on tiny random models, with "
        f"torch {torch.__version__.partition('+')[0]}, transformers {transformers.__version__} and "
        f"peft {peft.__version__};",
        "`make soak` runs every variant on every architecture.",
        "An architecture that is not listed may well work; what was not verified is not claimed.",
        "",
        "Packing: whether the examples of a packed row (`data.packing`) see nothing of one another and have the logits",
        "that they have alone. Training asks this of the very model it is given, and refuses to pack where it fails.",
        "",
        "`ffn_r`: whether low-rank updates go on the feed-forward layers beside the modulation. They are the linear",
        "layers of a block outside its attention and its state-space mixer; mixtures of experts are refused.",
        "",
        "| architecture | the attention reads | packing | `ffn_r` | verified promises | variants | failed |",
        "|---|---|---|---|---|---|---|",
    ]
    for architecture in sorted(_outcomes):
        outcome = _outcomes[architecture]
        failed = sorted({f"{promise} ({variant})" for (variant, promise), passed in outcome.items() if not passed})
        verified = sum(all(ok for (_, name), ok in outcome.items() if name == promise) for promise in promises)
        variants = len({variant for variant, _ in outcome})
        reads = {True: "a normalised h", False: "the residual stream", None: "not checked"}
        works = {True: "yes", False: "refused", None: "not checked"}
        cells = (
            f"`{architecture}`",
            reads[_normalised.get(architecture)],
            works[_packing.get(architecture)],
            works[_feed_forward.get(architecture)],
            f"{verified} of {len(promises)}",
            str(variants),
            ", ".join(failed) or "none",
        )
        lines.append(f"| {' | '.join(cells)} |")
    lines += [
        "",
        "The promises:",
        "",
        *(f"- {promise.removeprefix('test_').replace('_', ' ')}" for promise in promises),
    ]
    lines += ["", "Refused, because their attention module adds the residual stream itself or because there is none:",
              "Bloom, BERT and its relatives as decoders, Mamba. Encoder-decoders (T5, BART) are refused too.",
              ""]  # fmt: skip
    return "\n".join(lines)
