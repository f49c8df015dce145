"""What is said when the library of an integration is not installed."""

from __future__ import annotations

import subprocess
import sys

PROGRAM = """
import importlib, sys
for library in ("accelerate", "keras", "lightning", "peft", "transformers"):
    sys.modules[library] = None  # importing it now fails as it does where it is not installed
from isogrid.errors import MissingDependencyError
for library in ("accelerate", "keras", "lightning", "peft", "transformers"):
    try:
        importlib.import_module(f"isogrid.integrations.{library}")
    except MissingDependencyError as error:
        print(error)
"""


def test_it_is_named_with_the_extra_that_brings_it() -> None:
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    extras = {
        "accelerate": "transformers", "keras": "keras", "lightning": "lightning", "peft": "peft",
        "transformers": "transformers",
    }  # fmt: skip
    assert done.stdout.splitlines() == [
        f"isogrid.integrations.{library} needs {library}, which is not installed; "
        f"install it with: pip install 'isogrid[{extra}]'."
        for library, extra in extras.items()
    ]
