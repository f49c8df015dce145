"""The public names: what they are, that they load, and what is said when an optional library is missing."""

from __future__ import annotations

import ast
import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest

import isogrid
from isogrid.errors import MissingDependencyError

PLACES = isogrid._PLACES
HEAVY = ("jinja2", "keras", "matplotlib", "numpy", "onnx", "onnxruntime", "rich", "sklearn", "torch", "typer")
WITHOUT_TORCH = """
import sys
sys.modules["torch"] = None  # import torch now fails as it does where torch is not installed
import isogrid as ig
"""


def run(program: str) -> str:
    """What `program` prints in a new interpreter."""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def declared_for_type_checkers() -> dict[str, str]:
    """Name to place, as the `if TYPE_CHECKING:` block of the package has it."""
    tree = ast.parse(Path(isogrid.__file__).read_text(encoding="utf-8"))
    block = next(
        node
        for node in tree.body
        if isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"
    )
    declared = {}
    for statement in block.body:
        assert isinstance(statement, ast.ImportFrom)
        assert statement.module is not None
        for alias in statement.names:
            assert alias.asname == alias.name, "only `name as name` exports a name to type checkers"
            declared[alias.name] = statement.module.removeprefix("isogrid.")
    return declared


def test_type_checkers_see_the_names_that_load() -> None:
    assert declared_for_type_checkers() == PLACES


@pytest.mark.skipif(importlib.util.find_spec("torch") is None, reason="needs torch, as most public names do")
@pytest.mark.parametrize("name", PLACES)
def test_every_public_name_loads_and_has_a_docstring(name: str) -> None:
    value = getattr(isogrid, name)
    assert value is getattr(importlib.import_module(f"isogrid.{PLACES[name]}"), name)
    assert vars(isogrid)[name] is value, "a loaded name is kept"
    assert value.__doc__


def test_dir_lists_every_public_name() -> None:
    assert set(PLACES) <= set(dir(isogrid))
    assert "__version__" in dir(isogrid)
    assert dir(isogrid) == sorted(set(dir(isogrid)))


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match=r"^module 'isogrid' has no attribute 'sparsifier'$"):
        _ = isogrid.sparsifier
    assert not hasattr(isogrid, "_anything")


def test_importing_the_package_imports_nothing_else() -> None:
    assert run(f"import sys, isogrid; print([name for name in {HEAVY} if name in sys.modules])") == "[]"


def test_a_missing_library_is_named_with_the_extra_that_brings_it() -> None:
    said = run(
        f"""{WITHOUT_TORCH}
from isogrid.errors import MissingDependencyError
for name in ("Sparsifier", "prune", "L1", "optimize", "quantize"):
    try:
        getattr(ig, name)
    except MissingDependencyError as error:
        print(error)
"""
    )
    assert said.splitlines() == [
        f"isogrid.{name} needs torch, which is not installed; install it with: pip install 'isogrid[torch]'."
        for name in ("Sparsifier", "prune", "L1", "optimize", "quantize")
    ]
    assert issubclass(MissingDependencyError, ImportError)


def test_a_library_that_no_extra_brings_is_reported_as_python_does() -> None:
    said = run(
        """
import sys
sys.modules["rich"] = None
import isogrid as ig
try:
    ig._PLACES["Broken"] = "cli"
    ig.Broken
except ModuleNotFoundError as error:
    print(type(error).__name__, error.name.partition(".")[0])
"""
    )
    assert said == "ModuleNotFoundError rich"


def test_the_vocabulary_needs_no_torch() -> None:
    said = run(
        f"""{WITHOUT_TORCH}
import isogrid.allocation, isogrid.errors, isogrid.floor, isogrid.metrics, isogrid.names, isogrid.patterns
import isogrid.schedules, isogrid.scores, isogrid.formats.sparse, isogrid.formats.safetensors, isogrid.inspection
import numpy as np
print(isogrid.patterns.Unstructured().mask(np.arange(4.0), active=1).tolist(), ig.Metric.__name__, ig.inspect.__name__)
"""
    )
    assert said == "[False, False, False, True] Metric inspect"
