"""Prints the packages of this environment whose release is not the one in constraints.txt."""

import importlib.metadata
import re
from pathlib import Path

pinned = dict(line.split("==") for line in (Path(__file__).parents[1] / "constraints.txt").read_text().split())
pinned = {re.sub(r"[-_.]+", "-", name).lower(): version for name, version in pinned.items()}
print(f"\n{'package':28} {'here':16} in constraints.txt")
for package in sorted(importlib.metadata.distributions(), key=lambda package: package.name.lower()):
    name = re.sub(r"[-_.]+", "-", package.name).lower()
    if name in pinned and package.version.partition("+")[0] != pinned[name]:
        print(f"{name:28} {package.version:16} {pinned[name]}")
