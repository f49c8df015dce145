"""What carries a sparse model, and what it does differently from the dense one: `isogrid explain`."""

from isogrid.explain.explaining import Explanation, explain

__all__ = ["Explanation", "explain"]
