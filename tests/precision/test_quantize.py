import pytest
import torch
from torch import nn

from isogrid.errors import TargetError, TrainingError, UnsupportedError, UsageError
from isogrid.precision import quantize


def test_int8_has_a_scale_per_output_and_keeps_zeros():
    layer = nn.Linear(64, 4)
    with torch.no_grad():
        layer.weight *= torch.tensor([1.0, 10.0, 100.0, 0.01])[:, None]
        layer.weight[:, ::3] = 0
    before = layer.weight.detach().clone()
    quantize(layer, "int8")
    step = before.abs().amax(dim=1, keepdim=True) / 127
    assert ((layer.weight - before).abs() <= 0.51 * step).all()
    assert (layer.weight[before == 0] == 0).all()
    assert all(len(row.unique()) <= 255 for row in layer.weight)


@pytest.mark.parametrize("weights", ["fp16", "int8"])
def test_rounding_again_changes_nothing_and_biases_stay(weights):
    model = nn.Sequential(nn.Conv2d(3, 5, 3), nn.BatchNorm2d(5), nn.Flatten(), nn.Linear(20, 2))
    bias = model[3].bias.detach().clone()
    quantize(model, weights)
    once = [p.detach().clone() for p in model.parameters()]
    quantize(model, weights)
    assert all(torch.equal(a, b) for a, b in zip(once, model.parameters(), strict=True))
    assert torch.equal(model[3].bias, bias)


def test_only_what_is_asked_is_rounded():
    model = nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 8))
    before = model[1].weight.detach().clone()
    report = quantize(model, "int8", ignore=["1.weight"])
    assert [layer.name for layer in report.layers] == ["0.weight"]
    assert torch.equal(model[1].weight, before)


def test_what_cannot_be_rounded_is_named_and_nothing_changes():
    model = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
    before = model[0].weight.detach().clone()
    model[1].weight.data[0, 0] = float("nan")
    with pytest.raises(TrainingError, match=r"1\.weight"):
        quantize(model, "int8")
    model[1].weight.data[0, 0] = 1e9
    with pytest.raises(UnsupportedError, match=r"1\.weight"):
        quantize(model, "fp16")
    assert torch.equal(model[0].weight, before)
    with pytest.raises(UsageError, match="int3"):
        quantize(model, "int3")
    with pytest.raises(TargetError, match="absent"):
        quantize(model, "int8", targets=["absent"])
