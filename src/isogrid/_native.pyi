"""The native core: codecs of sparse positions, sparse operations, and what this processor can do.

The formats are defined in native/include/isogrid/rice.hpp and bitmap.hpp. Positions are C-contiguous int64 arrays of
flat C-order indices, strictly ascending, each in ``[0, size)``; they are never converted, so another dtype is a
TypeError.
"""

from typing import Any, overload

import numpy as np
import numpy.typing as npt

version: str

def rice_encode(positions: npt.NDArray[np.int64], size: int) -> bytes: ...
def rice_decode(data: bytes, count: int, size: int) -> npt.NDArray[np.int64]: ...
def bitmap_encode(positions: npt.NDArray[np.int64], size: int) -> bytes: ...
def bitmap_decode(data: bytes, count: int, size: int) -> npt.NDArray[np.int64]: ...
def cpu_features() -> dict[str, bool | str]: ...
def targets() -> list[str]: ...
def current_target() -> str: ...
def select_target(name: str) -> None: ...
def find_torch_threads() -> bool: ...
def max_pool_size(
    height: int,
    width: int,
    kernel: tuple[int, int],
    stride: tuple[int, int],
    padding: tuple[int, int],
    dilation: tuple[int, int],
) -> tuple[int, int]: ...
def max_pool(
    x: int,
    planes: int,
    height: int,
    width: int,
    kernel: tuple[int, int],
    stride: tuple[int, int],
    padding: tuple[int, int],
    dilation: tuple[int, int],
    y: int,
) -> None: ...

class Linear:
    def __init__(
        self,
        rows: int,
        columns: int,
        row_begin: npt.NDArray[np.int64],
        column: npt.NDArray[np.int32],
        values: npt.NDArray[Any],
        scales: npt.NDArray[np.float32] | None,
        bias: npt.NDArray[np.float32] | None,
        activation: int,
        low: float,
        high: float,
        skip_zeros: bool,
    ) -> None: ...
    def run(self, x: int, tokens: int, residual: int, y: int) -> None: ...

class Convolution:
    def __init__(
        self,
        rows: int,
        columns: int,
        row_begin: npt.NDArray[np.int64],
        column: npt.NDArray[np.int32],
        values: npt.NDArray[Any],
        scales: npt.NDArray[np.float32] | None,
        bias: npt.NDArray[np.float32] | None,
        activation: int,
        low: float,
        high: float,
        groups: int,
        channels: int,
        kernel: tuple[int, ...],
        stride: tuple[int, ...],
        padding: tuple[int, ...],
        dilation: tuple[int, ...],
    ) -> None: ...
    def output_size(self, height: int, width: int) -> tuple[int, int]: ...
    def run(self, x: int, images: int, height: int, width: int, residual: int, y: int) -> None: ...

class Recurrent:
    def __init__(
        self,
        cell: int,
        reverse: bool,
        columns: int,
        units: int,
        input_row_begin: npt.NDArray[np.int64],
        input_column: npt.NDArray[np.int32],
        input_values: npt.NDArray[Any],
        input_scales: npt.NDArray[np.float32] | None,
        recurrent_row_begin: npt.NDArray[np.int64],
        recurrent_column: npt.NDArray[np.int32],
        recurrent_values: npt.NDArray[Any],
        recurrent_scales: npt.NDArray[np.float32] | None,
        input_bias: npt.NDArray[np.float32] | None,
        recurrent_bias: npt.NDArray[np.float32] | None,
    ) -> None: ...
    def run(
        self,
        x: int,
        steps: int,
        batch: int,
        batch_sizes: int,
        h: int,
        c: int,
        last_h: int,
        last_c: int,
        y: int,
        stride: int,
    ) -> None: ...

class Embedding:
    @overload
    def __init__(
        self,
        rows: int,
        columns: int,
        row_begin: npt.NDArray[np.int64],
        column: npt.NDArray[np.int32],
        values: npt.NDArray[Any],
        scales: npt.NDArray[np.float32] | None,
    ) -> None: ...
    @overload
    def __init__(self, codes: npt.NDArray[np.int8], scales: npt.NDArray[np.float32]) -> None: ...
    def run(self, indices: int, count: int, y: int) -> None: ...
