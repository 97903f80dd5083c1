"""Imports inside the package run downwards and in no circle; private names of other libraries have their reasons."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[1] / "src"
FILES = {
    ".".join(path.relative_to(SOURCE).with_suffix("").parts).removesuffix(".__init__"): path
    for path in sorted((SOURCE / "hycam").rglob("*.py"))
}
TREES = {name: ast.parse(path.read_text(encoding="utf-8")) for name, path in FILES.items()}

# What stands on a line may import what stands on the same line and on the lines above. Whatever is named nowhere
# (`errors`, `files` and other small helpers) is at the bottom: everything may import it, and it imports nothing that is
# named. The empty name is `hycam` itself, the library's public names.
LAYERS = (
    ("ops",),
    ("optim", "attention", "quantization", "labelled"),
    ("tuners",),
    ("", "methods"),
    ("adapt", "adapters", "backbones", "data"),
    ("evaluation",),
    ("training",),
    ("inspection",),
    ("study",),
    ("cli",),
    ("__main__",),
)
LEVEL = {part: level for level, parts in enumerate(LAYERS) for part in parts}
# Imports upwards that are there today: (from, to).
KNOWN: set[tuple[str, str]] = set()


def imports_of(name: str) -> Iterator[str]:
    """The modules of this package that a module imports, also inside functions and for the sake of types."""
    for node in ast.walk(TREES[name]):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name in FILES)
        elif isinstance(node, ast.ImportFrom):
            package = name if FILES[name].name == "__init__.py" else name.rpartition(".")[0]
            for _ in range(node.level - 1):
                package = package.rpartition(".")[0]
            source = ".".join(filter(None, (package if node.level else "", node.module)))
            for alias in node.names:
                found = f"{source}.{alias.name}"
                if found in FILES or source in FILES:
                    yield found if found in FILES else source


GRAPH = {name: set(imports_of(name)) - {name} for name in FILES}


def level(name: str) -> int:
    return LEVEL.get([*name.split("."), ""][1], -1)


def test_no_module_imports_itself_by_way_of_others() -> None:
    try:
        TopologicalSorter(GRAPH).prepare()
    except CycleError as error:
        pytest.fail("a circle: " + " <- ".join(error.args[1]))


def test_imports_run_downwards_only() -> None:
    assert {(name, other) for name in GRAPH for other in GRAPH[name] if level(other) > level(name)} == KNOWN


# Private names of other libraries, each in one module, with the reason. The hooks that PEFT calls on a tuner and its
# layers are methods, which nothing imports.
PRIVATE = {
    ("hycam.tuners.registration", "peft.utils.PeftType._member_map_"): "PEFT's methods are a closed enum, and its "
    "register_peft_method takes members of it alone",
    ("hycam.tuners.registration", "peft.utils.PeftType._member_names_"): "the same",
    ("hycam.tuners.registration", "peft.utils.PeftType._value2member_map_"): "the same",
    ("hycam.training.savings", "torch._dynamo"): "of the two settings needed, torch.compiler.config has only the limit",
}


def names_of_others(tree: ast.Module) -> Iterator[str]:
    """The dotted names that are imported from other libraries or looked up in what is imported."""
    roots: dict[str, str] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                roots[alias.asname or alias.name.partition(".")[0]] = alias.name if alias.asname else ""
                yield alias.name
        elif isinstance(node, ast.ImportFrom):
            for alias in node.names:
                roots[alias.asname or alias.name] = f"{node.module}.{alias.name}"
                yield f"{node.module}.{alias.name}"
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute):
            root, _, rest = ast.unparse(node).partition(".")
            if root in roots and all(part.isidentifier() for part in rest.split(".")):
                yield f"{roots[root] or root}.{rest}"


def private_part(name: str) -> str | None:
    """A name up to its first private part, ``torch._dynamo`` of ``torch._dynamo.config``; None if it has none."""
    parts = name.split(".")
    found = (at for at, part in enumerate(parts, 1) if part.startswith("_") and not part.endswith("__"))
    at = next(found, None)
    return ".".join(parts[:at]) if at and name not in ("os._exit", "__future__") else None  # which are documented


FOUND = {
    (module, part) for module, tree in TREES.items() for name in names_of_others(tree) if (part := private_part(name))
}


def test_private_names_of_other_libraries_are_few_and_have_their_reasons() -> None:
    assert {(module, part) for module, part in FOUND if not part.startswith("hycam.")} == PRIVATE.keys()


def test_no_module_reaches_into_the_private_names_of_another() -> None:
    assert not {(module, part) for module, part in FOUND if part.startswith("hycam.")}
