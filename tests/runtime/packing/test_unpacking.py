"""Standard models out of packed ones that nothing here packed."""

import numpy as np
import onnx
import pytest

from conformance.onnx_models import build, check, dense, kinds, node, run, same
from conformance.packed import ACTIVATIONS, inputs, pack, weights
from isogrid.errors import FormatError, UsageError
from isogrid.runtime import Session
from isogrid.runtime.packing import unpack


def packed_model(path, opset=17, operator="SparseLinear", **attributes):
    random = np.random.default_rng(3)
    constants = {"w": np.frombuffer(pack(weights(random, 24, 16), "int8"), np.uint8), "b": dense(24)}
    made = node(operator, "x w b z", "y", domain="isogrid", rows=24, **attributes)
    onnx.save(build([made], {"x": ["n", 16], "z": ["n", 24]}, constants, opset=opset, more=["isogrid"]), path)
    return {"x": inputs(random, 5, 16), "z": inputs(random, 5, 24)}


@pytest.mark.parametrize("opset", [13, 17, 20])
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_every_activation_in_standard_operators(tmp_path, activation, opset):
    feeds = packed_model(tmp_path / "p.onnx", opset, activation=activation, low=0.25, high=0.75)
    unpack(tmp_path / "p.onnx", tmp_path / "u.onnx")
    written = onnx.load(tmp_path / "u.onnx")
    check(written)
    assert not any(item.domain for item in written.graph.node)
    assert [entry.domain for entry in written.opset_import] == [""]
    same(run(tmp_path / "u.onnx", feeds), Session(tmp_path / "p.onnx").run(feeds))


def test_weights_are_stored_in_their_smallest_form(tmp_path):
    random = np.random.default_rng(3)
    weight = weights(random, 300, 200, density=0.1)
    constants = {"w": np.frombuffer(pack(weight), np.uint8)}
    made = node("SparseLinear", "x w", "y", domain="isogrid", rows=300)
    onnx.save(build([made], {"x": ["n", 200]}, constants, more=["isogrid"]), tmp_path / "p.onnx")
    size = unpack(tmp_path / "p.onnx", tmp_path / "u.onnx")
    assert size == (tmp_path / "u.onnx").stat().st_size < 0.3 * weight.nbytes
    (stored,) = onnx.load(tmp_path / "u.onnx").graph.sparse_initializer
    assert len(stored.values.float_data) or stored.values.raw_data


def test_a_standard_model_goes_through(tmp_path):
    onnx.save(build([node("Relu", "x", "y")], {"x": [3]}), tmp_path / "m.onnx")
    unpack(tmp_path / "m.onnx", tmp_path / "u.onnx")
    assert kinds(tmp_path / "u.onnx") == {"Relu": 1}


@pytest.mark.parametrize(
    ("options", "said"),
    [({"operator": "SparseFuture"}, "isogrid.SparseFuture"), ({"activation": "mish"}, "the activation 'mish'")],
)
def test_what_is_not_known_is_refused(tmp_path, options, said):
    packed_model(tmp_path / "p.onnx", **options)
    with pytest.raises(FormatError, match=f"{said}.*not known"):
        unpack(tmp_path / "p.onnx", tmp_path / "u.onnx")
    assert not (tmp_path / "u.onnx").exists()


def test_a_weight_that_is_no_constant_is_refused(tmp_path):
    made = node("SparseLinear", "x w", "y", domain="isogrid", rows=24)
    model = build([made], {"x": ["n", 16], "w": [99]}, types={"w": onnx.TensorProto.UINT8}, more=["isogrid"])
    onnx.save(model, tmp_path / "p.onnx")
    with pytest.raises(FormatError, match="w of a packed layer are no constant"):
        unpack(tmp_path / "p.onnx", tmp_path / "u.onnx")


def test_no_file_no_model(tmp_path):
    with pytest.raises(UsageError, match="is not a file"):
        unpack(tmp_path / "none.onnx", tmp_path / "u.onnx")
