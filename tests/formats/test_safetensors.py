import json
import struct
import tracemalloc

import numpy as np
import pytest
import safetensors.numpy
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from isogrid.errors import FormatError, IsogridError, RunError, UsageError
from isogrid.formats.safetensors import load_tensors, pack, save_tensors, serialize
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


@pytest.mark.parametrize("shape", [(0,), (0, 3), (3, 0), (1,), (1, 1), (1, 7, 1), (2,) * 12, (5, 3, 3, 3)])
@pytest.mark.parametrize("values", ["fp32", "fp16", "int8"])
@pytest.mark.parametrize("sparsity", [0.0, 0.5, 1.0])
def test_odd_shapes_and_shares_come_back(tmp_path, shape, values, sparsity):
    axis = len(shape) - 1
    tensor = SparseTensor.from_dense(weight(sparsity, shape), values, axis)
    save_tensors(tmp_path / "m.safetensors", {"w": tensor})
    found = load_tensors(tmp_path / "m.safetensors")[0]["w"]
    if isinstance(found, SparseTensor):
        assert found.kind == values
        found = found.to_dense()
    assert found.shape == shape
    assert np.array_equal(found, tensor.to_dense())


@pytest.mark.parametrize(
    ("sparsity", "entry"), [(0.0, "int8 dense"), (0.5, "int8 bitmap"), (0.99, "int8 rice"), (1.0, "int8 rice")]
)
def test_the_smallest_way_is_taken(sparsity, entry):
    tensor = SparseTensor.from_dense(weight(sparsity, (30, 100)), "int8")
    found, array = pack(tensor)
    assert found is not None
    assert found.startswith(entry)
    bitmap = (tensor.size + 7) // 8 + tensor.nonzeros
    assert array.nbytes - 3 * 30 <= min(bitmap, tensor.size)


def test_negative_zero_is_a_zero_and_what_is_not_finite_survives_in_fp32(tmp_path):
    array = np.array([[-0.0, np.nan, np.inf], [0.0, -np.inf, 1.0]], np.float32)
    array = np.concatenate([array, np.zeros((50, 3), np.float32)])
    tensor = SparseTensor.from_dense(array)
    assert tensor.nonzeros == 4
    save_tensors(tmp_path / "m.safetensors", {"w": tensor})
    assert np.array_equal(load_tensors(tmp_path / "m.safetensors")[0]["w"].to_dense(), array, equal_nan=True)


@pytest.mark.parametrize("dtype", ["f8", "f4", "f2", "i8", "i4", "i2", "i1", "u8", "u4", "u2", "u1", "?", ">f4", ">i8"])
def test_arrays_keep_their_dtype(tmp_path, dtype):
    array = np.array([[0, 1], [1, 0], [1, 1]]).astype(dtype)
    save_tensors(tmp_path / "m.safetensors", {"a": array, "scalar": array[0, 1], "turned": array.T})
    found, _ = load_tensors(tmp_path / "m.safetensors")
    assert found["a"].dtype == array.dtype.newbyteorder("<")
    assert np.array_equal(found["a"], array)
    assert np.array_equal(found["turned"], array.T)
    assert found["scalar"].shape == ()
    found["a"][0, 0] = 1  # writable, and no part of the file


def test_bfloat16_of_other_writers_becomes_float32(tmp_path):
    torch = pytest.importorskip("torch")
    from safetensors.torch import save_file

    tensor = torch.tensor([[1.5, -3e38], [0.0, 2.0**-130]], dtype=torch.bfloat16)
    save_file({"w": tensor}, tmp_path / "m.safetensors")
    found = load_tensors(tmp_path / "m.safetensors")[0]["w"]
    assert found.dtype == np.float32
    assert np.array_equal(found, tensor.float().numpy())


def test_a_file_without_tensors(tmp_path):
    assert save_tensors(tmp_path / "m.safetensors", {}, {"note": "none"}) > 8
    assert load_tensors(tmp_path / "m.safetensors") == ({}, {"note": "none"})


def header(fields: object, data: bytes = b"") -> bytes:
    text = fields if isinstance(fields, bytes) else json.dumps(fields).encode()
    return struct.pack("<Q", len(text)) + text + data


def entry_of(shape: list[int], begin: int, end: int, dtype: str = "U8") -> dict[str, object]:
    return {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}


HOSTILE = {
    "header longer than the file": struct.pack("<Q", 1000) + b"{}",
    "header of 2**63 bytes": struct.pack("<Q", 2**63) + b"{}",
    "header that is no JSON": header(b"\xff\xfe{}"),
    "header that is a list": header([]),
    "a hundred thousand brackets": header(b'{"w":' + b"[" * 100_000 + b"]" * 100_000 + b"}"),
    "overlapping tensors": header({"a": entry_of([4], 0, 4), "b": entry_of([4], 2, 6)}, bytes(6)),
    "a hole between tensors": header({"a": entry_of([2], 0, 2), "b": entry_of([2], 4, 6)}, bytes(6)),
    "offsets beyond the file": header({"a": entry_of([2**40], 0, 2**40)}, bytes(6)),
    "offsets that run backwards": header({"a": entry_of([2], 2, 0)}, bytes(2)),
    "negative extent": header({"a": entry_of([-2], 0, 2)}, bytes(2)),
    "shape that overflows": header({"a": entry_of([2**40, 2**40, 0], 0, 0)}),
    "huge extent beside an empty one": header({"a": entry_of([2**62, 0], 0, 0, "F32")}),
    "65 axes": header({"a": entry_of([1] * 65, 0, 1)}, bytes(1)),
    "dtype that is not read": header({"a": entry_of([2], 0, 2, "F8_E4M3")}, bytes(2)),
    "dtype that does not exist": header({"a": entry_of([2], 0, 2, "X9")}, bytes(2)),
    "line break in a name": header({"a\n\x1b[31mb": entry_of([2], 0, 2)}, bytes(2)),
    "tied to nothing": header(
        {"__metadata__": {"isogrid": "1", "isogrid.tied": '{"b":"c"}'}, "a": entry_of([1], 0, 1)}, bytes(1)
    ),
    "tied under a name that is there": header(
        {"__metadata__": {"isogrid": "1", "isogrid.tied": '{"a":"a"}'}, "a": entry_of([1], 0, 1)}, bytes(1)
    ),
    "tied that is no object": header(
        {"__metadata__": {"isogrid": "1", "isogrid.tied": "[" * 100_000}, "a": entry_of([1], 0, 1)}, bytes(1)
    ),
    "line break in a tied name": header(
        {"__metadata__": {"isogrid": "1", "isogrid.tied": '{"b\\n":"a"}'}, "a": entry_of([1], 0, 1)}, bytes(1)
    ),
}


@pytest.mark.parametrize("what", HOSTILE)
def test_a_hostile_file_is_one_sentence_and_takes_no_memory(tmp_path, what):
    path = tmp_path / "m.safetensors"
    path.write_bytes(HOSTILE[what])
    tracemalloc.start()
    try:
        with pytest.raises(FormatError, match=r"m\.safetensors cannot be read") as caught:
            load_tensors(path)
        assert tracemalloc.get_traced_memory()[1] < 20e6
    finally:
        tracemalloc.stop()
    assert str(caught.value).isprintable()
    assert str(caught.value).endswith(".")


def test_a_tensor_of_a_trillion_zeros_is_read_but_not_made_dense(tmp_path):
    path = tmp_path / "m.safetensors"
    path.write_bytes(assembled("fp32 rice 0 1048576x1048576", b"\x00"))
    tensor = load_tensors(path)[0]["w"]
    assert tensor.nonzeros == 0
    with pytest.raises(FormatError, match="memory"):
        tensor.to_dense()


def test_every_damaged_byte_of_a_large_file_is_harmless(tmp_path):
    whole = serialize({"w": SparseTensor.from_dense(weight(0.9, (40, 50)), "int8")})
    rng = np.random.default_rng(1)
    for _ in range(300):
        data = bytearray(whole)
        for place in rng.integers(0, len(data), size=3):
            data[place] = rng.integers(256)
        reads_or_refuses(tmp_path / "m.safetensors", bytes(data))


def test_what_cannot_be_stored_is_refused(tmp_path):
    path = tmp_path / "m.safetensors"
    one = np.ones(1, np.float32)
    for tensors, metadata, said in (
        ({"a": np.ones(1, np.complex64)}, None, "complex64"),
        ({"a": np.array(["x"])}, None, "dtype"),
        ({"a\n": one}, None, "control characters"),
        ({"a\ud800": one}, None, "surrogate"),
        ({"a": one}, {"a": "x"}, "metadata key"),
        ({"a": one}, {"isogrid": "x"}, "metadata key"),
    ):
        with pytest.raises(UsageError, match=said):
            save_tensors(path, tensors, metadata)
    assert not path.exists()


def test_positions_have_the_bytes_that_the_documents_give():
    dense = np.zeros(99, np.float32)
    dense[[2, 3, 9]] = 1
    entry, array = pack(SparseTensor.from_dense(dense, "fp16"))
    assert entry == "fp16 rice 3 99"
    k = int(array[0])
    assert array.tobytes()[-6:] == np.ones(3, "<f2").tobytes()
    stream = "".join(format(byte, "08b")[::-1] for byte in array.tobytes()[1:-6])
    wanted = "".join("0" * (gap >> k) + "1" + format(gap & (1 << k) - 1, f"0{k}b")[::-1] * (k > 0) for gap in (2, 0, 5))
    assert stream == wanted + "0" * (len(stream) - len(wanted))
    assert len(stream) - len(wanted) < 8
