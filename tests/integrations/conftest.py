"""Nothing here may ask the network: the models are made from configurations."""

from __future__ import annotations

import gc
import os
from collections.abc import Iterator

import pytest

os.environ.setdefault("HF_HUB_OFFLINE", "1")


@pytest.fixture(autouse=True, scope="module")
def _libraries_are_not_searched_for_garbage() -> Iterator[None]:
    """A Trainer collects garbage when it starts, and would walk through all that was imported: half a second each."""
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()
