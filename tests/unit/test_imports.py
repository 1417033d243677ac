"""Every name that the repository imports from si exists: programs that no test runs included."""

import ast
from importlib.util import find_spec
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PROGRAMS = [
    *(ROOT / "benchmarks").glob("*.py"),
    *(ROOT / "jobs").glob("*.py"),
    *(ROOT / "images").glob("*/smoke"),
    *(ROOT / "helm").rglob("*.py"),
    *(ROOT / "tests").rglob("*.py"),
]


def names_of(module: str) -> set[str] | None:
    """The top-level names of a module of si, without importing it; None if there is no module."""
    found = find_spec(module)
    if found is None or found.origin is None:
        return None
    path = Path(found.origin)
    names = {child.stem for child in path.parent.iterdir()} if path.stem == "__init__" else set()
    for node in ast.walk(ast.parse(path.read_text())):
        match node:
            case ast.FunctionDef(name=name) | ast.ClassDef(name=name):
                names.add(name)
            case ast.Name(id=name, ctx=ast.Store()):
                names.add(name)
            case ast.Import() | ast.ImportFrom():
                names |= {alias.asname or alias.name.split(".")[0] for alias in node.names}
    return names


@pytest.mark.parametrize("path", PROGRAMS, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_what_a_program_imports_exists(path):
    """Modules and names imported from si exist, wherever in the program the import stands."""
    missing = []
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "si":
            names = names_of(node.module or "")
            missing += [
                f"{node.module}:{alias.name}"
                for alias in node.names
                if names is None or alias.name not in {*names, "diagnose", "rebalance"}
            ]
        elif isinstance(node, ast.Import):
            asked = [alias.name for alias in node.names if alias.name.split(".")[0] == "si"]
            missing += [name for name in asked if find_spec(name) is None]
    assert not missing
