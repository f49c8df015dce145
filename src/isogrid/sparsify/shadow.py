"""Dense weights that stand behind the effective ones, for methods whose optimiser moves the former."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from isogrid.errors import SparsifierError
from isogrid.masks import zero_pruned_
from isogrid.sparsify.method import Method
from isogrid.sparsify.state import SparseLayer, SparseState


@dataclass(frozen=True)
class ShadowMethod(Method):
    """A method whose optimiser moves *dense* weights, from which the *effective* ones follow.

    The dense weights are ``layer.buffers["dense"]``, and the parameter holds the effective ones at all times but within
    the optimiser's step.  One step goes like this:

    1. ``backward`` writes the gradient of the loss by the effective weights; it is zeroed where `used` says False, so
       that a clipping norm counts what is used and nothing else.
    2. `before_step` finds it in ``layer.gradient`` (None where there is none) and leaves there the gradient by the
       dense weights: that is what the optimiser gets.
    3. The optimiser moves the dense weights, with its momentum and weight decay, where `moving` lets it.
    4. `after_step` changes masks and whatever else the method learns, and the parameter gets `effective`.

    Weights that are pruned live on, and so does the optimiser's state that belongs to them.
    """

    def effective(self, state: SparseState, layer: SparseLayer) -> Tensor:
        """The weights that the parameter shall hold, of its shape; by default the dense ones where active, else 0."""
        return zero_pruned_(layer.buffers["dense"].clone(), layer.mask)

    def training_weight(self, state: SparseState, layer: SparseLayer) -> Tensor | None:
        """The weights for forward passes in training mode, the same ones up to the next step; None: the effective ones.

        Only called where `samples` is true.
        """
        return None

    @property
    def samples(self) -> bool:
        """Whether forward passes in training mode use weights of their own."""
        return False

    def used(self, state: SparseState, layer: SparseLayer) -> Tensor | None:
        """Where the gradient by the effective weights is of use, as a mask; None: everywhere."""
        return layer.mask

    def trained_share(self, state: SparseState, layer: SparseLayer) -> float:
        """The share of a layer's weights whose gradient is needed at this step, for counts of what training costs."""
        used = self.used(state, layer)
        return 1.0 if used is None or not layer.size else int(torch.count_nonzero(used)) / layer.size

    def moving(self, state: SparseState, layer: SparseLayer) -> Tensor | None:
        """Where the optimiser may move the dense weights, as a mask; None: everywhere."""
        return None


class Shadow:
    """Who holds which weights when: dense ones within the optimiser's step, effective ones outside of it."""

    def __init__(self, state: SparseState, method: ShadowMethod) -> None:
        self._state, self._method = state, method
        self._versions: dict[str, int] = {}
        self._interrupted = False

    def begin(self) -> None:
        """Take the parameters as they are for the dense weights, and the masks as they are for adopted ones."""
        for layer in self._state.layers:
            layer.buffers["dense"] = layer.weight.clone()
            if layer.active < layer.size:
                layer.buffers["adopted"] = layer.mask.clone()
        self._state.effective = self._effective

    def _effective(self, layer: SparseLayer) -> Tensor:
        return self._method.effective(self._state, layer)

    def settle(self) -> None:
        """Have the parameters hold the effective weights, and start a new step."""
        self._state.sampled = False
        self._state.hold_zeros()
        for layer in self._state.layers:
            layer.scratch.clear()
            self._versions[layer.name] = layer.target.parameter._version

    # -- the optimiser's step ----------------------------------------------------------------------------------------

    def check(self) -> None:
        """Raise ``SparsifierError`` if something other than the optimiser moved a weight: the step would undo it."""
        for layer in self._state.layers:
            parameter = layer.target.parameter
            if parameter._version == self._versions.get(layer.name):
                continue
            expected = self._method.training_weight(self._state, layer) if self._state.sampled else None
            if not torch.equal(layer.weight, self._effective(layer) if expected is None else expected):
                raise SparsifierError(
                    f"The weights of {layer.name} were changed outside the optimiser's step, and "
                    f"{type(self._method).__name__}, which moves dense weights behind them, would undo that; load the "
                    "sparsifier's state along with the model's, or attach a new sparsifier to the changed model."
                )

    def expose(self, scale: float) -> None:
        """Have the parameters hold the dense weights, and their gradients, times `scale`, what the method left."""
        for layer in self._state.layers:
            gradient = layer.target.parameter.grad
            if gradient is not None and layer.gradient is not None:
                gradient.copy_(layer.gradient if scale == 1.0 else layer.gradient * scale)
            layer.weight.copy_(layer.buffers["dense"])

    def capture(self) -> None:
        """Take the weights that the optimiser moved for the dense ones."""
        for layer in self._state.layers:
            dense = layer.buffers["dense"]
            moving = self._method.moving(self._state, layer)
            dense.copy_(layer.weight if moving is None else torch.where(moving, layer.weight, dense))

    # -- the model's forward pass ------------------------------------------------------------------------------------

    def enter(self, *, training: bool) -> None:
        """Before a forward pass: the sampled weights for one in training, which stay, as ``backward`` reads them too.

        Any other pass sees the effective weights, also one between a training pass and its ``backward``.
        """
        if training and not self._state.sampled:
            for layer in self._state.layers:
                weight = self._method.training_weight(self._state, layer)
                if weight is not None:
                    self._state.sampled = True
                    layer.weight.copy_(weight)
        elif not training and self._state.sampled:
            self._interrupted = True
            self._state.hold_zeros()

    def leave(self) -> None:
        """After a forward pass: back to the sampled weights if they were put aside for it."""
        if self._interrupted:
            self._interrupted = False
            for layer in self._state.layers:
                weight = self._method.training_weight(self._state, layer)
                if weight is not None:
                    layer.weight.copy_(weight)


def candidates(state: SparseState) -> SparseState:
    """The layers with the masks that were adopted: of these weights pruned ones may come back, of others none."""
    layers = [
        SparseLayer(layer.target, layer.buffers.get("adopted", torch.ones_like(layer.mask))) for layer in state.layers
    ]
    return SparseState(layers, state.total_steps, state.seed, step=state.step)
