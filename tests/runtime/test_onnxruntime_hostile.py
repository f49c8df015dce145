"""Models that are not what they claim to be: an error with a sentence, never a crash."""

from __future__ import annotations

import struct
from typing import Any

import numpy as np
import pytest
from onnx import TensorProto

from conformance.packed import header, inputs, model, node, pack, rice, session, weights

ROWS, COLUMNS = 24, 30
WEIGHT = weights(np.random.default_rng(0), ROWS, COLUMNS)
NONZEROS = int(np.count_nonzero(WEIGHT))
KINDS = ("SparseLinear", "SparseConv", "SparseGather", "SparseLSTM", "SparseGRU")


def written(kind: str, packed: bytes, **attributes: Any) -> bytes:
    """A model of one node whose (first) packed weight is `packed`, of 24 rows and 30 columns if it is sound."""
    constants: dict[str, Any] = {"w": packed}
    if kind == "SparseGather":
        one = node(kind, ["w", "x"], ["y"], **({"columns": COLUMNS} | attributes))
        return model([one], {"x": ("n",)}, ["y"], constants, {"x": TensorProto.INT64})
    if kind in ("SparseLSTM", "SparseGRU"):
        units = ROWS // (4 if kind == "SparseLSTM" else 3)
        constants["r"] = pack(WEIGHT[:, :units])
        one = node(kind, ["x", "w", "r"], ["y"], **({"hidden_size": units} | attributes))
        return model([one], {"x": ("s", "b", COLUMNS)}, ["y"], constants)
    shape = {"SparseLinear": ("n", COLUMNS), "SparseConv": ("n", COLUMNS, "h", "w")}[kind]
    usual = {"SparseLinear": {"rows": ROWS}, "SparseConv": {"rows": ROWS, "kernel_shape": [1, 1]}}[kind]
    return model([node(kind, ["x", "w"], ["y"], **(usual | attributes))], {"x": shape}, ["y"], constants)


def refuse(data: bytes, sentence: str) -> None:
    with pytest.raises(Exception, match=sentence) as caught:
        session(data)
    assert "\n" not in str(caught.value).strip()


def changed(data: bytes, at: int, by: bytes) -> bytes:
    return data[:at] + by + data[at + len(by) :]


SOUND = {values: pack(WEIGHT, values) for values in ("fp32", "fp16", "int8")}
DENSE = {values: pack(WEIGHT, values, "dense") for values in ("fp32", "fp16", "int8")}
NAN32, INFINITY32 = struct.pack("<f", np.nan), struct.pack("<f", np.inf)

DAMAGE = {
    "nothing": (b"", "must begin with the 32 bytes of their header"),
    "half a header": (SOUND["fp32"][:31], "must begin with the 32 bytes of their header"),
    "only a header": (SOUND["fp32"][:32], "shorter than their header says"),
    "another file": (b"PK\x03\x04" + SOUND["fp32"][4:], "must begin with the 32 bytes of their header"),
    "version 0": (changed(SOUND["fp32"], 7, b"\0"), "version of the packed weights is not 1"),
    "version 2": (changed(SOUND["fp32"], 7, b"\2"), "version of the packed weights is not 1"),
    "values of a fourth kind": (changed(SOUND["fp32"], 8, b"\3"), "of an unknown kind"),
    "positions of a fourth kind": (changed(SOUND["fp32"], 9, b"\3"), "of an unknown kind"),
    "a first reserved byte": (changed(SOUND["fp32"], 11, b"\1"), "of an unknown kind"),
    "a second reserved byte": (changed(SOUND["fp32"], 20, b"\1"), "of an unknown kind"),
    "no rows": (changed(SOUND["fp32"], 12, struct.pack("<I", 0)), "a size is zero, negative or too large"),
    "no columns": (changed(SOUND["fp32"], 16, struct.pack("<I", 0)), "a size is zero, negative or too large"),
    "2**28 + 1 rows": (changed(SOUND["fp32"], 12, struct.pack("<I", 2**28 + 1)), "a size is zero, negative or too"),
    "2**32 - 1 columns": (changed(SOUND["fp32"], 16, struct.pack("<I", 2**32 - 1)), "a size is zero, negative or too"),
    "more than 2**40 weights": (
        changed(SOUND["fp32"], 12, struct.pack("<II", 2**20, 2**20 + 1)),
        "a size is zero, negative or too large",
    ),
    "more nonzeros than places": (changed(SOUND["fp32"], 24, struct.pack("<Q", ROWS * COLUMNS + 1)), "count must lie"),
    "2**64 - 1 nonzeros": (changed(SOUND["fp32"], 24, b"\xff" * 8), "count must lie"),
    "a nonzero too many": (changed(SOUND["int8"], 24, struct.pack("<Q", NONZEROS + 1)), "."),
    "a nonzero too few": (changed(SOUND["int8"], 24, struct.pack("<Q", NONZEROS - 1)), "."),
    "a byte less": (SOUND["fp32"][:-1], "."),
    "a byte more": (SOUND["fp32"] + b"\0", "."),
    "a dense byte less": (DENSE["fp32"][:-1], "shorter than their header says"),
    "a dense byte more": (DENSE["fp32"] + b"\0", "longer than their header says"),
    "a bitmap byte more": (pack(WEIGHT, "fp32", "bitmap") + b"\0", r"a bitmap must have exactly"),
    "another number of bits": (
        changed(pack(WEIGHT, "fp32", "bitmap"), 32, b"\xff\xff"),
        "number of set bits is not count",
    ),
    "a Rice parameter of 49": (changed(SOUND["fp32"], 32, b"\x31"), "Rice parameter in the first byte must be at most"),
    "a position outside": (
        header(ROWS, COLUMNS, 1) + rice([ROWS * COLUMNS], 4) + struct.pack("<f", 1),
        "data holds a position outside",
    ),
    "rows without anything in them": (header(2**28, 4, 0) + b"\0", r"more than 2\*\*20 rows must have a byte for each"),
    "NaN": (SOUND["fp32"][:-4] + NAN32, "a stored value is not finite"),
    "infinity": (SOUND["fp32"][:-4] + INFINITY32, "a stored value is not finite"),
    "NaN among the zeros": (changed(DENSE["fp32"], 32, NAN32), "a stored value is not finite"),
    "NaN in half precision": (SOUND["fp16"][:-2] + b"\x01\x7e", "a stored value is not finite"),
    "infinity in half precision": (SOUND["fp16"][:-2] + b"\x00\xfc", "a stored value is not finite"),
    "a stored zero": (SOUND["fp32"][:-4] + bytes(4), "a stored value is zero"),
    "a stored -0.0": (SOUND["fp32"][:-4] + b"\0\0\0\x80", "a stored value is zero"),
    "another number of zeros": (changed(DENSE["int8"], 24, struct.pack("<Q", NONZEROS + 1)), "number of nonzeros"),
    "a code of -128": (SOUND["int8"][:-1] + b"\x80", "an int8 value is -128"),
    "a scale of NaN": (changed(SOUND["int8"], 32, NAN32[1:]), "a scale is not a finite positive number"),
    "a scale of infinity": (changed(SOUND["int8"], 32, INFINITY32[1:]), "a scale is not a finite positive number"),
    "a scale of zero": (changed(SOUND["int8"], 32, bytes(3)), "a scale is not a finite positive number"),
    "a negative scale": (changed(SOUND["int8"], 34, b"\xbf"), "a scale is not a finite positive number"),
    "a subnormal scale": (changed(SOUND["int8"], 32, b"\xff\x7f\x00"), "a scale is not a finite positive number"),
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("damage", DAMAGE)
def test_damaged_weights(kind: str, damage: str) -> None:
    data, sentence = DAMAGE[damage]
    name = "W" if kind in ("SparseLSTM", "SparseGRU") else "packed"
    refuse(written(kind, data), rf"{kind} node 'node': the input {name} is damaged: .*{sentence}")


@pytest.mark.parametrize("values", ["fp32", "int8"])
def test_every_shorter_packed_weight_is_refused(values: str) -> None:
    data = SOUND[values]
    for length in range(0, len(data), 7):
        refuse(written("SparseLinear", data[:length]), "the input packed is damaged")


@pytest.mark.parametrize("kind", KINDS)
def test_shapes_that_disagree(kind: str) -> None:
    other = pack(weights(np.random.default_rng(1), ROWS + 1, COLUMNS + 1))
    sentence = {
        "SparseGather": "the attribute columns is 30, and the packed weights have 31",
        "SparseLSTM": "the input W is 25 x 31, accepted is 24 x 31",
        "SparseGRU": "the input W is 25 x 31, accepted is 24 x 31",
    }.get(kind, "the attribute rows is 24, and the packed weights have 25")
    refuse(written(kind, other), sentence)


ATTRIBUTES = [
    ("SparseLinear", {"rows": None}, "the attribute rows is missing"),
    ("SparseLinear", {"rows": 0}, "the attribute rows is 0, accepted are numbers from 1 to 268435456"),
    ("SparseLinear", {"rows": -1}, "the attribute rows is -1, accepted are"),
    ("SparseLinear", {"rows": 2**40}, "the attribute rows is 1099511627776, accepted are"),
    ("SparseLinear", {"rows": 24.0}, "the attribute rows must be a whole number"),
    ("SparseLinear", {"rows": [24]}, "the attribute rows must be a whole number"),
    ("SparseLinear", {"skip_zeros": 2}, "the attribute skip_zeros is 2, accepted are numbers from 0 to 1"),
    ("SparseLinear", {"activation": "softmax"}, "the attribute activation is 'softmax', accepted are none, relu, clip"),
    ("SparseLinear", {"activation": ""}, "the attribute activation is '', accepted are none, relu, clip"),
    ("SparseLinear", {"activation": 1}, "the attribute activation must be a string"),
    ("SparseLinear", {"low": 1}, "the attribute low must be a float"),
    ("SparseGather", {"columns": None}, "the attribute columns is missing"),
    ("SparseConv", {"rows": None}, "the attribute rows is missing"),
    ("SparseConv", {"kernel_shape": None}, "the attribute kernel_shape is missing"),
    ("SparseConv", {"kernel_shape": 1}, "the attribute kernel_shape must have one number or two"),
    ("SparseConv", {"strides": 1.0}, "the attribute strides must have 2 numbers from 1 to 255"),
    ("SparseConv", {"kernel_shape": [1, 1, 1]}, "the attribute kernel_shape must have one number or two"),
    ("SparseConv", {"kernel_shape": [0, 1]}, "the attribute kernel_shape must have 2 numbers from 1 to 255"),
    ("SparseConv", {"kernel_shape": [-(2**62), 4]}, "the attribute kernel_shape must have 2 numbers from 1 to 255"),
    ("SparseConv", {"kernel_shape": [2, 2]}, "24 x 30, which is not so many whole groups"),
    ("SparseConv", {"group": 5}, r"24 x 30, which is not so many whole groups \(5\) of kernels of 1 weights"),
    ("SparseConv", {"group": 0}, "the attribute group is 0, accepted are"),
    ("SparseConv", {"strides": [1]}, "the attribute strides must have 2 numbers from 1 to 255"),
    ("SparseConv", {"strides": [0, 1]}, "the attribute strides must have 2 numbers from 1 to 255"),
    ("SparseConv", {"dilations": [1, 2**63 - 1]}, "the attribute dilations must have 2 numbers from 1 to 4096"),
    ("SparseConv", {"pads": [1, 1]}, "the attribute pads must have 4 numbers from 0 to 1048576"),
    ("SparseConv", {"pads": [0, 0, 0, -1]}, "the attribute pads must have 4 numbers from 0 to 1048576"),
    ("SparseConv", {"pads": [1] * 20}, "the attribute pads must have 4 numbers from 0 to 1048576"),
    ("SparseConv", {"auto_pad": "SAME_UPPER"}, "the attribute auto_pad is not accepted, pads is"),
]


@pytest.mark.parametrize(("kind", "attributes", "sentence"), ATTRIBUTES)
def test_attributes(kind: str, attributes: dict[str, Any], sentence: str) -> None:
    # An attribute that is None is left out by onnx.helper.
    refuse(written(kind, SOUND["fp32"], **attributes), f"{kind} node 'node': .*{sentence}")


def linear(names: list[str], constants: dict[str, Any], **more: Any) -> bytes:
    one = node("SparseLinear", names, ["y"], rows=ROWS)
    return model([one], {"x": ("n", COLUMNS)} | more.pop("given", {}), ["y"], constants, **more)


def test_a_packed_weight_that_is_no_constant() -> None:
    data = SOUND["fp32"]
    dynamic = linear(["x", "w"], {}, given={"w": (len(data),)}, types={"w": TensorProto.UINT8})
    refuse(dynamic, "SparseLinear node 'node': the input packed must be a constant initializer")
    refuse(linear(["x", "w"], {"w": data}, overridable=["w"]), "the input packed must be a constant initializer")


def test_a_packed_weight_that_is_missing_or_of_another_kind() -> None:
    refuse(linear(["x"], {}), ".")
    refuse(linear(["x", ""], {}), ".")
    refuse(linear(["x", "w"], {"w": WEIGHT}), ".")
    two_axes = np.frombuffer(SOUND["fp32"], np.uint8)[None]
    refuse(linear(["x", "w"], {"w": two_axes}), "the input packed has the shape .*, accepted is one axis")
    refuse(
        linear(["x", "w"], {"w": np.array(0, np.uint8)}), r"the input packed has the shape \[\], accepted is one axis"
    )


def test_a_bias_that_does_not_fit() -> None:
    w = SOUND["fp32"]
    sentence = r"the input bias has the shape {}, accepted is \[24\]"
    refuse(linear(["x", "w", "b"], {"w": w, "b": np.zeros(23, np.float32)}), sentence.format(r"\[23\]"))
    refuse(linear(["x", "w", "b"], {"w": w, "b": np.zeros((), np.float32)}), sentence.format(r"\[\]"))
    refuse(linear(["x", "w", "b"], {"w": w, "b": np.zeros((1, 24), np.float32)}), sentence.format(r"\[1, 24\]"))
    refuse(linear(["x", "w", "b"], {"w": w, "b": np.zeros(24, np.float64)}), ".")
    refuse(linear(["x", "w", "b"], {"w": w}, given={"b": (24,)}), "the input bias must be a constant initializer")


def test_inputs_that_do_not_fit_when_the_model_runs() -> None:
    made = session(model(
        [node("SparseLinear", ["x", "w", "", "r"], ["y"], rows=ROWS)], {"x": None, "r": None}, ["y"],
        {"w": SOUND["fp32"]},
    ))  # fmt: skip
    random = np.random.default_rng(0)

    def refused(x: tuple[int, ...], r: tuple[int, ...], sentence: str) -> None:
        with pytest.raises(Exception, match=f"SparseLinear node 'node': {sentence}"):
            made.run(None, {"x": inputs(random, *x), "r": inputs(random, *r)})

    refused((), (1,), r"x has the shape \[\], accepted are 30 numbers along the last axis")
    refused((2, 29), (2, 24), r"x has the shape \[2, 29\], accepted are 30 numbers along the last axis")
    refused((2, 30), (24,), r"the residual has the shape \[24\], and the output \[2, 24\]")
    refused((2, 30), (3, 24), r"the residual has the shape \[3, 24\], and the output \[2, 24\]")
    refused((1,) * 16 + (30,), (24,), "an input has 17 axes, and at most 16 are accepted")
    assert made.run(None, {"x": inputs(random, 2, 30), "r": inputs(random, 2, ROWS)})[0].shape == (2, ROWS)


def test_images_that_do_not_fit_when_the_model_runs() -> None:
    one = node("SparseConv", ["x", "w"], ["y"], rows=ROWS, kernel_shape=[3, 1])
    made = session(model([one], {"x": None}, ["y"], {"w": SOUND["fp32"]}))
    random = np.random.default_rng(0)
    for shape, sentence in (
        ((1, 10, 3), "x has the shape .*, accepted are 4 axes, the second of size 10"),
        ((1, 9, 3, 3), "x has the shape .*, accepted are 4 axes, the second of size 10"),
        ((1, 10, 2, 3), "the kernel does not fit into the padded image"),
        ((1, 10, 0, 3), "a size is zero, negative or too large"),
    ):
        with pytest.raises(Exception, match=f"SparseConv node 'node': {sentence}"):
            made.run(None, {"x": inputs(random, *shape)})
    assert made.run(None, {"x": inputs(random, 1, 10, 3, 3)})[0].shape == (1, ROWS, 1, 3)


def test_indices_of_another_kind() -> None:
    one = node("SparseGather", ["w", "x"], ["y"], columns=COLUMNS)
    made = session(model([one], {"x": ("n",)}, ["y"], {"w": SOUND["fp32"]}))
    with pytest.raises(Exception, match="SparseGather node 'node': indices must be int64 or int32"):
        made.run(None, {"x": np.zeros(2, np.float32)})


def test_shapes_in_the_file_that_are_lies() -> None:
    one = node("SparseLinear", ["x", "w"], ["y"], rows=ROWS)
    made = session(model([one], {"x": ("n", 999)}, ["y"], {"w": SOUND["fp32"]}))
    with pytest.raises(Exception, match=r"x has the shape \[2, 999\], accepted are 30 numbers"):
        made.run(None, {"x": np.zeros((2, 999), np.float32)})


@pytest.mark.parametrize("kind", KINDS)
def test_bytes_flipped_at_random_never_crash(kind: str) -> None:
    random = np.random.default_rng(5)
    for values in ("fp32", "int8"):
        for _ in range(40):
            data = bytearray(pack(WEIGHT, values, str(random.choice(["rice", "bitmap", "dense"]))))
            for _ in range(random.integers(1, 4)):
                data[random.integers(0, len(data) if random.random() < 0.5 else 34)] ^= 1 << random.integers(0, 8)
            try:
                made = session(written(kind, bytes(data)))
            except Exception as problem:
                assert kind in str(problem)  # noqa: PT017 - what is accepted is as good
                continue
            shape = {"SparseLinear": (3, 30), "SparseConv": (1, 30, 2, 2), "SparseGather": (4,)}.get(kind, (2, 2, 30))
            x = inputs(random, *shape)
            made.run(None, {"x": np.abs(x).astype(np.int64) if kind == "SparseGather" else x})


def test_an_initializer_in_a_file_of_its_own(tmp_path: Any) -> None:
    import onnx

    whole = onnx.load_from_string(written("SparseLinear", SOUND["fp32"]))
    path = tmp_path / "model.onnx"
    onnx.save(whole, path, save_as_external_data=True, location="weights.bin", size_threshold=0)
    made = session(str(path))  # type: ignore[arg-type]
    x = inputs(np.random.default_rng(0), 3, COLUMNS)
    np.testing.assert_array_equal(made.run(None, {"x": x})[0], x @ WEIGHT.T)
    (tmp_path / "weights.bin").write_bytes((tmp_path / "weights.bin").read_bytes()[:40])
    with pytest.raises(Exception, match=r"(?i)external"):
        session(str(path))  # type: ignore[arg-type]
