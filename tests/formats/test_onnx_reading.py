import math

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import nn

from isogrid.errors import FormatError, UsageError
from isogrid.formats.onnx import export
from isogrid.formats.onnx_reading import read_onnx
from isogrid.formats.packed import pack_matrix
from isogrid.formats.roles import Role
from isogrid.formats.sparse import SparseTensor


def write(path, nodes, initializers=(), sparse=()):
    graph = helper.make_graph(
        nodes, "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, None)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        initializer=list(initializers), sparse_initializer=list(sparse),
    )  # fmt: skip
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)]), path)
    return path


def sparse_tensor(positions, values=None, shape=(4, 3)):
    positions = np.asarray(positions, np.int64)
    if values is None:
        values = np.ones(len(positions), np.float32)
    return helper.make_sparse_tensor(
        numpy_helper.from_array(values, "w"), numpy_helper.from_array(positions), list(shape)
    )


MATMUL = [helper.make_node("MatMul", ["x", "w"], ["y"])]


@pytest.mark.parametrize("positions", [[0, 5, 11], [[0, 0], [1, 2], [3, 2]]], ids=["linear", "by axis"])
def test_sparse_weights_of_others_are_counted(tmp_path, positions):
    (weight,) = read_onnx(write(tmp_path / "m.onnx", MATMUL, sparse=[sparse_tensor(positions)])).weights
    assert (weight.name, weight.shape, weight.nonzeros, weight.role) == ("w", (4, 3), 3, Role.TARGET)


@pytest.mark.parametrize(
    ("tensor", "said"),
    [
        (sparse_tensor([0, 12]), "outside its shape"),
        (sparse_tensor([-1, 3]), "outside its shape"),
        (sparse_tensor([[0, 0], [4, 0]]), "outside its shape"),
        (sparse_tensor([3, 3]), "twice"),
        (sparse_tensor([1, 2], np.ones(3, np.float32)), "3 values"),
        (sparse_tensor([1], shape=(2**40, 2**40)), "impossible shape"),
        (sparse_tensor([1], shape=(-4, -3)), "impossible shape"),
    ],
)
def test_impossible_positions_are_refused(tmp_path, tensor, said):
    path = write(tmp_path / "m.onnx", MATMUL, sparse=[tensor])
    with pytest.raises(FormatError, match=said) as caught:
        read_onnx(path)
    assert "m.onnx" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_codes_are_counted_against_their_zero_points(tmp_path):
    codes = np.array([[3, 7], [3, 9], [0, 7]], np.uint8)
    path = write(
        tmp_path / "m.onnx",
        [helper.make_node("DequantizeLinear", ["w", "s", "z"], ["d"], axis=1), helper.make_node("MatMul", "xd", ["y"])],
        [
            numpy_helper.from_array(codes, "w"),
            numpy_helper.from_array(np.ones(2, np.float32), "s"),
            numpy_helper.from_array(np.array([3, 7], np.uint8), "z"),
        ],
    )
    (weight,) = read_onnx(path).weights
    assert (weight.values, weight.nonzeros, weight.role) == ("uint8", 2, Role.TARGET)


def test_tables_norms_and_settings_are_no_targets(tmp_path):
    def zeros(name, *shape):
        return numpy_helper.from_array(np.zeros(shape, np.float32), name)

    path = write(
        tmp_path / "m.onnx",
        [
            helper.make_node("Gather", ["table", "ids"], ["a"]),
            helper.make_node("Conv", ["a", "depthwise"], ["b"], group=4),
            helper.make_node("BatchNormalization", ["b", "scale", "shift", "mean", "var"], ["c"]),
            helper.make_node("MatMul", ["c", "kernel"], ["d"]),
            helper.make_node("Mul", ["d", "factor"], ["y"]),
        ],
        [
            zeros("table", 9, 4), zeros("depthwise", 4, 1, 3, 3), zeros("scale", 4), zeros("shift", 4),
            zeros("mean", 4), zeros("var", 4), zeros("kernel", 4, 2), zeros("factor", 1),
            numpy_helper.from_array(np.arange(4), "ids"),
        ],
    )  # fmt: skip
    roles = {weight.name: weight.role for weight in read_onnx(path).weights}
    parameters = dict.fromkeys(("table", "depthwise", "scale", "shift"), Role.PARAMETER)
    assert roles == {**parameters, "kernel": Role.TARGET}


def test_external_data_counts_and_stays_in_its_folder(tmp_path):
    inside, outside = tmp_path / "inside", tmp_path / "secret.bin"
    inside.mkdir()
    write(inside / "m.onnx", MATMUL, [numpy_helper.from_array(np.eye(64, dtype=np.float32), "w")])
    onnx.save(
        onnx.load(inside / "m.onnx"), inside / "e.onnx", save_as_external_data=True, location="e.data", size_threshold=0
    )
    contents = read_onnx(inside / "e.onnx")
    assert contents.weights[0].nonzeros == 64
    assert contents.bytes == (inside / "e.onnx").stat().st_size + (inside / "e.data").stat().st_size

    outside.write_bytes(bytes(4 * 64 * 64))
    for location in ("../secret.bin", str(outside), "absent.data"):
        proto = onnx.load(inside / "e.onnx", load_external_data=False)
        next(e for e in proto.graph.initializer[0].external_data if e.key == "location").value = location
        (inside / "h.onnx").write_bytes(proto.SerializeToString())
        with pytest.raises(FormatError, match=r"h\.onnx cannot be read as ONNX"):
            read_onnx(inside / "h.onnx")


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    path = tmp_path_factory.mktemp("onnx") / "m.onnx"
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(20, 9), nn.ReLU(), nn.Linear(9, 3))
    with torch.no_grad():
        model[0].weight.mul_(torch.rand_like(model[0].weight) > 0.9)
    export(model, path, torch.zeros(1, 20))
    return path.read_bytes()


def test_a_file_cut_short_anywhere_does_no_harm(tmp_path, file):
    path = tmp_path / "m.onnx"
    for length in range(len(file)):
        path.write_bytes(file[:length])
        reads_or_refuses(path)


def test_damaged_bytes_do_no_harm(tmp_path, file):
    path = tmp_path / "m.onnx"
    rng = np.random.default_rng(0)
    for place in range(0, len(file), 2):
        data = bytearray(file)
        data[place] ^= 1 << int(rng.integers(8))
        path.write_bytes(bytes(data))
        reads_or_refuses(path)


def reads_or_refuses(path):
    refusal = f"{path}"
    try:
        for weight in read_onnx(path).weights:
            assert 0 <= weight.nonzeros <= math.prod(weight.shape)
    except FormatError as problem:
        refusal = str(problem)
    assert str(path) in refusal
    assert "\n" not in refusal


def test_a_missing_file_is_a_usage_error(tmp_path):
    with pytest.raises(UsageError, match="absent"):
        read_onnx(tmp_path / "absent.onnx")
    (tmp_path / "empty.onnx").write_bytes(b"")
    with pytest.raises(FormatError, match="empty"):
        read_onnx(tmp_path / "empty.onnx")


def packed(tmp_path, nodes, matrices):
    """A packed model as a file: uint8 initializers of one axis, and operators of the domain isogrid."""
    tensors = [
        numpy_helper.from_array(np.frombuffer(pack_matrix(SparseTensor.from_dense(array, values)), np.uint8), name)
        for name, (array, values) in matrices.items()
    ]
    return write(tmp_path / "p.onnx", nodes, tensors)


def test_packed_weights_count_as_what_they_hold(tmp_path):
    nodes = [
        helper.make_node("SparseLinear", ["x", "fc.packed"], ["a"], domain="isogrid", rows=4),
        helper.make_node("SparseConv", ["a", "dw.packed"], ["b"], domain="isogrid", rows=4, group=4, kernel_shape=[3]),
        helper.make_node("SparseGather", ["table.packed", "b"], ["y"], domain="isogrid", columns=3),
    ]
    full = np.ones((4, 3), np.float32)
    path = packed(
        tmp_path, nodes, {"fc.packed": (np.eye(4), "int8"), "dw.packed": (full, "fp32"), "table.packed": (full, "fp16")}
    )
    found = {w.name: (w.shape, w.role, w.values, w.nonzeros) for w in read_onnx(path).weights}
    assert found == {
        "fc": ((4, 4), Role.TARGET, "int8", 4),
        "dw": ((4, 3), Role.PARAMETER, "fp32", 12),
        "table": ((4, 3), Role.PARAMETER, "fp16", 12),
    }


def test_a_damaged_packed_weight_is_refused(tmp_path):
    nodes = [helper.make_node("SparseLinear", ["x", "w"], ["y"], domain="isogrid", rows=4)]
    path = write(tmp_path / "p.onnx", nodes, [numpy_helper.from_array(np.zeros(40, np.uint8), "w")])
    with pytest.raises(FormatError, match="packed matrix cannot be read"):
        read_onnx(path)


def test_other_bytes_are_no_weights(tmp_path):
    nodes = [helper.make_node("Mul", ["x", "image"], ["y"])]
    path = write(tmp_path / "p.onnx", nodes, [numpy_helper.from_array(np.zeros(40, np.uint8), "image")])
    assert read_onnx(path).weights == ()


def test_only_notes_of_the_package_are_given(tmp_path):
    path = write(tmp_path / "m.onnx", MATMUL, [numpy_helper.from_array(np.ones((4, 3), np.float32), "w")])
    model = onnx.load(path)
    helper.set_model_props(model, {"isogrid.version": "1", "author": "someone"})
    onnx.save(model, path)
    assert read_onnx(path).notes == {"isogrid.version": "1"}
