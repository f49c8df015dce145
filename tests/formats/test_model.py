import pytest
import torch
from torch import nn

from isogrid.errors import FormatError, TargetError, UsageError
from isogrid.formats.model import load, model_bytes, save
from isogrid.precision import quantize


class Shared(nn.Module):
    """An encoder and a decoder that share a weight, a batch norm, an index buffer."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Linear(12, 12)
        self.norm = nn.BatchNorm1d(12)
        self.decoder = nn.Linear(12, 12)
        self.decoder.weight = self.encoder.weight
        self.register_buffer("index", torch.arange(5))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.decoder(self.norm(self.encoder(x)))


def sparse(model: nn.Module) -> nn.Module:
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.mul_(torch.rand_like(parameter) > 0.9)
    return model


@pytest.mark.parametrize("values", ["fp32", "fp16", "int8"])
def test_save_and_load_give_what_quantize_gives(tmp_path, values):
    model = sparse(Shared())
    path = tmp_path / "m.safetensors"
    size = save(model, path, values=values)
    assert size == model_bytes(model, values) == path.stat().st_size
    found = load(path, into=Shared())
    quantize(model, values)
    for name, value in model.state_dict().items():
        assert torch.equal(found.state_dict()[name], value), name
    assert found.encoder.weight is found.decoder.weight


def test_a_lenet_is_small(tmp_path):
    model = sparse(nn.Sequential(nn.Linear(784, 300), nn.Linear(300, 100), nn.Linear(100, 10)))
    nonzeros = sum(int(p.count_nonzero()) for p in model.parameters())
    for values, most in (("fp32", 5.4), ("fp16", 3.4), ("int8", 2.4)):
        assert save(model, tmp_path / "m.safetensors", values=values) / nonzeros <= most


def test_a_quantised_model_is_recognised():
    model = sparse(nn.Sequential(nn.Linear(200, 100)))
    small = model_bytes(model, "int8")
    quantize(model, "int8")
    assert model_bytes(model, "fp32") == small


@pytest.mark.filterwarnings("ignore:`torch.jit.script_method`:DeprecationWarning")
def test_a_compiled_model_has_the_names_of_the_plain_one(tmp_path):
    model = nn.Sequential(nn.Linear(4, 3))
    save(torch.compile(model), tmp_path / "m.safetensors")
    found = load(tmp_path / "m.safetensors", into=nn.Sequential(nn.Linear(4, 3)))
    assert torch.equal(found[0].weight, model[0].weight)


@pytest.mark.parametrize(
    ("into", "said"),
    [
        (nn.Linear(4, 4), "shape"),
        (nn.Linear(4, 3, bias=False), "has bias"),
        (nn.Sequential(nn.Linear(4, 3)), "lacks"),
    ],
)
def test_a_model_that_does_not_fit_is_left_as_it_is(tmp_path, into, said):
    save(nn.Linear(4, 3), tmp_path / "m.safetensors")
    before = {name: value.clone() for name, value in into.state_dict().items()}
    with pytest.raises(FormatError, match=said):
        load(tmp_path / "m.safetensors", into=into)
    assert all(torch.equal(before[name], value) for name, value in into.state_dict().items())


def test_bad_arguments(tmp_path):
    with pytest.raises(UsageError, match="int4"):
        save(nn.Linear(2, 2), tmp_path / "m", values="int4")
    with pytest.raises(TargetError, match="nothing"):
        save(nn.Linear(2, 2), tmp_path / "m", targets=["nothing"])
    with pytest.raises(UsageError, match="isogrid"):
        save(nn.Linear(2, 2), tmp_path / "m", metadata={"isogrid.x": "1"})
    assert not list(tmp_path.iterdir())
