import json
import struct

import numpy as np
import pytest
import safetensors.numpy
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from isogrid.errors import FormatError, IsogridError, RunError, UsageError
from isogrid.formats.safetensors import load_tensors, save_tensors, serialize
from isogrid.formats.sparse import SparseTensor


def weight(sparsity: float, shape: tuple[int, ...] = (300, 784)) -> np.ndarray:
    rng = np.random.default_rng(0)
    dense = rng.normal(size=shape).astype(np.float32)
    return dense * (rng.random(shape) >= sparsity)


@pytest.mark.parametrize(("values", "most"), [("fp32", 5.4), ("fp16", 3.4), ("int8", 2.4)])
def test_bytes_a_nonzero_at_90_percent(tmp_path, values, most):
    tensor = SparseTensor.from_dense(weight(0.9), values)
    size = save_tensors(tmp_path / "m.safetensors", {"w": tensor})
    assert size == (tmp_path / "m.safetensors").stat().st_size
    assert size / tensor.nonzeros <= most


@given(
    hnp.arrays(np.float32, hnp.array_shapes(max_dims=3, max_side=9), elements=st.sampled_from([0.0, 0.0, 0.5, -3.0])),
    st.sampled_from(["fp32", "fp16", "int8"]),
)
@settings(max_examples=60)
def test_round_trip(tmp_path_factory, array, values):
    path = tmp_path_factory.mktemp("trip") / "m.safetensors"
    tensor = SparseTensor.from_dense(array, values)
    save_tensors(path, {"w": tensor, "plain": array}, {"task": "x"})
    found, metadata = load_tensors(path)
    read = found["w"].to_dense() if isinstance(found["w"], SparseTensor) else found["w"]
    assert np.array_equal(read, tensor.to_dense())
    assert np.array_equal(found["plain"], array)
    assert metadata == {"task": "x"}


def test_the_stock_library_opens_the_file_and_sees_the_names(tmp_path):
    path = tmp_path / "m.safetensors"
    save_tensors(path, {"w": SparseTensor.from_dense(weight(0.9)), "bias": np.ones(3, np.float32)})
    found = safetensors.numpy.load_file(path)
    assert sorted(found) == ["bias", "w"]
    assert found["w"].dtype == np.uint8


def test_the_same_tensors_give_the_same_bytes_whatever_their_order():
    a, b = SparseTensor.from_dense(weight(0.9, (9, 9))), np.ones(3, np.float32)
    assert serialize({"a": a, "b": b}) == serialize({"b": b, "a": a})


def test_a_shared_tensor_is_stored_once(tmp_path):
    tensor = SparseTensor.from_dense(weight(0.5))
    once = len(serialize({"a": tensor}))
    twice = save_tensors(tmp_path / "m.safetensors", {"a": tensor, "b": tensor})
    assert twice < once + 200
    found, _ = load_tensors(tmp_path / "m.safetensors")
    assert found["a"] is found["b"]


SMALL = serialize(
    {"w": SparseTensor.from_dense(weight(0.8, (6, 10)), "int8"), "v": SparseTensor.from_dense(weight(0.5, (4, 4)))}
)


def reads_or_refuses(path, data: bytes) -> None:
    """Damage gives another tensor or a FormatError in one sentence, and nothing else."""
    path.write_bytes(data)
    said = ""
    try:
        for tensor in load_tensors(path)[0].values():
            if isinstance(tensor, SparseTensor):
                tensor.validate()
    except FormatError as problem:
        said = str(problem)
    assert not said or (str(path) in said and "\n" not in said)


def test_a_file_cut_short_anywhere_is_refused(tmp_path):
    path = tmp_path / "m.safetensors"
    for length in range(len(SMALL)):
        path.write_bytes(SMALL[:length])
        with pytest.raises(FormatError, match=r"m\.safetensors"):
            load_tensors(path)


def test_a_flipped_bit_anywhere_does_no_harm(tmp_path):
    for place in range(len(SMALL)):
        for bit in (0, 3, 7):
            data = bytearray(SMALL)
            data[place] ^= 1 << bit
            reads_or_refuses(tmp_path / "m.safetensors", bytes(data))


def assembled(entry: str, data: bytes) -> bytes:
    header = {
        "__metadata__": {"isogrid": "1", "w": entry},
        "w": {"dtype": "U8", "shape": [len(data)], "data_offsets": [0, len(data)]},
    }
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data


@pytest.mark.parametrize(
    "entry",
    [
        "int8 rice 999999999999 1048576x1048576",
        "fp32 bitmap 5 100000000000000x1",
        "fp32 rice 3 2x2x",
        "fp64 rice 3 2x2",
        "fp32 dense 999 2x2",
        "fp32 rice 9 2x2",
        "int8 rice 1 2x2 axis7",
        "",
    ],
)
def test_claims_that_cannot_be_true_are_refused_before_memory_is_taken(tmp_path, entry):
    path = tmp_path / "m.safetensors"
    path.write_bytes(assembled(entry, bytes(16)))
    with pytest.raises(FormatError, match=r"m\.safetensors"):
        load_tensors(path)


def test_another_version_is_refused(tmp_path):
    path = tmp_path / "m.safetensors"
    path.write_bytes(SMALL.replace(b'"isogrid":"1"', b'"isogrid":"9"'))
    with pytest.raises(FormatError, match="version"):
        load_tensors(path)


def test_a_missing_file_and_a_folder_that_does_not_exist(tmp_path):
    with pytest.raises(UsageError, match="absent"):
        load_tensors(tmp_path / "absent.safetensors")
    with pytest.raises(RunError, match="cannot be written"):
        save_tensors(tmp_path / "no" / "m.safetensors", {"w": np.ones(1, np.float32)})


@pytest.mark.parametrize("name", ["__metadata__", "isogrid", "isogrid.tied"])
def test_words_of_the_format_are_no_names(name):
    with pytest.raises(IsogridError, match=name):
        serialize({name: np.ones(1, np.float32)})
