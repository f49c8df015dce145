"""Methods that make zeros while a Keras model is trained, and one that makes them afterwards."""

from isogrid.integrations.keras.methods.aware import Aware
from isogrid.integrations.keras.methods.base import Aimed, Method
from isogrid.integrations.keras.methods.dynamic import SET, RigL
from isogrid.integrations.keras.methods.gradual import Gradual
from isogrid.integrations.keras.methods.oneshot import OneShot
from isogrid.integrations.keras.methods.static import Static
from isogrid.integrations.keras.methods.trigger import Trigger

__all__ = ["SET", "Aimed", "Aware", "Gradual", "Method", "OneShot", "RigL", "Static", "Trigger"]
