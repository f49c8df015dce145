"""What holds for every test: the same numbers on every run."""

from __future__ import annotations

import os
import random
import sys

# Before anything imports numpy or PyTorch: the models here are small, and one thread gives the same bits everywhere.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import pytest
from hypothesis import settings

# Before any suite is imported: plain asserts then explain themselves there as they do in test files.
pytest.register_assert_rewrite("conformance")

settings.register_profile("isogrid", deadline=None, derandomize=True, database=None)
settings.load_profile("isogrid")


@pytest.fixture(autouse=True)
def same_random_numbers() -> None:
    """Every test starts from the same state of the global random generators, whichever tests ran before it."""
    random.seed(0)
    np.random.seed(0)  # noqa: NPY002 - the state that a test's model or loader may use
    if torch := sys.modules.get("torch"):
        torch.manual_seed(0)
