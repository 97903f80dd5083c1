"""Prints lower bounds of pyproject.toml as constraints for pip: of `dependencies` and of the extras that are named."""

import re
import sys
import tomllib
from pathlib import Path

project = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text())["project"]
lists = {"dependencies": project["dependencies"], **project["optional-dependencies"]}
bounds = {}
for requirement in (line for name in sys.argv[1:] for line in lists[name] if not line.startswith("hycam[")):
    name, bound = re.match(r"([\w-]+)(?:\[.*\])?>=([\w.]+)", requirement).groups()
    bounds[name] = bound  # of an extra, which may need more than the library does, it comes last
# PyTorch's older wheels bring gigabytes of CUDA, so the one of constraints.txt is there already.
print(*(f"{name}=={bound}" for name, bound in bounds.items() if name != "torch"), sep="\n")
