"""What is done in the same pass as a product, and what is not."""

import math

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from conformance.onnx_models import build, dense, kinds, node, pack_and_check, sparse
from isogrid.runtime.packing import pack

S2 = math.sqrt(2)
C = math.sqrt(2 / math.pi)
HALF, ONE, THREE, SIX = (np.float32(v) for v in (0.5, 1, 3, 6))


def after(nodes, constants=None, opset=17, conv=False, more=()):
    """A product called p, then `nodes`, which make y."""
    if conv:
        first, weight, shape = node("Conv", "x w", "p"), sparse(64, 64, 1, 1), ["b", 64, 12, 12]
    else:
        first, weight, shape = node("MatMul", "x w", "p"), sparse(256, 256), ["b", 256]
    arrays = {name: np.asarray(array) for name, array in (constants or {}).items()}
    return build([first, *nodes], {"x": shape}, {"w": weight} | arrays, opset=opset, more=more)


def feeds(model):
    return {"x": dense(3, *[d.dim_value for d in model.graph.input[0].type.tensor_type.shape.dim][1:])}


def fused(model, folder, **options):
    report = pack_and_check(model, folder, feeds(model), batch=32, **options)
    (found,) = report.nodes
    assert found.choice == "sparse"
    return found.fused


ACTIVATIONS = {
    "relu": ([node("Relu", "p", "y")], {}, "relu"),
    "max": ([node("Max", "zero p", "y")], {"zero": np.float32(0)}, "relu"),
    "sigmoid": ([node("Sigmoid", "p", "y")], {}, "sigmoid"),
    "tanh": ([node("Tanh", "p", "y")], {}, "tanh"),
    "leaky": ([node("LeakyRelu", "p", "y", alpha=0.2)], {}, "leaky_relu(0.2)"),
    "leaky as a maximum": (
        [node("Mul", "p a", "q"), node("Max", "p q", "y")], {"a": np.float32(0.1)}, "leaky_relu(0.1)",
    ),
    "clip": ([node("Clip", "p a b", "y")], {"a": np.float32(-0.5), "b": ONE}, "clip(-0.5, 1)"),
    "clip below": ([node("Clip", "p a", "y")], {"a": np.float32(-0.5)}, "clip(-0.5, 3e+38)"),
    "clip at zero": ([node("Clip", "p a", "y")], {"a": np.float32(0)}, "relu"),
    "clip above": ([node("Clip", "p _ b", "y")], {"b": ONE}, "clip(-3e+38, 1)"),
    "minimum of a relu": ([node("Relu", "p", "q"), node("Min", "q b", "y")], {"b": SIX}, "clip(0, 6)"),
    "silu": ([node("Sigmoid", "p", "q"), node("Mul", "q p", "y")], {}, "silu"),
    "hard swish": ([node("HardSwish", "p", "y")], {}, "hard_swish"),
    "hard swish of parts": (
        [node("Add", "p three", "q"), node("Clip", "q zero six", "r"), node("Mul", "p r", "s"),
         node("Div", "s six", "y")],
        {"three": THREE, "six": SIX, "zero": np.float32(0)}, "hard_swish",
    ),
    "hard swish by hard sigmoid": (
        [node("HardSigmoid", "p", "q", alpha=1 / 6, beta=0.5), node("Mul", "p q", "y")], {}, "hard_swish",
    ),
    "hard sigmoid": ([node("HardSigmoid", "p", "y", alpha=1 / 6, beta=0.5)], {}, "hard_sigmoid"),
    "gelu": (
        [node("Div", "p s", "q"), node("Erf", "q", "r"), node("Add", "r one", "t"), node("Mul", "p t", "u"),
         node("Mul", "u half", "y")], {"s": np.float32(S2), "one": ONE, "half": HALF}, "gelu",
    ),
    "gelu, half first": (
        [node("Mul", "p half", "h"), node("Mul", "p s", "q"), node("Erf", "q", "r"), node("Add", "one r", "t"),
         node("Mul", "h t", "y")], {"s": np.float32(1 / S2), "one": ONE, "half": HALF}, "gelu",
    ),
    "gelu by tanh": (
        [node("Pow", "p three", "q"), node("Mul", "q k", "r"), node("Add", "p r", "s"), node("Mul", "s c", "t"),
         node("Tanh", "t", "u"), node("Add", "u one", "v"), node("Mul", "p v", "z"), node("Mul", "z half", "y")],
        {"three": THREE, "k": np.float32(0.044715), "c": np.float32(C), "one": ONE, "half": HALF}, "gelu_tanh",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", ACTIVATIONS)
@pytest.mark.parametrize("conv", [False, True], ids=["linear", "conv"])
def test_activations_in_every_spelling(tmp_path, name, conv):
    nodes, constants, expected = ACTIVATIONS[name]
    assert fused(after(nodes, constants, conv=conv), tmp_path) == expected
    assert kinds(tmp_path / "packed.onnx") == {"SparseConv" if conv else "SparseLinear": 1}


@pytest.mark.parametrize("approximate", ["none", "tanh"])
def test_the_gelu_operator(tmp_path, approximate):
    model = after([node("Gelu", "p", "y", approximate=approximate)], opset=20)
    assert fused(model, tmp_path) == {"none": "gelu", "tanh": "gelu_tanh"}[approximate]
    assert kinds(tmp_path / "plain.onnx")["Gelu"] == 1


@pytest.mark.parametrize(
    ("made", "expected"),
    [
        (node("Gelu", "p", "y", "com.microsoft"), "gelu"),
        (node("BiasGelu", "p b", "y", "com.microsoft"), "bias, gelu"),
        (node("FastGelu", "p", "y", "com.microsoft"), "gelu_tanh"),
        (node("FastGelu", "p b", "y", "com.microsoft"), "bias, gelu_tanh"),
        (node("QuickGelu", "p", "y", "com.microsoft", alpha=1.0), "silu"),
    ],
)
def test_activations_of_onnx_runtime(tmp_path, made, expected):
    model = after([made], {"b": dense(256)}, more=["com.microsoft"])
    assert fused(model, tmp_path) == expected


@pytest.mark.parametrize(
    ("nodes", "constants"),
    [
        ([node("HardSigmoid", "p", "y", alpha=0.2)], {}),
        ([node("Elu", "p", "y")], {}),
        ([node("Softmax", "p", "y")], {}),
        ([node("PRelu", "p s", "y")], {"s": dense(256)}),
        ([node("QuickGelu", "p", "y", "com.microsoft")], {}),
    ],
)
def test_what_is_no_activation_of_ours_stays(tmp_path, nodes, constants):
    model = after(nodes, constants, more=["com.microsoft"] if nodes[0].domain else ())
    assert fused(model, tmp_path, reference=not nodes[0].domain) == ""
    assert kinds(tmp_path / "packed.onnx") == {"SparseLinear": 1, nodes[0].op_type: 1}


def test_a_relu_is_not_fused_where_the_product_is_used_elsewhere(tmp_path):
    model = after([node("Relu", "p", "q"), node("Sub", "q p", "y")])
    # What both make together is an activation, leaky with slope -1 below zero, less what it began with: none of ours.
    assert "relu" not in fused(model, tmp_path)


def test_a_product_that_is_a_result_of_the_model_is_given_as_it_is(tmp_path):
    model = after([node("Relu", "p", "y")])
    model.graph.output.append(helper.make_tensor_value_info("p", 1, ["b", 256]))
    assert fused(model, tmp_path) == ""


# --- bias ---


@pytest.mark.parametrize("shape", [(256,), (1, 256), (), (1,), (1, 1)])
@pytest.mark.parametrize("order", ["p b", "b p"])
def test_biases_of_products(tmp_path, shape, order):
    assert fused(after([node("Add", order, "y")], {"b": np.asarray(dense(*shape), np.float32)}), tmp_path) == "bias"


@pytest.mark.parametrize("shape", [(64, 1, 1), (1, 64, 1, 1), ()])
def test_biases_of_convolutions(tmp_path, shape):
    model = after([node("Add", "p b", "y")], {"b": np.asarray(dense(*shape), np.float32)}, conv=True)
    assert fused(model, tmp_path) == "bias"


@pytest.mark.parametrize("shape", [(12,), (12, 1), (64, 12, 12)])
def test_what_is_added_along_other_axes_is_no_bias(tmp_path, shape):
    assert fused(after([node("Add", "p b", "y")], {"b": dense(*shape)}, conv=True), tmp_path) == ""


def test_an_addition_that_adds_an_axis_is_no_bias(tmp_path):
    assert fused(after([node("Add", "p b", "y")], {"b": dense(1, 1, 256)}), tmp_path) == ""


def test_factors_and_differences_are_folded(tmp_path):
    nodes = [
        node("Add", "p a", "q"), node("Mul", "q b", "r"), node("Sub", "r c", "s"), node("Div", "s d", "t"),
        node("Relu", "t", "y"),
    ]  # fmt: skip
    constants = {name: np.abs(dense(256)) + ONE for name in "abcd"}
    assert fused(after(nodes, constants), tmp_path) == "bias, batch norm, relu"


def test_a_constant_less_the_product_stays(tmp_path):
    assert fused(after([node("Sub", "b p", "y")], {"b": dense(256)}), tmp_path) == ""


def norm(rows):
    return {"s": dense(rows), "o": dense(rows), "m": dense(rows), "v": np.abs(dense(rows)) + HALF}


@pytest.mark.parametrize("conv", [False, True], ids=["linear", "conv"])
def test_batch_norms(tmp_path, conv):
    nodes = [node("BatchNormalization", "p s o m v", "q", epsilon=1e-3), node("Relu", "q", "y")]
    model = after(nodes, norm(64 if conv else 256), conv=conv)
    assert fused(model, tmp_path) == "bias, batch norm, relu"


def test_batch_norms_over_another_axis_stay(tmp_path):
    nodes = [node("MatMul", "x w", "p"), node("BatchNormalization", "p s o m v", "y")]
    model = build(nodes, {"x": ["b", 12, 256]}, {"w": sparse(256, 256)} | norm(12))
    report = pack_and_check(model, tmp_path, {"x": dense(2, 12, 256)}, batch=8)
    assert report.nodes[0].fused == ""


# --- residual ---


def residual(second="x", shape=("b", 256), more=()):
    nodes = [node("MatMul", "x w", "p"), node("Add", "p b", "q"), *more, node("Add", f"{second} q", "r"),
             node("Relu", "r", "y")]  # fmt: skip
    return build(nodes, {"x": shape}, {"w": sparse(256, 256), "b": dense(256)})


@pytest.mark.parametrize("shape", [("b", 256), ("b", "t", 256), (4, 8, 256)])
def test_residuals_of_the_same_shape(tmp_path, shape):
    model = residual(shape=shape)
    x = dense(*[size if isinstance(size, int) else 5 for size in shape])
    (found,) = pack_and_check(model, tmp_path, {"x": x}, batch=8).nodes
    assert found.fused == "bias, residual, relu"
    assert kinds(tmp_path / "packed.onnx") == {"SparseLinear": 1}


def test_two_products_added_take_one_of_them_as_residual(tmp_path):
    nodes = [node("MatMul", "x v", "a"), node("MatMul", "x w", "p"), node("Add", "p a", "q"), node("Relu", "q", "y")]
    model = build(nodes, {"x": ["b", 256]}, {"w": sparse(256, 256), "v": sparse(256, 256)})
    report = pack_and_check(model, tmp_path, {"x": dense(5, 256)}, batch=8)
    assert [n.fused for n in report.nodes] == ["residual, relu", ""]
    assert kinds(tmp_path / "packed.onnx") == {"SparseLinear": 2}
    # With one of them dense the other still fuses.
    onnx.save(model, tmp_path / "m.onnx")
    report = pack(tmp_path / "m.onnx", tmp_path / "o.onnx", batch=8, choices={"v": "dense"})
    assert [n.fused for n in report.nodes] == ["", "residual, relu"]


@pytest.mark.parametrize("other", [["b", 1], ["c", 256], [1, 256], [256]])
def test_what_is_broadcast_or_may_be_is_no_residual(tmp_path, other):
    nodes = [node("MatMul", "x w", "p"), node("Add", "p z", "y")]
    model = build(nodes, {"x": ["b", 256], "z": other}, {"w": sparse(256, 256)})
    z = dense(*[size if isinstance(size, int) else 1 for size in other])
    x = dense(1, 256)
    (found,) = pack_and_check(model, tmp_path, {"x": x, "z": z}, batch=1, choices={"w": "sparse"}).nodes
    assert found.fused == ""


def test_a_product_added_to_itself(tmp_path):
    assert fused(after([node("Add", "p p", "y")]), tmp_path) in ("", "batch norm")


def test_a_residual_that_comes_later_is_waited_for(tmp_path):
    nodes = [
        node("MatMul", "x w", "p"), node("Relu", "x", "a"), node("Tanh", "a", "c"), node("Add", "p c", "q"),
        node("Relu", "q", "y"),
    ]  # fmt: skip
    model = build(nodes, {"x": ["b", 256]}, {"w": sparse(256, 256)})
    (found,) = pack_and_check(model, tmp_path, {"x": dense(5, 256)}, batch=8).nodes
    assert found.fused == "residual, relu"


def test_weights_folded_with_a_batch_norm_are_what_is_packed(tmp_path):
    from isogrid.formats.packed import unpack_matrix

    model = after([node("Mul", "p s", "y")], {"s": np.full(256, 2, np.float32)})
    fused(model, tmp_path)
    (packed,) = onnx.load(tmp_path / "packed.onnx").graph.initializer
    weight = next(numpy_helper.to_array(t) for t in model.graph.initializer if t.name == "w")
    assert np.array_equal(unpack_matrix(packed.raw_data).to_dense(), 2 * weight.T)
