"""What the native operations do to a result before they store it: ``activation(W x + bias + residual)``."""

from __future__ import annotations

from dataclasses import dataclass

from isogrid.names import unknown_name

ACTIVATIONS = (
    "none", "relu", "clip", "leaky_relu", "gelu", "gelu_tanh", "silu", "hard_swish", "hard_sigmoid", "sigmoid", "tanh",
    "sparse_relu", "sparse_tanh",
)  # fmt: skip
"""In the order of `isogrid::Activation` in native/include/isogrid/epilogue.hpp."""


@dataclass(frozen=True)
class Epilogue:
    """An activation by name.

    Attributes:
        activation: one of `ACTIVATIONS`.
        low, high: the bounds of ``clip``; ``low`` is also the slope of ``leaky_relu`` and the threshold of the sparse
            activations.

    >>> Epilogue("clip", 0.0, 6.0).code
    2
    """

    activation: str = "none"
    low: float = 0.0
    high: float = 0.0

    def __post_init__(self) -> None:
        if self.activation not in ACTIVATIONS:
            raise unknown_name("activation", self.activation, ACTIVATIONS)

    @property
    def code(self) -> int:
        """Its number in the native core."""
        return ACTIVATIONS.index(self.activation)

    def __str__(self) -> str:
        if self.activation == "clip":
            return f"clip({self.low:g}, {self.high:g})"
        if self.activation in ("leaky_relu", "sparse_relu", "sparse_tanh"):
            return f"{self.activation}({self.low:g})"
        return self.activation
