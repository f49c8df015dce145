import pytest
import torch
from torch import nn

from isogrid.errors import TargetError, UnsupportedError
from isogrid.formats.weights import rounded_weights, to_numpy, weight_targets


@pytest.mark.parametrize(
    "tensor",
    [
        torch.zeros(2, 2).to(torch.float8_e4m3fn),
        torch.zeros(2, 2, device="meta"),
        torch.eye(3).to_sparse(),
    ],
    ids=["8-bit float", "meta device", "sparse layout"],
)
def test_what_no_array_holds_is_refused_by_name(tensor):
    with pytest.raises(UnsupportedError, match=r"fc\.weight is a torch\.float") as caught:
        to_numpy(tensor, "fc.weight")
    assert "\n" not in str(caught.value)


def test_bfloat16_becomes_float32_without_loss():
    tensor = torch.tensor([1.0, -2.5, 3e38], dtype=torch.bfloat16)
    assert to_numpy(tensor).tolist() == tensor.double().tolist()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_int8_of_half_precision_parameters_is_refused(dtype):
    with pytest.raises(UnsupportedError, match=r"weight is torch\..*model\.float"):
        rounded_weights(weight_targets(nn.Linear(2, 2).to(dtype)), "int8")


def test_a_transposed_convolution_has_its_scales_along_axis_1():
    layer = nn.ConvTranspose2d(3, 2, 2, bias=False)
    with torch.no_grad():
        layer.weight[:, 1] *= 1000
    (rounded,) = rounded_weights(weight_targets(layer), "int8")
    error = (torch.from_numpy(rounded.array) - layer.weight.detach()).abs()
    assert error[:, 0].max() < 0.01 * layer.weight.detach()[:, 0].abs().max()


def test_a_model_without_weights_has_no_targets_unless_some_were_asked_for():
    assert weight_targets(nn.LayerNorm(3)) == []
    with pytest.raises(TargetError):
        weight_targets(nn.LayerNorm(3), targets=["fc"])
