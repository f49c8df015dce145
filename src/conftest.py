"""The examples in docstrings: those of the Keras integration are left to the environment that has Keras."""

from __future__ import annotations

import importlib.util

collect_ignore = [] if importlib.util.find_spec("keras") else ["isogrid/integrations/keras", "isogrid/keras.py"]
