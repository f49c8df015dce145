"""What Keras and TensorFlow make of layers: files of theirs, and graphs of the same structure."""

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from conformance.onnx_models import build, dense, kinds, node, pack_and_check, run, same, sparse
from isogrid.runtime import Session, pack
from isogrid.runtime.packing.constants import Constants
from isogrid.runtime.packing.examples import Examples
from isogrid.runtime.packing.files import read_model
from isogrid.runtime.packing.tidying import tidy

FILES = Path(__file__).parent / "files"


def all_of(path, folder):
    """Decisions that pack whatever can be."""
    report = pack(path, folder / "first.onnx")
    return {found.name: "sparse" for found in report.nodes if "subgraph" not in found.reason}


# --- files ---


@pytest.mark.parametrize(
    ("name", "expected", "fused"),
    [
        ("gru", {"SparseGather": 1, "SparseGRU": 2, "SparseLinear": 1}, ["", "bias", "bias", "bias"]),
        ("gru_of_any_length", {"SparseGRU": 1, "SparseLinear": 1}, ["", "bias"]),
        ("attention", {"SparseLinear": 6}, ["bias", "bias", "bias", "bias", "bias, gelu", "bias, residual"]),
        ("conv1d", {"SparseConv": 2, "SparseLinear": 1}, ["bias, relu", "bias, batch norm, relu", "bias"]),
    ],
)
def test_files_that_keras_wrote(tmp_path, name, expected, fused):
    path = FILES / f"keras_{name}.onnx"
    (given,) = onnx.load(path).graph.input
    with np.load(FILES / f"keras_{name}.npz") as stored:
        feeds, answer = {given.name: stored["x"]}, stored["y"]
    report = pack_and_check(path, tmp_path, feeds, reference=False, choices=all_of(path, tmp_path))
    assert [found.fused for found in report.nodes] == fused
    found = kinds(tmp_path / "packed.onnx")
    assert {kind: count for kind, count in found.items() if kind.startswith("Sparse")} == expected
    assert "Loop" not in found
    same(Session(tmp_path / "packed.onnx", threads=1).run(feeds), [answer])


# --- GRU as a Loop ---

UNITS, WIDTH, STEPS = 64, 48, 5


def gru_loop(*, reset_after=True, squash="Tanh", trips=STEPS, until=STEPS, first=0, further=()):
    """A GRU as tf2onnx writes that of Keras; with arguments, something that is not quite one."""
    gates = [
        node("Split", "gate_x", "zx rx hx", axis=-1),
        node("Add", "zx zh", "z_sum"), node("Sigmoid", "z_sum", "z"),
        node("Add", "rx rh", "r_sum"), node("Sigmoid", "r_sum", "r"),
    ]  # fmt: skip
    inner = [node("Split", "gate_h", "zh rh hh", axis=-1), *gates, node("Mul", "r hh", "kept")]
    if not reset_after:
        inner = [
            node("Split", "gate_h", "zh rh unused", axis=-1), *gates, node("Mul", "r state", "reset"),
            node("MatMul", "reset r_new", "kept"),
        ]  # fmt: skip
    body_nodes = [
        node("Gather", "x count", "now"),
        node("Add", "count one", "count_after"),
        node("Cast", "count_after", "count_float", to=TensorProto.FLOAT),
        node("Less", "count_float until", "go_on"),
        node("Split", "bias_in", "b_x b_h", axis=0),
        node("Squeeze", "b_x axis", "bias_x"),
        node("Squeeze", "b_h axis", "bias_h"),
        node("MatMul", "now w_in", "product_x"), node("Add", "product_x bias_x", "gate_x"),
        node("MatMul", "state r_in", "product_h"), node("Add", "product_h bias_h", "gate_h"),
        *inner,
        node("Add", "hx kept", "new_sum"), node(squash, "new_sum", "new"),
        node("Sub", "float_one z", "rest"),
        node("Mul", "rest new", "fresh"), node("Mul", "z state", "old"), node("Add", "old fresh", "state_scan"),
        node("Identity", "state_scan", "state_after"),
    ]  # fmt: skip
    value = helper.make_tensor_value_info
    batch = ["b", UNITS]
    float_, int_ = TensorProto.FLOAT, TensorProto.INT32
    weights = [("bias_in", [2, 3 * UNITS]), ("w_in", [WIDTH, 3 * UNITS]), ("r_in", [UNITS, 3 * UNITS])]
    body = helper.make_graph(
        body_nodes, "body",
        [value("trip", TensorProto.INT64, []), value("go", TensorProto.BOOL, []), value("count", int_, []),
         value("state", float_, batch), *(value(name, float_, shape) for name, shape in weights)],
        [value("go_on", TensorProto.BOOL, []), value("count_after", int_, []), value("state_after", float_, batch),
         *(value(name, float_, shape) for name, shape in weights), value("state_scan", float_, batch)],
        [numpy_helper.from_array(array, name) for name, array in (
            ("one", np.int32(1)), ("until", np.float32(until)), ("axis", np.array([0])), ("float_one", np.float32(1)),
            ("r_new", sparse(UNITS, UNITS)),
        )],
    )  # fmt: skip
    nodes = [
        node("Loop", "trips go_in first h0 bias kernel recurrent", "count_out last b_out w_out r_out y", body=body),
        *further,
    ]
    constants = {
        "trips": np.array(trips), "go_in": np.array(True), "first": np.array(first, np.int32),
        "bias": dense(2, 3 * UNITS), "kernel": sparse(WIDTH, 3 * UNITS), "recurrent": sparse(UNITS, 3 * UNITS),
    }  # fmt: skip
    outputs = ("y", "last", *(name for item in further for name in item.output))
    return build(nodes, {"x": [STEPS, "b", WIDTH], "h0": ["b", UNITS]}, constants, outputs,
                 types={"counted": int_})  # fmt: skip


def loop_feeds():
    return {"x": dense(STEPS, 3, WIDTH), "h0": dense(3, UNITS)}


def test_a_loop_that_is_a_gru(tmp_path):
    options = {"choices": {"kernel": "sparse"}, "shapes": {"x": (STEPS, 4, WIDTH), "h0": (4, UNITS)}}
    report = pack_and_check(gru_loop(), tmp_path, loop_feeds(), **options)
    (found,) = report.nodes
    assert (found.kind, found.shape, found.choice) == ("gru", (1, 3 * UNITS, WIDTH + UNITS), "sparse")
    assert kinds(tmp_path / "packed.onnx")["SparseGRU"] == 1
    assert "Loop" not in kinds(tmp_path / "packed.onnx")
    # The weights of the loop are not left in the file.
    assert not {"kernel", "recurrent"} & {
        stored.name for stored in onnx.load(tmp_path / "packed.onnx").graph.initializer
    }
    assert kinds(tmp_path / "plain.onnx")["GRU"] == 1


@pytest.mark.parametrize(
    "changes",
    [
        {"reset_after": False},
        {"squash": "Sigmoid"},
        {"trips": STEPS - 1},
        {"until": STEPS - 1},
        {"first": 1, "trips": STEPS - 1},
        {"further": [node("Add", "count_out count_out", "counted")]},
    ],
)
def test_other_loops_stay_and_say_so(tmp_path, changes):
    onnx.save(gru_loop(**changes), tmp_path / "m.onnx")
    report = pack(tmp_path / "m.onnx", tmp_path / "p.onnx", shapes={"x": (STEPS, 4, WIDTH), "h0": (4, UNITS)})
    assert {found.reason for found in report.nodes} == {"inside a subgraph"}
    assert {"kernel", "recurrent"} <= {found.name for found in report.nodes}
    assert kinds(tmp_path / "p.onnx")["Loop"] == 1
    feeds = loop_feeds()
    same(run(tmp_path / "p.onnx", feeds), run(tmp_path / "m.onnx", feeds))


# --- shapes around products ---


def flattened(after=(), *, target=(0, 6, 384), columns=256, outputs=("y",), more=None):
    """A product as Tensordot has it: flattened before, and the axes again behind."""
    nodes = [node("Reshape", "x flat", "m"), node("MatMul", "m w", "p"), node("Reshape", "p target", "q"), *after]
    constants = {"w": sparse(columns, 384), "flat": np.array([-1, columns]), "target": np.array(target)}
    return build(nodes, {"x": [4, 6, 256]}, constants | (more or {}), outputs)


def test_products_of_flattened_tensors_fuse_what_follows(tmp_path):
    after = [node("Add", "q b", "s"), node("Relu", "s", "y")]
    model = flattened(after, target=(4, 6, 384), more={"b": dense(384)})
    (found,) = pack_and_check(model, tmp_path, {"x": dense(4, 6, 256)}).nodes
    assert found.fused == "bias, relu"
    assert kinds(tmp_path / "packed.onnx") == {"SparseLinear": 1}


@pytest.mark.parametrize(
    ("target", "columns"), [((6, 4, 384), 256), ((4, 6, 2, 192), 256), ((4, 6, 1, 384), 256), ((4, 12, 384), 128)]
)
def test_other_shapes_stay(tmp_path, target, columns):
    model = flattened([node("Relu", "q", "y")], target=target, columns=columns)
    (found,) = pack_and_check(model, tmp_path, {"x": dense(4, 6, 256)}).nodes
    assert found.fused == "relu"
    assert kinds(tmp_path / "packed.onnx") == {"SparseLinear": 1, "Reshape": 2}


@pytest.mark.parametrize(
    ("bias", "fused"),
    [
        ((2, 192), "bias, relu"), ((1, 1, 2, 192), "bias, relu"), ((192,), "bias, relu"), ((2, 1), "bias, relu"),
        ((1,), "bias, relu"), ((6, 1, 1), ""), ((4, 1, 1, 1), ""), ((6, 2, 192), ""),
    ],
)  # fmt: skip
def test_a_bias_of_each_head(tmp_path, bias, fused):
    after = [node("Add", "q b", "s"), node("Relu", "s", "y")]
    model = flattened(after, target=(4, 6, 2, 192), more={"b": dense(*bias)})
    (found,) = pack_and_check(model, tmp_path, {"x": dense(4, 6, 256)}).nodes
    assert found.fused == fused


def test_rows_that_are_mixed_with_tokens_take_no_bias(tmp_path):
    model = flattened([node("Add", "q b", "y")], target=(4, 1152, 2), more={"b": dense(2)})
    (found,) = pack_and_check(model, tmp_path, {"x": dense(4, 6, 256)}).nodes
    assert found.fused == ""


@pytest.mark.parametrize(
    ("axes", "bias", "fused"),
    [([2], (1, 128, 1), "bias, relu"), ([-2], (128, 1), "bias, relu"), ([2], (9,), ""), ([0], (128, 1, 1), "")],
)
def test_a_convolution_over_one_axis_of_two(tmp_path, axes, bias, fused):
    nodes = [
        node("Unsqueeze", "x axis", "i"), node("Conv", "i w", "p", pads=[0, 1, 0, 1]), node("Squeeze", "p axes", "q"),
        node("Add", "q b", "s"), node("Relu", "s", "y"),
    ]  # fmt: skip
    constants = {"w": sparse(128, 128, 1, 3), "axis": np.array([2]), "axes": np.array(axes), "b": dense(*bias)}
    (found,) = pack_and_check(build(nodes, {"x": [1, 128, 9]}, constants), tmp_path, {"x": dense(1, 128, 9)},
                              choices={"w": "sparse"}).nodes  # fmt: skip
    assert found.fused == fused


# --- what inputs are drawn ---


@pytest.mark.parametrize("how", ["masks", "where"])
def test_numbers_are_drawn_for_tables_that_count_from_the_end(tmp_path, how):
    nodes = [node("Add", "x rows", "turned"), node("Less", "x zero", "negative")]
    if how == "where":
        nodes += [node("Where", "negative turned x", "index")]
    else:
        nodes += [
            node("Not", "negative", "positive"), node("Cast", "negative", "n", to=TensorProto.INT64),
            node("Cast", "positive", "p", to=TensorProto.INT64), node("Mul", "x p", "a"), node("Mul", "n turned", "b"),
            node("Add", "a b", "index"),
        ]  # fmt: skip
    nodes += [node("Gather", "table index", "y")]
    constants = {"rows": np.array(500), "zero": np.array(0), "table": sparse(500, 16)}
    model = build(nodes, {"x": ["b", 7]}, constants, types={"x": TensorProto.INT64})
    onnx.save(model, tmp_path / "m.onnx")
    graph = tidy(read_model(tmp_path / "m.onnx").model())
    (found,) = Examples(graph, Constants(graph)).inputs
    assert found.below == 500


def test_numbers_that_something_is_added_to_are_drawn_small(tmp_path):
    nodes = [node("Add", "x one", "index"), node("Gather", "table index", "y")]
    model = build(nodes, {"x": ["b", 7]}, {"one": np.array(1), "table": sparse(500, 16)},
                  types={"x": TensorProto.INT64})  # fmt: skip
    onnx.save(model, tmp_path / "m.onnx")
    graph = tidy(read_model(tmp_path / "m.onnx").model())
    (found,) = Examples(graph, Constants(graph)).inputs
    assert found.below == 2
