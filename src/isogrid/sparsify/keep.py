"""Fine-tuning of a model that is already sparse: its zeros are held, and none are added."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from isogrid.errors import UsageError
from isogrid.masks import masks_of_zeros
from isogrid.rules.method import Usage
from isogrid.sparsify.method import Method, register_method
from isogrid.sparsify.state import SparseState


@register_method("keep")
@dataclass(frozen=True)
class KeepZeros(Method):
    """Mask-keeping fine-tuning: the zeros that the model holds stay, and no weight is added to them.

    The mask ``m`` is ``w != 0`` at the start, and every step is ``w <- m (w - a dL)``.  It trains a pruned model on:
    for a task of its own, after it was pruned before it was known (Chen et al. 2020, arXiv:2007.12223), or to recover
    from `isogrid.prune`.  Masks that are given to the sparsifier (``masks=``) are held instead of those read off the
    weights; a weight that is zero by chance is then free to move.  A layer of nothing but zeros is not a mask (it is
    how the second matrix of a low-rank adapter starts): it trains freely.

    Raises:
        UsageError: no target holds a zero: the dense weights were loaded, or the wrong targets named.

    >>> import torch, isogrid as ig
    >>> model = torch.nn.Linear(16, 4)
    >>> _ = ig.prune(model, ig.OneShot(sparsity=0.75))
    >>> optimizer = torch.optim.AdamW(model.parameters(), lr=0.1)
    >>> sparsifier = ig.Sparsifier(model, KeepZeros(), optimizer=optimizer, total_steps=1)
    >>> model(torch.ones(2, 16)).sum().backward(); optimizer.step()
    >>> sparsifier.finalize()["sparsity"]
    0.75
    """

    usage: ClassVar[Usage] = Usage.CLIMB

    def begin(self, state: SparseState) -> None:
        if state.active == state.size:
            state.set_masks(masks_of_zeros([layer.target for layer in state.layers]))
        if state.active == state.size:
            raise UsageError(
                f"KeepZeros found no zeros to keep in the {len(state.layers)} targets, the first of which is "
                f"{state.layers[0].name}; accepted is a model that was pruned before (a layer of nothing but zeros "
                "tells no mask), or masks=."
            )
