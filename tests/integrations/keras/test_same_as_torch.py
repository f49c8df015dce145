"""The same masks, bit for bit, as in PyTorch: from the same weights, and through the same training."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

import isogrid as ig
import isogrid.keras as ik
from integrations.keras import small
from isogrid.errors import UnsupportedError, UsageError
from isogrid.patterns import Pattern, parse_pattern
from isogrid.scores import SNIP, Fisher, Gradient, GraSP, Magnitude, Movement, Random, Score, SynFlow, Taylor, Wanda

NAMES = ("first/kernel", "last/kernel")


class Plain(nn.Module):
    """The model of `small` in PyTorch, its weights under the names that they have in Keras."""

    def __init__(self, net: Any) -> None:
        super().__init__()
        for layer in net.layers:
            kernel, bias = layer.get_weights()
            self.register_parameter(f"{layer.name}/kernel", nn.Parameter(torch.from_numpy(kernel.T.copy())))
            self.register_parameter(f"{layer.name}/bias", nn.Parameter(torch.from_numpy(bias.copy())))

    def forward(self, x: Tensor) -> Tensor:
        of = dict(self.named_parameters())
        hidden = torch.tanh(x @ of["first/kernel"].T + of["first/bias"])
        return hidden @ of["last/kernel"].T + of["last/bias"]


def of_torch(masks: dict[str, Tensor]) -> dict[str, NDArray[np.bool_]]:
    return {name: mask.numpy().T for name, mask in masks.items()}


def assert_same(one: dict[str, Any], other: dict[str, Any]) -> None:
    assert one.keys() == other.keys()
    for name, mask in one.items():
        assert np.array_equal(mask, other[name]), name


PATTERNS = ("unstructured", "2:4", "fan_in", "row", "channel", "block:1x4")
OF_WEIGHTS = (Magnitude, Random)
OF_GRADIENTS = (Gradient, SNIP, Taylor, Movement)
OF_DATA = (Fisher, GraSP, SynFlow, Wanda)


def test_every_pattern_and_score_is_compared_or_refused() -> None:
    """Of the package's own: a new one must find its place here."""
    own = [cls for cls in Pattern.__subclasses__() if cls.__module__ == "isogrid.patterns"]
    assert {type(parse_pattern(pattern)) for pattern in PATTERNS} == set(own)
    scores = {cls for cls in Score.__subclasses__() if cls.__module__ == "isogrid.scores"}
    assert {*OF_WEIGHTS, *OF_GRADIENTS, *OF_DATA} == scores


@pytest.mark.parametrize("name", ["Gradual", "Static", "Trigger", "Aware", "SET", "RigL", "OneShot"])
def test_options_defaults_and_names_are_the_same(name: str) -> None:
    """`rounds` are left out: scores by weights alone are as good in one."""
    ours, theirs = getattr(ik, name), getattr(ig, name)
    one, other = ours(sparsity=0.5), theirs(sparsity=0.5)
    fields = [field.name for field in dataclasses.fields(other) if field.name != "rounds"]
    assert [field.name for field in dataclasses.fields(one)] == fields
    for field in fields:
        assert repr(getattr(one, field)) == repr(getattr(other, field)), field
    assert ours.usage is theirs.usage
    if "schedule" in fields:
        assert ours(sparsity=0.5, schedule="cosine").schedule == theirs(sparsity=0.5, schedule="cosine").schedule
    if "score" in fields:
        assert ours(sparsity=0.5, score="random").score == Random()
        with pytest.raises(UsageError, match=f"{name} got score=3; accepted is a Score, or the name of one"):
            ours(sparsity=0.5, score=3)


@pytest.mark.parametrize("score", OF_DATA)
def test_scores_that_look_at_data_are_refused_by_name(score: type[Score]) -> None:
    for method in (ik.Gradual, ik.OneShot, ik.Static):
        with pytest.raises(UnsupportedError, match=f"{method.__name__} got score={score.name}, which looks at"):
            method(sparsity=0.5, score=score())


@pytest.mark.parametrize("score", [score.name for score in OF_WEIGHTS])
@pytest.mark.parametrize("pattern", PATTERNS)
@pytest.mark.parametrize("allocation", ["uniform", "erk", "global", "lamp"])
def test_pruning_gives_the_same_masks(score: str, pattern: str, allocation: str) -> None:
    net = small.model()
    plain = Plain(net)
    sparsity = None if pattern == "2:4" else 0.6
    wanted = ig.prune(plain, ig.OneShot(sparsity, pattern, allocation, score=score), targets=list(NAMES), seed=3)
    report = ik.prune(net, ik.OneShot(sparsity, pattern, allocation, score), seed=3)
    assert_same({name: kernel != 0 for name, kernel in small.kernels(net).items()}, of_torch(wanted.masks))
    assert report.sparsity == wanted.sparsity
    assert report.nonzeros == wanted.nonzeros
    assert report.parameters == wanted.parameters


def test_convolutions_give_the_same_masks() -> None:
    import keras

    net = keras.Sequential([keras.Input((9, 9, 4)), keras.layers.Conv2D(8, 3, name="conv")])
    plain = nn.Conv2d(4, 8, 3)
    plain.weight.data = torch.from_numpy(net.layers[0].get_weights()[0].transpose(3, 2, 0, 1).copy())
    for pattern in ("unstructured", "2:4", "block:2x6"):
        wanted = ig.prune(plain, ig.OneShot(0.5, pattern)).masks["weight"].numpy()
        ik.prune(net, ik.OneShot(0.5, pattern))
        assert np.array_equal(net.layers[0].get_weights()[0] != 0, wanted.transpose(2, 3, 1, 0))


METHODS = [
    ("Gradual", {"sparsity": 0.8, "delta_t": 3}),
    *(
        ("Gradual", {"sparsity": 0.8, "delta_t": 3, "score": score})
        for score in (Gradient(), SNIP(), Taylor(), Movement())
    ),
    ("Gradual", {"pattern": "2:4", "delta_t": 3}),
    ("Gradual", {"sparsity": 0.8, "schedule": "constant"}),
    ("Gradual", {"sparsity": 0.75, "pattern": "fan_in", "delta_t": 5}),
    ("Static", {"sparsity": 0.8}),
    ("Static", {"sparsity": 0.8, "score": "magnitude"}),
    ("SET", {"sparsity": 0.8, "delta_t": 4}),
    ("RigL", {"sparsity": 0.8, "delta_t": 4}),
    ("RigL", {"sparsity": 0.8}),
    ("RigL", {"sparsity": 0.75, "delta_t": 4, "window": 3, "pattern": "fan_in"}),
    ("Trigger", {"sparsity": 0.8, "delta_t": 2}),
    ("Trigger", {"sparsity": 0.8, "schedule": "constant"}),
    ("Trigger", {"sparsity": 0.7, "delta_t": 2, "quantile": 0.2, "revive": 1.5}),
    ("Trigger", {"sparsity": 0.7, "delta_t": 2, "threshold": 0.05, "patience": 3}),
    ("Trigger", {"sparsity": 0.5, "delta_t": 3, "patience": 1, "pattern": "row"}),
    ("Trigger", {"sparsity": 0.6, "delta_t": 3, "patience": 1, "revive": 1.0}),
]


@pytest.mark.parametrize(("name", "options"), METHODS, ids=str)
def test_training_gives_the_same_masks(name: str, options: dict[str, Any]) -> None:
    net = small.model("sgd")
    plain = Plain(net)
    optimizer = torch.optim.SGD(plain.parameters(), lr=0.01)
    sparsifier = ig.Sparsifier(
        plain, getattr(ig, name)(**options), optimizer=optimizer, total_steps=40, targets=list(NAMES), seed=5
    )
    x, y = (torch.from_numpy(array) for array in small.data())
    for step in range(40):
        batch = slice(step % 10 * small.BATCH, (step % 10 + 1) * small.BATCH)
        nn.functional.mse_loss(plain(x[batch]), y[batch]).backward()
        optimizer.step()
        optimizer.zero_grad()
    callback = ik.Sparsify(getattr(ik, name)(**options), seed=5)
    small.fit(net, callback)
    assert_same(callback.masks, of_torch(sparsifier.masks))
    for path, kernel in small.kernels(net).items():
        wanted = dict(plain.named_parameters())[path].detach().numpy().T
        assert np.allclose(kernel, wanted, atol=1e-5)
