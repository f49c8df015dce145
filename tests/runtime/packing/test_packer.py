"""Whole models: what is packed, that it computes the same, and what is refused."""

import hashlib
import json
import subprocess
import sys

import numpy as np
import onnx
import onnx_ir
import pytest
from onnx import TensorProto, helper, numpy_helper

from conformance.onnx_models import build, dense, kinds, node, pack_and_check, run, same, sparse
from isogrid.errors import FormatError, RunError, UnsupportedError, UsageError
from isogrid.inspection import inspect
from isogrid.runtime.packing import files, pack, packer, unpack

X = dense(3, 256)


def mlp(sparsity=0.9, opset=17):
    nodes = [
        node("MatMul", "x w1", "a"), node("Add", "a b1", "b"), node("Relu", "b", "c"),
        node("Gemm", "c w2 b2", "y", transB=1),
    ]  # fmt: skip
    constants = {"w1": sparse(256, 384, sparsity=sparsity), "b1": dense(384), "w2": sparse(128, 384, sparsity=sparsity)}
    return build(nodes, {"x": ["batch", 256]}, constants | {"b2": dense(128)}, opset=opset)


@pytest.mark.parametrize("values", ["fp32", "fp16", "int8"])
def test_a_small_network_becomes_two_operators(tmp_path, values):
    report = pack_and_check(mlp(), tmp_path, {"x": X}, values=values, batch=8)
    assert kinds(tmp_path / "packed.onnx") == {"SparseLinear": 2}
    assert [(n.name, n.choice, n.fused) for n in report.nodes] == [
        ("w1", "sparse", "bias, relu"), ("w2", "sparse", "bias"),
    ]  # fmt: skip
    assert {n.values for n in report.nodes} == {values}
    assert report.bytes_after == (tmp_path / "packed.onnx").stat().st_size
    assert report.bytes_after < {"fp32": 0.14, "fp16": 0.09, "int8": 0.07}[values] * report.bytes_before
    assert report.coverage == 1


@pytest.mark.parametrize("opset", [13, 16, 20, 23, onnx.defs.onnx_opset_version() - 1])
def test_old_and_new_operator_sets(tmp_path, opset):
    report = pack_and_check(mlp(opset=opset), tmp_path, {"x": X}, batch=8)
    assert report.packed == 2


def test_rounded_values_are_those_of_the_package(tmp_path):
    from isogrid.formats.numbers import round_values

    model = mlp()
    pack_and_check(model, tmp_path, {"x": X}, values="int8", batch=8)
    arrays = {t.name: numpy_helper.to_array(t) for t in model.graph.initializer}
    first = round_values(arrays["w1"].T, "int8").T
    second = round_values(arrays["w2"], "int8").T
    expected = np.maximum(X @ first + arrays["b1"], 0) @ second + arrays["b2"]
    same(run(tmp_path / "plain.onnx", {"x": X}), [expected])


def test_a_model_without_zeros_is_written_as_it_was(tmp_path):
    model = mlp(sparsity=0.0)
    report = pack_and_check(model, tmp_path, {"x": X}, batch=8)
    assert report.packed == 0
    assert "No layer has enough zeros to gain from" in report.notes[0]
    assert {n.reason for n in report.nodes} == {"no zeros"}
    written = onnx.load(tmp_path / "packed.onnx")
    assert written.graph == model.graph
    assert written.opset_import == model.opset_import


def test_choices_stand_against_the_cost_model_and_are_replayed(tmp_path):
    onnx.save(mlp(), tmp_path / "m.onnx")
    report = pack(tmp_path / "m.onnx", tmp_path / "a.onnx", batch=8, choices={"w1": "dense"})
    assert [(n.choice, n.reason) for n in report.nodes] == [("dense", "as told"), ("sparse", "cost model")]
    assert kinds(tmp_path / "a.onnx") == {"MatMul": 1, "Add": 1, "Relu": 1, "SparseLinear": 1}
    (tmp_path / "choices.json").write_text(json.dumps(report.choices))
    replayed = pack(tmp_path / "m.onnx", tmp_path / "b.onnx", batch=1, choices=tmp_path / "choices.json")
    assert replayed.choices == report.choices


@pytest.mark.parametrize(
    ("choices", "said"),
    [
        ({"w3": "dense"}, "Unknown layer 'w3'"),
        ({"w1": "fast"}, "not understood"),
        ("missing.json", "cannot be read"),
    ],
)
def test_choices_that_mean_nothing_are_refused(tmp_path, choices, said):
    onnx.save(mlp(), tmp_path / "m.onnx")
    with pytest.raises(UsageError, match=said):
        pack(tmp_path / "m.onnx", tmp_path / "a.onnx", choices=choices)
    assert not (tmp_path / "a.onnx").exists()


def test_a_result_that_differs_is_never_written(tmp_path, monkeypatch):
    onnx.save(mlp(), tmp_path / "m.onnx")
    honest = packer.fuse

    def careless(layer, constants, taken):
        honest(layer, constants, taken)
        layer.bias = layer.bias + 0.01

    monkeypatch.setattr(packer, "fuse", careless)
    with pytest.raises(FormatError, match=r"would differ from the original by 0\.0"):
        pack(tmp_path / "m.onnx", tmp_path / "a.onnx", batch=8)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["m.onnx"]


def test_dynamic_axes_stay_dynamic(tmp_path):
    model = build([node("MatMul", "x w", "y")], {"x": ["batch", "length", 256]}, {"w": sparse(256, 384)})
    pack_and_check(model, tmp_path, {"x": dense(2, 5, 256)})
    for batch, length in ((1, 1), (4, 7)):
        x = dense(batch, length, 256)
        from isogrid.runtime import Session

        same(Session(tmp_path / "packed.onnx").run({"x": x}), run(tmp_path / "source.onnx", {"x": x}))


def test_what_the_file_says_of_itself(tmp_path):
    model = mlp()
    helper.set_model_props(model, {"author": "someone", "isogrid.values": "fp32"})
    pack_and_check(model, tmp_path, {"x": X}, values="int8", batch=8)
    notes = {entry.key: entry.value for entry in onnx.load(tmp_path / "packed.onnx").metadata_props}
    source = hashlib.sha256((tmp_path / "source.onnx").read_bytes()).hexdigest()
    assert notes["author"] == "someone"
    assert notes["isogrid.packed.source"] == f"sha256:{source}"
    assert notes["isogrid.packed.command"] == "isogrid pack --values int8 --batch 8"
    assert f"onnx {onnx.__version__}" in notes["isogrid.packed.versions"]
    found = inspect(tmp_path / "packed.onnx")
    assert found.provenance["isogrid.packed.values"] == "int8"
    plain = {entry.key for entry in onnx.load(tmp_path / "plain.onnx").metadata_props}
    assert "author" in plain
    assert not any(key.startswith("isogrid.packed") for key in plain)


def test_inspect_counts_what_the_original_holds(tmp_path):
    pack_and_check(mlp(), tmp_path, {"x": X}, batch=8)
    before, after = inspect(tmp_path / "source.onnx"), inspect(tmp_path / "packed.onnx")
    assert (after.nonzeros, after.parameters, after.sparsity) == (before.nonzeros, before.parameters, before.sparsity)
    weights = [layer for layer in after.layers if layer.target]
    assert [(layer.name, layer.shape) for layer in weights] == [("w1", (384, 256)), ("w2", (128, 384))]
    assert sum(layer.bytes for layer in weights) < 0.15 * 4 * (256 * 384 + 384 * 128)


def test_a_damaged_packed_weight_is_found_by_unpack_and_inspect(tmp_path):
    pack_and_check(mlp(), tmp_path, {"x": X}, batch=8)
    model = onnx.load(tmp_path / "packed.onnx")
    tensor = next(t for t in model.graph.initializer if t.name.endswith(".packed"))
    tensor.raw_data = tensor.raw_data[:-1] + b"\x7f\xff"
    tensor.dims[0] += 1
    onnx.save(model, tmp_path / "bad.onnx")
    with pytest.raises(FormatError, match="packed matrix cannot be read"):
        unpack(tmp_path / "bad.onnx", tmp_path / "out.onnx")
    with pytest.raises(FormatError, match="packed matrix cannot be read"):
        inspect(tmp_path / "bad.onnx")
    assert not (tmp_path / "out.onnx").exists()


def test_external_data_comes_in_and_large_models_go_out_to_a_second_file(tmp_path, monkeypatch):
    folder = tmp_path / "in"
    folder.mkdir()
    onnx.save(mlp(), folder / "m.onnx", save_as_external_data=True, location="m.data", size_threshold=0)
    report = pack(folder / "m.onnx", tmp_path / "a.onnx", batch=8)
    assert report.bytes_before > 4 * (256 * 384 + 384 * 128)
    assert not (tmp_path / "a.onnx.data").exists()
    monkeypatch.setattr(files, "LARGEST_FILE", 10_000)
    report = pack(folder / "m.onnx", tmp_path / "b.onnx", batch=8)
    assert (tmp_path / "b.onnx.data").stat().st_size > 10_000
    assert (tmp_path / "b.onnx").stat().st_size < 10_000
    assert report.bytes_after == sum((tmp_path / name).stat().st_size for name in ("b.onnx", "b.onnx.data"))
    assert not list(tmp_path.glob(".*"))
    unpack(tmp_path / "b.onnx", tmp_path / "c.onnx")
    from isogrid.runtime import Session

    expected = run(folder / "m.onnx", {"x": X})
    same(Session(tmp_path / "b.onnx").run({"x": X}), expected)
    same(run(tmp_path / "c.onnx", {"x": X}), expected)
    assert inspect(tmp_path / "b.onnx").nonzeros == inspect(folder / "m.onnx").nonzeros


def test_a_dense_model_with_external_data_keeps_its_weights(tmp_path):
    onnx.save(mlp(0.0), tmp_path / "m.onnx", save_as_external_data=True, location="m.data", size_threshold=0)
    pack(tmp_path / "m.onnx", tmp_path / "out.onnx", batch=8)
    expected = run(tmp_path / "m.onnx", {"x": X})
    (tmp_path / "m.data").unlink()
    same(run(tmp_path / "out.onnx", {"x": X}), expected)


def test_sparse_initializers_come_in_and_those_that_stay_dense_go_out_as_they_were(tmp_path):
    arrays = {"w1": sparse(256, 384), "w2": sparse(384, 128)}
    model = build([node("MatMul", "x w1", "a"), node("MatMul", "a w2", "y")], {"x": ["batch", 256]})
    for name, array in arrays.items():
        places = np.flatnonzero(array).astype(np.int64)
        model.graph.sparse_initializer.append(
            helper.make_sparse_tensor(
                numpy_helper.from_array(array.reshape(-1)[places], name), numpy_helper.from_array(places), array.shape
            )
        )
    onnx.save(model, tmp_path / "m.onnx")
    report = pack(tmp_path / "m.onnx", tmp_path / "out.onnx", batch=8, choices={"w2": "dense"})
    assert report.packed == 1
    written = onnx.load(tmp_path / "out.onnx")
    assert [tensor.values.name for tensor in written.graph.sparse_initializer] == ["w2"]
    from isogrid.runtime import Session

    expected = [X @ arrays["w1"] @ arrays["w2"]]
    same(Session(tmp_path / "out.onnx").run({"x": X}), expected)
    unpack(tmp_path / "out.onnx", tmp_path / "plain.onnx")
    same(run(tmp_path / "plain.onnx", {"x": X}), expected)


def test_outputs_that_are_maps_come_through(tmp_path):
    nodes = [node("MatMul", "x w", "a"), node("ZipMap", "a", "y", domain="ai.onnx.ml", classlabels_int64s=range(384))]
    model = build(nodes, {"x": ["batch", 256]}, {"w": sparse(256, 384)}, more=["ai.onnx.ml"])
    kind = helper.make_map_type_proto(TensorProto.INT64, helper.make_tensor_type_proto(TensorProto.FLOAT, []))
    del model.graph.output[:]
    model.graph.output.append(helper.make_value_info("y", helper.make_sequence_type_proto(kind)))
    onnx.save(model, tmp_path / "m.onnx")
    assert pack(tmp_path / "m.onnx", tmp_path / "a.onnx", batch=8).packed == 1
    unpack(tmp_path / "a.onnx", tmp_path / "b.onnx")
    for name in "ab":
        assert onnx.load(tmp_path / f"{name}.onnx").graph.output == model.graph.output
    (wanted,) = run(tmp_path / "m.onnx", {"x": X})
    (found,) = run(tmp_path / "b.onnx", {"x": X})
    assert [list(scores) for scores in found] == [list(range(384))] * len(X)
    same([np.array([list(scores.values()) for scores in found])], [np.array([list(s.values()) for s in wanted])])


def test_real_inputs_are_compared_too(tmp_path):
    onnx.save(mlp(), tmp_path / "m.onnx")
    np.savez(tmp_path / "in.npz", x=X)
    assert pack(tmp_path / "m.onnx", tmp_path / "a.onnx", inputs=tmp_path / "in.npz").packed == 2
    np.savez(tmp_path / "wrong.npz", z=X)
    with pytest.raises(UsageError, match="has the arrays z; needed are x"):
        pack(tmp_path / "m.onnx", tmp_path / "a.onnx", inputs=tmp_path / "wrong.npz")
    with pytest.raises(UsageError, match=r"cannot be read as \.npz"):
        pack(tmp_path / "m.onnx", tmp_path / "a.onnx", inputs=tmp_path / "m.onnx")


@pytest.mark.parametrize(
    ("options", "error", "said"),
    [
        ({"values": "int4"}, UsageError, "Unknown number format 'int4'"),
        ({"batch": 0}, UsageError, "batch got 0"),
        ({"shapes": {"z": (1, 256)}}, UsageError, "Unknown input 'z'"),
        ({"shapes": {"x": (1, 255)}}, UsageError, "which 1x255 does not fit"),
    ],
)
def test_options_that_are_refused(tmp_path, options, error, said):
    onnx.save(mlp(), tmp_path / "m.onnx")
    with pytest.raises(error, match=said):
        pack(tmp_path / "m.onnx", tmp_path / "a.onnx", **options)
    assert not (tmp_path / "a.onnx").exists()


def test_files_that_are_refused(tmp_path):
    with pytest.raises(UsageError, match="is not a file"):
        pack(tmp_path / "none.onnx", tmp_path / "a.onnx")
    (tmp_path / "bad.onnx").write_bytes(b"not a model")
    with pytest.raises(FormatError, match="cannot be read as ONNX"):
        pack(tmp_path / "bad.onnx", tmp_path / "a.onnx")
    onnx.save(mlp(opset=12), tmp_path / "old.onnx")
    with pytest.raises(UnsupportedError, match="opset 12; accepted are 13 to"):
        pack(tmp_path / "old.onnx", tmp_path / "a.onnx")
    onnx.save(mlp(), tmp_path / "m.onnx")
    with pytest.raises(RunError, match="cannot be written"):
        pack(tmp_path / "m.onnx", tmp_path / "missing" / "a.onnx")
    assert not (tmp_path / "a.onnx").exists()


def test_external_data_that_is_cut_short_is_refused(tmp_path):
    onnx.save(mlp(), tmp_path / "m.onnx", save_as_external_data=True, location="m.data", size_threshold=0)
    whole = (tmp_path / "m.data").read_bytes()
    (tmp_path / "m.data").write_bytes(whole[:1000])
    for write in (pack, unpack):
        with pytest.raises(FormatError, match=r"cannot be read as ONNX: its external data m\.data has 1000 bytes"):
            write(tmp_path / "m.onnx", tmp_path / "a.onnx")
    with pytest.raises(FormatError, match="The weight w1 cannot be read: "):
        files.load_external(onnx.load(tmp_path / "m.onnx", load_external_data=False), tmp_path)
    assert not (tmp_path / "a.onnx").exists()


@pytest.mark.parametrize("location", ["../secret.bin", "missing.bin"])
def test_external_data_elsewhere_is_refused(tmp_path, location):
    (tmp_path / "secret.bin").write_bytes(bytes(4 * 256 * 384))
    folder = tmp_path / "in"
    folder.mkdir()
    model = mlp()
    tensor = model.graph.initializer[0]
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value=location)
    (folder / "m.onnx").write_bytes(model.SerializeToString())
    with pytest.raises(FormatError, match="no file beside it"):
        pack(folder / "m.onnx", tmp_path / "a.onnx")


def test_a_packed_model_goes_through_unharmed(tmp_path):
    pack_and_check(mlp(), tmp_path, {"x": X}, batch=8)
    with pytest.raises(UnsupportedError, match="is packed already"):
        pack(tmp_path / "packed.onnx", tmp_path / "twice.onnx")


def test_sizes_that_do_not_run_are_a_usage_error_with_a_way_out(tmp_path):
    nodes = [node("Reshape", "x shape", "a"), node("MatMul", "a w", "y")]
    model = build(nodes, {"x": ["n"]}, {"shape": np.array([-1, 256]), "w": sparse(256, 384)})
    onnx.save(model, tmp_path / "m.onnx")
    with pytest.raises(UsageError, match=r"cannot run the model on x 1: .*--shape NAME="):
        pack(tmp_path / "m.onnx", tmp_path / "a.onnx")
    # Two batch sizes cannot both be whole rows here: real inputs say what there is.
    np.savez(tmp_path / "in.npz", x=dense(512))
    assert pack(tmp_path / "m.onnx", tmp_path / "a.onnx", inputs=tmp_path / "in.npz").packed == 1


@pytest.mark.parametrize(
    ("dims", "shape"),
    [
        (["n", 3, "h", "w"], (5, 3, 224, 224)),
        (["n", "t"], (5, 128)),
        (["t", "batch", 8], (128, 5, 8)),
        ([None, 8], (5, 8)),
        ([4, "batch_size"], (4, 5)),
    ],
)
def test_assumed_sizes(dims, shape):
    from isogrid.runtime.packing.constants import Constants
    from isogrid.runtime.packing.examples import Examples

    model = onnx_ir.serde.deserialize_model(build([node("Relu", "x", "y")], {"x": dims}))
    examples = Examples(model, Constants(model), batch=5)
    assert examples.draw()["x"].shape == shape
    more = examples.draw(more=1)["x"].shape
    assert [b - a for a, b in zip(shape, more, strict=True)].count(1) == 1
    assert more[shape.index(5)] == 6


def test_no_pytorch_is_needed(tmp_path):
    onnx.save(mlp(), tmp_path / "m.onnx")
    program = """
import sys
sys.modules["torch"] = None  # any import of it fails
from isogrid.runtime import Session, pack, unpack
assert pack("m.onnx", "p.onnx", batch=8).packed == 2
unpack("p.onnx", "u.onnx")
"""
    done = subprocess.run([sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_a_comparison_that_says_little_is_said_to(tmp_path):
    nodes = [node("Sub", "x x", "o"), node("MatMul", "o w", "y")]
    onnx.save(build(nodes, {"x": ["n", 256]}, {"w": sparse(256, 384)}), tmp_path / "m.onnx")
    report = pack(tmp_path / "m.onnx", tmp_path / "a.onnx", batch=8)
    assert any("comparing them says little" in note for note in report.notes)
    assert pack(tmp_path / "m.onnx", tmp_path / "a.onnx", choices={"w": "sparse"}).packed == 1


def test_the_clock_decides_groups_and_says_what_it_saw(tmp_path):
    onnx.save(mlp(), tmp_path / "m.onnx")
    report = pack(tmp_path / "m.onnx", tmp_path / "a.onnx", batch=64, tune=True)
    assert any(note.startswith("Measured: ") for note in report.notes)
    assert {n.reason for n in report.nodes} == {"measured"}
