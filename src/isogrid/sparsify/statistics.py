"""What scores look at beside the weights: gradients, curvature and inputs, on the data that a method was given."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils import _pytree as pytree

from isogrid.calibration import Calibration
from isogrid.errors import DataError, TrainingError, UnsupportedError, UsageError
from isogrid.scores import Score
from isogrid.sparsify.calibrated.batchnorm import enough_samples
from isogrid.sparsify.calibrated.calls import Call, Watch
from isogrid.sparsify.calibrated.matrix import MatrixView
from isogrid.sparsify.calibrated.moments import Moments
from isogrid.sparsify.calibrated.uncached import uncached
from isogrid.sparsify.calibrated.walk import copied
from isogrid.sparsify.selection import score_layer
from isogrid.sparsify.state import SparseState
from isogrid.sparsify.synaptic_flow import synaptic_flow

Tensors = list[Tensor]


def score_layers(state: SparseState, score: Score, *, untrained: bool = False) -> dict[str, npt.NDArray[Any]]:
    """The scores of all layers by name, in canonical view; what they need is computed on ``state.calibration``.

    The model runs in evaluation mode (no dropout) and is left as it was; parameters get no ``grad``.

    Args:
        state: it must have a model and data where the score needs a statistic.
        score: what ranks the weights.
        untrained: whether batch normalisation has no running statistics yet that mean something: it then normalises by
            each batch's own, as in training (single samples have none: `Fisher` always takes the running ones).

    Raises:
        TrainingError: a statistic is not finite.
        UsageError: the data do not give a loss that follows from the weights, or cannot be cut into samples.
        UnsupportedError: a score by inputs, and a target that is no linear layer, convolution or attention.
    """
    known = {name: _COMPUTE[name](state, untrained) for name in sorted(score.needs)}
    scores = {}
    for place, layer in enumerate(state.layers):
        own = {name: tensors[place] for name, tensors in known.items()}
        for name, tensor in own.items():
            if not bool(torch.isfinite(tensor).all()):
                raise TrainingError(
                    f"The {name} of {layer.name} on the data is not finite; only finite numbers can be ranked, so look "
                    "for weights, inputs or losses that are too large."
                )
        scores[layer.name] = score_layer(state, layer, score, {name: layer.to_array(t) for name, t in own.items()})
    return scores


def _gradient(state: SparseState, untrained: bool) -> Tensors:
    model, calibration = _given(state)
    with _differentiable(state, batch_statistics=untrained):
        return _mean(_loss_gradients(state, model, calibration, batch) for batch in calibration)


def _squared_gradient(state: SparseState, untrained: bool) -> Tensors:
    model, calibration = _given(state)
    with _differentiable(state, batch_statistics=untrained):
        return _mean(_squared(_loss_gradients(state, model, calibration, batch)) for batch in calibration)


def _fisher(state: SparseState, untrained: bool) -> Tensors:  # noqa: ARG001 (see score_layers)
    model, calibration = _given(state)
    with _differentiable(state, batch_statistics=False):
        return _mean(
            _squared(_loss_gradients(state, model, calibration, sample))
            for batch in calibration
            for sample in _samples(batch)
        )


def _hessian_gradient(state: SparseState, untrained: bool) -> Tensors:
    """``H g`` of the mean loss, by differentiating the gradient's product with a constant ``g``.

    Only directions in which weights may move count: pruned ones have no part in ``g``.
    """
    model, calibration = _given(state)
    gradient = [
        mean.masked_fill(layer.pruned, 0) for mean, layer in zip(_gradient(state, untrained), state.layers, strict=True)
    ]
    # Fused attention has no second derivative.
    with _differentiable(state, batch_statistics=untrained), sdpa_kernel(SDPBackend.MATH):

        def products(batch: Any) -> Tensors:
            moving = _loss_gradients(state, model, calibration, batch, create_graph=True)
            product = torch.stack([(m * g).sum() for m, g in zip(moving, gradient, strict=True)]).sum()
            return _derivatives(state, product) if product.requires_grad else [torch.zeros_like(g) for g in gradient]

        return _mean(products(batch) for batch in calibration)


def _flow(state: SparseState, untrained: bool) -> Tensors:  # noqa: ARG001
    model, calibration = _given(state)
    return synaptic_flow(model, [layer.name for layer in state.layers], calibration)


def _input_norm(state: SparseState, untrained: bool) -> Tensors:  # noqa: ARG001
    model, calibration = _given(state)
    sums = {
        layer.name: Moments(
            layer.name,
            layer.weight.shape[layer.target.output_axis],
            torch.promote_types(layer.weight.dtype, torch.float32),
            diagonal=True,
        )
        for layer in state.layers
    }
    met: set[str] = set()

    def seen(call: Call) -> None:
        met.add(call.layer.name)
        sums[call.layer.name].add(call)

    with uncached(model), Watch(state.layers, seen):
        for batch in calibration:
            calibration.answer(model, copied(batch))
    if missed := [layer.name for layer in state.layers if layer.name not in met]:
        raise UnsupportedError(
            f"{', '.join(missed)} met no input in a linear layer, convolution or attention while the model ran on the "
            "data; give data that reaches every target, or leave these out with ignore=."
        )
    norms = []
    for layer in state.layers:
        total = sums[layer.name].total
        view = MatrixView(layer.target.shape, len(total))
        rows = total.sqrt().unsqueeze(1).expand(-1, layer.target.shape[0] // len(total), -1)
        # Canonical back to the parameter's own axes: `canonical` is its own inverse.
        norms.append(layer.target.canonical(view.canonical(rows)))
    return norms


_COMPUTE: Mapping[str, Callable[[SparseState, bool], Tensors]] = {
    "gradient": _gradient,
    "squared_gradient": _squared_gradient,
    "fisher": _fisher,
    "hessian_gradient": _hessian_gradient,
    "flow": _flow,
    "input_norm": _input_norm,
}
"""For each of `isogrid.scores.STATISTICS` what computes it for all layers, in the parameters' own shapes."""


def _given(state: SparseState) -> tuple[nn.Module, Calibration]:
    assert state.model is not None
    assert state.calibration is not None
    return state.model, state.calibration


@contextlib.contextmanager
def _differentiable(state: SparseState, *, batch_statistics: bool) -> Iterator[None]:
    """Evaluation mode, with gradients for all targets, frozen or not; all as before afterwards."""
    model, _ = _given(state)
    frozen = [layer.target.parameter for layer in state.layers if not layer.target.parameter.requires_grad]
    norms = [module for module in model.modules() if isinstance(module, _BatchNorm)] if batch_statistics else []
    buffers = [(buffer, buffer.clone()) for module in norms for buffer in module.buffers()]
    try:
        with uncached(model), torch.enable_grad():
            for parameter in frozen:
                parameter.requires_grad_(True)
            for module in norms:
                module.training = True
            yield
    finally:
        for parameter in frozen:
            parameter.requires_grad_(False)
        for buffer, before in buffers:
            buffer.copy_(before)


def _loss_gradients(
    state: SparseState, model: nn.Module, calibration: Calibration, batch: Any, *, create_graph: bool = False
) -> Tensors:
    with enough_samples():
        loss = calibration.loss_of(model, copied(batch))
    if loss.numel() != 1 or not loss.requires_grad:
        arrived = "constant" if loss.numel() == 1 else f"of shape {tuple(loss.shape)}"
        raise UsageError(
            f"The loss of a batch of data is {arrived}; accepted is one number that follows from the targets' weights."
        )
    return _derivatives(state, loss, create_graph=create_graph)


def _derivatives(state: SparseState, value: Tensor, *, create_graph: bool = False) -> Tensors:
    """Those of `value` by all targets; zeros for a target that has no part in it."""
    parameters = [layer.target.parameter for layer in state.layers]
    found = torch.autograd.grad(value, parameters, create_graph=create_graph, materialize_grads=True)
    return [gradient.to_dense() if gradient.is_sparse else gradient for gradient in found]


def _squared(gradients: Tensors) -> Tensors:
    return [_wide(gradient).square() for gradient in gradients]


def _wide(tensor: Tensor) -> Tensor:
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))


def _mean(parts: Iterable[Tensors]) -> Tensors:
    total: Tensors = []
    count = 0
    for part in parts:
        count += 1
        if not total:
            total = [torch.zeros_like(_wide(tensor)) for tensor in part]
        for sum_, tensor in zip(total, part, strict=True):
            sum_.add_(tensor.detach())
    if not count:
        raise DataError("data holds no sample; accepted is one sample or more.")
    return [sum_.div_(count) for sum_ in total]


def _samples(batch: Any) -> Iterator[Any]:
    """The samples of a batch as batches of one: slices along the first axis of all tensors that are as long."""
    nested = dict(batch) if isinstance(batch, Mapping) else batch
    tensors = [leaf for leaf in pytree.tree_leaves(nested) if isinstance(leaf, Tensor) and leaf.dim() > 0]
    if not tensors:
        raise UsageError(
            f"A batch of data of type {type(batch).__name__} cannot be cut into samples; accepted are tensors, tuples, "
            "lists and mappings of them, the batch on the first axis."
        )
    count = len(tensors[0])

    def cut(sample: int) -> Callable[[Any], Any]:
        def of(leaf: Any) -> Any:
            whole = not isinstance(leaf, Tensor) or leaf.dim() == 0 or len(leaf) != count
            return leaf if whole else leaf[sample : sample + 1]

        return of

    for sample in range(count):
        yield pytree.tree_map(cut(sample), nested)
