"""These tests need Keras and a backend named in KERAS_BACKEND: `make test-keras` runs them once for each."""

from __future__ import annotations

import importlib.util
import os
import warnings
from pathlib import Path

import pytest

HAS_KERAS = importlib.util.find_spec("keras") is not None
collect_ignore = [] if HAS_KERAS else [file.name for file in Path(__file__).parent.glob("[!c]*.py")]

if HAS_KERAS:
    BACKEND = os.environ.get("KERAS_BACKEND", "")
    if BACKEND not in ("tensorflow", "torch", "jax"):
        raise pytest.UsageError(
            f"KERAS_BACKEND is {BACKEND!r}; `make test-keras` sets it to tensorflow, torch and jax."
        )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the backends, about themselves
        import keras

        import isogrid.keras  # noqa: F401

    if keras.backend.backend() != BACKEND:
        raise pytest.UsageError(f"Keras runs on {keras.backend.backend()}, and these tests are about {BACKEND}.")


def pytest_configure(config: pytest.Config) -> None:
    for warning in (
        "ignore:.*__array__ implementation doesn't accept a copy keyword:DeprecationWarning",  # Keras' own, on PyTorch
        "ignore::DeprecationWarning:(tensorflow|jax|google|h5py).*",
    ):
        config.addinivalue_line("filterwarnings", warning)


def pytest_report_header() -> str:
    return f"Keras on {os.environ['KERAS_BACKEND']}" if HAS_KERAS else "tests/integrations/keras: `make test-keras`"


@pytest.fixture(autouse=True)
def _same_random_numbers_in_keras() -> None:
    """Every test starts from the same state, and with the default policy."""
    if HAS_KERAS:
        keras.config.set_dtype_policy("float32")
        keras.utils.set_random_seed(0)
