import numpy as np
import onnx
import pytest
import torch
from torch import nn

from isogrid.errors import FormatError, UnsupportedError
from isogrid.formats.onnx import export, verify
from isogrid.inspection import inspect
from isogrid.precision import quantize


def sparse(model: nn.Module, sparsity: float = 0.95) -> nn.Module:
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.mul_(torch.rand_like(parameter) > sparsity)
    return model.eval()


class Recurrent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.rnn, self.out = nn.LSTM(8, 16, batch_first=True), nn.Linear(16, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.out(self.rnn(x)[0][:, -1])


MODELS = {
    "mlp": (lambda: nn.Sequential(nn.Linear(64, 100), nn.ReLU(), nn.Linear(100, 10)), (torch.randn(3, 64),)),
    "conv": (
        lambda: nn.Sequential(
            nn.Conv2d(1, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(),
            nn.Linear(8 * 49, 10),
        ),
        (torch.randn(3, 1, 14, 14),),
    ),
    "lstm": (Recurrent, (torch.randn(3, 5, 8),)),
    "transformer": (
        lambda: nn.TransformerEncoderLayer(16, 2, 32, dropout=0.0, batch_first=True),
        (torch.randn(3, 6, 16),),
    ),
    "embedding": (
        lambda: nn.Sequential(nn.Embedding(50, 12), nn.Flatten(), nn.Linear(48, 4)),
        (torch.randint(0, 50, (3, 4)),),
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", MODELS)
def test_stock_onnx_runtime_answers_as_the_model_does(tmp_path, name):
    build, example = MODELS[name]
    for values in ("fp32", "int8") if name != "mlp" else ("fp32", "fp16", "int8"):
        model = sparse(build(), 0.8)
        path = tmp_path / f"{values}.onnx"
        export(model, path, example, values=values)
        quantize(model, values)
        assert verify(path, model, example) <= 1e-4


def test_a_95_percent_sparse_file_is_small_and_uses_sparse_initializers(tmp_path):
    model = sparse(nn.Sequential(nn.Linear(784, 300), nn.ReLU(), nn.Linear(300, 100)))
    size = export(model, tmp_path / "m.onnx", torch.zeros(1, 784))
    dense = sum(4 * p.numel() for p in model.parameters())
    assert size / dense <= 0.16
    proto = onnx.load(tmp_path / "m.onnx")
    assert len(proto.graph.sparse_initializer) == 2
    found = inspect(tmp_path / "m.onnx")
    assert found.nonzeros == sum(int(p.count_nonzero()) for p in model.parameters())
    assert found.bytes == size


def test_verify_notices_one_changed_weight(tmp_path):
    model = sparse(nn.Sequential(nn.Linear(6, 4)), 0.0)
    path = tmp_path / "m.onnx"
    export(model, path, torch.randn(2, 6))
    assert verify(path, model, torch.randn(2, 6)) <= 1e-4
    proto = onnx.load(path)
    weight = next(t for t in proto.graph.initializer if len(t.dims) == 2)
    values = onnx.numpy_helper.to_array(weight).copy()
    values.flat[0] += 0.5
    weight.CopyFrom(onnx.numpy_helper.from_array(values, weight.name))
    onnx.save(proto, path)
    with pytest.raises(FormatError, match="differs"):
        verify(path, model, torch.randn(2, 6))


def test_what_onnx_runtime_cannot_read_is_one_sentence(tmp_path):
    (tmp_path / "m.onnx").write_bytes(b"not a model")
    with pytest.raises(FormatError, match=r"m\.onnx"):
        verify(tmp_path / "m.onnx", nn.Linear(2, 2), torch.zeros(1, 2))


def test_a_model_that_cannot_be_traced_is_refused_and_nothing_is_written(tmp_path):
    class Odd(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(2, 2)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.layer(x) if float(x.sum()) > 0 else x

    with pytest.raises(UnsupportedError):
        export(Odd(), tmp_path / "m.onnx", torch.ones(1, 2))
    assert not list(tmp_path.iterdir())


def test_the_same_model_gives_the_same_bytes(tmp_path):
    model = sparse(nn.Sequential(nn.Linear(9, 7)), 0.5)
    for name in ("a", "b"):
        export(model, tmp_path / name, torch.zeros(1, 9))
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    assert np.isfinite(verify(tmp_path / "a", model, torch.ones(2, 9)))
