from __future__ import annotations

import io
import re
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from rich.console import Console
from torch import nn

from isogrid.errors import PatternError, UsageError
from isogrid.metrics import Metric
from isogrid.report.html import write_sensitivity
from isogrid.report.terminal import render_sensitivity
from isogrid.scores import Random
from isogrid.sparsify import Gradual, OneShot, prune
from isogrid.sparsify.sensitivity import Sensitivity, sensitivity

LOSS = Metric("loss", higher_is_better=False)


def network() -> nn.Sequential:
    return nn.Sequential(nn.Linear(6, 10), nn.BatchNorm1d(10), nn.ReLU(), nn.Dropout(0.5), nn.Linear(10, 3))


X = torch.randn(40, 6, generator=torch.Generator().manual_seed(3))


def against(wanted: torch.Tensor) -> Any:
    return lambda model: (model(X) - wanted).square().mean(dim=1)


def test_each_value_is_that_of_pruning_this_layer_alone() -> None:
    model = network()
    wanted = model.eval()(X).detach()
    found = sensitivity(model, against(wanted), sparsities=[0.3, 0.8], metric=LOSS)
    assert found.baseline == 0
    assert found.sizes == {"0.weight": 60, "4.weight": 30}
    for name in found.layers:
        for place, sparsity in enumerate((0.3, 0.8)):
            other = network()
            other.load_state_dict(model.state_dict())
            prune(other.eval(), OneShot(sparsity=sparsity), targets=[name])
            expected = float((other(X) - wanted).square().mean().detach())
            assert found.layers[name][place] == pytest.approx(expected, rel=1e-5)
            assert found.drop(name, sparsity) == pytest.approx(expected, rel=1e-5)


def test_the_model_is_left_as_it_was_bit_for_bit_also_when_measuring_fails() -> None:
    model = network().train()
    model[1].eval()
    before = {name: value.clone() for name, value in model.state_dict().items()}

    def unchanged() -> bool:
        same = all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
        return same and model.training and model[3].training and not model[1].training

    turns: list[str] = []
    sensitivity(model, lambda m: m(X).mean(), sparsities=[0.5], on_layer=turns.append)
    assert turns == ["0.weight", "4.weight"]
    assert unchanged()

    def fails(model: nn.Module) -> float:
        if int(torch.count_nonzero(model[4].weight)) < 30:  # type: ignore[index]
            raise RuntimeError("broken")
        return 1.0

    with pytest.raises(RuntimeError, match="broken"):
        sensitivity(model, fails, sparsities=[0.5])
    assert unchanged()


def test_methods_patterns_and_targets_are_the_users() -> None:
    model = network()
    seen = []

    def zeros(model: nn.Module) -> float:
        seen.append(1 - float(np.mean([float((p != 0).float().mean()) for p in model[0].parameters()][:1])))  # type: ignore[index]
        return 1.0

    sensitivity(model, zeros, sparsities=[0.5], method=OneShot(sparsity=0.1, score=Random()), ignore=["4.weight"])
    assert seen == pytest.approx([0.0, 0.5])


def test_bearable_stops_at_the_first_sparsity_that_loses_too_much() -> None:
    found = Sensitivity(LOSS, 1.0, (0.5, 0.7, 0.9), {"a": (1.1, 1.0, 1.3), "b": (2.0, 1.0, 1.0)}, {"a": 1, "b": 1})
    assert found.bearable(0.15) == {"a": 0.7, "b": 0.0}
    assert found.bearable(5.0) == {"a": 0.9, "b": 0.9}
    assert found.to_json()["layers"][0] == {"name": "a", "weights": 1, "metric": [1.1, 1.0, 1.3]}


def test_drops_that_were_not_measured_are_refused() -> None:
    found = Sensitivity(LOSS, 1.0, (0.5, 0.9), {"a": (1.1, 1.3), "b": (2.0, 1.0)}, {"a": 1, "b": 1})
    with pytest.raises(UsageError, match="Unknown layer 'foo': accepted are a, b"):
        found.drop("foo", 0.5)
    with pytest.raises(UsageError, match=r"sparsity=0\.7; accepted are the sparsities that were tried: 0\.5, 0\.9\.$"):
        found.drop("a", 0.7)


@pytest.mark.parametrize(
    "sparsities", [[], [0.5, 0.5], [0.9, 0.5], [1.0], [-0.1], [float("nan")], 0.5, "0.5", "0", None, [None], ["half"]]
)
def test_sparsities_that_do_not_rise_are_refused(sparsities: Any) -> None:
    with pytest.raises(UsageError, match=f"sparsities={re.escape(repr(sparsities))}; accepted are rising numbers"):
        sensitivity(network(), lambda _: 1.0, sparsities=sparsities)


def test_a_method_of_training_is_refused() -> None:
    with pytest.raises(UsageError, match="works after training"):
        sensitivity(network(), lambda _: 1.0, method=Gradual(sparsity=0.5))


def test_it_is_shown_in_a_terminal_and_on_a_page(tmp_path: Path) -> None:
    found = Sensitivity(
        Metric("accuracy", percent=True, unit="pt"), 0.9, (0.5, 0.9), {"a<b": (0.88, 0.4), "c": (0.91, 0.9)},
        {"a<b": 1200, "c": 7},
    )  # fmt: skip
    out = io.StringIO()
    render_sensitivity(found, Console(file=out, width=80), found.bearable(0.03))
    text = out.getvalue()
    assert text.isascii()
    assert "accuracy lost (pt) where a share of a layer is zero, of 90.00 %" in " ".join(text.split())
    row = next(line for line in text.splitlines() if "a<b" in line)
    assert [part.strip() for part in row.strip("|").split("|")] == ["a<b", "1,200", "2.00", "50.00", "50 %"]
    size = write_sensitivity(found, "mine", tmp_path / "page.html")
    page = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert size == len(page.encode())
    assert "a&lt;b" in page
    assert "var(--heat-7)" in page
    assert "88.00" in page


@pytest.mark.parametrize(
    ("method", "kind", "said"),
    [
        (OneShot(pattern="2:4"), UsageError, "sparsity=0.9, and pattern 2:4 allows 0.5 at most"),
        (OneShot(sparsity=0.5, pattern="block:4x1"), PatternError, "last.weight does not fit the pattern"),
    ],
)
def test_what_does_not_fit_is_said_before_anything_is_measured(method: Any, kind: type[Exception], said: str) -> None:
    model = nn.Sequential(OrderedDict(first=nn.Linear(4, 8), last=nn.Linear(8, 3)))

    def evaluate(_: nn.Module) -> float:
        raise AssertionError("measured")

    with pytest.raises(kind, match=said):
        sensitivity(model, evaluate, sparsities=[0.5, 0.9], method=method)
