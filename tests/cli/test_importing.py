"""What a verb imports, and when: nothing heavy before its arguments are understood."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from hycam.cli.main import VERBS

HEAVY = {"torch", "transformers", "peft", "accelerate", "datasets", "pyarrow", "numpy", "scipy", "pandas"}
AS_COMMAND = """
import json, sys
import hycam_command
try:
    status = hycam_command.main()
except SystemExit as stopped:
    status = stopped.code
print(json.dumps([status, list(sys.modules)]), file=sys.stderr)
"""
WORDS = [["--help"], ["trian"], *([verb, "--help"] for verb in VERBS), ["train", "--help", "all"],
         ["study", "--help", "all"], ["data", "preview", "--help"], ["train", "--no_such", "1"],
         ["methods", "--no_such"], ["report", "no-such.yaml"]]  # fmt: skip


@pytest.mark.parametrize("words", WORDS, ids=" ".join)
def test_help_and_wrong_usage_import_nothing_heavy(words: list[str]) -> None:
    done = subprocess.run([sys.executable, "-c", AS_COMMAND, *words], capture_output=True, text=True)
    status, modules = json.loads(done.stderr.splitlines()[-1])
    assert status == (0 if "--help" in words else 1 if "no-such.yaml" in words else 2)
    assert not HEAVY.intersection(modules)


def test_the_package_is_a_command_too_and_registers_the_methods_elsewhere() -> None:
    done = subprocess.run([sys.executable, "-m", "hycam", "--help"], capture_output=True, text=True)
    assert done.returncode == 0 and all(verb in done.stdout for verb in VERBS)
    code = "import hycam_command, hycam, peft; print(peft.PeftType('HYCAM').value, hycam.HyCAMConfig.__name__)"
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True)
    assert done.stdout.split() == ["HYCAM", "HyCAMConfig"], done.stderr
