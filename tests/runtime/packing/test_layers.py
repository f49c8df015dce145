"""One kind of layer at a time: what is packed and fused, what stays, and why."""

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from conformance.onnx_models import build, dense, kinds, node, pack_and_check, sparse

MANY = {"batch": 64}


def packed_all(report):
    assert all(n.choice == "sparse" for n in report.nodes), report.nodes
    return report


def one(report):
    (found,) = report.nodes
    return found


# --- linear ---


@pytest.mark.parametrize("shape", [["b", 256], ["b", "t", 256], ["b", 3, 2, 256]])
def test_a_matmul_of_any_number_of_axes(tmp_path, shape):
    model = build([node("MatMul", "x w", "y")], {"x": shape}, {"w": sparse(256, 384)})
    x = dense(*[size if isinstance(size, int) else 3 for size in shape])
    packed_all(pack_and_check(model, tmp_path, {"x": x}, **MANY))


def test_a_matmul_of_a_vector(tmp_path):
    model = build([node("MatMul", "x w", "y")], {"x": [256]}, {"w": sparse(256, 384)})
    packed_all(pack_and_check(model, tmp_path, {"x": dense(256)}))


@pytest.mark.parametrize("trans_a", [0, 1])
@pytest.mark.parametrize("trans_b", [0, 1])
@pytest.mark.parametrize(("alpha", "beta"), [(1.0, 1.0), (0.5, 2.0), (2.0, 0.0)])
@pytest.mark.parametrize("c", [(), (1,), (384,), (1, 384)])
def test_gemm_in_all_its_forms(tmp_path, trans_a, trans_b, alpha, beta, c):
    attributes = {"transA": trans_a, "transB": trans_b, "alpha": alpha, "beta": beta}
    weight = sparse(384, 256) if trans_b else sparse(256, 384)
    constants = {"w": weight, "c": np.asarray(dense(*c), np.float32)}
    shape = [256, "b"] if trans_a else ["b", 256]
    model = build([node("Gemm", "x w c", "y", **attributes)], {"x": shape}, constants)
    x = dense(256, 32) if trans_a else dense(32, 256)
    options = {"shapes": {"x": (256, 64)}} if trans_a else MANY
    found = one(packed_all(pack_and_check(model, tmp_path, {"x": x}, **options)))
    assert found.fused == ("" if beta == 0 else "bias")
    assert kinds(tmp_path / "packed.onnx") == {"SparseLinear": 1, **({"Transpose": 1} if trans_a else {})}


def test_a_gemm_that_adds_a_result(tmp_path):
    nodes = [node("Relu", "z", "c"), node("Gemm", "x w c", "y")]
    model = build(nodes, {"x": [32, 256], "z": [32, 384]}, {"w": sparse(256, 384)})
    found = one(packed_all(pack_and_check(model, tmp_path, {"x": dense(32, 256), "z": dense(32, 384)})))
    assert found.fused == "residual"


@pytest.mark.parametrize(
    ("nodes", "inputs", "constants", "reason"),
    [
        ([node("MatMul", "w x", "y")], {"x": [256, 8]}, {"w": sparse(384, 256)}, "the weight stands on the left"),
        ([node("Gemm", "w x", "y")], {"x": [256, 8]}, {"w": sparse(384, 256)}, "the weight stands on the left"),
        ([node("MatMul", "x w", "y")], {"x": [2, 8, 256]}, {"w": sparse(2, 256, 384)}, "the weight has 3 axes"),
        ([node("Gemm", "x w c", "y")], {"x": [8, 256]}, {"w": sparse(256, 384), "c": dense(8, 1)}, "its C is no bias"),
        (
            [node("MatMul", "x w", "y")], {"x": [8, 256]},
            {"w": np.where(np.arange(384) == 3, np.inf, sparse(256, 384)).astype(np.float32)},
            "a weight is not finite",
        ),
    ],
)  # fmt: skip
def test_products_that_stay_as_they_are(tmp_path, nodes, inputs, constants, reason):
    model = build(nodes, inputs, constants)
    feeds = {name: dense(*shape) for name, shape in inputs.items()}
    if "finite" in reason:
        feeds = {"x": np.abs(feeds["x"])}
    onnx.save(model, tmp_path / "m.onnx")
    from isogrid.runtime.packing import pack

    found = one(pack(tmp_path / "m.onnx", tmp_path / "p.onnx"))
    assert (found.choice, found.reason) == ("dense", reason)
    assert kinds(tmp_path / "p.onnx") == kinds(tmp_path / "m.onnx")


@pytest.mark.parametrize("dtype", [np.float64, np.float16])
def test_other_numbers_than_float32_stay(tmp_path, dtype):
    from isogrid.runtime.packing import pack

    kind = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
    model = build([node("MatMul", "x w", "y")], {"x": [8, 256]}, {"w": sparse(256, 384).astype(dtype)},
                  types={"x": kind, "y": kind})  # fmt: skip
    onnx.save(model, tmp_path / "m.onnx")
    assert one(pack(tmp_path / "m.onnx", tmp_path / "p.onnx")).reason == f"{np.dtype(dtype)} weights"


def test_two_products_of_inputs_are_no_layers(tmp_path):
    model = build([node("MatMul", "x z", "y")], {"x": [8, 256], "z": [256, 8]})
    report = pack_and_check(model, tmp_path, {"x": dense(8, 256), "z": dense(256, 8)})
    assert report.nodes == ()


def test_layers_without_an_operator_are_named(tmp_path):
    model = build([node("ConvTranspose", "x w", "y")], {"x": [1, 8, 6, 6]}, {"w": sparse(8, 4, 3, 3)})
    found = one(pack_and_check(model, tmp_path, {"x": dense(1, 8, 6, 6)}))
    assert (found.choice, found.reason) == ("dense", "a transposed convolution")


# --- how weights are stored ---


def stored(form):
    """Nodes and constants that make a weight [256, 384] called w."""
    w = sparse(256, 384)
    codes = np.rint(w * 100).astype(np.int8)
    scale = np.full(384, 0.01, np.float32)
    match form:
        case "identity":
            return [node("Identity", "v", "w")], {"v": w}
        case "transpose":
            return [node("Transpose", "v", "w", perm=[1, 0])], {"v": np.ascontiguousarray(w.T)}
        case "reshape":
            return [node("Reshape", "v s", "w")], {"v": w.reshape(16, 16, 384), "s": np.array([256, 384])}
        case "halves":
            return [node("Cast", "v", "w", to=TensorProto.FLOAT)], {"v": w.astype(np.float16)}
        case "codes":
            nodes = [node("Cast", "v.int8", "u", to=TensorProto.FLOAT), node("Mul", "u s", "w")]
            return nodes, {"v.int8": codes, "s": scale}
        case "dequantised":
            return [node("DequantizeLinear", "v s z", "w", axis=1)], {
                "v": codes, "s": scale, "z": np.zeros(384, np.int8),
            }  # fmt: skip
        case "constant node":
            return [helper.make_node("Constant", [], ["w"], value=onnx.numpy_helper.from_array(w))], {}
        case "two halves":
            return [node("Concat", "a b", "w", axis=0)], {"a": w[:100], "b": w[100:]}
        case _:
            return [], {"w": w}


@pytest.mark.parametrize(
    "form",
    ["plain", "identity", "transpose", "reshape", "halves", "codes", "dequantised", "constant node", "two halves"],
)
def test_weights_are_found_behind_what_exporters_put_before_them(tmp_path, form):
    nodes, constants = stored(form)
    model = build([*nodes, node("MatMul", "x w", "y")], {"x": ["b", 256]}, constants)
    # DequantizeLinear makes ONNX Runtime compute from 8-bit activations at its default level: compare by hand.
    if form == "dequantised":
        from isogrid.runtime import Session
        from isogrid.runtime.packing import pack

        x = dense(8, 256)
        onnx.save(model, tmp_path / "m.onnx")
        assert packed_all(pack(tmp_path / "m.onnx", tmp_path / "p.onnx", **MANY)).packed == 1
        (found,) = Session(tmp_path / "p.onnx").run({"x": x})
        np.testing.assert_allclose(found, x @ (constants["v"] * constants["s"]), rtol=0, atol=1e-4)
    else:
        packed_all(pack_and_check(model, tmp_path, {"x": dense(8, 256)}, **MANY))
    assert kinds(tmp_path / ("p.onnx" if form == "dequantised" else "packed.onnx")) == {"SparseLinear": 1}


def test_a_compact_weight_that_stays_dense_stays_compact(tmp_path):
    nodes, constants = stored("codes")
    model = build([*nodes, node("MatMul", "x w", "a"), node("MatMul", "a v2", "y")], {"x": ["b", 256]},
                  constants | {"v2": sparse(384, 64)})  # fmt: skip
    report = pack_and_check(model, tmp_path, {"x": dense(8, 256)}, choices={"v": "dense"}, batch=64)
    assert report.packed == 1
    assert {t.name: t.data_type for t in onnx.load(tmp_path / "packed.onnx").graph.initializer}["v.int8"] == 3
    first = next(n for n in report.nodes if n.name == "v")
    assert first.bytes_after == first.bytes_before < 1.1 * 256 * 384


def test_an_int8_grid_is_kept_without_asking(tmp_path):
    from isogrid.formats.numbers import round_values

    weight = round_values(sparse(384, 256), "int8")
    model = build([node("Gemm", "x w", "y", transB=1)], {"x": ["b", 256]}, {"w": weight})
    assert one(pack_and_check(model, tmp_path, {"x": dense(8, 256)}, **MANY)).values == "int8"


def test_a_shared_weight_is_packed_once(tmp_path):
    nodes = [
        node("Gather", "table ids", "a"), node("Transpose", "table", "t", perm=[1, 0]), node("MatMul", "a t", "y"),
    ]  # fmt: skip
    model = build(nodes, {"ids": ["b", "n"]}, {"table": sparse(500, 256)}, types={"ids": TensorProto.INT64})
    ids = np.array([[0, 7, 499], [3, -1, 250]])
    report = packed_all(pack_and_check(model, tmp_path, {"ids": ids}, batch=4))
    assert [n.name for n in report.nodes] == ["table#1", "table#2"]
    assert [t.name for t in onnx.load(tmp_path / "packed.onnx").graph.initializer] == ["table.packed"]
    assert sum(t.name.startswith("table") for t in onnx.load(tmp_path / "plain.onnx").graph.initializer) <= 1


def test_a_weight_that_is_also_an_input_is_no_constant(tmp_path):
    model = build([node("MatMul", "x w", "y")], {"x": [8, 256], "w": [256, 384]}, {"w": sparse(256, 384)})
    report = pack_and_check(model, tmp_path, {"x": dense(8, 256)})
    assert report.packed == 0
    found = one(report)
    assert (found.name, found.kind, found.reason) == ("w", "linear", "the weight is an input of the model")
    assert found.sparsity == pytest.approx(0.9, abs=0.01)
    assert found.bytes_before == found.bytes_after == 4 * 256 * 384
    assert report.notes[0].startswith("No layer that can be packed has enough zeros")


@pytest.mark.parametrize("kind", ["conv", "table", "lstm", "transposed"])
def test_other_layers_whose_weights_are_inputs_are_named_too(tmp_path, kind):
    inputs, types = {"x": [1, 32, 8, 8]}, {}
    if kind == "conv":
        nodes, weights = [node("Conv", "x w", "y")], {"w": sparse(64, 32, 3, 3)}
    elif kind == "table":
        nodes, weights, inputs = [node("Gather", "w x", "y")], {"w": sparse(500, 64)}, {"x": [4]}
        types = {"x": TensorProto.INT64}
    elif kind == "lstm":
        nodes = [node("LSTM", "x w r", "_ y", hidden_size=32)]
        weights, inputs = {"w": sparse(1, 128, 16), "r": sparse(1, 128, 32)}, {"x": [3, 1, 16]}
    else:
        nodes = [node("Transpose", "w", "t"), node("MatMul", "x t", "y")]
        weights, inputs = {"w": sparse(64, 256)}, {"x": [8, 256]}
    shapes = inputs | {name: array.shape for name, array in weights.items()}
    model = build(nodes, shapes, weights, types=types)
    x = np.arange(4) if kind == "table" else dense(*inputs["x"])
    found = one(pack_and_check(model, tmp_path, {"x": x}))
    assert (found.name, found.choice, found.reason) == ("w", "dense", "the weight is an input of the model")
    assert found.sparsity == pytest.approx(0.9, abs=0.05)


def test_layers_in_subgraphs_stay(tmp_path):
    weight = helper.make_tensor_value_info("inner", TensorProto.FLOAT, [8, 384])
    branch = helper.make_graph([node("MatMul", "x w", "inner")], "then", [], [weight])
    other = helper.make_graph([node("MatMul", "x v", "inner")], "else", [], [weight])
    nodes = [node("If", "c", "a", then_branch=branch, else_branch=other), node("MatMul", "a u", "y")]
    model = build(nodes, {"x": [8, 256], "c": []}, {"w": sparse(256, 384), "v": sparse(256, 384), "u": sparse(384, 64)},
                  types={"c": TensorProto.BOOL})  # fmt: skip
    report = pack_and_check(model, tmp_path, {"x": dense(8, 256), "c": np.array(True)})
    assert {n.name: n.reason for n in report.nodes if n.choice == "dense"} == dict.fromkeys("wv", "inside a subgraph")
    assert report.packed == 1


# --- convolutions ---


@pytest.mark.parametrize(
    ("weight", "attributes", "x"),
    [
        ((64, 32, 3, 3), {"pads": [1, 1, 1, 1]}, (2, 32, 14, 14)),
        ((64, 32, 3, 3), {"strides": [2, 2], "pads": [0, 1, 1, 0]}, (2, 32, 15, 14)),
        ((64, 32, 3, 2), {"dilations": [2, 1]}, (2, 32, 14, 14)),
        ((64, 16, 3, 3), {"group": 2}, (2, 32, 14, 14)),
        ((64, 32, 1, 1), {}, (2, 32, 14, 14)),
        ((64, 32, 5), {"pads": [2, 2], "strides": [2]}, (2, 32, 50)),
        ((64, 32, 3, 3), {"auto_pad": "SAME_UPPER", "strides": [2, 2]}, (2, 32, 15, 14)),
        ((64, 32, 3, 3), {"auto_pad": "SAME_LOWER", "strides": [2, 1]}, (2, 32, 14, 14)),
        ((64, 32, 2, 2), {"auto_pad": "SAME_LOWER"}, (2, 32, 14, 14)),
        ((64, 32, 3, 3), {"auto_pad": "VALID", "strides": [2, 2]}, (2, 32, 15, 14)),
    ],
)
@pytest.mark.parametrize("bias", [True, False])
def test_convolutions(tmp_path, weight, attributes, x, bias):
    constants = {"w": sparse(*weight), **({"b": dense(weight[0])} if bias else {})}
    model = build([node("Conv", f"x w{' b' * bias}", "y", **attributes)], {"x": ["n", *x[1:]]}, constants)
    found = one(packed_all(pack_and_check(model, tmp_path, {"x": dense(*x)}, batch=4)))
    assert found.kind == f"conv{len(weight) - 2}d"
    assert found.fused == ("bias" if bias else "")


def test_same_padding_with_stride_one_needs_no_size(tmp_path):
    model = build([node("Conv", "x w", "y", auto_pad="SAME_UPPER")], {"x": ["n", 32, "h", "w_"]},
                  {"w": sparse(64, 32, 3, 3)})  # fmt: skip
    packed_all(pack_and_check(model, tmp_path, {"x": dense(1, 32, 9, 12)}, shapes={"x": (2, 32, 14, 14)}))


@pytest.mark.parametrize(
    ("kind", "weight", "attributes", "x", "reason"),
    [
        ("Conv", (8, 8, 3, 3, 3), {}, [1, 8, 6, 6, 6], "a convolution over 3 axes"),
        (
            "Conv",
            (8, 8, 3, 3),
            {"auto_pad": "SAME_UPPER", "strides": [2, 2]},
            ["n", 8, "h", "v"],
            "depends on the size",
        ),
    ],
)
def test_convolutions_that_stay(tmp_path, kind, weight, attributes, x, reason):
    from isogrid.runtime.packing import pack

    onnx.save(build([node(kind, "x w", "y", **attributes)], {"x": x}, {"w": sparse(*weight)}), tmp_path / "m.onnx")
    assert reason in one(pack(tmp_path / "m.onnx", tmp_path / "p.onnx", shapes=_shapes(x))).reason


def _shapes(x):
    return {"x": tuple(size if isinstance(size, int) else 8 for size in x)}


def mobile(middle_sparsity):
    bn = {f"{name}{i}": array for i in range(3) for name, array in _norm((64, 64, 128)[i]).items()}
    nodes = []
    for i, (x, y) in enumerate((("x", "p"), ("p", "q"), ("q", "y"))):
        nodes += [
            node("Conv", f"{x} w{i}", f"c{i}", **({"group": 64, "pads": [1, 1, 1, 1]} if i == 1 else {})),
            node("BatchNormalization", f"c{i} s{i} o{i} m{i} v{i}", f"n{i}"),
            node("Clip", f"n{i} zero six", y),
        ]
    weights = {"w0": sparse(64, 32, 1, 1), "w1": dense(64, 1, 3, 3),
               "w2": sparse(128, 64, 1, 1, sparsity=middle_sparsity)}  # fmt: skip
    bounds = {"zero": np.float32(0), "six": np.float32(6)}
    return build(nodes, {"x": ["n", 32, 14, 14]}, weights | bn | {k: np.asarray(v) for k, v in bounds.items()})


def _norm(rows):
    return {"s": dense(rows), "o": dense(rows), "m": dense(rows), "v": np.abs(dense(rows)) + 0.5}


def test_depthwise_convolutions_between_packed_ones_are_packed_with_their_batch_norm(tmp_path):
    report = packed_all(pack_and_check(mobile(0.9), tmp_path, {"x": dense(2, 32, 14, 14)}))
    assert [n.kind for n in report.nodes] == ["conv2d", "depthwise", "conv2d"]
    assert [n.fused for n in report.nodes] == ["bias, batch norm, clip(0, 6)"] * 3
    assert report.nodes[1].reason == "between packed layers"
    assert kinds(tmp_path / "packed.onnx") == {"SparseConv": 3}


def test_depthwise_convolutions_beside_dense_ones_stay(tmp_path):
    report = pack_and_check(mobile(0.0), tmp_path, {"x": dense(2, 32, 14, 14)})
    assert [n.choice for n in report.nodes] == ["sparse", "dense", "dense"]
    assert report.nodes[1].reason == "not between packed layers"


# --- tables ---


@pytest.mark.parametrize("values", ["fp32", "int8"])
def test_a_table_that_is_looked_up(tmp_path, values):
    model = build([node("Gather", "table ids", "y")], {"ids": ["b", "n"]}, {"table": sparse(300, 64)},
                  types={"ids": TensorProto.INT64})  # fmt: skip
    ids = np.array([[0, 299, -1], [5, 5, 17]])
    found = one(packed_all(pack_and_check(model, tmp_path, {"ids": ids}, values=values)))
    assert (found.kind, found.reason) == ("embedding", "smaller")


def test_a_full_table_is_packed_only_if_that_makes_it_smaller(tmp_path):
    model = build([node("Gather", "table ids", "y")], {"ids": ["n"]}, {"table": dense(300, 64)},
                  types={"ids": TensorProto.INT32})  # fmt: skip
    ids = np.array([0, 299, -1], np.int32)
    assert pack_and_check(model, tmp_path, {"ids": ids}).packed == 0
    assert pack_and_check(model, tmp_path, {"ids": ids}, values="int8").packed == 1


# --- recurrent ---


def recurrent(kind, direction="forward", bias=True, states=True, **attributes):
    gates, directions = {"LSTM": 4, "GRU": 3}[kind], 2 if direction == "bidirectional" else 1
    constants = {"w": sparse(directions, gates * 96, 64), "r": sparse(directions, gates * 96, 96)}
    inputs = {"x": ["t", "b", 64]}
    names = "x w r"
    if bias:
        constants["b"] = dense(directions, 2 * gates * 96)
    names += " b" if bias else " _"
    if states:
        inputs |= {"h": [directions, "b", 96]} | ({"c": [directions, "b", 96]} if kind == "LSTM" else {})
        names += " _ h" + (" c" if kind == "LSTM" else "")
    if kind == "GRU":
        attributes = {"linear_before_reset": 1} | attributes
    outputs = ["y", "hn"] + (["cn"] if kind == "LSTM" else [])
    made = node(kind, names, " ".join(outputs), hidden_size=96, direction=direction, **attributes)
    return build([made], inputs, constants, outputs)


def feeds_of(model):
    sizes = {"t": 7, "b": 3}
    return {
        entry.name: dense(*[d.dim_value or sizes[d.dim_param] for d in entry.type.tensor_type.shape.dim])
        for entry in model.graph.input
    }


@pytest.mark.parametrize("kind", ["LSTM", "GRU"])
@pytest.mark.parametrize("direction", ["forward", "reverse", "bidirectional"])
@pytest.mark.parametrize(("bias", "states"), [(True, True), (False, False)])
def test_recurrent_layers(tmp_path, kind, direction, bias, states):
    model = recurrent(kind, direction, bias, states)
    found = one(packed_all(pack_and_check(model, tmp_path, feeds_of(model), batch=4)))
    assert found.kind == kind.lower()
    assert kinds(tmp_path / "packed.onnx") == {f"Sparse{kind}": 1}
    assert kinds(tmp_path / "plain.onnx")[kind] == 1


@pytest.mark.parametrize("kind", ["LSTM", "GRU"])
@pytest.mark.parametrize("output", [0, 1])
def test_a_recurrent_layer_of_which_one_output_is_used(tmp_path, kind, output):
    model = recurrent(kind)
    kept = model.graph.output[output]
    names = ["" if index != output else kept.name for index in range(output + 1)]
    del model.graph.node[0].output[:]
    model.graph.node[0].output.extend(names)
    del model.graph.output[:]
    model.graph.output.append(helper.make_tensor_value_info(kept.name, TensorProto.FLOAT, [None] * (4 - output)))
    packed_all(pack_and_check(model, tmp_path, feeds_of(model), batch=4))


@pytest.mark.parametrize(
    ("kind", "attributes", "reason"),
    [
        ("LSTM", {"clip": 1.0}, "its cell is clipped"),
        ("LSTM", {"input_forget": 1}, "input and forget gate are coupled"),
        ("LSTM", {"activations": ["HardSigmoid", "Tanh", "Tanh"]}, "activations of its own"),
        ("GRU", {"linear_before_reset": 0}, "linear_before_reset is 0"),
    ],
)
def test_recurrent_layers_that_stay(tmp_path, kind, attributes, reason):
    model = recurrent(kind, **attributes)
    # onnx's own reference has none of these attributes.
    report = pack_and_check(model, tmp_path, feeds_of(model), batch=4, reference=False)
    assert one(report).reason == reason


def test_sequences_of_different_lengths_stay(tmp_path):
    model = recurrent("LSTM")
    model.graph.node[0].input[4] = "lengths"
    model.graph.input.append(helper.make_tensor_value_info("lengths", TensorProto.INT32, ["b"]))
    feeds = feeds_of(model) | {"lengths": np.array([7, 2, 3], np.int32)}
    found = one(pack_and_check(model, tmp_path, feeds, reference=False))
    assert found.reason == "sequences of different lengths"


def test_usual_activations_by_name_are_no_obstacle(tmp_path):
    model = recurrent("LSTM", "bidirectional", activations=["Sigmoid", "Tanh", "Tanh"] * 2)
    packed_all(pack_and_check(model, tmp_path, feeds_of(model), batch=4))
