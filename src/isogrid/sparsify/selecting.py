"""The base of methods that aim at one sparsity, in one pattern, shared out over the layers by one allocation."""

from __future__ import annotations

from dataclasses import dataclass

from isogrid.rules.aim import Aim
from isogrid.sparsify.method import Method
from isogrid.sparsify.state import SparseState


@dataclass(frozen=True)
class Selecting(Aim, Method):
    """The base of such methods for PyTorch; `isogrid.rules.aim.Aim` has the options."""

    def check(self, state: SparseState) -> None:
        state.check_pattern(self.target_pattern)

    def begin(self, state: SparseState) -> None:
        state.numbers["initial_sparsity"] = state.mask_sparsity
