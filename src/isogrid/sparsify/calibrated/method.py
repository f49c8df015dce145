"""The base of methods that prune a trained model layer by layer, by what the layers see of calibration data."""

from __future__ import annotations

import functools
from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from isogrid.allocation import Layer
from isogrid.errors import UnsupportedError
from isogrid.masks import zero_pruned_
from isogrid.patterns import NofM, Pattern
from isogrid.rules.method import Usage
from isogrid.selection import pruned_last, share_out
from isogrid.sparsify.calibrated.matrix import MatrixView
from isogrid.sparsify.calibrated.trace import Trace, Tracer
from isogrid.sparsify.calibrated.uncached import uncached
from isogrid.sparsify.calibrated.walk import Walk, copied
from isogrid.sparsify.selecting import Selecting
from isogrid.sparsify.state import SparseLayer, SparseState

_REFUSED = ("recurrent", "embedding")


@dataclass(frozen=True, eq=False)
class Problem:
    """A layer to prune: ``weight`` so that ``X @ weight.T`` changes little.

    Attributes:
        weight: ``[groups, outputs / groups, K]``, float32 or float64.
        active: bool of that shape; the rest is zero and stays so.
        prepared: what `Calibrated.prepare` made of the inputs' second moments.
        view: how the weight comes of the canonical one.
        keep: the most weights that may stay.
    """

    weight: Tensor
    active: Tensor
    prepared: Any
    view: MatrixView
    keep: int

    def best(self, scores: Tensor, pattern: Pattern) -> Tensor:
        """The mask, of the shape of `scores` (``[groups, outputs / groups, K]``, never negative), of the highest."""
        held = self.view.canonical(self.active).cpu().numpy()
        values = pruned_last(self.view.canonical(scores).cpu().numpy(), held, pattern)
        mask = torch.from_numpy(pattern.mask(values, self.keep) & held)
        return self.view.matrix(mask.to(scores.device))


@dataclass(frozen=True)
class Calibrated(Selecting):
    """Options that such methods share.

    A method of your own adds `diagonal`, `prepare` and `solve`.
    """

    usage: ClassVar[Usage] = Usage.AFTER
    default_allocation: ClassVar[str] = "uniform"
    diagonal: ClassVar[bool] = False
    """Whether the squared norms of the inputs are enough; else their whole second moments are summed."""

    @property
    def needs_data(self) -> bool:
        return True

    @abstractmethod
    def prepare(self, moments: Tensor) -> Any:
        """What is computed once for all layers with the same inputs.

        Args:
            moments: ``X.T @ X`` over all rows of the calibration data, ``[groups, K, K]``, or its diagonal
                ``[groups, K]``; may be overwritten.
        """

    @abstractmethod
    def solve(self, problem: Problem) -> tuple[Tensor, Tensor]:
        """The pruned weight and its mask, both of the shape of ``problem.weight``."""

    def check(self, state: SparseState) -> None:
        super().check(state)
        if refused := [layer for layer in state.layers if layer.target.kind in _REFUSED]:
            kinds = " and ".join(sorted({layer.target.kind for layer in refused}))
            raise UnsupportedError(
                f"{type(self).__name__} got {kinds} weights, {', '.join(layer.name for layer in refused)}; accepted "
                "are weights of linear layers, convolutions and attention, so leave these out with ignore= and prune "
                "them with OneShot."
            )

    def begin(self, state: SparseState) -> None:
        super().begin(state)
        state.check_finite()
        model, calibration = state.model, state.calibration
        assert model is not None
        assert calibration is not None
        runs = [functools.partial(_answer, state, batch) for batch in calibration]
        with uncached(model):
            trace = Tracer(model, state.layers, norms=self._ranks).trace(runs)
            keep = self._keep(state.layers, trace)
            pruned = [layer for layer in state.layers if keep[layer.name] < layer.size]
            Walk(trace, pruned, functools.partial(self._visit, keep), diagonal=self.diagonal).through(runs)
        state.set_masks({layer.name: layer.mask for layer in state.layers})

    @property
    def _ranks(self) -> bool:
        return self.target_allocation.needs_scores and self.target_pattern.implied_sparsity is None

    def _keep(self, layers: Sequence[SparseLayer], trace: Trace) -> dict[str, int]:
        """The most weights that may stay of each layer.

        Allocations that rank are given ``|W_ij| ||X_j||`` of the dense model.
        """
        described = [
            Layer(layer.name, layer.target.shape, _scores(layer, trace.norms[layer.name]) if self._ranks else None)
            for layer in layers
        ]
        return share_out(described, self.target_sparsity, self.target_pattern, self.target_allocation)

    def _visit(self, keep: dict[str, int], layers: list[SparseLayer], moments: Tensor) -> None:
        """Prune layers that see the same inputs."""
        inputs_last = isinstance(self.target_pattern, NofM)
        views = [MatrixView(layer.target.shape, len(moments), inputs_last) for layer in layers]
        prepared = self.prepare(views[0].moments(moments))
        for layer, view in zip(layers, views, strict=True):
            weight = view.matrix(layer.canonical_weight).to(moments.dtype)
            active = view.matrix(layer.target.canonical(layer.mask))
            pruned, mask = self.solve(Problem(weight, active, prepared, view, keep[layer.name]))
            if torch.equal(mask, active):
                continue  # not even rounding touches a layer that loses nothing
            layer.canonical_weight.copy_(view.canonical(pruned))
            layer.set_mask(layer.target.canonical(view.canonical(mask)))
            zero_pruned_(layer.weight, layer.mask)


def _answer(state: SparseState, batch: Any) -> Any:
    assert state.model is not None
    assert state.calibration is not None
    return state.calibration.answer(state.model, copied(batch))


def _scores(layer: SparseLayer, norms: Tensor) -> npt.NDArray[Any]:
    view = MatrixView(layer.target.shape, len(norms))
    weight = view.matrix(layer.canonical_weight).float()
    return np.ascontiguousarray(view.canonical(weight.abs() * norms.unsqueeze(1)).cpu().numpy())
