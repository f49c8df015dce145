"""Which methods a table of embeddings with sparse gradients can be trained with.

``nn.Embedding(sparse=True)`` gives a gradient of the rows that a batch looked up, and ``SparseAdam``, ``SGD`` and
``Adagrad`` move these rows and no others.  A sparsifier then masks and holds these rows alone.  A method belongs here
if it looks at a table at topology updates only.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from torch import nn

from isogrid.errors import UnsupportedError
from isogrid.penalties import Penalty
from isogrid.sparsify.dynamic import SET
from isogrid.sparsify.gradual import Gradual
from isogrid.sparsify.keep import KeepZeros
from isogrid.sparsify.method import Method
from isogrid.sparsify.state import SparseLayer
from isogrid.sparsify.static import Static

_BY_ROWS: tuple[type[Method], ...] = (Gradual, Static, KeepZeros, SET)


@dataclass(frozen=True)
class ByRows:
    """What a training does between two topology updates, as far as tables with sparse gradients are concerned.

    Attributes:
        method: of the training.
        penalised: whether a penalty stands beside it, which pulls every weight at every step.
    """

    method: Method
    penalised: bool

    def check(self, layers: Iterable[SparseLayer], model: nn.Module) -> None:
        """Find the tables among `layers` that were built with ``sparse=True``, and `admit` them."""
        tables = {
            id(module.weight)
            for module in model.modules()
            if isinstance(module, nn.Embedding | nn.EmbeddingBag) and module.sparse
        }
        for layer in layers:
            if id(layer.target.parameter) in tables:
                self.admit(layer)

    def admit(self, layer: SparseLayer) -> None:
        """Note that the layer's gradients are sparse.

        Raises:
            UnsupportedError: the method, or the penalty, passes over the whole table at every step.
        """
        # `Regularized` is a `Gradual` with a penalty of its own.
        known = isinstance(self.method, _BY_ROWS) and not isinstance(getattr(self.method, "penalty", None), Penalty)
        if not known or self.penalised:
            arrived = "a penalty" if known else type(self.method).__name__
            accepted = ", ".join(kind.__name__ for kind in _BY_ROWS)
            raise UnsupportedError(
                f"{layer.name} has sparse gradients, and {arrived} may pass over the whole table at every step; "
                f"accepted are {accepted} without a penalty, or an embedding with sparse=False."
            )
        layer.by_rows = True
