"""The library alone: what it needs, and what the command line says where nothing else is installed."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from pathlib import Path

from hycam.cli.main import VERBS

PROJECT = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text())["project"]
MODULES = {"pyyaml": "yaml", "rouge-score": "rouge_score"}


def names(requirements: list[str]) -> set[str]:
    return {re.match(r"[\w-]+", line).group() for line in requirements}


def run_without_the_application(code: str) -> subprocess.CompletedProcess[str]:
    """Runs ``code`` where the modules of the extra ``train`` that the library does not bring cannot be imported."""
    # PEFT and transformers bring these themselves.
    brought = {"accelerate", "safetensors", "numpy", "jinja2", "filelock", "pyyaml", "psutil"}
    blocked = names(PROJECT["optional-dependencies"]["train"]) - names(PROJECT["dependencies"]) - brought
    modules = [MODULES.get(name, name) for name in blocked] + ["trl", "bitsandbytes", "matplotlib", "sklearn"]
    # As a package that is not installed, and not as one set to None in sys.modules: libraries ask with find_spec.
    block = f"""
import importlib.util, sys
class Nothing:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {modules}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)
sys.meta_path.insert(0, Nothing())
real = importlib.util.find_spec
importlib.util.find_spec = lambda name, *rest: None if name.partition(".")[0] in {modules} else real(name, *rest)
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
    done = run_without_the_application(STEP + EVERY_VERB)
    assert (done.returncode, done.stdout.strip()) == (0, "trained"), done.stderr[-2000:]
    said = [line for line in done.stderr.splitlines() if line.startswith("hycam ")]
    for verb, line in zip(VERBS, said, strict=True):
        assert re.fullmatch(rf"hycam {verb}: \w+ is not installed: pip install 'hycam\[train\]'\.", line)
