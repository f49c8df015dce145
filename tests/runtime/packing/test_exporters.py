"""Models as exporters write them: PyTorch's two, scikit-learn's, and Keras's by way of tf2onnx."""

import warnings

import numpy as np
import onnx
import pytest

from conformance.onnx_models import build, dense, kinds, node, pack_and_check, sparse

torch = pytest.importorskip("torch")
from torch import nn  # noqa: E402


def zeros(model, sparsity=0.9):
    """The model with most of its weights zero and batch norms that do something."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.running_mean.normal_(generator=generator)
                module.running_var.uniform_(0.5, 2, generator=generator)
        for name, parameter in model.named_parameters():
            if parameter.dim() > 1:
                parameter.mul_(torch.rand(parameter.shape, generator=generator) >= sparsity)
            elif "bias" in name:
                parameter.normal_(generator=generator)
    return model.eval()


def export(model, example, path, how, axis=0):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if how == "dynamo":
            shapes = ({axis: torch.export.Dim("batch")},)
            torch.onnx.export(
                model, (example,), path, dynamo=True, verbose=False, dynamic_shapes=shapes, external_data=False
            )
        else:
            torch.onnx.export(
                model, (example,), path, dynamo=False, input_names=["x"], dynamic_axes={"x": {axis: "batch"}}
            )
    return onnx.load(path).graph.input[0].name


class Block(nn.Module):
    def __init__(self, act):
        super().__init__()
        self.first = nn.Conv2d(64, 64, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(64)
        self.second = nn.Conv2d(64, 64, 1)
        self.act = act()

    def forward(self, x):
        return self.act(self.second(self.act(self.norm(self.first(x)))) + x)


class Encoder(nn.Module):
    def __init__(self):
        super().__init__()
        self.words = nn.Embedding(300, 128)
        self.places = nn.Embedding(64, 128)
        layer = nn.TransformerEncoderLayer(128, 4, 256, batch_first=True, activation="gelu")
        self.layers = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.out = nn.Linear(128, 300, bias=False)
        self.out.weight = self.words.weight

    def forward(self, x):
        return self.out(self.layers(self.words(x) + self.places(torch.arange(x.shape[1])[None])))


class Tagger(nn.Module):
    def __init__(self, kind):
        super().__init__()
        self.layers = kind(64, 96, num_layers=2, bidirectional=True)
        self.out = nn.Linear(192, 16)

    def forward(self, x):
        return self.out(self.layers(x)[0])


def convolutional(act):
    return nn.Sequential(
        nn.Conv2d(3, 64, 3, stride=2, padding=1), nn.BatchNorm2d(64), act(), Block(act),
        nn.Conv2d(64, 64, 3, groups=64, padding=1), nn.BatchNorm2d(64), act(), nn.Conv2d(64, 128, 1), act(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(128, 10),
    )  # fmt: skip


DYNAMO = pytest.param("dynamo", marks=pytest.mark.slow)  # seconds for each export
HOW = pytest.mark.parametrize("how", [DYNAMO, "legacy"])


@pytest.mark.parametrize(
    ("how", "act"),
    [("dynamo", nn.ReLU), ("dynamo", nn.GELU), ("dynamo", nn.Hardswish), ("legacy", nn.ReLU6), ("legacy", nn.SiLU),
     ("legacy", nn.GELU)],
)  # fmt: skip
def test_convolutional_networks_of_pytorch(tmp_path, how, act):
    x = torch.randn(3, 3, 24, 24)
    name = export(zeros(convolutional(act)), x, tmp_path / "m.onnx", how)
    report = pack_and_check(tmp_path / "m.onnx", tmp_path, {name: x.numpy()})
    assert [n.choice for n in report.nodes] == ["sparse"] * 5 + ["dense"]
    assert "residual" in report.nodes[2].fused
    assert kinds(tmp_path / "packed.onnx")["SparseConv"] == 5
    # Nothing elementwise is left.
    assert set(kinds(tmp_path / "packed.onnx")) <= {
        "SparseConv", "Gemm", "GlobalAveragePool", "ReduceMean", "Reshape", "Flatten", "Shape", "Concat",
    }  # fmt: skip


@pytest.mark.parametrize(("how", "values"), [("dynamo", "fp32"), ("legacy", "int8")])
def test_transformers_of_pytorch(tmp_path, how, values):
    x = torch.randint(0, 300, (3, 20))
    name = export(zeros(Encoder()), x, tmp_path / "m.onnx", how)
    report = pack_and_check(tmp_path / "m.onnx", tmp_path, {name: x.numpy()}, values=values, reference=how != "dynamo")
    found = kinds(tmp_path / "packed.onnx")
    assert found["SparseLinear"] == 9
    assert found["SparseGather"] >= 1
    assert not {"Erf", "Gemm", "Gelu"} & set(found)
    assert [n.fused for n in report.nodes if "gelu" in n.fused] == ["bias, gelu"] * 2


@HOW
@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU], ids=["LSTM", "GRU"])
def test_recurrent_networks_of_pytorch(tmp_path, how, kind):
    x = torch.randn(6, 3, 64)
    name = export(zeros(Tagger(kind)), x, tmp_path / "m.onnx", how, axis=1)
    pack_and_check(tmp_path / "m.onnx", tmp_path, {name: x.numpy()}, batch=8)
    found = kinds(tmp_path / "packed.onnx")
    assert found[f"Sparse{kind.__name__}"] == 2
    assert found["SparseLinear"] == 1


@pytest.mark.parametrize("values", ["fp32", "fp16", "int8"])
def test_models_that_the_package_itself_exports(tmp_path, values):
    import isogrid

    model = zeros(nn.Sequential(nn.Linear(256, 384), nn.ReLU(), nn.Linear(384, 256)))
    x = torch.randn(4, 256)
    isogrid.export(model, tmp_path / "m.onnx", x, values=values)
    name = onnx.load(tmp_path / "m.onnx").graph.input[0].name
    report = pack_and_check(tmp_path / "m.onnx", tmp_path, {name: x.numpy()}, batch=8)
    assert [n.name for n in report.nodes] == ["0.weight", "2.weight"]
    # Values that were rounded before take no more room than they need.
    assert {n.values for n in report.nodes} == {values}
    assert report.bytes_after < 1.05 * report.bytes_before


@pytest.mark.parametrize("activation", ["relu", "tanh", "logistic"])
def test_networks_of_scikit_learn(tmp_path, activation):
    sklearn = pytest.importorskip("sklearn.neural_network")
    skl2onnx = pytest.importorskip("skl2onnx")
    x, labels = dense(60, 64), np.arange(60) % 3
    model = sklearn.MLPClassifier((256, 256), activation=activation, max_iter=1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model.fit(x, labels)
    for weight in model.coefs_:
        weight[sparse(*weight.shape) == 0] = 0
    made = skl2onnx.to_onnx(model, x[:1], options={"zipmap": False}, target_opset=17)
    (tmp_path / "m.onnx").write_bytes(made.SerializeToString())
    report = pack_and_check(tmp_path / "m.onnx", tmp_path, {"X": x}, batch=16, reference=False)
    assert report.packed >= 2
    fused = {"relu": "relu", "tanh": "tanh", "logistic": "sigmoid"}[activation]
    assert [n.fused for n in report.nodes[:2]] == [f"bias, {fused}"] * 2


def test_a_network_of_keras_as_tf2onnx_writes_it(tmp_path):
    """Images come with channels last, kernels behind Transpose, biases as an Add of their own."""
    bias = {"b0": dense(64).reshape(1, 64, 1, 1), "b1": dense(64).reshape(1, 64, 1, 1), "b2": dense(10)}
    kernels = {"k0": sparse(3, 3, 3, 64), "k1": sparse(3, 3, 64, 64), "k2": sparse(64, 10)}
    nodes = [
        node("Transpose", "image", "x", perm=[0, 3, 1, 2]),
        node("Transpose", "k0", "w0", perm=[3, 2, 0, 1]),
        node("Conv", "x w0", "c0", auto_pad="SAME_UPPER", strides=[2, 2], kernel_shape=[3, 3]),
        node("Add", "c0 b0", "a0"), node("Relu", "a0", "r0"),
        node("Transpose", "k1", "w1", perm=[3, 2, 0, 1]),
        node("Conv", "r0 w1", "c1", auto_pad="SAME_UPPER", kernel_shape=[3, 3]),
        node("Add", "c1 b1", "a1"), node("Relu", "a1", "r1"),
        node("Transpose", "r1", "t", perm=[0, 2, 3, 1]),
        node("ReduceMean", "t", "m", axes=[1, 2], keepdims=0),
        node("MatMul", "m k2", "d"), node("Add", "d b2", "e"), node("Softmax", "e", "y"),
    ]  # fmt: skip
    model = build(nodes, {"image": ["unk__1", 32, 32, 3]}, bias | kernels)
    report = pack_and_check(model, tmp_path, {"image": dense(2, 32, 32, 3)}, batch=16)
    assert [(n.name, n.choice, n.fused) for n in report.nodes[:2]] == [
        ("k0", "sparse", "bias, relu"), ("k1", "sparse", "bias, relu"),
    ]  # fmt: skip
    assert kinds(tmp_path / "packed.onnx")["SparseConv"] == 2


def test_a_network_of_keras_with_dense_layers(tmp_path):
    nodes, x = [], "x"
    for i, activation in enumerate(["Relu", "Sigmoid", "Tanh"]):
        made = "y" if i == 2 else f"x{i}"
        nodes += [node("MatMul", f"{x} k{i}", f"p{i}"), node("Add", f"p{i} b{i}", f"q{i}"),
                  node(activation, f"q{i}", made)]  # fmt: skip
        x = made
    constants = {f"k{i}": sparse(256, 256) for i in range(3)} | {f"b{i}": dense(256) for i in range(3)}
    report = pack_and_check(
        build(nodes, {"x": ["n", 256]}, constants, opset=15), tmp_path, {"x": dense(4, 256)}, batch=8
    )
    assert [n.fused for n in report.nodes] == ["bias, relu", "bias, sigmoid", "bias, tanh"]
