"""Which layers bear pruning: each is pruned alone, and the metric is measured."""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from isogrid.calibration import Forward, Loss
from isogrid.errors import UsageError
from isogrid.evaluating import in_eval_mode
from isogrid.masks import find_targets
from isogrid.metrics import ACCURACY, Metric, to_outcomes, value_of
from isogrid.names import unknown_name
from isogrid.rules.method import Usage
from isogrid.sparsify.method import Method
from isogrid.sparsify.oneshot import OneShot
from isogrid.sparsify.prune import prune
from isogrid.sparsify.state import SparseState, dense_layers

SPARSITIES = (0.5, 0.7, 0.8, 0.9, 0.95, 0.98)


@dataclass(frozen=True)
class Sensitivity:
    """The metric with each layer pruned alone, all others as they were.

    Attributes:
        metric: how values are read.
        baseline: with nothing pruned.
        sparsities: that were tried, rising.
        layers: target name to the metric at each of `sparsities`.
        sizes: target name to its number of weights.
    """

    metric: Metric
    baseline: float
    sparsities: tuple[float, ...]
    layers: Mapping[str, tuple[float, ...]]
    sizes: Mapping[str, int]

    def drop(self, layer: str, sparsity: float) -> float:
        """How much worse than the baseline, in metric units.

        Raises:
            UsageError: a layer or a sparsity that was not tried.
        """
        if layer not in self.layers:
            raise unknown_name("layer", str(layer), self.layers)
        if sparsity not in self.sparsities:
            tried = ", ".join(map(str, self.sparsities))
            raise UsageError(f"drop() got sparsity={sparsity!r}; accepted are the sparsities that were tried: {tried}.")
        return self.metric.worse_by(self.baseline, self.layers[layer][self.sparsities.index(sparsity)])

    def bearable(self, max_drop: float) -> dict[str, float]:
        """For each layer the highest sparsity up to which every one tried loses at most `max_drop`; 0 where none.

        >>> found = Sensitivity(ACCURACY, 0.9, (0.5, 0.9), {"a": (0.9, 0.89), "b": (0.7, 0.9)}, {"a": 4, "b": 4})
        >>> found.bearable(0.02)
        {'a': 0.9, 'b': 0.0}
        """
        found = {}
        for layer in self.layers:
            found[layer] = 0.0
            for sparsity in self.sparsities:
                if self.drop(layer, sparsity) > max_drop:
                    break
                found[layer] = sparsity
        return found

    def to_json(self) -> dict[str, Any]:
        """All of it as plain data."""
        return {
            "metric": self.metric.name,
            "baseline": self.baseline,
            "sparsities": list(self.sparsities),
            "layers": [
                {"name": name, "weights": self.sizes[name], "metric": list(values)}
                for name, values in self.layers.items()
            ],
        }


def sensitivity(
    model: nn.Module,
    evaluate: Callable[[nn.Module], Any],
    *,
    sparsities: Sequence[float] = SPARSITIES,
    method: Method | None = None,
    metric: Metric = ACCURACY,
    targets: str | Sequence[str] | None = None,
    ignore: str | Sequence[str] | None = None,
    data: Iterable[Any] | None = None,
    forward: Forward | None = None,
    loss: Loss | None = None,
    on_layer: Callable[[str], None] | None = None,
    seed: int = 0,
) -> Sensitivity:
    """Prune each layer alone at several sparsities, measure, and put the layer back.

    It costs one evaluation for each layer and sparsity, without any retraining: it ranks layers, and says little about
    what training recovers.  `model` is left as it was, bit for bit.

    Args:
        model: a trained module.
        evaluate: ``evaluate(model)`` gives the metric, as in `isogrid.fit`; the model is in eval mode.
        sparsities: rising, each from 0 up to, not including, 1.
        method: what prunes, a method that works after training; `OneShot` by magnitude by default.
        metric: its direction and name.
        targets, ignore: names or regular expressions, see `isogrid.masks.find_targets`.
        data, forward, loss: for methods that look at data, see `isogrid.prune`.
        on_layer: called with the name of each layer before its turn.
        seed: of the method's random choices.

    Raises:
        UsageError: sparsities that do not rise or that the method cannot take, or a method that belongs into training.
        PatternError, UnsupportedError: a layer that does not fit.

    >>> _ = torch.manual_seed(0)
    >>> model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
    >>> x = torch.randn(64, 4)
    >>> y = model(x).argmax(1)
    >>> found = sensitivity(model, lambda m: (m(x).argmax(1) == y).float(), sparsities=[0.5, 0.9])
    >>> found.baseline, sorted(found.layers)
    (1.0, ['0.weight', '2.weight'])
    """
    levels = _levels(sparsities)
    chosen = OneShot(sparsity=levels[0]) if method is None else method
    if not isinstance(chosen, Method) or chosen.usage is not Usage.AFTER:
        raise UsageError(f"sensitivity() got {chosen!r}; accepted is a method that works after training.")
    found = find_targets(model, targets, ignore)
    # Before anything is measured: what would fail at the last layer or level fails now.
    aimed = [chosen.at(level) for level in levels]
    chosen.check(SparseState(dense_layers(found), total_steps=1, seed=seed, model=model))
    before = {name: value.detach().clone() for name, value in model.state_dict().items()}
    layers: dict[str, tuple[float, ...]] = {}
    with in_eval_mode(model):
        try:
            baseline = _measure(model, evaluate)
            for target in found:
                if on_layer is not None:
                    on_layer(target.name)
                one = re.escape(target.name)
                values = []
                for method_at in aimed:
                    prune(model, method_at, data=data, forward=forward, loss=loss, targets=one, seed=seed)
                    values.append(_measure(model, evaluate))
                    _restore(model, before)
                layers[target.name] = tuple(values)
        finally:
            _restore(model, before)
    return Sensitivity(metric, baseline, levels, layers, {target.name: target.parameter.numel() for target in found})


def _levels(sparsities: Iterable[float]) -> tuple[float, ...]:
    try:
        levels = () if isinstance(sparsities, str | bytes) else tuple(float(sparsity) for sparsity in sparsities)
    except (TypeError, ValueError, OverflowError):
        levels = ()
    if not levels or any(not 0 <= level < 1 for level in levels) or any(a >= b for a, b in itertools.pairwise(levels)):
        raise UsageError(f"sensitivity() got sparsities={sparsities!r}; accepted are rising numbers from 0 below 1.")
    return levels


def _measure(model: nn.Module, evaluate: Callable[[nn.Module], Any]) -> float:
    with torch.no_grad():
        return value_of(to_outcomes(evaluate(model)))


def _restore(model: nn.Module, before: Mapping[str, torch.Tensor]) -> None:
    with torch.no_grad():
        for name, value in model.state_dict().items():
            value.copy_(before[name])
