import copy
from typing import NamedTuple

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from torch import nn

from isogrid.errors import FormatError, TrainingError, UnsupportedError, UsageError
from isogrid.formats.model import save
from isogrid.formats.onnx import export, verify
from isogrid.inspection import inspect
from isogrid.precision import quantize

VALUES = ("fp32", "fp16", "int8")


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


def test_a_95_percent_sparse_file_is_small_and_uses_sparse_initializers(tmp_path):
    model = sparse(nn.Sequential(nn.Linear(784, 300), nn.ReLU(), nn.Linear(300, 100)))
    size = export(model, tmp_path / "m.onnx", torch.zeros(1, 784))
    dense = sum(4 * p.numel() for p in model.parameters())
    assert size / dense <= 0.095
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


def test_positions_take_three_bytes_and_the_file_is_valid(tmp_path):
    model = sparse(nn.Sequential(nn.Linear(784, 300, bias=False)))
    sizes = {
        values: export(model, tmp_path / f"{values}.onnx", torch.zeros(1, 784), values=values) for values in VALUES
    }
    dense = 4 * 300 * 784
    # Value and position of one in twenty: 7, 5 and 4 bytes beside the 4 of a dense weight.
    assert sizes["fp32"] / dense <= 0.0925
    assert sizes["fp16"] / dense <= 0.0675
    assert sizes["int8"] / dense <= 0.0575
    for values in VALUES:
        proto = onnx.load(tmp_path / f"{values}.onnx")
        onnx.checker.check_model(proto)
        (tensor,) = proto.graph.sparse_initializer
        assert tensor.indices.data_type == onnx.TensorProto.INT64
        assert len(tensor.indices.int64_data) == tensor.values.dims[0]
        assert not tensor.indices.raw_data


def test_a_dense_weight_stays_an_initializer(tmp_path):
    export(sparse(nn.Linear(60, 50), 0.0), tmp_path / "m.onnx", torch.zeros(1, 60))
    graph = onnx.load(tmp_path / "m.onnx").graph
    assert len(graph.sparse_initializer) == 0
    assert [50, 60] in [list(tensor.dims) for tensor in graph.initializer] or [60, 50] in [
        list(tensor.dims) for tensor in graph.initializer
    ]


class Attention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(16, 2, batch_first=True)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.attention(x, x, x, need_weights=False)[0]


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed, self.out = nn.Embedding(40, 32), nn.Linear(32, 40, bias=False)
        self.out.weight = self.embed.weight

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.out(self.embed(x))


class TwoInputs(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.left, self.right = nn.Linear(4, 3), nn.Linear(5, 2)

    def forward(self, x: torch.Tensor, y: torch.Tensor) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        return self.left(x), {"y": self.right(y)}


class Gru(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.rnn = nn.GRU(8, 16, num_layers=2, bidirectional=True, batch_first=True)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.rnn(x)[0]


def all_zero() -> nn.Module:
    model = nn.Sequential(nn.Linear(40, 40), nn.Linear(40, 3))
    model[0].weight.data.zero_()
    return model


UNUSUAL = {
    "attention": (Attention, torch.randn(3, 6, 16)),
    "gru of two layers and directions": (Gru, torch.randn(3, 5, 8)),
    "shared embedding": (Tied, torch.randint(0, 40, (3, 5))),
    "two inputs": (TwoInputs, (torch.randn(3, 4), torch.randn(3, 5))),
    "a layer of zeros": (all_zero, torch.randn(3, 40)),
    "transposed and depthwise convolution": (
        lambda: nn.Sequential(nn.Conv2d(4, 4, 3, groups=4), nn.ConvTranspose2d(4, 5, 2)),
        torch.randn(3, 4, 8, 8),
    ),
}


def distinct(model: nn.Module) -> nn.Module:
    """Biases and norms as after training: the exporter stores small equal tensors once."""
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() == 1:
                parameter.uniform_(0.5, 1.5)
    return model


CASES = [(name, values) for name in MODELS for values in VALUES] + [(name, "int8") for name in UNUSUAL]


@pytest.mark.parametrize(("name", "values"), CASES)
def test_stock_onnx_runtime_answers_as_the_model_does_and_the_file_counts_as_the_safetensors_file(
    tmp_path, name, values
):
    build, example = (MODELS | UNUSUAL)[name]
    model = sparse(distinct(build()), 0.8)
    path = tmp_path / "m.onnx"
    assert export(model, path, example, values=values) == path.stat().st_size
    save(model, tmp_path / "m.safetensors", values=values)
    quantize(model, values)
    assert verify(path, model, example) <= 1e-5

    found, wanted = inspect(path), inspect(tmp_path / "m.safetensors")
    notes = {entry.key: entry.value for entry in onnx.load(path).metadata_props}
    assert float(notes["isogrid.sparsity"]) == wanted.sparsity
    assert float(notes["isogrid.sparsity_of_model"]) == wanted.sparsity_of_model
    assert notes["isogrid.values"] == values
    fields = ("sparsity", "sparsity_of_model", "nonzeros", "parameters")
    for field in fields if name != "conv" else fields[:1]:  # a batch norm is folded into the convolution there
        assert getattr(found, field) == getattr(wanted, field), field


def test_a_folded_batch_norm_leaves_the_sparsity_of_targets(tmp_path):
    build, example = MODELS["conv"]
    model = sparse(build(), 0.8)
    export(model, tmp_path / "m.onnx", example, values="int8")
    save(model, tmp_path / "m.safetensors", values="int8")
    found, wanted = inspect(tmp_path / "m.onnx"), inspect(tmp_path / "m.safetensors")
    assert found.sparsity == wanted.sparsity
    assert found.parameters == wanted.parameters - 2 * 8  # scale and shift became the convolution's
    assert {layer.values for layer in found.layers if layer.target and layer.parameters > 100} == {"int8"}


def test_a_shared_weight_is_stored_once(tmp_path):
    model = sparse(Tied(), 0.0)
    assert export(model, tmp_path / "m.onnx", torch.zeros(2, 3, dtype=torch.int64)) < 4 * 40 * 32 + 1500


def test_any_batch_size_runs_unless_it_is_fixed(tmp_path):
    model = sparse(nn.Sequential(nn.Linear(4, 3)), 0.0)
    for dynamic in (True, False):
        path = tmp_path / f"{dynamic}.onnx"
        export(model, path, torch.zeros(1, 4), dynamic_batch=dynamic, input_names=["pixels"], output_names=["scores"])
        session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
        (entry,) = session.get_inputs()
        assert entry.name == "pixels"
        assert entry.shape == (["batch", 4] if dynamic else [1, 4])
        assert [output.name for output in session.get_outputs()] == ["scores"]
        assert verify(path, model, torch.randn(1, 4)) <= 1e-6
    for size in (1, 2, 7):
        inputs = torch.randn(size, 4)
        found = onnxruntime.InferenceSession(tmp_path / "True.onnx", providers=["CPUExecutionProvider"]).run(
            None, {"pixels": inputs.numpy()}
        )[0]
        assert np.allclose(found, model(inputs).detach(), atol=1e-6)


def test_inputs_without_a_common_batch_need_a_fixed_one(tmp_path):
    example = (torch.randn(3, 4), torch.randn(2, 5))
    with pytest.raises(UsageError, match="dynamic_batch"):
        export(TwoInputs(), tmp_path / "m.onnx", example)
    export(TwoInputs(), tmp_path / "m.onnx", example, dynamic_batch=False)
    assert [p.name for p in tmp_path.iterdir()] == ["m.onnx"]


def test_the_operator_set_is_the_one_that_was_asked_for(tmp_path):
    for opset in (18, 21):
        export(nn.Linear(3, 2), tmp_path / "m.onnx", torch.zeros(1, 3), opset=opset)
        assert [(o.domain, o.version) for o in onnx.load(tmp_path / "m.onnx").opset_import] == [("", opset)]


@pytest.mark.parametrize("opset", [3, 99])
def test_another_operator_set_than_the_one_asked_for_is_refused(tmp_path, opset):
    with pytest.raises(UnsupportedError, match=rf"^opset got {opset}, and PyTorch's exporter wrote \d+ for this"):
        export(nn.Linear(3, 2), tmp_path / "m.onnx", torch.zeros(1, 3), opset=opset)
    assert not list(tmp_path.iterdir())


def test_an_lstm_with_projections_is_refused_by_name(tmp_path):
    model = Recurrent()
    model.rnn = nn.LSTM(8, 16, proj_size=4, batch_first=True)
    with pytest.raises(UnsupportedError, match=r"^rnn is an LSTM with proj_size=4"):
        export(model, tmp_path / "m.onnx", torch.randn(3, 5, 8))
    with pytest.raises(UnsupportedError, match=r"^The model is an LSTM with proj_size=4"):
        export(model.rnn, tmp_path / "m.onnx", torch.randn(3, 5, 8))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("example", "said"),
    [
        (None, "export got an example of type NoneType; accepted are a tensor or the sequence"),
        ({"input": torch.zeros(2, 3)}, "export got an example of type dict; accepted are a tensor or the sequence"),
        (np.zeros((2, 3), np.float32), "export got an example of type ndarray; accepted are a tensor or the sequence"),
        (torch.zeros(0, 3), "The example has no samples"),
        (torch.zeros(2, 4), "The model does not run on the example: mat1 and mat2 shapes cannot be multiplied"),
        ((torch.zeros(2, 3), torch.zeros(2, 3)), "The model does not run on the example"),
    ],
)
def test_examples_that_are_not_accepted(tmp_path, example, said):
    with pytest.raises(UsageError, match=said):
        export(nn.Linear(3, 2), tmp_path / "m.onnx", example)
    assert not list(tmp_path.iterdir())


def test_what_is_no_module_is_refused(tmp_path):
    with pytest.raises(UsageError, match="The model is a OrderedDict; accepted is a"):
        export(nn.Linear(3, 2).state_dict(), tmp_path / "m.onnx", torch.zeros(1, 3))


def test_why_a_model_cannot_be_exported_is_said_in_plain_text(tmp_path):
    class Asking(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x if float(x.sum()) > 0 else -x

    with pytest.raises(UnsupportedError, match="Could not guard on data-dependent expression") as caught:
        export(Asking(), tmp_path / "m.onnx", torch.ones(1, 2))
    assert "\x1b" not in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1


def test_trying_the_example_out_changes_neither_model_nor_inputs_nor_random_numbers(tmp_path):
    class Changing(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(3, 3)
            self.register_buffer("calls", torch.zeros(()))

        def forward(self, x):
            self.calls += 1
            return self.layer(x.mul_(2)) * self.calls

    model, example = Changing(), torch.ones(2, 3)
    torch.manual_seed(5)
    before = torch.get_rng_state()
    export(model, tmp_path / "m.onnx", example)
    assert torch.equal(torch.get_rng_state(), before)
    assert model.calls == 0
    assert torch.equal(example, torch.ones(2, 3))
    session = onnxruntime.InferenceSession(tmp_path / "m.onnx", providers=["CPUExecutionProvider"])
    found = session.run(None, {session.get_inputs()[0].name: np.ones((2, 3), np.float32)})[0]
    assert np.allclose(found, model.layer(2 * torch.ones(2, 3)).detach(), atol=1e-6)


class Pair(NamedTuple):
    left: torch.Tensor
    right: torch.Tensor


class Paired(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 3)

    def forward(self, pair: Pair) -> torch.Tensor:
        return self.layer(pair.left + pair.right)


def test_inputs_may_be_named_tuples(tmp_path):
    model, example = Paired(), (Pair(torch.randn(3, 4), torch.randn(3, 4)),)
    export(model, tmp_path / "m.onnx", example)
    assert verify(tmp_path / "m.onnx", model, example) <= 1e-6


def test_the_model_stays_as_it_is(tmp_path):
    model = nn.Sequential(nn.Linear(5, 5), nn.Dropout(0.5), nn.BatchNorm1d(5)).train()
    before = copy.deepcopy(model.state_dict())
    export(model, tmp_path / "m.onnx", torch.randn(4, 5), values="int8")
    verify(tmp_path / "m.onnx", sparse(copy.deepcopy(model), -1.0), torch.randn(4, 5), tolerance=1.0)
    assert model.training
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())


def test_a_file_above_2_gb_is_refused_and_not_written(tmp_path, monkeypatch):
    monkeypatch.setattr("isogrid.formats.onnx._LARGEST_FILE", 200)
    with pytest.raises(UnsupportedError, match="2 GB"):
        export(nn.Linear(30, 20), tmp_path / "m.onnx", torch.zeros(1, 30))
    assert not list(tmp_path.iterdir())


def test_a_weight_that_cannot_be_rounded_is_named(tmp_path):
    model = nn.Linear(3, 2)
    model.weight.data[0, 0] = float("nan")
    with pytest.raises(TrainingError, match="weight holds 1 number"):
        export(model, tmp_path / "m.onnx", torch.zeros(1, 3), values="int8")
    with pytest.raises(UsageError, match="fp64"):
        export(nn.Linear(3, 2), tmp_path / "m.onnx", torch.zeros(1, 3), values="fp64")
    assert not list(tmp_path.iterdir())


class Log(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(2, 2, bias=False)
        self.layer.weight.data = torch.tensor([[1.0, 0.0], [0.0, 1.0]])

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.log(self.layer(x))


def test_verify_sees_not_a_number_on_either_side(tmp_path):
    path, fine = tmp_path / "m.onnx", torch.tensor([[1.0, 2.0], [3.0, 4.0]])
    model = Log()
    export(model, path, fine)
    assert verify(path, model, fine) <= 1e-6
    assert verify(path, model, -fine) == 0.0  # both give NaN everywhere
    other = Log()
    other.layer.weight.data[1] *= -1
    for first, second in ((model, other), (other, model)):
        export(first, path, fine)
        with pytest.raises(FormatError, match="differs"):
            verify(path, second, fine)


def test_verify_sees_other_outputs(tmp_path):
    path = tmp_path / "m.onnx"
    export(nn.Linear(4, 3), path, torch.randn(2, 4))
    with pytest.raises(FormatError, match="shapes"):
        verify(path, nn.Linear(4, 5), torch.randn(2, 4))
    with pytest.raises(UsageError, match="absent"):
        verify(tmp_path / "absent.onnx", nn.Linear(4, 3), torch.randn(2, 4))


def test_verify_sees_a_flipped_bit_in_a_sparse_weight(tmp_path):
    model, example = sparse(nn.Linear(50, 40), 0.9), torch.randn(4, 50)
    path = tmp_path / "m.onnx"
    export(model, path, example)
    proto = onnx.load(path)
    (tensor,) = proto.graph.sparse_initializer
    tensor.indices.int64_data[0] += 1 if tensor.indices.int64_data[1] > tensor.indices.int64_data[0] + 1 else -1
    onnx.save(proto, path)
    with pytest.raises(FormatError, match="differs"):
        verify(path, model, example)


class Tagger(nn.Module):
    """Looks up tokens and places, of which there are twelve, and answers for each token."""

    def __init__(self, twist=False):
        super().__init__()
        self.tokens, self.places, self.out = nn.Embedding(20, 8), nn.Embedding(12, 8), nn.Linear(8, 3)
        self.twist = twist

    def forward(self, ids, scale):
        x = self.tokens(ids) + self.places.weight[: ids.shape[1]]
        return self.out(x) * scale.unsqueeze(2) + (self.twist and ids.shape[1] != 5)


def _tagged(batch=2, length=5):
    return torch.randint(20, (batch, length)), torch.rand(batch, length)


LENGTH = {"ids": {1: "length"}, "scale": {1: "length"}}


def test_further_axes_are_free_where_they_are_named(tmp_path):
    model = Tagger()
    export(model, tmp_path / "m.onnx", _tagged(1), free_axes=LENGTH)
    session = onnxruntime.InferenceSession(tmp_path / "m.onnx", providers=["CPUExecutionProvider"])
    assert [entry.shape for entry in session.get_inputs()] == [["batch", "length"]] * 2
    for batch, length in ((1, 2), (3, 7), (2, 12)):
        ids, scale = _tagged(batch, length)
        (found,) = session.run(None, {"ids": ids.numpy(), "scale": scale.numpy()})
        assert np.allclose(found, model(ids, scale).detach(), atol=1e-6)
    assert verify(tmp_path / "m.onnx", model, _tagged()) <= 1e-6


def test_an_axis_is_named_by_the_inputs_name_and_the_batch_may_stay_fixed(tmp_path):
    export(
        Tagger(), tmp_path / "m.onnx", _tagged(), input_names=["a", "b"], dynamic_batch=False,
        free_axes={"a": {1: "n"}, "b": {1: "n"}},
    )  # fmt: skip
    session = onnxruntime.InferenceSession(tmp_path / "m.onnx", providers=["CPUExecutionProvider"])
    assert [(entry.name, entry.shape) for entry in session.get_inputs()] == [("a", [2, "n"]), ("b", [2, "n"])]


def test_verify_tries_another_size_of_a_free_axis(tmp_path):
    model = Tagger()
    export(model, tmp_path / "m.onnx", _tagged(), free_axes=LENGTH)
    other = Tagger(twist=True)
    other.load_state_dict(model.state_dict())
    example = _tagged()
    assert torch.equal(other(*example), model(*example))
    with pytest.raises(FormatError, match="differs from the model"):
        verify(tmp_path / "m.onnx", other, example)


@pytest.mark.parametrize(
    ("free_axes", "said"),
    [
        ({"idz": {1: "length"}}, "idz.*ids"),
        ({"ids": {0: "rows"}}, r"axis 0 of ids.*from 1 to 1 \(axis 0 is the batch\)"),
        ({"ids": {2: "length"}}, "axis 2 of ids"),
        ({"ids": {True: "length"}}, "axis True of ids"),
        ({"scale": {1: "length"}}, "axis 1 of scale, which has size 1.*2 or more"),
    ],
)
def test_free_axes_that_the_example_does_not_have_are_refused(tmp_path, free_axes, said):
    ids, _ = _tagged()
    with pytest.raises(UsageError, match=said):
        export(Tagger(), tmp_path / "m.onnx", (ids, torch.rand(2, 1)), free_axes=free_axes)
    assert list(tmp_path.iterdir()) == []


def test_an_axis_that_the_model_needs_fixed_cannot_be_free(tmp_path):
    with pytest.raises(UnsupportedError, match="cannot export this Linear to ONNX with these axes free"):
        export(nn.Linear(4, 3), tmp_path / "m.onnx", torch.zeros(2, 4), free_axes={"input": {1: "width"}})
    assert list(tmp_path.iterdir()) == []
