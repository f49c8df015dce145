"""Sparse training in Keras 3: the short name of `isogrid.integrations.keras`, where everything is."""

from isogrid.integrations.keras import *  # noqa: F403 - exactly its __all__
from isogrid.integrations.keras import __all__ as __all__  # noqa: PLC0414 - said to be passed on
