"""The house stands: imports only go down, files stay small, the packages are ours."""

from __future__ import annotations

import ast
import importlib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FLOORS = ("configs", "data", "models", "trainer", "cluster")
FILES = [path for room in FLOORS for path in sorted((ROOT / room).rglob("*.py"))]


def imported_rooms(path: Path) -> set[str]:
    """Rooms that a file imports, functions' own imports included."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            found.add(node.module.split(".")[0])
    return found & set(FLOORS)


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_only_go_down(path: Path) -> None:
    floor = FLOORS.index(path.relative_to(ROOT).parts[0])
    assert all(FLOORS.index(room) <= floor for room in imported_rooms(path))


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_a_file_is_one_room(path: Path) -> None:
    lines = path.read_text().splitlines()
    assert len(lines) <= 500, "split it"
    long = [
        f"{node.name}: {node.end_lineno - node.lineno + 1}"
        for node in ast.walk(ast.parse("\n".join(lines)))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and node.end_lineno is not None
        and node.end_lineno - node.lineno >= 70
    ]
    assert long == []


@pytest.mark.parametrize("room", FLOORS)
def test_the_packages_are_this_repository_s(room: str) -> None:
    module = importlib.import_module(room)
    assert module.__file__ is not None
    assert Path(module.__file__).is_relative_to(ROOT)


def test_every_package_is_installed() -> None:
    import tomllib

    listed = set(tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"])
    present = {str(path.parent.relative_to(ROOT)).replace("/", ".") for path in FILES if path.name == "__init__.py"}
    assert listed == present


def test_no_file_carries_a_path_of_this_machine() -> None:
    mine = str(ROOT.parent) + "/"
    suspects = [*FILES, *ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("tests/**/*.py"), ROOT / "Makefile"]
    assert [str(path) for path in suspects if mine in path.read_text()] == []
