"""How a weight is rounded to fewer bits.

**int8.**  Every output row has one scale: its largest absolute weight divided by 127, rounded up to 16 significant
bits and not below 2**-126.  A weight becomes the nearest whole multiple of the scale, ties to even.  16 bits times the
7 bits of the code fit the 24 of a float32, so that ``code * scale`` is exact; the largest weight of a row always gets
code 127, so that rounding a rounded weight again gives the same codes and the same scale, bit for bit.  A row of zeros
has scale 1.  (Symmetric, per channel: Krishnamoorthi 2018, https://arxiv.org/abs/1806.08342, section 3.1.)

**fp16.**  To the nearest IEEE half, ties to even.

Zeros stay zero under both, which is what makes them safe after pruning.
"""

from __future__ import annotations

from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from isogrid.errors import TrainingError, UnsupportedError
from isogrid.names import unknown_name

Values = Literal["fp32", "fp16", "int8"]

DTYPES: dict[Values, np.dtype[Any]] = {"fp32": np.dtype("<f4"), "fp16": np.dtype("<f2"), "int8": np.dtype("i1")}

SCALE_BITS = 16
SMALLEST_SCALE = 2.0**-126
_TOP = 127


def parse_values(text: str) -> Values:
    """`text` as one of the number formats ``"fp32"``, ``"fp16"`` and ``"int8"``.

    Raises:
        UsageError: it is none of them.

    >>> parse_values("int8")
    'int8'
    """
    for values in get_args(Values):
        if text == values:
            return values  # type: ignore[no-any-return]
    raise unknown_name("number format", str(text), get_args(Values))


def round_int8(weight: NDArray[Any], axis: int = 0, *, name: str = "weight") -> tuple[NDArray[np.int8], NDArray[Any]]:
    """Codes and scales of `weight` under the int8 rule of this module.

    Args:
        weight: floating point, at least one axis.
        axis: the output axis, whose every slice has a scale of its own.
        name: what an error calls the weight.

    Returns:
        int8 codes of the shape of `weight`, from -127 to 127, and float32 scales of shape ``[weight.shape[axis]]``.

    Raises:
        TrainingError: a weight is not finite.
        UnsupportedError: a weight is so large (beyond about 3.4e38) that no float32 scale holds its row.

    >>> codes, scale = round_int8(np.array([[0.5, 0.0, -1.27], [0.0, 0.0, 0.0]]))
    >>> codes.tolist(), scale.tolist()
    ([[50, 0, -127], [0, 0, 0]], [0.010000228881835938, 1.0])
    """
    check_finite(weight, name)
    others = tuple(a for a in range(weight.ndim) if a != axis % weight.ndim)
    peak = np.max(np.abs(weight), axis=others, initial=0.0).astype(np.float64)
    scale = np.where(peak > 0, np.maximum(_round_up(peak / _TOP), SMALLEST_SCALE), 1.0)
    if np.any(scale * _TOP > np.finfo(np.float32).max):
        raise UnsupportedError(
            f"{name} holds {peak.max():g}, which int8 cannot scale; accepted are weights below 3.4e38."
        )
    # Division in float64: in float32 a quotient just beside a tie may be rounded onto it.
    steps = np.rint(weight.astype(np.float64) / _along(scale, axis, weight.ndim))
    return np.clip(steps, -_TOP, _TOP).astype(np.int8), scale.astype(np.float32)


def restore_int8(codes: NDArray[np.int8], scale: NDArray[Any], axis: int = 0) -> NDArray[np.float32]:
    """The float32 weights that `codes` and `scale` (as `round_int8` gives them) stand for, exactly.

    >>> restore_int8(np.array([[2, -3]], np.int8), np.array([0.5], np.float32)).tolist()
    [[1.0, -1.5]]
    """
    restored: NDArray[np.float32] = codes.astype(np.float32) * _along(scale.astype(np.float32), axis, codes.ndim)
    return restored


def round_fp16(weight: NDArray[Any], *, name: str = "weight") -> NDArray[np.float16]:
    """`weight` rounded to the nearest half, ties to even.  Below about 3e-8 that is zero.

    Raises:
        TrainingError: a weight is not finite.
        UnsupportedError: a weight rounds beyond 65504, the largest half; the message has `name`.

    >>> round_fp16(np.array([1.0001, 3.14159])).tolist()
    [1.0, 3.140625]
    """
    check_finite(weight, name)
    with np.errstate(over="ignore"):
        rounded = weight.astype(np.float16)
    if not np.all(np.isfinite(rounded)):
        largest = float(np.max(np.abs(weight)))
        raise UnsupportedError(f"{name} holds {largest:g}, beyond 65504, the largest fp16 number; use int8 or fp32.")
    return rounded


def round_values(weight: NDArray[Any], values: Values, axis: int = 0, *, name: str = "weight") -> NDArray[np.float32]:
    """The float32 array that is left of `weight` when it is stored as `values`; rounding it again changes nothing.

    Raises:
        TrainingError, UnsupportedError: as `round_int8` and `round_fp16`.

    >>> round_values(np.array([[1.0, 0.3]]), "int8").tolist()
    [[1.0000298023223877, 0.2992215156555176]]
    """
    if values == "int8":
        return restore_int8(*round_int8(weight, axis, name=name), axis)
    if values == "fp16":
        return round_fp16(weight, name=name).astype(np.float32)
    return to_float32(weight, name=name)


def to_float32(weight: NDArray[Any], *, name: str = "weight") -> NDArray[np.float32]:
    """`weight` as float32; infinities and NaNs that it holds already stay.

    Raises:
        UnsupportedError: a finite float64 is beyond the largest float32.

    >>> to_float32(np.array([1, 2])).dtype
    dtype('float32')
    """
    with np.errstate(over="ignore"):
        narrowed = weight.astype(np.float32)
    if weight.dtype == np.float64 and np.any(np.isinf(narrowed) & np.isfinite(weight)):
        largest = float(np.max(np.abs(weight[np.isfinite(weight)])))
        raise UnsupportedError(f"{name} holds {largest:g}, beyond 3.4e38, the largest fp32 number.")
    return narrowed


def exact_values(weight: NDArray[np.float32], axis: int = 0) -> tuple[Values, ...]:
    """Every number format that holds the float32 array `weight` without any loss, ``"fp32"`` always among them.

    >>> exact_values(np.array([[0.5, 127.0]], np.float32)), exact_values(np.array([[0.1, 0.2]], np.float32))
    (('fp32', 'fp16'), ('fp32',))
    """
    exact: list[Values] = ["fp32"]
    for values in ("fp16", "int8"):
        try:
            if np.array_equal(round_values(weight, values, axis), weight):
                exact.append(values)
        except (TrainingError, UnsupportedError):
            continue
    return tuple(exact)


def _round_up(numbers: NDArray[np.float64]) -> NDArray[np.float64]:
    """Positive numbers, rounded up to 16 significant bits."""
    fraction, exponent = np.frexp(numbers)
    rounded: NDArray[np.float64] = np.ldexp(np.ceil(np.ldexp(fraction, SCALE_BITS)), exponent - SCALE_BITS)
    return rounded


def _along(scale: NDArray[Any], axis: int, ndim: int) -> NDArray[Any]:
    return scale.reshape([-1 if a == axis % ndim else 1 for a in range(ndim)])


def check_finite(weight: NDArray[Any], name: str) -> None:
    """Raise ``TrainingError`` for a weight that cannot be rounded, since some of its numbers are not finite."""
    if not np.all(np.isfinite(weight)):
        bad = int(weight.size - np.count_nonzero(np.isfinite(weight)))
        raise TrainingError(f"{name} holds {bad} numbers that are not finite; only finite weights can be rounded.")
