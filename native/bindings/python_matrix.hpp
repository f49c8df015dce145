// Sparse matrices as arrays from Python.
#pragma once

#include <nanobind/ndarray.h>
#include <nanobind/stl/optional.h>

#include <cstdint>
#include <optional>

#include "bindings/python.hpp"
#include "isogrid/matrix.hpp"

namespace nb = nanobind;

template <class T>
using Array = nb::ndarray<const T, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
using Numbers = nb::ndarray<nb::ro, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
using Scales = std::optional<Array<float>>;

// A matrix as arrays: `values` is float32, uint16 (the bits of float16) or int8.
inline isogrid::SparseMatrix matrix_of(std::int64_t rows, std::int64_t columns, const Array<std::int64_t>& row_begin,
                                       const Array<std::int32_t>& column, const Numbers& values, const Scales& scales) {
    if (rows < 1 || columns < 1 || rows > isogrid::max_matrix_side || columns > isogrid::max_matrix_side) {
        check(isogrid::Status::shape_out_of_range);
    }
    isogrid::ValueType type = isogrid::ValueType::f32;
    if (values.dtype() == nb::dtype<std::uint16_t>()) {
        type = isogrid::ValueType::f16;
    } else if (values.dtype() == nb::dtype<std::int8_t>()) {
        type = isogrid::ValueType::int8;
    } else if (values.dtype() != nb::dtype<float>()) {
        check(isogrid::Status::unknown_type);
    }
    if (values.size() != column.size()) check(isogrid::Status::wrong_shape);
    if (scales && scales->size() != static_cast<std::size_t>(rows)) check(isogrid::Status::wrong_scales);
    return {static_cast<std::int32_t>(rows),
            static_cast<std::int32_t>(columns),
            {row_begin.data(), row_begin.size()},
            {column.data(), column.size()},
            values.data(),
            type,
            scales ? scales->data() : nullptr};
}
