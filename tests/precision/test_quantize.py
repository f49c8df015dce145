import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
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


@given(
    hnp.arrays(np.float32, (4, 6), elements=st.floats(-100, 100, width=32)), st.sampled_from(["fp32", "fp16", "int8"])
)
@settings(max_examples=50)
def test_the_report_says_what_was_done(weight, weights):
    layer = nn.Linear(6, 4)
    with torch.no_grad():
        layer.weight.copy_(torch.from_numpy(weight))
    report = quantize(layer, weights)
    after = layer.weight.detach().double().numpy()
    (row,) = report.layers
    assert row.nonzeros == report.nonzeros == np.count_nonzero(after)
    assert row.vanished == report.vanished == np.count_nonzero(weight) - row.nonzeros
    assert not np.any(after[weight == 0])
    change = np.linalg.norm(after - weight) / (np.linalg.norm(weight.astype(np.float64)) or 1)
    assert row.error == pytest.approx(change, rel=1e-9, abs=1e-300)
    assert (row.error == 0) == np.array_equal(after, weight)


def test_the_number_format_fp32_changes_nothing():
    model = nn.LSTM(3, 4)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    assert quantize(model, "fp32").vanished == 0
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())


def test_every_kind_of_weight_is_rounded_and_no_bias_or_norm():
    model = nn.ModuleDict(
        {
            "words": nn.Embedding(7, 8),
            "attention": nn.MultiheadAttention(8, 2),
            "rnn": nn.GRU(8, 8),
            "conv": nn.ConvTranspose2d(3, 4, 2),
            "norm": nn.LayerNorm((4, 8)),
            "fc": nn.Linear(8, 8),
        }
    )
    before = {name: value.clone() for name, value in model.state_dict().items()}
    rounded = {layer.name for layer in quantize(model, "int8").layers}
    changed = {name for name, value in model.state_dict().items() if not torch.equal(before[name], value)}
    assert rounded == changed
    assert changed == {
        "words.weight", "attention.in_proj_weight", "attention.out_proj.weight", "rnn.weight_ih_l0",
        "rnn.weight_hh_l0", "conv.weight", "fc.weight",
    }  # fmt: skip


def test_a_shared_weight_is_rounded_once():
    model = nn.Sequential(nn.Linear(5, 5), nn.Linear(5, 5))
    model[1].weight = model[0].weight
    assert [layer.name for layer in quantize(model, "int8").layers] == ["0.weight"]
    assert model[1].weight is model[0].weight


def test_half_precision_models_take_fp16_and_refuse_int8():
    model = nn.Linear(4, 4).to(torch.bfloat16)
    before = model.weight.detach().clone()
    quantize(model, "fp16")
    assert torch.equal(model.weight, before)
    with pytest.raises(UnsupportedError, match=r"weight is torch\.bfloat16"):
        quantize(model, "int8")


def test_an_output_of_nothing_but_zeros_stays_so():
    layer = nn.Linear(6, 3)
    with torch.no_grad():
        layer.weight[1] = 0
    assert not quantize(layer, "int8").vanished
    assert not layer.weight[1].any()
