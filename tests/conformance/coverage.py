"""Which members of the package no conformance class names.

Source is read, not imported: the answer is the same whichever tests were selected and whichever optional libraries
are installed.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

TESTS = Path(__file__).parents[1]
PACKAGE = TESTS.parent / "src" / "isogrid"


def uncovered(base: str, suite: str, package: Path = PACKAGE, tests: Path = TESTS) -> list[str]:
    """The concrete subclasses of `base` in `package` that no `suite` in `tests` mentions in a class attribute."""
    members = [node.name for node in _subclasses(base, package) if not _is_abstract(node)]
    named = {name for node in _subclasses(suite, tests) for name in _attribute_names(node)}
    return sorted(set(members) - named)


def _subclasses(base: str, folder: Path) -> list[ast.ClassDef]:
    classes = [
        node
        for file in sorted(folder.rglob("*.py"))
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8")))
        if isinstance(node, ast.ClassDef)
    ]
    family = {base}
    while found := {node.name for node in classes if family & set(_base_names(node))} - family:
        family |= found
    return [node for node in classes if family & set(_base_names(node))]


def _base_names(node: ast.ClassDef) -> Iterator[str]:
    for base in node.bases:
        if isinstance(base, ast.Name):
            yield base.id
        elif isinstance(base, ast.Attribute):
            yield base.attr


def _is_abstract(node: ast.ClassDef) -> bool:
    return any(
        isinstance(decorator, ast.Name) and decorator.id == "abstractmethod"
        for method in node.body
        if isinstance(method, ast.FunctionDef)
        for decorator in method.decorator_list
    )


def _attribute_names(node: ast.ClassDef) -> Iterator[str]:
    for statement in node.body:
        if isinstance(statement, ast.Assign | ast.AnnAssign) and statement.value is not None:
            for part in ast.walk(statement.value):
                if isinstance(part, ast.Name):
                    yield part.id
                elif isinstance(part, ast.Attribute):
                    yield part.attr
