"""The library alone: what it needs, and what the command line says where nothing else is installed."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from importlib.util import find_spec
from pathlib import Path

import pytest

from hycam.cli.importing import OF_STUDY
from hycam.cli.main import VERBS

PROJECT = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text())["project"]
MODULES = {"pyyaml": "yaml", "scikit-learn": "sklearn"}
# PEFT, transformers and torch bring these themselves.
BY_THE_LIBRARY = {"accelerate", "safetensors", "numpy", "jinja2", "filelock", "pyyaml", "psutil"}
# And these come with datasets and sacrebleu.
BY_TRAINING = {"pandas", "tabulate"}
OTHERS = ["trl", "bitsandbytes", "ray", "deepspeed", "liger_kernel", "tensorboard"]


def names(requirements: list[str]) -> set[str]:
    return {re.match(r"[\w-]+", line).group() for line in requirements}


def own(extra: str) -> set[str]:
    """The modules that an extra brings and the library does not."""
    packages = names(PROJECT["optional-dependencies"][extra]) - names(PROJECT["dependencies"]) - BY_THE_LIBRARY
    return {MODULES.get(name, name.replace("-", "_")) for name in packages - {"hycam"}}


def run_without(modules: set[str], code: str) -> subprocess.CompletedProcess[str]:
    """Runs ``code`` where neither these modules nor those of other extras can be imported."""
    blocked = [*modules, *OTHERS]
    # As a package that is not installed, and not as one set to None in sys.modules: libraries ask with find_spec.
    block = f"""
import importlib.util, sys
class Nothing:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {blocked}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)
sys.meta_path.insert(0, Nothing())
real = importlib.util.find_spec
importlib.util.find_spec = lambda name, *rest: None if name.partition(".")[0] in {blocked} else real(name, *rest)
"""
    return subprocess.run([sys.executable, "-W", "ignore", "-c", block + code], capture_output=True, text=True)


STEP = """
import torch, hycam, hycam.tuners, hycam.ops, hycam.optim
from peft import get_peft_model
from transformers import LlamaConfig, LlamaForCausalLM

sizes = dict(vocab_size=32, hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2)
model = get_peft_model(LlamaForCausalLM(LlamaConfig(**sizes)), hycam.HyCAMConfig(r=2, task_type="CAUSAL_LM")).train()
optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
ids = torch.arange(8).view(2, 4)
model(input_ids=ids, labels=ids).loss.backward()
optimizer.step()
assert hycam.last_stats(model).balance_loss > 0
print("trained")
"""
EVERY_VERB = f"""
import hycam_command
for verb in {list(VERBS)}:
    sys.argv = ["hycam", verb]
    assert hycam_command.main() == 1
"""


def test_torch_transformers_and_peft_train_a_step_and_each_verb_says_in_one_line_what_else_to_install() -> None:
    assert names(PROJECT["dependencies"]) == {"torch", "transformers", "peft"}
    done = run_without(own("train") | own("study"), STEP + EVERY_VERB)
    assert (done.returncode, done.stdout.strip()) == (0, "trained"), done.stderr[-2000:]
    said = [line for line in done.stderr.splitlines() if line.startswith("hycam ")]
    for verb, line in zip(VERBS, said, strict=True):
        assert re.fullmatch(rf"hycam {verb}: \w+ is not installed: pip install 'hycam\[train\]'\.", line)


@pytest.mark.skipif(find_spec("jsonargparse") is None, reason="the library alone is installed")
def test_training_needs_nothing_of_the_study_and_the_studys_verbs_say_what_to_install(tmp_path: Path) -> None:
    (tmp_path / "study.yaml").write_text("title: Nothing\n")
    code = f"""
import hycam_command
for words in (["study", {str(tmp_path / "study.yaml")!r}], ["report", {str(tmp_path / "study.yaml")!r}],
              ["inspect", "runs/nothing"], ["train", "no-such.yaml"], ["check", "no-such.yaml"],
              ["evaluate", "no-such-run"], ["generate", "no-such-run", "x"]):
    sys.argv = ["hycam", *words]
    assert hycam_command.main() == 1, words
import hycam.training.train, hycam.training.evaluate, hycam.training.preflight.trial, hycam.training.launch
import hycam.cli.data_run, hycam.cli.methods
"""
    done = run_without(own("study") - BY_TRAINING, code)
    assert done.returncode == 0, done.stderr[-2000:]
    said = {line.split(":")[0]: line for line in done.stderr.splitlines() if line.startswith("hycam ")}
    for verb in ("study", "report", "inspect"):
        assert re.fullmatch(
            rf"hycam {verb}: [\w.]+ is not installed: pip install 'hycam\[study\]'\.", said[f"hycam {verb}"]
        )
    for verb in ("evaluate", "generate"):
        assert "not a run folder" in said[f"hycam {verb}"]


def test_the_message_names_the_extra_that_has_the_package() -> None:
    assert set(OF_STUDY) == {MODULES.get(name, name) for name in names(PROJECT["optional-dependencies"]["study"])} - {
        "hycam"
    }
